"""Counts and latencies of one variant, kept as plain numbers because they are touched on every call.

`monitor.metrics` turns them into Prometheus families when somebody asks.
"""

from __future__ import annotations

from bisect import bisect_left

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the latency histogram, seconds; the last bucket is everything above."""


class CallStats:
    """What happened to the calls of one variant since it was made."""

    __slots__ = ("buckets", "by_status", "calls", "seconds")

    def __init__(self) -> None:
        self.calls = 0
        self.seconds = 0.0
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.by_status: dict[int, int] = {}

    def record(self, seconds: float, status: int) -> None:
        """Count one answered call: its time from arrival to answer, and the HTTP status that the client got."""
        self.calls += 1
        self.seconds += seconds
        self.buckets[bisect_left(BUCKETS, seconds)] += 1
        by_status = self.by_status
        by_status[status] = by_status.get(status, 0) + 1
