"""The loop that runs what is due, tries again what failed, and deletes what has completed and asks for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy.engine import Connection

from fourfold.clock import Clock, iso, sleep_or_event
from fourfold.control.schedules.desired import SCHEDULE
from fourfold.control.schedules.letters import DeadLetters, Send, dead_letter
from fourfold.control.schedules.targets import UNIVERSAL, filled, operation_of
from fourfold.control.schedules.timing import Decision, backoff, decide, exhausted, finished
from fourfold.errors import FourfoldError, ValidationException
from fourfold.store import Store, resources
from fourfold.store.resources import Resource

log = logging.getLogger(__name__)

Document = dict[str, Any]

LONGEST_SLEEP = 3600.0
"""Seconds after which the loop looks at the clock in any case: clocks are set."""
LATE_SECONDS = 60.0
"""How late a run is before that is said."""

Call = Callable[[str, str, Document], Awaitable[Document]]
"""Calls an operation, e.g. ("sagemaker", "CreateTransformJob", members). Raises FourfoldError."""


class ScheduleRunner:
    """Runs schedules.

    Args:
        store: where they are kept.
        clock: when.
        call: calls a target's operation.
        send: sends dead letters. None: they are kept with their schedules only.
    """

    def __init__(self, store: Store, clock: Clock, call: Call, send: Send | None = None) -> None:
        self._store = store
        self._clock = clock
        self._call = call
        self._letters = DeadLetters(store, clock, send, self.wake)
        self._awake = asyncio.Event()
        self._busy: dict[str, asyncio.Task[None]] = {}

    def wake(self) -> None:
        """Look at all schedules now."""
        self._awake.set()

    async def run(self) -> None:
        """Run what is due, for ever."""
        try:
            while True:
                self._awake.clear()
                now = self._clock.now()
                wait = LONGEST_SLEEP
                for schedule in await self._store.run(lambda db: resources.every(db, SCHEDULE)):
                    for next_ in (await self._look_at(schedule, now), self._letters.look_at(schedule, now)):
                        if next_ is not None:
                            wait = min(wait, max(next_ - now, 0.0))
                await sleep_or_event(self._clock, wait, self._awake)
        finally:
            self._letters.cancel()
            for task in self._busy.values():
                task.cancel()

    async def _look_at(self, schedule: Resource, now: float) -> float | None:
        """Begin what is due; returns when to look again."""
        if schedule.name in self._busy:
            return None  # its end wakes the loop
        pending = schedule.document["pending"]
        if pending is None:
            return await self._act(schedule, decide(schedule.document, now), now)
        if pending["next"] > now:
            return float(pending["next"])
        self._busy[schedule.name] = asyncio.create_task(self._attempt(schedule))
        return None

    async def _act(self, schedule: Resource, decision: Decision, now: float) -> float | None:
        """Write down what was decided; returns when to look again."""
        missed = schedule.document["missed"] + decision.missed
        if decision.missed:
            log.warning("scheduled runs missed", extra={"schedule": schedule.arn, "runs": decision.missed})
        if decision.run is not None:
            if now > decision.begin + LATE_SECONDS:
                log.warning("scheduled run is late", extra={"schedule": schedule.arn, "scheduled": iso(decision.run)})
            pending = {"scheduled": decision.run, "attempt": 1, "next": decision.begin}
            await self._write(schedule, cursor=decision.cursor, pending=pending, missed=missed)
            return decision.begin
        if decision.missed:
            await self._write(schedule, cursor=decision.cursor, missed=missed)
        await self._delete_if_finished(schedule)
        return decision.next

    async def _attempt(self, schedule: Resource) -> None:
        pending = schedule.document["pending"]
        try:
            outcome = await self._deliver(schedule, pending)
            await self._write(schedule, pending=None, last=outcome)
        except FourfoldError as error:
            await self._failed(schedule, pending, error)
        finally:
            self._busy.pop(schedule.name, None)
            self.wake()

    async def _deliver(self, schedule: Resource, pending: Document) -> Document:
        """Call the target; returns what became of the run, for people. Raises FourfoldError."""
        target = schedule.document["Target"]
        found = operation_of(target["Arn"])
        if found is None:
            raise ValidationException(
                f"The target {target['Arn']} is none that this server can call: use {UNIVERSAL}<service>:<operation>."
            )
        scheduled, attempt = pending["scheduled"], pending["attempt"]
        params, changed = filled(target.get("Input", "{}"), schedule.arn, scheduled, attempt)
        for before, after in changed.items():
            log.info("name changed", extra={"schedule": schedule.arn, "before": before, "after": after})
        answer = await self._call(*found, params)
        log.info("schedule ran", extra={"schedule": schedule.arn, "scheduled": iso(scheduled), "answer": answer})
        told = {member: value for member, value in answer.items() if isinstance(value, str)}  # ARNs above all
        return self._outcome(pending, "") | {"answer": told, "renamed": changed}

    async def _failed(self, schedule: Resource, pending: Document, error: FourfoldError) -> None:
        """Try again later where that may help, else give the run up."""
        attempt = pending["attempt"]
        later = self._clock.now() + backoff(attempt)
        may_help = error.status >= 500 or error.status == 429
        spent = exhausted(schedule.document, pending, later) if may_help else ""
        if may_help and not spent:
            await self._write(schedule, pending=pending | {"attempt": attempt + 1, "next": later})
            return
        log.error("scheduled run failed", extra={"schedule": schedule.arn, "attempt": attempt, "reason": error.message})
        await self._write(schedule, pending=None, last=self._outcome(pending, f"{error.code}: {error.message}"))
        letter = dead_letter(schedule, pending, error, spent)
        if letter is not None:
            await self._letters.keep(schedule, letter)

    def _outcome(self, pending: Document, error: str) -> Document:
        return {
            "scheduled": pending["scheduled"],
            "at": self._clock.now(),
            "attempt": pending["attempt"],
            "error": error,
        }

    async def _write(self, schedule: Resource, **changes: Any) -> None:
        """Note what was done, unless the schedule was changed or deleted meanwhile."""

        def write(db: Connection) -> None:
            found = resources.get(db, SCHEDULE, schedule.name)
            if found is not None and found.modified_at == schedule.modified_at:
                found.document = found.document | changes
                resources.save(db, found)

        schedule.document = schedule.document | changes
        await self._store.run(write)

    async def _delete_if_finished(self, schedule: Resource) -> None:
        document = schedule.document
        ended = document["State"] == "ENABLED" and finished(document) and not self._letters.unsent(document)
        if document["ActionAfterCompletion"] == "DELETE" and ended:
            await self._store.run(lambda db: resources.delete(db, SCHEDULE, schedule.name))
            log.info("schedule completed and deleted", extra={"schedule": schedule.arn})
