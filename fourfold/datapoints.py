"""What is measured, in CloudWatch's terms: a metric has a namespace, a name and dimensions, a datapoint statistics.

Whoever has figures to tell gives the collector (`monitor.collector`) a `Source`; nothing else need be known of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

SAGEMAKER = "AWS/SageMaker"
ENDPOINTS = "/aws/sagemaker/Endpoints"

_GROWTH = 1.02
_LOG = math.log(_GROWTH)
MOST_BINS = 256
"""Bins of one sketch; past it neighbours are merged, and percentiles become coarser."""


class Metric(NamedTuple):
    """Name of a series. `dimensions` are sorted pairs; make one with `metric`."""

    namespace: str
    name: str
    dimensions: tuple[tuple[str, str], ...] = ()


def metric(namespace: str, name: str, dimensions: Mapping[str, str] | None = None) -> Metric:
    """`metric("AWS/SageMaker", "Invocations", {"EndpointName": "fraud", "VariantName": "AllTraffic"})`."""
    return Metric(namespace, name, tuple(sorted((dimensions or {}).items())))


class Statistics:
    """Count, sum, minimum and maximum of some values, and a sketch of how they are spread.

    The sketch counts values in bins that grow by 2 %, so that a percentile is right within 1 %. A statistic set that
    came without its values has none; where its minimum and maximum are equal, that is known all the same.
    """

    __slots__ = ("count", "maximum", "minimum", "sketch", "total")

    def __init__(
        self,
        count: float = 0.0,
        total: float = 0.0,
        minimum: float = math.inf,
        maximum: float = -math.inf,
        sketch: dict[int, float] | None = None,
    ) -> None:
        self.count = count
        self.total = total
        self.minimum = minimum
        self.maximum = maximum
        self.sketch = sketch

    @classmethod
    def of(cls, *values: float) -> Statistics:
        """Statistics of single values."""
        result = cls()
        for value in values:
            result.add(value)
        return result

    @classmethod
    def repeated(cls, value: float, count: float) -> Statistics:
        """The same value, `count` times."""
        result = cls()
        result.add(value, count)
        return result

    def add(self, value: float, count: float = 1.0) -> None:
        """Count in a value, `count` times."""
        self.count += count
        self.total += value * count
        self.minimum = min(self.minimum, value)
        self.maximum = max(self.maximum, value)
        if self.sketch is None:
            self.sketch = {}
        bin_ = _bin(value)
        self.sketch[bin_] = self.sketch.get(bin_, 0.0) + count
        self._bound()

    def merge(self, other: Statistics) -> None:
        """Count in all that another has."""
        known = self.sketch is not None or not self.count
        self.count += other.count
        self.total += other.total
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)
        if not known or other.sketch is None:
            self.sketch = None if other.count else self.sketch
            return
        mine = self.sketch = self.sketch or {}
        for bin_, count in other.sketch.items():
            mine[bin_] = mine.get(bin_, 0.0) + count
        self._bound()

    def value(self, statistic: str) -> float | None:
        """A statistic by CloudWatch's name: Average, Sum, Minimum, Maximum, SampleCount, p0 to p100.

        None where there are no values, or where the percentile of a set without values is asked for.
        """
        if not self.count:
            return None
        match statistic:
            case "Average":
                return self.total / self.count
            case "Sum":
                return self.total
            case "Minimum":
                return self.minimum
            case "Maximum":
                return self.maximum
            case "SampleCount":
                return self.count
        return self.percentile(float(statistic[1:]))

    def percentile(self, percent: float) -> float | None:
        """The value that `percent` of the values do not exceed."""
        if self.minimum == self.maximum:
            return self.minimum
        if self.sketch is None:
            return None
        left = self.count * percent / 100.0
        for bin_ in sorted(self.sketch):
            left -= self.sketch[bin_]
            if left <= 1e-9:
                return min(max(_middle(bin_), self.minimum), self.maximum)
        return self.maximum

    def _bound(self) -> None:
        sketch = self.sketch
        while sketch is not None and len(sketch) > MOST_BINS:
            lowest, next_ = sorted(sketch)[:2]
            sketch[next_] += sketch.pop(lowest)


class Datapoint(NamedTuple):
    """Some values of one metric."""

    metric: Metric
    statistics: Statistics
    unit: str = "None"


Source = Callable[[float], Iterable[Datapoint]]
"""Asked every 10 seconds with the seconds since it was asked last: what was measured meanwhile. Called on the event
loop, so it must be quick and must not block."""


def _bin(value: float) -> int:
    """Bins 1, 2, … are positive values that grow by 2 %, -1, -2, … the same below zero; 0 is zero."""
    if abs(value) < 1e-9:
        return 0
    place = max(1, round(math.log(abs(value)) / _LOG) + 1100)
    return place if value > 0 else -place


def _middle(bin_: int) -> float:
    if bin_ == 0:
        return 0.0
    size = math.exp((abs(bin_) - 1100) * _LOG)
    return size if bin_ > 0 else -size
