"""A plan against Fourfold itself: the same arrivals simulated and replayed, the figures side by side.

A laptop has fewer workers than a plan's instances and nobody waits a day, so the plan is scaled down: so many workers,
the arrivals thinned by the same share, and time run faster (`pace`). `cli/rehearse` deploys and replays; what is
predicted and how it compares is here.

With time shrink the gaps between requests, the time that idle capacity is kept, and the stand-in's work as long as
that stays above SHORTEST_S. Starting a worker and the way to it take what they take here; both are measured on single
requests first, and the queueing, the cold starts and the bill are predicted from them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from fourfold.advisor import arrivals, workload
from fourfold.advisor.arrivals import Times
from fourfold.advisor.prices import Prices, shipped
from fourfold.advisor.replay import Replay
from fourfold.advisor.search import Plan
from fourfold.advisor.simulate.outcome import Outcome
from fourfold.advisor.simulate.queue import Batching, queue
from fourfold.advisor.simulate.serverless import serverless
from fourfold.advisor.simulate.waking import waking
from fourfold.advisor.sizing import KEPT_WARM_S, SCALE_IN_S, Sizing
from fourfold.errors import ValidationException

GOAL = 0.15
"""Agreement between predicted and measured that is aimed for."""
ENOUGH = 300
"""Requests that time is sped up for, where the plan has fewer in the seconds of a trial."""
SHORTEST_S = 0.05
"""A stand-in's work is not cut below this: the way to it would be all that is measured."""
LOOK_S = 0.1
"""How often the server looks for idle workers: on average one is kept for half as long beyond its time."""
SHORTEST_KEPT_S = 1.0
"""Nor is the time that idle capacity is kept, which is to be much longer than that."""
BUSIEST = 0.7
"""Utilisation up to which time is sped up where the work no longer shrinks with it."""
MOST_ROWS = 100_000
"""Rows of a batch trial."""

STAND_IN = """\
import time


def model_fn(folder):
    return {service_s!r}


def predict_fn(data, service_s):
    time.sleep(service_s)
    return data
"""
"""A handler that takes as long as the plan's model and does nothing."""

BATCH_STAND_IN = """\
import time


def model_fn(folder):
    return {service_s!r}


def transform_fn(service_s, data, content_type, accept):
    rows = data.splitlines() if isinstance(data, str) else bytes(data).decode().splitlines()
    time.sleep(service_s * len(rows))
    return "\\n".join("0" for _ in rows), accept
"""
"""The same for rows: a request holds many."""


@dataclass(frozen=True)
class Trial:
    """A plan scaled down to this machine."""

    plan: Plan
    workers: int
    share: float
    """Workers here over requests that the plan's capacity works on at once."""
    pace: float
    """Times as fast as on the wall."""
    service_s: float
    """Seconds of work on one request or row, here."""
    arrivals: Times
    rows: int = 0
    """Of a batch; its arrivals are empty."""
    provisioned: int = 0

    @property
    def kept_s(self) -> float:
        """How long idle capacity is kept, here."""
        return _kept_s(self.plan) / self.pace

    @property
    def to_zero(self) -> bool:
        """Nothing is there while nothing is asked: single requests find it asleep first."""
        if self.plan.mode == "serverless":
            return not self.provisioned
        return self.plan.mode == "asynchronous" and _size(self.plan).floor == 0


@dataclass(frozen=True)
class Alone:
    """What single requests took before the replay, in seconds; for a batch, a job of one row."""

    warm_s: float
    cold_s: float = 0.0
    """How much longer it took where a worker had to be started."""


@dataclass(frozen=True)
class Used:
    """What a replay used."""

    billed_s: float
    """Seconds that are paid for: capacity that was up, or processing where that is what is billed."""
    cold_starts: int = 0


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
        if self.predicted == self.measured:
            return 0.0
        return abs(self.predicted - self.measured) / self.measured if self.measured else math.inf

    @property
    def within(self) -> bool:
        return self.error <= GOAL


def trial(plan: Plan, seconds: float, most_workers: int, service_s: float | None = None, seed: int = 0) -> Trial:
    """A plan on at most so many workers, for so many seconds: its busiest minutes, or its busiest hour where capacity
    comes and goes.

    Args:
        service_s: what a real model takes here. None: a stand-in takes what the plan says.

    Raises:
        ValidationException: nothing can be deployed, or hardly anything would arrive.
    """
    if plan.sizing is None:
        raise ValidationException(
            f"plan: there is no {plan.mode} configuration to deploy: {'; '.join(r.text for r in plan.reasons)}"
        )
    size = plan.sizing
    full = size.max_concurrency if plan.mode == "serverless" else size.count * size.concurrency
    workers = min(full, most_workers)
    if plan.mode == "asynchronous" and not size.floor:
        workers = 1  # one is woken; more come with a policy, at the server's own pace
    share = workers / full
    if plan.mode == "batch":
        workers = min(workers, os.cpu_count() or 1)  # a job has no more (docs/reference/batch.md)
        share = workers / full
        return _batch_trial(plan, seconds, workers, share, service_s)
    work = workload.of(plan.scenario)
    rate = share * (work.peak if plan.mode == "real-time" else max(work.hourly))
    pace = 1.0
    if plan.mode != "real-time" and not plan.scenario.trace:
        pace = _pace(rate, seconds, work.service_s, workers, _kept_s(plan))
    times = _arrivals(plan, seconds * pace, share, rate, seed) / pace
    if len(times) < 2:
        raise ValidationException(f"seconds: in {seconds:g} s hardly a request would arrive; use more seconds")
    here = service_s or max(min(work.service_s, SHORTEST_S), work.service_s / pace)
    return Trial(plan, workers, share, pace, here, times, provisioned=math.ceil(size.provisioned * share))


