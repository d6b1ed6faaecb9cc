"""A plan against Fourfold itself: the same arrivals simulated and replayed, the figures side by side.

A laptop has fewer workers than a plan's instances, so the plan is scaled down: so many workers, and the arrivals
thinned by the same share. `cli/verify` deploys and replays; what is predicted and how it compares is here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fourfold.advisor import arrivals, simulate, workload
from fourfold.advisor.arrivals import Times
from fourfold.advisor.replay import Replay
from fourfold.advisor.search import Plan
from fourfold.advisor.simulate import Batching, Outcome
from fourfold.errors import ValidationException

GOAL = 0.15
"""Agreement between predicted and measured that is aimed for."""

STAND_IN = """\
import time


def model_fn(folder):
    return {service_s!r}


def predict_fn(data, service_s):
    time.sleep(service_s)
    return data
"""
"""A handler that takes as long as the plan's model and does nothing."""


@dataclass(frozen=True)
class Trial:
    """A plan scaled down to this machine."""

    plan: Plan
    workers: int
    share: float
    """Workers here over requests that the plan's instances work on at once."""
    arrivals: Times


@dataclass(frozen=True)
class Comparison:
    """One figure, predicted and measured."""

    name: str
    unit: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """Of the prediction, as a share of what was measured."""
        return abs(self.predicted - self.measured) / self.measured if self.measured else math.inf

    @property
    def within(self) -> bool:
        return self.error <= GOAL


def trial(plan: Plan, seconds: float, most_workers: int, seed: int = 0) -> Trial:
    """The plan's busiest minutes on at most so many workers, for so many seconds.

    Raises:
        ValidationException: the plan is not one in which a caller waits for the answer, or nothing would arrive.
    """
    size = plan.sizing
    if size is None or size.instance is None or plan.mode != "real-time":
        raise ValidationException(
            f"plan: verify replays real-time plans; this one is {plan.mode}. Its figures can be simulated: "
            "fourfold advise --report"
        )
    full = size.count * size.concurrency
    workers = min(full, most_workers)
    share = workers / full
    times = _arrivals(plan, seconds, share, seed)
    if len(times) < 2:
        raise ValidationException(f"seconds: in {seconds:g} s hardly a request would arrive; use more seconds")
    return Trial(plan, workers, share, times)


def _arrivals(plan: Plan, seconds: float, share: float, seed: int) -> Times:
    if plan.scenario.trace:
        every = np.asarray(plan.scenario.trace, dtype=float)
        kept = np.random.default_rng(seed).random(len(every)) < share
        return every[kept & (every <= seconds)]
    rate = workload.of(plan.scenario).peak * share
    return arrivals.poisson(rate, int(rate * seconds), seed) if rate > 0 else np.empty(0)


def predict(test: Trial, service_s: float, overhead_s: float, batching: Batching | None = None) -> Outcome:
    """The simulation of a trial, with the time outside the model added to each latency."""
    if batching is not None and batching.most > 1:
        seen = simulate.queue(test.arrivals, 0.0, test.workers, batching=batching)
    else:
        seen = simulate.queue(test.arrivals, service_s, test.workers)
    return Outcome(seen.latency_s + overhead_s, seen.wait_s, span_s=seen.span_s - float(test.arrivals[0]))


def compare(test: Trial, predicted: Outcome, measured: Replay) -> Iterator[Comparison]:
    """Latencies, throughput, and the cost of a million requests at that throughput."""
    for share in (50, 95, 99):
        expected = float(np.nanpercentile(predicted.latency_s, share)) * 1000
        seen = float(np.nanpercentile(measured.latency_s, share)) * 1000
        yield Comparison(f"p{share}", "ms", expected, seen)
    yield Comparison("throughput", "requests/s", predicted.throughput, measured.throughput)
    size = test.plan.sizing
    assert size is not None
    assert size.instance is not None
    usd_per_second = size.count * float(size.instance.usd_per_hour) / 3600 * test.share
    yield Comparison(
        "cost of a million requests",
        "USD",
        1e6 * usd_per_second / predicted.throughput,
        1e6 * usd_per_second / measured.throughput if measured.throughput else math.inf,
    )
