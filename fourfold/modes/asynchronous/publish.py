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

from fourfold.clock import Clock
from fourfold.errors import FourfoldError, ValidationException
from fourfold.modes.asynchronous import messages
from fourfold.modes.asynchronous.figures import Figures
from fourfold.modes.asynchronous.ledger import Ledger
from fourfold.modes.asynchronous.messages import Notifier
from fourfold.modes.asynchronous.orders import JSON, KEPT, Request, Verdict, request_of, to_json, verdict_of
from fourfold.records import Outcome
from fourfold.storage.objects import About, FileSystems, Location, Objects, label, parse_location, unread_etag
from fourfold.store.queue import Publication, Token

log = logging.getLogger(__name__)

AT_ONCE = 128
"""Objects that are written before others get a turn."""
MOST_UNSYNCED = 2048
"""Objects that may wait to be synced together."""
SYNC_PAUSE, QUIET_PAUSE = 0.1, 0.01
"""Seconds between two syncs, and where outcomes are rare: a sync holds up the queue's own, and can be as large as it
likes, but a call counts as running until its outcome is on disk."""
RARE = 200.0
"""Outcomes a second up to which they are rare."""
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
        self._disks = FileSystems()
        self._unsynced: list[_Item] = []
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
                errors = await asyncio.to_thread(_place_batch, self._objects, self._disks, batch)
                for item, error in errors:
                    self._again(item, error)
                failed = {id(item) for item, _ in errors}
                self._unsynced += [item for item in batch if id(item) not in failed]
                if len(self._unsynced) >= MOST_UNSYNCED:
                    self._few_unsynced.clear()
                self._placed.set()

    async def _finish_all(self) -> None:
        loop = asyncio.get_running_loop()
        synced, pause = -SYNC_PAUSE, QUIET_PAUSE
        while True:
            await self._placed.wait()
            await asyncio.sleep(synced + pause - loop.time())
            self._placed.clear()
            batch, self._unsynced = self._unsynced, []
            self._few_unsynced.set()
            if not batch:
                continue
            pause = QUIET_PAUSE if len(batch) <= RARE * (loop.time() - synced) else SYNC_PAUSE
            try:
                await asyncio.to_thread(self._disks.sync)
                synced = loop.time()
            except OSError as error:
                for item in batch:
                    self._again(item, error)
            else:
                await self._finish(batch)

    async def _finish(self, batch: list[_Item]) -> None:
        for item in batch:
            await self._tell(item)
            self._figures.ended(item.call, item.verdict, self._clock.now())
        done = [(item.call.token, item.outcome) for item in batch]
        self._ledger.finish(done, lambda: self._held.difference_update(token for token, _ in done))

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


def _place_batch(objects: Objects, disks: FileSystems, batch: list[_Item]) -> list[tuple[_Item, OSError]]:
    """Make the objects of a batch; those that could not be made, and why.

    What cannot ever be made changes its call's outcome to failed.
    """
    errors = []
    for item in batch:
        try:
            _place(objects, disks, item)
        except ValidationException as error:
            log.error("an outcome has no place", extra={"call": item.call.inference_id, "reason": error.message})
            item.outcome = "failed" if item.outcome == "completed" else item.outcome
        except OSError as error:
            errors.append((item, error))
    return errors


def _place(objects: Objects, disks: FileSystems, item: _Item) -> None:
    """Put one outcome where it can be seen. Raises OSError, ValidationException."""
    call, verdict = item.call, item.verdict
    completed = verdict.outcome == "completed"
    location = parse_location(call.output if completed else call.failure)
    path = str(objects.path(location))
    folder = str(objects.folder(location.bucket))
    kept = f"{folder}/{KEPT}"
    system = disks.of(folder)
    content_type = verdict.content_type if completed else JSON
    if completed and verdict.kept:
        source = f"{kept}/{verdict.kept}"
    else:
        source = f"{kept}/{kept_name(call.token)}.{'out' if completed else 'error'}"
        body = (call.body or b"") if completed else failure_object(call, verdict)
        try:
            _write(source, body)
        except FileNotFoundError:
            os.makedirs(kept, exist_ok=True)
            _write(source, body)
    with contextlib.suppress(FileNotFoundError):  # what was kept may have been renamed before a crash
        _describe(objects, location, source, content_type)
    _rename(source, path)
    disks.wrote(system)


def _write(path: str, body: bytes) -> None:
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
    try:
        view = memoryview(body)
        while view:
            view = view[os.write(file, view) :]
    finally:
        os.close(file)


def _describe(objects: Objects, location: Location, source: str, content_type: str) -> None:
    """Tell an outcome's type before it can be seen: the SDKs' deserializers look at it to read answers and failures."""
    if content_type and not label(source, content_type):
        file = os.stat(source)
        about = About(
            etag=unread_etag(file), content_type=content_type, size=file.st_size, modified_ns=file.st_mtime_ns
        )
        objects.describe(location, about)


def _rename(source: str, target: str) -> None:
    try:
        os.rename(source, target)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # renamed before a crash, and so it is there, or was removed since
            os.rename(source, target)


def _response(objects: Objects, item: _Item) -> bytes | None:
    if item.outcome != "completed":
        return failure_object(item.call, item.verdict)
    if item.call.body is not None:
        return item.call.body
    try:
        return objects.get(parse_location(item.call.output), messages.MOST_RESPONSE)
    except (ValidationException, OSError):
        return None  # larger than a message may be
