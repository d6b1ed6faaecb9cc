"""What people see of asynchronous calls, and what they may still change: status, lists, cancel, retry."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy.engine import Connection

from fourfold.clock import Clock
from fourfold.errors import ConflictException, FourfoldError, ResourceNotFound, ValidationException
from fourfold.modes.asynchronous.dispatch import Dispatcher
from fourfold.modes.asynchronous.ledger import LEASE
from fourfold.modes.asynchronous.orders import Verdict, request_of, to_json, verdict_of
from fourfold.storage.objects import Objects, parse_location
from fourfold.store import Store, queue, resources
from fourfold.store.queue import OUTCOMES, State, Token

STATUSES: tuple[State, ...] = ("queued", "running", *OUTCOMES)
MOST_LISTED = 1000

_CANCELLED = Verdict("cancelled", "Cancelled", "The call was cancelled.")


class UnknownCall(ResourceNotFound):
    """There is no call of that id, or its record is older than the retention."""

    status = 404


class UnknownEndpoint(ResourceNotFound):
    """There is no endpoint of that name, and no record of a call to one."""

    status = 404


class Records:
    """The calls of every endpoint, as people see them.

    Args:
        store: the queue.
        dispatcher: is told of what changes.
        objects: for the failure object of a call that is retried.
        clock: stamps.
        owner: who publishes what is cancelled here.
    """

    def __init__(self, store: Store, dispatcher: Dispatcher, objects: Objects, clock: Clock, owner: str) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._objects = objects
        self._clock = clock
        self._owner = owner

    async def describe(self, endpoint: str, inference_id: str) -> dict[str, Any]:
        """The newest call with this id. Raises UnknownCall, UnknownEndpoint, or ConflictException as `list` does."""

        def read(db: Connection) -> dict[str, Any]:
            row = _find(db, endpoint, inference_id)
            place = queue.place(db, endpoint, row.number) if row.state == "queued" else None
            return _record(row) | {"place": place}

        return await self._store.run(read)

    async def list(
        self, endpoint: str, statuses: Sequence[str] = (), limit: int = 100, before: int | None = None
    ) -> dict[str, Any]:
        """An endpoint's calls, the newest first, with how many there are in each status.

        Args:
            statuses: only these; all where none is named.
            limit: calls a page, up to MOST_LISTED.
            before: `next` of the page before.

        Raises:
            ValidationException: a status that does not exist, or a limit out of bounds.
            UnknownEndpoint: there is nothing of that name.
            ConflictException: the endpoint is none that takes asynchronous calls.
        """
        unknown = [status for status in statuses if status not in STATUSES]
        if unknown:
            raise ValidationException(f"{unknown[0]!r} is no status of a call: {', '.join(STATUSES)}.")
        if not 1 <= limit <= MOST_LISTED:
            raise ValidationException(f"limit must be between 1 and {MOST_LISTED}, not {limit}.")

        def read(db: Connection) -> dict[str, Any]:
            counts = queue.count(db, endpoint)
            if counts == queue.Counts():
                _check_endpoint(db, endpoint)
            rows = queue.list_calls(db, endpoint, _states(statuses or STATUSES), limit + 1, before)
            return {
                "endpoint": endpoint,
                "counts": asdict(counts),
                "calls": [_record(row) for row in rows[:limit]],
                "next": rows[limit - 1].number if len(rows) > limit else None,
            }

        return await self._store.run(read)

    async def cancel(self, endpoint: str, inference_id: str) -> dict[str, Any]:
        """Cancel a call that is queued or running. Raises UnknownCall, or ConflictException where it has ended."""
        until = self._clock.now() + LEASE

        def write(db: Connection) -> Any:
            row = _find(db, endpoint, inference_id)
            verdict = to_json(_CANCELLED).decode()
            if not queue.cancel(db, endpoint, row.number, verdict, self._owner, until):
                raise ConflictException(f"The call {inference_id} is {row.state} already: nothing is left to cancel.")
            return row

        row = await self._store.run(write)
        self._dispatcher.cancelled(Token(endpoint, row.number, row.attempt))
        await self._dispatcher.sweep()
        return {"endpoint": endpoint, "inference_id": inference_id, "status": "cancelled"}

    async def retry(self, endpoint: str, inference_id: str) -> dict[str, Any]:
        """Queue a call that failed, expired or was cancelled once more.

        Raises:
            UnknownCall: there is no such call.
            ConflictException: it has not ended so.
        """
        row = await self._store.run(lambda db: _find(db, endpoint, inference_id))
        if row.state not in ("failed", "expired", "cancelled"):
            raise ConflictException(
                f"The call {inference_id} is {_status(row.state)}: only what failed, expired or was cancelled is tried "
                "again."
            )
        await asyncio.to_thread(self._remove, row.failure)  # an object at exactly one of the two locations
        expires_at = self._clock.now() + request_of(row.request).ttl
        await self._store.run(lambda db: queue.retry(db, endpoint, row.number, expires_at))
        self._dispatcher.look(endpoint)
        return {"endpoint": endpoint, "inference_id": inference_id, "status": "queued"}

    def _remove(self, url: str) -> None:
        try:
            self._objects.delete(parse_location(url))
        except FourfoldError:
            return  # its bucket has gone


def _find(db: Connection, endpoint: str, inference_id: str) -> Any:
    row = queue.find(db, endpoint, inference_id)
    if row is None:
        _check_endpoint(db, endpoint)
        raise UnknownCall(
            f"Endpoint {endpoint} has no call with the inference id {inference_id}. Records of ended calls are kept "
            "for a limited time (serve --async-retention)."
        )
    return row


def _check_endpoint(db: Connection, name: str) -> None:
    """What has no calls is at least an endpoint that takes them; a deleted one's records stay for a while."""
    found = resources.get(db, "endpoint", name)
    if found is None:
        raise UnknownEndpoint(f"Could not find endpoint {name}, nor a record of a call to it.")
    if "AsyncInferenceConfig" not in found.document["wanted"]["config"]:
        raise ConflictException(
            f"Endpoint {name} takes no asynchronous calls: it was created without AsyncInferenceConfig."
        )


def _record(row: Any) -> dict[str, Any]:
    request = request_of(row.request)
    verdict = verdict_of(row.verdict) if row.verdict else None
    failed = verdict is not None and verdict.code
    return {
        "endpoint": row.endpoint,
        "inference_id": row.inference_id,
        "status": _status(row.state),
        "attempts": row.attempt,
        "accepted_at": row.accepted_at,
        "started_at": row.started_at,
        "ended_at": row.ended_at,
        "expires_at": row.expires_at,
        "input_location": request.input or None,
        "content_type": request.content_type,
        "output_location": row.output,
        "failure_location": row.failure,
        "output_bytes": verdict.size if verdict is not None and not failed else None,
        "reason": f"{verdict.code}: {verdict.message}" if verdict is not None and failed else None,
    }


def _status(state: State) -> str:
    """To people a call runs until its outcome can be seen."""
    return "running" if state == "publishing" else state


def _states(statuses: Sequence[str]) -> list[State]:
    found: list[State] = [state for state in STATUSES if state in statuses]
    return [*found, "publishing"] if "running" in found else found
