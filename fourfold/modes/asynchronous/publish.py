"""Outcomes become visible: an object at exactly one of a call's two locations, then a message to whoever wants it.

What is to be seen was decided and stored before (`queue.settle`), so all here may be done twice: after a crash it is
done again, with the same bytes. Objects are written to a temporary name and renamed; many share the syncs that follow.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fourfold.clock import Clock
from fourfold.errors import FourfoldError, ValidationException
from fourfold.modes.asynchronous import messages
from fourfold.modes.asynchronous.figures import Figures
from fourfold.modes.asynchronous.ledger import Ledger
from fourfold.modes.asynchronous.messages import Notifier
from fourfold.modes.asynchronous.orders import JSON, KEPT, Request, Verdict, request_of, to_json, verdict_of
from fourfold.records import Outcome
from fourfold.storage.objects import About, Location, Objects, parse_location, sync_folder, unread_etag
from fourfold.store.queue import Publication, Token

log = logging.getLogger(__name__)

AT_ONCE = 128
"""Objects that are written before others get a turn."""
MOST_UNSYNCED = 512
"""Objects, each an open file, that may wait to be synced together."""
FIRST_PAUSE = 0.5
MOST_PAUSE = 30.0
"""Seconds after which an object that could not be written is tried again."""


@dataclass
class _Item:
    call: Publication
    request: Request
    verdict: Verdict
    outcome: Outcome
    tries: int = 0


@dataclass
class _Placed:
    """An object that can be seen: what is to be synced, so that it also survives a loss of power."""

    file: int | None
    folder: Path | None


class Publisher:
    """Makes decided outcomes visible.

    Args:
        objects: where they go.
        ledger: is told when they can be seen.
        notifier: topics.
        clock: stamps.
        region: for messages.
        figures: counts what happens.
    """

    def __init__(
        self,
        objects: Objects,
        ledger: Ledger,
        notifier: Notifier,
        clock: Clock,
        region: str,
        figures: Figures,
    ) -> None:
        self._objects = objects
        self._ledger = ledger
        self._notifier = notifier
        self._clock = clock
        self._region = region
        self._figures = figures
        self._todo: list[_Item] = []
        self._held: set[Token] = set()
        self._news = asyncio.Event()
        self._unsynced: list[tuple[_Item, _Placed | OSError]] = []
        self._placed = asyncio.Event()
        self._few_unsynced = asyncio.Event()
        self._few_unsynced.set()

    def add(self, calls: Iterable[Publication]) -> None:
        """Publish these; those that are being published already are left alone."""
        for call in calls:
            if call.token not in self._held:
                self._held.add(call.token)
                verdict = verdict_of(call.verdict)
                self._todo.append(_Item(call, request_of(call.request), verdict, verdict.outcome))
        if self._todo:
            self._news.set()

    async def run(self) -> None:
        """Publish, for ever. Objects can be seen before they are synced; a call is finished after that."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._place_all())
            tasks.create_task(self._finish_all())

    async def _place_all(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            while self._todo:
                batch, self._todo = self._todo[:AT_ONCE], self._todo[AT_ONCE:]
                await self._few_unsynced.wait()
                placed = await asyncio.to_thread(_place_batch, self._objects, batch)
                self._unsynced += zip(batch, placed, strict=True)
                if len(self._unsynced) >= MOST_UNSYNCED:
                    self._few_unsynced.clear()
                self._placed.set()

    async def _finish_all(self) -> None:
        while True:
            await self._placed.wait()
            self._placed.clear()
            batch, self._unsynced = self._unsynced, []
            self._few_unsynced.set()
            errors = await asyncio.to_thread(_sync, [placed for _, placed in batch])
            await self._finish([(item, error) for (item, _), error in zip(batch, errors, strict=True)])

    async def _finish(self, batch: list[tuple[_Item, OSError | None]]) -> None:
        done = []
        for item, error in batch:
            if error is not None:
                self._again(item, error)
                continue
            await self._tell(item)
            done.append((item.call.token, item.outcome))
            self._figures.ended(item.call, item.verdict, self._clock.now())
        if done:
            tokens = {token for token, _ in done}
            self._ledger.finish(done, lambda: self._held.difference_update(tokens))

    def _again(self, item: _Item, error: OSError) -> None:
        log.error(
            "an outcome could not be written; it is tried again",
            extra={"endpoint": item.call.token.endpoint, "call": item.call.inference_id, "reason": str(error)},
        )
        self._figures.not_written(item.call.token.endpoint)
        item.tries += 1
        pause = min(MOST_PAUSE, FIRST_PAUSE * 2 ** (item.tries - 1))
        asyncio.get_running_loop().call_later(pause, self._requeue, item)

    def _requeue(self, item: _Item) -> None:
        self._todo.append(item)
        self._news.set()

    async def _tell(self, item: _Item) -> None:
        """At least once: it is told before the end is written, and after a crash again."""
        topics = item.request.topics
        completed = item.outcome == "completed"
        topic = topics.success if completed else topics.error
        if not topic:
            return
        response = None
        if topics.success_with_response if completed else topics.error_with_response:
            response = await asyncio.to_thread(_response, self._objects, item)
        subject, text = messages.result(
            item.call, item.request, item.verdict, self._clock.now(), self._region, response
        )  # fmt: skip
        try:
            await self._notifier.publish(topic, subject, text)
        except FourfoldError as error:
            self._figures.not_told(item.call.token.endpoint)
            log.error("a topic could not be told", extra={"topic": topic, "reason": error.message})


def failure_object(call: Publication, verdict: Verdict) -> bytes:
    """What stands at FailureLocation."""
    return to_json(
        {
            "code": verdict.code,
            "message": verdict.message,
            "traceback": verdict.traceback,
            "attempts": verdict.attempts,
            "status": verdict.outcome,
            "inferenceId": call.inference_id,
            "endpointName": call.token.endpoint,
        }
    )


def kept_name(token: Token) -> str:
    """Name in KEPT of one attempt's output; the endpoint's name has no dots."""
    return f"{token.endpoint}.{token.number}.{token.attempt}"


def kept_token(name: str) -> Token | None:
    """The token in such a name; None where it is none."""
    endpoint, number, attempt = (*name.split("."), "", "", "")[:3]
    return Token(endpoint, int(number), int(attempt)) if number.isdigit() and attempt.isdigit() else None


def _place_batch(objects: Objects, batch: list[_Item]) -> list[_Placed | OSError]:
    """Make the objects of a batch. What cannot ever be written changes its call's outcome to failed."""
    results: list[_Placed | OSError] = []
    for item in batch:
        try:
            results.append(_place(objects, item))
        except ValidationException as error:
            log.error("an outcome has no place", extra={"call": item.call.inference_id, "reason": error.message})
            item.outcome = "failed" if item.outcome == "completed" else item.outcome
            results.append(_Placed(None, None))
        except OSError as error:
            results.append(error)
    return results


def _sync(batch: list[_Placed | OSError]) -> list[OSError | None]:
    """Sync files, then their folders once each. What went wrong, by object."""
    placed = [each for each in batch if isinstance(each, _Placed)]
    failed: OSError | None = None
    try:
        for each in placed:
            if each.file is not None:
                os.fsync(each.file)
        for folder in {each.folder for each in placed if each.folder is not None}:
            sync_folder(folder)
    except OSError as error:
        failed = error
    finally:
        for each in placed:
            if each.file is not None:
                os.close(each.file)
    return [each if isinstance(each, OSError) else failed for each in batch]


def _place(objects: Objects, item: _Item) -> _Placed:
    """Put one outcome where it can be seen. Raises OSError, ValidationException."""
    call, verdict = item.call, item.verdict
    completed = verdict.outcome == "completed"
    location = parse_location(call.output if completed else call.failure)
    path = objects.path(location)
    kept = objects.folder(location.bucket) / KEPT
    content_type = verdict.content_type if completed else JSON
    if completed and verdict.kept:
        with contextlib.suppress(FileNotFoundError):  # renamed before a crash
            _describe(objects, location, (kept / verdict.kept).stat(), content_type)
        _rename(kept / verdict.kept, path)
        return _Placed(None, path.parent)
    body = (call.body or b"") if completed else failure_object(call, verdict)
    temporary = kept / f"{kept_name(call.token)}.{'out' if completed else 'error'}"
    file = _create(temporary)
    try:
        view = memoryview(body)
        while view:
            view = view[os.write(file, view) :]
        _describe(objects, location, os.fstat(file), content_type)
        _rename(temporary, path)
    except BaseException:
        os.close(file)
        raise
    return _Placed(file, path.parent)


def _describe(objects: Objects, location: Location, file: os.stat_result, content_type: str) -> None:
    """Note an output's type, before the output can be seen. JSON is what is assumed, as of inputs."""
    if content_type not in ("", JSON):
        about = About(
            etag=unread_etag(file), content_type=content_type, size=file.st_size, modified_ns=file.st_mtime_ns
        )
        objects.describe(location, about)


def _create(path: Path) -> int:
    flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC
    try:
        return os.open(path, flags, 0o644)
    except FileNotFoundError:
        path.parent.mkdir(exist_ok=True)
        return os.open(path, flags, 0o644)


def _rename(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except FileNotFoundError:
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # renamed before a crash, and so it is there, or was removed since
            source.rename(target)


def _response(objects: Objects, item: _Item) -> bytes | None:
    if item.outcome != "completed":
        return failure_object(item.call, item.verdict)
    if item.call.body is not None:
        return item.call.body
    try:
        return objects.get(parse_location(item.call.output), messages.MOST_RESPONSE)
    except (ValidationException, OSError):
        return None  # larger than a message may be
