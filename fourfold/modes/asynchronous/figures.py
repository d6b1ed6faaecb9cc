"""Figures of asynchronous endpoints by CloudWatch's names: what waits now, and what happened since the last look."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy.engine import Connection

from fourfold.clock import Clock
from fourfold.modes.asynchronous.orders import Done, Verdict
from fourfold.pool.fleet import Fleet
from fourfold.pool.routes import Routes, Variant
from fourfold.store import Store, queue
from fourfold.store.queue import Claim, Publication

NAMESPACE = "AWS/SageMaker"


class Figure(NamedTuple):
    """One value as CloudWatch keeps it."""

    namespace: str
    name: str
    dimensions: dict[str, str]
    value: float
    unit: str


@dataclass
class _Sum:
    total: float = 0.0
    count: int = 0


class Figures:
    """Counts what happens to asynchronous calls.

    Args:
        store: the queue.
        routes: endpoints and their workers.
        clock: for ages.
    """

    def __init__(self, store: Store, routes: Routes, clock: Clock) -> None:
        self._store = store
        self._routes = routes
        self._clock = clock
        self._sums: dict[tuple[str, str, str], _Sum] = defaultdict(_Sum)

    def answered(self, variant: Variant, claim: Claim, done: Done) -> None:
        """A worker said what came of a call."""
        where = variant.endpoint, variant.name
        self._add(*where, "InvocationsProcesssed", 1)  # AWS spells it so
        if done.code.startswith("Input") or done.code == "InvalidInput":
            self._add(*where, "RequestDownloadFailures", 1)
        elif done.code:
            self._add(*where, "InvocationFailures", 1)
        if done.input_seconds:
            self._add(*where, "RequestDownloadLatency", done.input_seconds * 1e6)
        if done.model_seconds:
            waited = self._clock.now() - claim.accepted_at - done.model_seconds - done.input_seconds
            self._add(*where, "TimeInBacklog", max(0.0, waited) * 1e3)
        if done.output_seconds:
            self._add(*where, "ResponseUploadLatency", done.output_seconds * 1e6)

    def ended(self, call: Publication, verdict: Verdict, now: float) -> None:
        """A call's outcome can be seen."""
        endpoint = call.token.endpoint
        self._add(endpoint, self._variant(endpoint), "TotalProcessingTime", (now - call.accepted_at) * 1e3)
        if verdict.outcome == "expired":
            self._add(endpoint, self._variant(endpoint), "ExpiredRequests", 1)

    def not_written(self, endpoint: str) -> None:
        """An object could not be written."""
        self._add(endpoint, self._variant(endpoint), "ResponseUploadFailures", 1)

    def not_told(self, endpoint: str) -> None:
        """A topic could not be told."""
        self._add(endpoint, self._variant(endpoint), "NotificationFailures", 1)

    async def take(self) -> list[Figure]:
        """Backlogs now; sums of counts and means of times since the last call of this."""
        sums, self._sums = self._sums, defaultdict(_Sum)
        figures = [
            Figure(
                NAMESPACE,
                name,
                {"EndpointName": endpoint, "VariantName": variant},
                each.total / each.count if name in _TIMES else each.total,
                _TIMES.get(name, "Count"),
            )
            for (endpoint, variant, name), each in sums.items()
        ]
        names = [route.name for route in self._routes.values() if route.kind == "asynchronous"]
        for name, (queued, age) in (await self._store.run(lambda db: self._backlogs(db, names))).items():
            figures += self._backlog(name, queued, age)
        return figures

    def instances(self, endpoint: str) -> int:
        """Workers that could take calls now."""
        route = self._routes.get(endpoint.encode())
        fleets = [variant.backend for variant in route.variants] if route is not None else []
        return sum(len(fleet.ready) for fleet in fleets if isinstance(fleet, Fleet))

    def _backlogs(self, db: Connection, names: list[str]) -> dict[str, tuple[int, float]]:
        counts = queue.every_count(db, names)
        now = self._clock.now()
        found = {}
        for name in names:
            oldest = queue.oldest(db, name)
            count = counts.get(name, queue.Counts())
            found[name] = (count.queued + count.running, 0.0 if oldest is None else max(0.0, now - oldest))
        return found

    def _backlog(self, endpoint: str, size: int, age: float) -> list[Figure]:
        instances = self.instances(endpoint)
        where = {"EndpointName": endpoint}
        values = (
            ("ApproximateBacklogSize", size, "Count"),
            ("ApproximateBacklogSizePerInstance", size / max(1, instances), "Count"),
            ("ApproximateAgeOfOldestRequest", age, "Seconds"),
            ("HasBacklogWithoutCapacity", float(size > 0 and not instances), "Count"),
        )
        return [Figure(NAMESPACE, name, where, float(value), unit) for name, value, unit in values]

    def _variant(self, endpoint: str) -> str:
        route = self._routes.get(endpoint.encode())
        return route.variants[0].name if route is not None else "AllTraffic"

    def _add(self, endpoint: str, variant: str, name: str, value: float) -> None:
        each = self._sums[endpoint, variant, name]
        each.total += value
        each.count += 1


_TIMES = {
    "RequestDownloadLatency": "Microseconds",
    "ResponseUploadLatency": "Microseconds",
    "TimeInBacklog": "Milliseconds",
    "TotalProcessingTime": "Milliseconds",
}
"""Means rather than sums, and their units."""
