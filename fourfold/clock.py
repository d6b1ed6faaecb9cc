"""Time as a value that is passed in, so that tests own it.

Anything that waits or stamps a record takes a `Clock`. Production passes `SystemClock`; a test passes `ManualClock`
and moves it, so that minutes of scaling, leases and schedules take no time and are asserted exactly.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from datetime import UTC, datetime
from typing import Literal, Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since the epoch, UTC. For stamps that are stored or shown."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start that never go back. For durations and deadlines."""

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that stands still until `advance` moves it.

    Args:
        start: the first value of `now()`, seconds since the epoch.
    """

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._start = start
        self._elapsed = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now(self) -> float:
        return self._start + self._elapsed

    def monotonic(self) -> float:
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed + max(seconds, 0.0), next(self._order), woken))
        await woken

    async def advance(self, seconds: float) -> None:
        """Move time forward, waking every sleeper in order and letting each run before the next wakes."""
        target = self._elapsed + seconds
        while self._sleepers and self._sleepers[0][0] <= target:
            due, _, woken = heapq.heappop(self._sleepers)
            self._elapsed = max(self._elapsed, due)
            if not woken.done():
                woken.set_result(None)
            await _let_others_run()
        self._elapsed = target
        await _let_others_run()


async def _let_others_run() -> None:
    for _ in range(10):  # a woken task may wake others in turn
        await asyncio.sleep(0)


def iso(seconds: float, timespec: Literal["seconds", "milliseconds"] = "seconds") -> str:
    """Seconds since the epoch as AWS writes times: `2022-03-22T18:59:43Z`; more exactly, `2022-03-22T18:59:43.000Z`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


async def sleep_or_event(clock: Clock, seconds: float, event: asyncio.Event) -> None:
    """Wait until so much time has passed or the event is set, whichever is first."""
    waits = [asyncio.ensure_future(clock.sleep(seconds)), asyncio.ensure_future(event.wait())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