def _pace(rate: float, seconds: float, service_s: float, workers: int, kept_s: float) -> float:
    """How much faster time has to run for ENOUGH requests, without more load on a worker than BUSIEST."""
    if rate <= 0:
        return 1.0
    wanted = ENOUGH / (rate * seconds)
    bearable = BUSIEST * workers / (rate * min(service_s, SHORTEST_S))
    return max(1.0, min(wanted, bearable, kept_s / SHORTEST_KEPT_S))


def _kept_s(plan: Plan) -> float:
    """How long the plan keeps idle capacity."""
    return SCALE_IN_S if plan.mode == "asynchronous" else KEPT_WARM_S


def _batch_trial(plan: Plan, seconds: float, workers: int, share: float, service_s: float | None) -> Trial:
    work = workload.of(plan.scenario)
    rows = max(1, round(work.items_per_run * share))
    whole_s = rows * work.service_s / workers
    pace = 1.0 if service_s else max(1.0, min(whole_s / seconds, work.service_s / min(SHORTEST_S, work.service_s)))
    here = service_s or work.service_s / pace
    rows = max(1, min(rows, MOST_ROWS, int(workers * seconds / here)))
    return Trial(plan, workers, share, pace, here, np.empty(0), rows)


def _arrivals(plan: Plan, seconds: float, share: float, rate: float, seed: int) -> Times:
    if plan.scenario.trace:
        every = np.asarray(plan.scenario.trace, dtype=float)
        kept = np.random.default_rng(seed).random(len(every)) < share
        return every[kept & (every <= seconds)]
    return arrivals.poisson(rate, int(rate * seconds), seed) if rate > 0 else np.empty(0)


def predict(test: Trial, alone: Alone, batching: Batching | None = None) -> Outcome:
    """The simulation of a trial, with the time outside the model added to each latency.

    Args:
        batching: how the model takes several requests at once, if it does.
    """
    if test.plan.mode == "batch":
        span = alone.warm_s + (test.rows / test.workers - 1) * test.service_s
        return Outcome(np.full(test.rows, span), np.zeros(test.rows), instance_seconds=span, span_s=span)
    if test.plan.mode == "serverless":
        return _serverless(test, alone)
    seen = _simulated(test, alone, batching)
    way = max(alone.warm_s - test.service_s, 0.0)
    return replace(seen, latency_s=seen.latency_s + way, span_s=seen.span_s + way - float(test.arrivals[0]))


def _serverless(test: Trial, alone: Alone) -> Outcome:
    """A worker is taken for as long as its call, the way to it included: that counts where few are there."""
    seen = serverless(
        test.arrivals,
        max(alone.warm_s, test.service_s),
        max_concurrency=test.workers,
        cold_s=alone.cold_s,
        kept_s=test.kept_s + LOOK_S / 2,
        provisioned=test.provisioned,
    )
    return replace(seen, span_s=seen.span_s - float(test.arrivals[0]))


def _simulated(test: Trial, alone: Alone, batching: Batching | None) -> Outcome:
    if test.to_zero:
        return waking(test.arrivals, test.service_s, start_s=alone.cold_s, kept_s=test.kept_s)
    if batching is not None and batching.most > 1:
        return queue(test.arrivals, 0.0, test.workers, batching=batching)
    return queue(test.arrivals, test.service_s, test.workers)


def compare(test: Trial, predicted: Outcome, measured: Replay, used: Used) -> Iterator[Comparison]:
    """Latencies (or a job's duration), throughput, cold starts, and what a million requests at that rate cost."""
    mode = test.plan.mode
    many = "rows" if mode == "batch" else "requests"
    if mode == "batch":
        yield Comparison("duration", "s", predicted.span_s, measured.span_s)
    else:
        for share in (50, 95, 99):
            expected = float(np.nanpercentile(predicted.latency_s, share)) * 1000
            seen = float(np.nanpercentile(measured.latency_s, share)) * 1000
            yield Comparison(f"p{share}", "ms", expected, seen)
    yield Comparison("throughput", f"{many}/s", predicted.throughput, measured.throughput)
    if mode == "serverless":
        yield Comparison("cold starts", f"of {len(test.arrivals)}", predicted.cold_starts, used.cold_starts)
    price = usd_per_second(test)
    billed = predicted.span_s if mode == "real-time" else predicted.instance_seconds
    if mode == "serverless":  # by the request, in whole milliseconds
        billed = predicted.answered * max(1, round(1000 * test.service_s)) / 1000
    answered = measured.answered
    yield Comparison(
        f"cost of a million {many}",
        "USD",
        1e6 * price * billed / predicted.answered,
        1e6 * price * used.billed_s / answered if answered else math.inf,
    )


def usd_per_second(test: Trial, prices: Prices | None = None) -> float:
    """What a second that is billed here costs in the plan."""
    size, work = _size(test.plan), workload.of(test.plan.scenario)
    stretched = work.service_s / test.service_s
    """Seconds of the plan's work in one of this trial's."""
    if size.instance is None:
        table = (prices or shipped()).filled(work.region)
        return size.memory_mb / 1024 * float(table.find("serverless", work.region)[0].usd) * stretched
    an_hour = float(size.instance.usd_per_hour)
    return test.workers / size.concurrency * an_hour / 3600 * stretched


def _size(plan: Plan) -> Sizing:
    assert plan.sizing is not None
    return plan.sizing
