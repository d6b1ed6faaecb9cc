"""Data capture: sampled calls of an endpoint and their answers, written to a bucket (`storage.captures`).

    tap of a variant ─► batches in memory, one a variant and hour ─► objects, when a batch is old or large enough

A call costs what it takes to keep hold of its two bodies; lines are made, and objects written, in a thread. What is
held is bounded: where calls come faster than they can be written, those that are too many are dropped, counted and
told in the log. An object is seen when it is whole. What was taken and not yet written is lost with `kill -9`.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fourfold.clock import Clock, sleep_or_event
from fourfold.errors import ValidationException
from fourfold.pool.routes import Variant
from fourfold.pool.stats import CallStats
from fourfold.pool.tap import Tap
from fourfold.records import Call, Reply
from fourfold.storage.captures import CaptureConfig, file_name, hour_folder
from fourfold.storage.objects import Objects, parse_location

log = logging.getLogger(__name__)

FILE_RECORDS = 10_000
FILE_BYTES = 8 * 1024 * 1024
"""A batch that has so much is written at once."""
MOST_RECORDS = 50_000
MOST_BYTES = 64 * 1024 * 1024
"""What may be held in memory, of all endpoints together."""
RECORD_BYTES = 512
"""What holding a call costs beside its bodies, about."""
SLICE_BYTES = 64 * 1024
"""So much is made into lines before the thread lets the event loop go on."""
RESERVE = 1024**3
"""Bytes of the disk, but at most a twentieth of it, that captured calls leave free."""


@dataclass(frozen=True, eq=False)
class Trail:
    """Where the captured calls of one variant go, and where they are counted."""

    endpoint: str
    variant: str
    config: CaptureConfig
    stats: CallStats


@dataclass
class Batch:
    """Calls of one trail and hour that are held in memory."""

    since: float
    """Of the clock's monotonic time."""
    calls: list[tuple[float, Call, Reply]] = field(default_factory=list)
    size: int = 0

    @property
    def full(self) -> bool:
        return len(self.calls) >= FILE_RECORDS or self.size >= FILE_BYTES


class Captures:
    """The data capture of one server.

    Args:
        objects: the buckets.
        clock: stamps, and the age of what is held.
        seconds: for which a call may be held before it is written.
    """

    def __init__(self, objects: Objects, clock: Clock, seconds: float) -> None:
        self._objects = objects
        self._clock = clock
        self._seconds = seconds
        self._batches: dict[tuple[Trail, int], Batch] = {}
        self._records = self._bytes = 0
        self._full = asyncio.Event()
        self._too_many: Counter[Trail] = Counter()
        self._broken: set[str] = set()
        """Endpoints whose newest object the disk did not take."""

    def tap(self, variant: Variant, document: dict[str, Any]) -> None:
        """Capture the calls of a variant as its endpoint's DataCaptureConfig says."""
        config = CaptureConfig.of(document)
        self._broken.discard(variant.endpoint)
        if config.percentage:
            trail = Trail(variant.endpoint, variant.name, config, variant.stats)
            Tap(variant, config.percentage / 100, partial(self._take, trail))

    def works(self, endpoint: str, destination: str) -> bool:
        """Would a captured call be written? Looks at the bucket, and how it went the last time; blocking."""
        try:
            location = parse_location(destination)
            self._objects.folder(location.bucket)
            self._objects.path(location)
        except ValidationException:
            return False
        return endpoint not in self._broken

    async def run(self) -> None:
        """Write batches when they are due, for ever."""
        while True:
            now = self._clock.monotonic()
            oldest = min((batch.since for batch in self._batches.values()), default=now)
            await sleep_or_event(self._clock, oldest + self._seconds - now, self._full)
            self._full.clear()
            for key, batch in list(self._batches.items()):
                if batch.full or self._clock.monotonic() - batch.since >= self._seconds:
                    await self._write(key)
            self._tell()

    async def flush(self) -> None:
        """Write whatever is held; when this returns, it can be read."""
        for key in list(self._batches):
            await self._write(key)
        self._tell()

    def _take(self, trail: Trail, call: Call, reply: Reply) -> None:
        size = len(call.body) + len(reply.body) + RECORD_BYTES
        if self._records >= MOST_RECORDS or self._bytes + size > MOST_BYTES:
            trail.stats.not_captured += 1
            self._too_many[trail] += 1
            return
        now = self._clock.now()
        key = trail, int(now // 3600)
        batch = self._batches.get(key)
        if batch is None:
            batch = self._batches[key] = Batch(self._clock.monotonic())
        batch.calls.append((now, call, reply))
        batch.size += size
        self._records += 1
        self._bytes += size
        if batch.full:
            self._full.set()

    async def _write(self, key: tuple[Trail, int]) -> None:
        trail, batch = key[0], self._batches.pop(key)
        try:
            await asyncio.to_thread(write, self._objects, trail, batch)
        except (ValidationException, OSError) as error:
            if isinstance(error, OSError):
                self._broken.add(trail.endpoint)
            trail.stats.not_captured += len(batch.calls)
            _dropped(trail, len(batch.calls), str(error))
        else:
            self._broken.discard(trail.endpoint)
            trail.stats.captured += len(batch.calls)
        finally:
            self._records -= len(batch.calls)
            self._bytes -= batch.size

    def _tell(self) -> None:
        for trail, calls in self._too_many.items():
            _dropped(trail, calls, "They came faster than they can be written: lower InitialSamplingPercentage.")
        self._too_many.clear()


def _dropped(trail: Trail, calls: int, reason: str) -> None:
    log.error(
        "captured calls were dropped",
        extra={"endpoint": trail.endpoint, "variant": trail.variant, "calls": calls, "reason": reason},
    )


def write(objects: Objects, trail: Trail, batch: Batch) -> None:
    """Make an object of a batch; blocking.

    Raises:
        ValidationException: there is no such bucket, or it can have no such object.
        OSError: it cannot be written, or would fill the disk.
    """
    first = batch.calls[0][0]
    url = f"{trail.config.destination}/{trail.endpoint}/{trail.variant}/{hour_folder(first)}/{file_name(first)}"
    location = parse_location(url)
    disk = shutil.disk_usage(objects.folder(location.bucket))
    if disk.free - batch.size < min(RESERVE, disk.total // 20):
        raise OSError(f"The disk is nearly full: {disk.free:,} bytes are left.")
    step = max(1, SLICE_BYTES * len(batch.calls) // batch.size)
    with objects.writer(location) as file:
        for start in range(0, len(batch.calls), step):
            file.write(trail.config.lines(batch.calls[start : start + step]))
            time.sleep(0)  # lets go of the interpreter's lock: calls come first
