"""The datapoints of the last 15 days: ten-second ones in memory for an hour, one a minute in the store.

What is put is in memory at once and in the store after a minute, or when `flush` returns.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable, Iterable
from functools import partial
from itertools import islice, takewhile
from typing import TypeVar

from fourfold.clock import Clock
from fourfold.datapoints import Datapoint, Metric, Statistics
from fourfold.errors import ThrottlingException
from fourfold.store import Store, datapoints
from fourfold.store.datapoints import Known

K = TypeVar("K", bound=Hashable)

log = logging.getLogger(__name__)

FINE = 10
"""Seconds of one datapoint in memory: the shortest period of an alarm."""
FINE_KEPT = 3600
KEPT = 15 * 86400
"""Seconds that datapoints are kept, in memory and in the store. CloudWatch keeps those of a minute as long."""
FLUSH = 60.0
AT_ONCE = 200
"""Datapoints that are written in one transaction: others wait for the store too."""
PURGE_EVERY = 60
MOST_METRICS = 10_000
"""Metrics with datapoints in the last hour; past it new ones are refused."""

Series = list[tuple[float, Statistics]]
"""Periods of one metric, each with its start, oldest first; those without a value are missing."""


class History:
    """Datapoints by metric and time.

    Args:
        store: keeps those of each minute.
        clock: for their age.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._fine: dict[Metric, dict[int, Statistics]] = {}
        self._pending: dict[tuple[Metric, int], Statistics] = {}
        self._units: dict[Metric, str] = {}
        self._flushing = asyncio.Lock()
        self._whole_from = clock.now() // 60 * 60
        """From here on memory has every datapoint; what is older is in the store."""
        for one, minute, statistics in store.run_now(lambda db: datapoints.since(db, self._whole_from)):
            self._fine.setdefault(one.metric, {})[minute] = statistics  # of a server that ran in this minute before
            self._units[one.metric] = one.unit

    async def run(self) -> None:
        """Once a minute: write down, forget. Runs as long as the server."""
        flushes = 0
        while True:
            await self._clock.sleep(FLUSH)
            await self.flush()
            flushes += 1
            if flushes % PURGE_EVERY == 1:
                oldest = self._clock.now() - KEPT
                await self._store.run(partial(datapoints.purge, before=oldest))

    def put(self, datapoint: Datapoint, at: float) -> None:
        """Count in a datapoint. Raises ThrottlingException where there are too many metrics."""
        metric, statistics, unit = datapoint
        if metric not in self._units and len(self._units) >= MOST_METRICS:
            raise ThrottlingException(
                f"{MOST_METRICS:,} metrics are written already. Use fewer names and dimension values."
            )
        self._units[metric] = unit
        if at >= self._whole_from:
            _merge(self._fine.setdefault(metric, {}), int(at // FINE) * FINE, statistics)
        _merge(self._pending, (metric, int(at // 60) * 60), statistics)

    def put_all(self, found: Iterable[Datapoint], at: float) -> None:
        """Count in what was collected; what is too much is logged and dropped."""
        for datapoint in found:
            try:
                self.put(datapoint, at)
            except ThrottlingException as error:
                log.warning("datapoint dropped", extra={"metric": datapoint.metric.name, "reason": error.message})

    async def read(self, metric: Metric, start: float, end: float, period: int) -> Series:
        """The periods of a metric in [start, end), counted from `start`."""
        found: dict[float, Statistics] = {}
        if start < self._whole_from:
            await self.flush()
            upto = min(end, self._whole_from)
            for at, statistics in await self._store.run(lambda db: datapoints.read(db, metric, start, upto)):
                _merge(found, _period(at, start, period), statistics)
        for at, statistics in self._fine.get(metric, {}).items():
            if start <= at < end:
                _merge(found, _period(at, start, period), statistics)
        return sorted(found.items(), key=lambda item: item[0])

    async def known(self) -> list[Known]:
        """Every metric that has datapoints."""
        await self.flush()
        return await self._store.run(datapoints.known)

    def unit(self, metric: Metric) -> str | None:
        """The unit of a metric's datapoints. None: it has none in the last hour."""
        return self._units.get(metric)

    async def flush(self) -> None:
        """Write down what is in memory alone; when this returns, it is durable."""
        async with self._flushing:  # whoever comes meanwhile waits until its own are written too
            while self._pending:
                await self._write_some()
        self._forget()

    async def _write_some(self) -> None:
        some = {place: self._pending.pop(place) for place in list(islice(self._pending, AT_ONCE))}
        units = {metric: self._units.get(metric, "None") for metric, _ in some}
        try:
            await self._store.run(partial(datapoints.add, pending=some, units=units))
        except Exception:
            for place, statistics in some.items():
                _merge(self._pending, place, statistics)
            raise

    def _forget(self) -> None:
        oldest = (self._clock.now() - FINE_KEPT) // 60 * 60
        if oldest <= self._whole_from:
            return
        self._whole_from = oldest
        for metric, series in list(self._fine.items()):
            for at in list(takewhile(lambda at: at < oldest, series)):  # they were put in about this order
                del series[at]
            if not series:
                del self._fine[metric]
                self._units.pop(metric, None)


def _period(at: float, start: float, period: int) -> float:
    return start + (at - start) // period * period


def _merge(into: dict[K, Statistics], place: K, statistics: Statistics) -> None:
    found = into.get(place)
    if found is None:
        found = into[place] = Statistics()
    found.merge(statistics)
