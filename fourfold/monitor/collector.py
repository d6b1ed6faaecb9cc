"""The collector: asks every few seconds what was measured, and puts it into the history."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from itertools import islice

from fourfold.clock import Clock
from fourfold.datapoints import Source
from fourfold.monitor.endpoints import EndpointFigures
from fourfold.monitor.history import FINE, History

log = logging.getLogger(__name__)

SAMPLE = 1.0
"""Seconds between two looks at how many calls are in flight."""
AT_ONCE = 32
"""Datapoints that are taken in one turn of the event loop: a third of a millisecond."""


class Collector:
    """Turns what the parts count into datapoints.

    Args:
        history: takes the datapoints.
        endpoints: the figures of what runs.
        clock: for the rhythm.
        period: seconds between collections, FINE at most: the history has no finer values.
        sources: further figures; other parts append theirs.
        collected: called after each collection, with its time.
    """

    def __init__(
        self,
        history: History,
        endpoints: EndpointFigures,
        clock: Clock,
        period: float = FINE,
        sources: Iterable[Source] = (),
        collected: Callable[[], None] = lambda: None,
    ) -> None:
        self._history = history
        self._endpoints = endpoints
        self._clock = clock
        self._period = period
        self.sources = list(sources)
        self._collected = collected
        self._last = clock.monotonic()

    async def run(self) -> None:
        """Collect until cancelled, at each end of a period."""
        while True:
            next_ = (self._clock.now() // self._period + 1) * self._period
            while (left := next_ - self._clock.now()) > 0:
                await self._clock.sleep(min(SAMPLE, left))
                self._endpoints.sample()
            await self.collect(next_ - self._period)

    async def collect(self, at: float) -> None:
        """Put what was measured since the last time under `at`, the start of that period."""
        processes = await asyncio.to_thread(self._endpoints.look_at_processes, self._endpoints.pids())
        now = self._clock.monotonic()
        seconds, self._last = now - self._last, now
        for source in (lambda seconds: self._endpoints.datapoints(seconds, processes), *self.sources):
            try:
                await self._ask(source, seconds, at)
            except Exception:
                log.exception("a source of metrics failed")  # the others go on
        self._collected()

    async def _ask(self, source: Source, seconds: float, at: float) -> None:
        found = iter(source(seconds))
        while some := list(islice(found, AT_ONCE)):
            self._history.put_all(some, at)
            await asyncio.sleep(0)  # calls come first
