"""Counts and latencies of one variant, kept as plain numbers because they are touched on every call.

`monitor.metrics` turns them into Prometheus families when somebody asks.
"""

from __future__ import annotations

from bisect import bisect_left

from fourfold.datapoints import Statistics
from fourfold.errors import FourfoldError, ModelError

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the latency histogram, seconds; the last bucket is everything above."""


class CallStats:
    """What happened to the calls of one variant since it was made."""

    __slots__ = ("buckets", "by_status", "calls", "captured", "not_captured", "of_model", "seconds")

    def __init__(self) -> None:
        self.calls = 0
        self.seconds = 0.0
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.by_status: dict[int, int] = {}
        self.of_model: dict[int, int] = {}
        """Of the calls that ended with a model's own error, how many had which status from the model."""
        self.captured = 0
        self.not_captured = 0
        """Calls that were sampled for data capture: written down, and dropped."""

    def record(self, seconds: float, status: int) -> None:
        """Count one answered call: its time from arrival to answer, and the HTTP status that the client got."""
        self.calls += 1
        self.seconds += seconds
        self.buckets[bisect_left(BUCKETS, seconds)] += 1
        by_status = self.by_status
        by_status[status] = by_status.get(status, 0) + 1

    def failed(self, seconds: float, error: FourfoldError) -> None:
        """Count one call that was answered with an error."""
        self.record(seconds, error.status)
        if isinstance(error, ModelError):
            self.of_model[error.original_status] = self.of_model.get(error.original_status, 0) + 1


SPREAD = tuple(1e-5 * 1.08**n for n in range(210))
"""Upper bounds for the time that a model takes, seconds: from 10 microseconds to 100 seconds in steps of 8 %."""


class ModelTimes:
    """How long the models of one fleet took, since somebody last asked."""

    __slots__ = ("calls", "seconds", "spread")

    def __init__(self) -> None:
        self.calls = 0
        self.seconds = 0.0
        self.spread: dict[int, int] = {}

    def record(self, seconds: float, calls: int) -> None:
        """Count one batch: the time from sending it to its reply, and how many calls were in it."""
        self.calls += calls
        self.seconds += seconds * calls
        place = bisect_left(SPREAD, seconds)
        spread = self.spread
        spread[place] = spread.get(place, 0) + calls

    def take(self) -> Statistics:
        """Statistics in microseconds, and a new beginning. The sum is exact; the spread is in steps of 8 %."""
        result = Statistics()
        for place, calls in self.spread.items():
            result.add(SPREAD[min(place, len(SPREAD) - 1)] * 1e6 / 1.04, calls)
        result.total = self.seconds * 1e6
        self.calls, self.seconds, self.spread = 0, 0.0, {}
        return result
