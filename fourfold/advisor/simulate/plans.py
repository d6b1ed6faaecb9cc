"""A plan, simulated by the engine that suits it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fourfold.advisor import arrivals as arrival
from fourfold.advisor import workload
from fourfold.advisor.arrivals import Times
from fourfold.advisor.search import Plan
from fourfold.advisor.simulate.constant import constant
from fourfold.advisor.simulate.outcome import Outcome
from fourfold.advisor.simulate.policies import timetable, track_backlog
from fourfold.advisor.simulate.queue import queue
from fourfold.advisor.simulate.serverless import serverless
from fourfold.advisor.sizing import COLD_START_S, COLD_START_S_PER_GB, INSTANCE_START_S, Sizing, overhead_ms

ENOUGH = 200_000
"""Arrivals that `simulated` takes at most unless it is given its own: p99 then rests on 2,000 of them."""


def simulated(plan: Plan, arrivals: Times | None = None, seed: int = 0) -> Outcome:
    """Simulate a plan: on the given arrivals, on the scenario's trace, or on its hourly rates.

    A day of more than `ENOUGH` requests is not simulated whole: its busiest hour is, with the capacity planned for it.
    Latencies are the client's: the platform and the transfer are added to what the queue says.
    """
    size = plan.sizing
    if size is None:
        return Outcome(np.empty(0), np.empty(0))
    work = workload.of(plan.scenario)
    if plan.mode == "batch":
        return _batch(size, work.items_per_run)
    if arrivals is None and plan.scenario.trace:
        arrivals = np.asarray(plan.scenario.trace, dtype=float)
    if arrivals is not None:
        outcome = _endpoint(size, arrivals, work)
    elif work.requests_per_day <= ENOUGH:
        days = max(1, min(30, int(20_000 / max(work.requests_per_day, 1))))
        outcome = _endpoint(size, arrival.over_day(work.hourly, days, seed), work)
    else:
        busiest = max(work.hourly)
        steady = arrival.poisson(busiest, min(ENOUGH, int(busiest * 3600)), seed)
        full = replace(size, floor=size.count, hourly=())
        outcome = _endpoint(full, steady, work)
    return replace(outcome, latency_s=outcome.latency_s + overhead_ms(work) / 1000)


def _endpoint(size: Sizing, arrivals: Times, work: workload.Workload) -> Outcome:
    if size.mode == "serverless":
        cold_s = COLD_START_S + COLD_START_S_PER_GB * work.memory_gb
        return serverless(
            arrivals,
            work.service_s,
            max_concurrency=size.max_concurrency,
            cold_s=cold_s,
            provisioned=size.provisioned,
        )
    if size.mode == "asynchronous" and size.count > size.floor:
        scale = track_backlog(2.0 * size.concurrency, size.floor, size.count)
        return queue(arrivals, work.service_s, size.concurrency, instances=size.floor, policy=scale, ttl_s=21600.0)
    if size.hourly:
        follow = timetable(size.hourly)
        return queue(arrivals, work.service_s, size.concurrency, instances=size.hourly[0], policy=follow)
    return queue(arrivals, work.service_s, size.concurrency, instances=size.count)


def _batch(size: Sizing, items: float) -> Outcome:
    """A run's items are all there at second 0; work begins when the instances are up, answers come when it ends."""
    count = min(int(items), 1_000_000)
    outcome = constant(np.zeros(count), size.service_s * (items / count if count else 1), size.count * size.concurrency)
    span = outcome.span_s + INSTANCE_START_S
    return Outcome(
        np.full(count, span),
        outcome.wait_s + INSTANCE_START_S,
        instance_seconds=span * size.count,
        busy_seconds=outcome.busy_seconds,
        span_s=span,
        peak_instances=size.count,
    )
