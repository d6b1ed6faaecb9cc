"""Figures of asynchronous endpoints by CloudWatch's names: what waits now, and what happened since the last look."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from fourfold.clock import Clock
from fourfold.datapoints import SAGEMAKER, Datapoint, Statistics, metric
from fourfold.modes.asynchronous.orders import Done, Verdict
from fourfold.pool.fleet import Fleet
from fourfold.pool.routes import Routes, Variant
from fourfold.store.queue import Claim, Publication


class Backlog(NamedTuple):
    """What is not answered yet of one endpoint."""

    size: int
    oldest: float | None
    """When the first call that waits was accepted, seconds since the epoch."""


class Figures:
    """Counts what happens to asynchronous calls.

    Args:
        routes: endpoints and their workers.
        clock: for ages.
    """

    def __init__(self, routes: Routes, clock: Clock) -> None:
        self._routes = routes
        self._clock = clock
        self._statistics: dict[tuple[str, str, str], Statistics] = {}
        self.backlogs: Mapping[str, Backlog] = {}
        """By endpoint, as the dispatcher saw it last; a second old at most."""

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

    def datapoints(self, _seconds: float) -> Iterator[Datapoint]:
        """Backlogs now, and what happened since the last call of this. A `datapoints.Source`."""
        happened, self._statistics = self._statistics, {}
        for (endpoint, variant, name), statistics in happened.items():
            where = {"EndpointName": endpoint, "VariantName": variant}
            yield Datapoint(metric(SAGEMAKER, name, where), statistics, _UNITS.get(name, "Count"))
        for route in list(self._routes.values()):
            if route.kind == "asynchronous":
                yield from self._backlog(route.name)

    def instances(self, endpoint: str) -> int:
        """Workers that take calls now."""
        route = self._routes.get(endpoint.encode())
        fleets = [variant.backend for variant in route.variants] if route is not None else []
        return sum(len(fleet.ready) for fleet in fleets if isinstance(fleet, Fleet))

    def _backlog(self, endpoint: str) -> Iterator[Datapoint]:
        size, oldest = self.backlogs.get(endpoint, Backlog(0, None))
        instances = self.instances(endpoint)
        age = 0.0 if oldest is None else max(0.0, self._clock.now() - oldest)
        for name, value, unit in (
            ("ApproximateBacklogSize", float(size), "Count"),
            ("ApproximateBacklogSizePerInstance", size / max(1, instances), "Count"),
            ("ApproximateAgeOfOldestRequest", age, "Seconds"),
            ("HasBacklogWithoutCapacity", float(size > 0 and not instances), "Count"),
        ):
            yield Datapoint(metric(SAGEMAKER, name, {"EndpointName": endpoint}), Statistics.of(value), unit)

    def _variant(self, endpoint: str) -> str:
        route = self._routes.get(endpoint.encode())
        return route.variants[0].name if route is not None else "AllTraffic"

    def _add(self, endpoint: str, variant: str, name: str, value: float) -> None:
        key = (endpoint, variant, name)
        statistics = self._statistics.get(key)
        if statistics is None:
            statistics = self._statistics[key] = Statistics()
        statistics.add(value)


_UNITS = {
    "RequestDownloadLatency": "Microseconds",
    "ResponseUploadLatency": "Microseconds",
    "TimeInBacklog": "Milliseconds",
    "TotalProcessingTime": "Milliseconds",
}
"""Of what is no count."""
