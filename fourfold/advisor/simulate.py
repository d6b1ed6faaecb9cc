"""A discrete-event simulation of each mode: workers, batches, queues, cold starts, scaling with delays, expiry.

Four engines, each as simple as its mode allows:

    queue       workers with one FIFO queue; batches, a bounded queue, expiry, capacity that changes at ticks
                (real-time, asynchronous; a batch run is the same queue with everything there at second 0)
    constant    the same with a fixed number of workers and constant service: closed in numpy, no loop
    waking      one worker and its queue, started when something comes and given back when nothing does
    serverless  no queue: a warm instance, a cold one, or a refusal

`run` picks the engine for a plan. Checked against the closed forms of `queueing` in tests/advisor/test_simulate.py.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush, heapreplace

import numpy as np
from numpy.typing import NDArray

from fourfold.advisor import arrivals as arrival
from fourfold.advisor import workload
from fourfold.advisor.arrivals import Times
from fourfold.advisor.search import Plan
from fourfold.advisor.sizing import (
    COLD_START_S,
    COLD_START_S_PER_GB,
    INSTANCE_START_S,
    KEPT_WARM_S,
    SCALE_IN_S,
    Sizing,
    overhead_ms,
)

TICK_S = 60.0
"""Metrics are read once a minute, as in CloudWatch."""
ENOUGH = 200_000
"""Arrivals that `run` simulates at most unless it is given its own: p99 then rests on 2,000 of them."""


@dataclass(frozen=True)
class Outcome:
    """What a simulation saw. Arrays run over the requests in order of arrival; NaN where one was never answered."""

    latency_s: NDArray[np.float64]
    """Seconds from arrival to answer."""
    wait_s: NDArray[np.float64]
    """Of it, seconds before the model began."""
    refused: int = 0
    """Requests turned away by a full queue or at MaxConcurrency."""
    expired: int = 0
    """Requests that waited past their time to live."""
    cold_starts: int = 0
    instance_seconds: float = 0.0
    """Capacity that was up until the last answer, summed over instances: what is billed."""
    busy_seconds: float = 0.0
    """Of it, seconds in which a worker worked, summed over workers."""
    span_s: float = 0.0
    peak_instances: int = 0

    @property
    def answered(self) -> int:
        return int(np.count_nonzero(~np.isnan(self.latency_s)))

    @property
    def throughput(self) -> float:
        """Answers a second over the whole span."""
        return self.answered / self.span_s if self.span_s else 0.0

    def latency_ms(self) -> dict[str, float]:
        """`p50`, `p95`, `p99` of the answered requests; empty where none was."""
        if not self.answered:
            return {}
        p50, p95, p99 = np.nanpercentile(self.latency_s, (50, 95, 99)) * 1000
        return {"p50": round(float(p50), 1), "p95": round(float(p95), 1), "p99": round(float(p99), 1)}


@dataclass(frozen=True)
class Batching:
    """Calls that wait are taken together, `most` at once; a call of b takes `fixed_s` + b × `each_s`."""

    most: int
    fixed_s: float
    each_s: float
    delay_s: float = 0.0
    """A batch that is not full waits so long for more. 0: whatever is there goes."""


@dataclass(frozen=True)
class Load:
    """What a scaling policy sees at a tick."""

    now: float
    instances: int
    arrived: int
    """Requests that came since the last tick."""
    backlog: int
    """Requests that wait."""


Policy = Callable[[Load], int]
"""The number of instances wished for."""


def queue(
    arrivals: Times,
    service: NDArray[np.float64] | float,
    workers: int,
    *,
    instances: int = 1,
    batching: Batching | None = None,
    queue_length: int | None = None,
    ttl_s: float = math.inf,
    policy: Policy | None = None,
    start_s: float = INSTANCE_START_S,
) -> Outcome:
    """FIFO over `instances` × `workers`.

    Args:
        arrivals: sorted seconds.
        service: seconds for each arrival, or one figure for all. Ignored with `batching`.
        workers: requests that one instance works on at once.
        instances: at the start.
        batching: None serves one request at a time.
        queue_length: requests that may wait; the next is refused. None: no bound.
        ttl_s: a request that would wait longer is dropped when its turn comes.
        policy: asked at every tick; None keeps the instances.
        start_s: from a policy's wish for more instances to their first work. Fewer takes effect at once, work in
            progress is finished.
    """
    fixed = policy is None and batching is None and queue_length is None and ttl_s == math.inf
    if fixed and isinstance(service, (int, float)):
        return constant(arrivals, float(service), instances * workers, instances)
    times = arrivals.tolist()
    each = service if isinstance(service, (int, float)) else service.tolist()
    line = _Line(times, each, batching, queue_length, ttl_s)
    line.free = [0.0] * (instances * workers)
    if policy is None:
        line.advance(math.inf)
        span = max(line.last, times[-1] if times else 0.0)
        return line.outcome(instances * span, span, instances)
    return _scaled(line, policy, workers, instances, start_s)


class _Line:
    """The queue and its workers: `free` is a heap of the seconds at which each worker is free."""

    def __init__(
        self,
        times: list[float],
        service: list[float] | float,
        batching: Batching | None,
        queue_length: int | None,
        ttl_s: float,
    ) -> None:
        self.times, self.service = times, service
        self.batching, self.queue_length, self.ttl_s = batching, queue_length, ttl_s
        self.free: list[float] = []
        self.next = 0
        self.waits = [math.nan] * len(times)
        self.ends = [math.nan] * len(times)
        self.refused = self.expired = 0
        self.busy = self.last = 0.0
        self.starts: deque[float] = deque()
        """Starts of work that lie ahead of the request in hand: with these before it, that many wait."""

    def backlog(self, now: float) -> int:
        return max(0, bisect_right(self.times, now) - self.next)

    def advance(self, until: float) -> None:
        """Begin every piece of work that begins before `until`."""
        if self.batching is not None:
            self._advance_batches(until, self.batching)
            return
        times, free, ttl = self.times, self.free, self.ttl_s
        services = self.service if isinstance(self.service, list) else None
        constant_s = 0.0 if isinstance(self.service, list) else self.service
        waits, ends, count, bound = self.waits, self.ends, len(self.times), self.queue_length
        i, busy, last = self.next, self.busy, self.last
        while i < count and free:
            arrived = times[i]
            start = free[0] if free[0] > arrived else arrived
            if start >= until:
                break
            if bound is not None and not self._room(arrived, bound):
                i += 1
                continue
            if start - arrived > ttl:
                self.expired += 1
                i += 1
                continue
            took = services[i] if services is not None else constant_s
            end = start + took
            heapreplace(free, end)
            waits[i], ends[i] = start - arrived, end
            busy += took
            if end > last:
                last = end
            if bound is not None and start > arrived:
                self.starts.append(start)
            i += 1
        self.next, self.busy, self.last = i, busy, last

    def _room(self, arrived: float, bound: int) -> bool:
        """Whether a request that comes now may wait (or need not)."""
        while self.starts and self.starts[0] <= arrived:
            self.starts.popleft()
        if self.free[0] <= arrived or len(self.starts) < bound:
            return True
        self.refused += 1
        return False

    def _advance_batches(self, until: float, batching: Batching) -> None:
        times, count = self.times, len(self.times)
        while self.next < count and self.free:
            i = self.next
            start = max(self.free[0], times[i])
            if batching.delay_s:
                full = times[i + batching.most - 1] if i + batching.most <= count else math.inf
                start = max(start, min(full, times[i] + batching.delay_s))
            if start >= until:
                break
            end_of = min(count, i + batching.most)
            taken = bisect_right(times, start, i, end_of) - i
            took = batching.fixed_s + taken * batching.each_s
            heapreplace(self.free, start + took)
            for j in range(i, i + taken):
                self.waits[j], self.ends[j] = start - times[j], start + took
            self.busy += took
            self.last = max(self.last, start + took)
            self.next += taken

    def outcome(self, instance_seconds: float, span: float, peak: int) -> Outcome:
        times, ends = np.asarray(self.times), np.asarray(self.ends)
        return Outcome(
            ends - times,
            np.asarray(self.waits),
            refused=self.refused,
            expired=self.expired,
            instance_seconds=instance_seconds,
            busy_seconds=self.busy,
            span_s=span,
            peak_instances=peak,
        )


def _scaled(line: _Line, policy: Policy, workers: int, instances: int, start_s: float) -> Outcome:
    """Run a line whose capacity follows a policy, tick by tick."""
    now, seen, up, peak = 0.0, 0, 0.0, instances
    coming: deque[tuple[float, int]] = deque()  # (when up, instances)
    idle_from = 0.0
    end = (line.times[-1] if line.times else 0.0) + TICK_S
    while now < end or line.next < len(line.times):
        until = now + TICK_S
        if line.next == len(line.times) and now > end:
            break
        line.advance(until)
        up += instances * TICK_S
        now = until
        while coming and coming[0][0] <= now:
            _, more = coming.popleft()
            instances += more
            for _ in range(more * workers):
                heappush(line.free, now)
        arrived = bisect_right(line.times, now)
        ordered = instances + sum(more for _, more in coming)
        wanted = policy(Load(now, ordered, arrived - seen, line.backlog(now)))
        seen = arrived
        if wanted > ordered:
            coming.append((now + start_s, wanted - ordered))
        elif wanted < instances and not coming:
            for _ in range((instances - wanted) * workers):
                heappop(line.free)  # the first to be free; its work is done or will be finished
            instances = wanted
        peak = max(peak, instances)
        if not instances and not coming and not line.backlog(now):
            # Nothing runs and nothing waits: nothing happens before the next arrival.
            following = line.times[arrived] if arrived < len(line.times) else end
            idle_from = max(now, math.floor(following / TICK_S) * TICK_S)
            now = idle_from
    heapify(line.free)
    return line.outcome(up, now, peak)


def constant(arrivals: Times, service: float, workers: int, instances: int = 1) -> Outcome:
    """FIFO, `workers` in all, each request `service` seconds; no loop over requests.

    With constant service the requests leave in the order in which they came, so request i starts when request
    i − `workers` is done: each of the `workers` residue classes is a single-server queue of its own, and there
    Lindley's recursion is a running maximum: end_i = S·(i+1) + max over j ≤ i of (arrival_j − S·j).
    """
    ends = np.empty_like(arrivals)
    for worker in range(min(workers, len(arrivals))):
        own = arrivals[worker::workers]
        steps = service * np.arange(len(own))
        ends[worker::workers] = np.maximum.accumulate(own - steps) + steps + service
    span = float(ends.max()) if len(ends) else 0.0
    latency = ends - arrivals
    return Outcome(
        latency,
        np.maximum(latency - service, 0.0),
        instance_seconds=instances * span,
        busy_seconds=service * len(arrivals),
        span_s=span,
        peak_instances=instances,
    )


def waking(arrivals: Times, service: float, *, start_s: float, kept_s: float) -> Outcome:
    """One worker that is started for a request that finds none, and given back after `kept_s` without work.

    Args:
        arrivals: sorted seconds.
        service: seconds for each.
        start_s: from the request that wakes it to its first work.
    """
    ends: list[float] = []
    free, woken, up = -math.inf, 0.0, 0.0
    starts = 0
    for now in arrivals.tolist():
        if now > free + kept_s:
            if starts:
                up += free + kept_s - woken
            starts, woken = starts + 1, now
            free = now + start_s
        free = max(free, now) + service
        ends.append(free)
    latency = np.asarray(ends) - arrivals
    span = ends[-1] if ends else 0.0
    return Outcome(
        latency,
        latency - service,
        cold_starts=starts,
        instance_seconds=up + (span - woken if ends else 0.0),
        busy_seconds=service * len(ends),
        span_s=span,
        peak_instances=min(1, len(ends)),
    )


def serverless(
    arrivals: Times,
    service: NDArray[np.float64] | float,
    *,
    max_concurrency: int,
    cold_s: float,
    kept_s: float = KEPT_WARM_S,
    provisioned: int = 0,
) -> Outcome:
    """No queue: a request takes the warm instance that started first, else starts one, else is refused.

    Args:
        arrivals: sorted seconds.
        service: seconds for each arrival, or one figure for all.
        cold_s: seconds that a new instance takes before its first request begins.
        kept_s: an idle instance is given up after this time.
        provisioned: instances that are always warm.
    """
    times = arrivals.tolist()
    each = np.broadcast_to(np.asarray(service, dtype=float), len(times)).tolist()
    waits, ends = [math.nan] * len(times), [math.nan] * len(times)
    busy: list[tuple[float, int]] = []  # end of work and instance, a heap
    idle = list(range(provisioned))  # instances, a heap: in the order in which they started
    idle_since = [math.inf] * provisioned  # of every instance that ever was
    refused = cold_starts = peak = 0
    worked = 0.0
    for i, now in enumerate(times):
        while busy and busy[0][0] <= now:
            end, instance = heappop(busy)
            if instance >= provisioned:
                idle_since[instance] = end
            heappush(idle, instance)
        while idle and idle_since[idle[0]] + kept_s < now:
            heappop(idle)  # it has gone meanwhile
        wait = 0.0
        if idle:
            instance = heappop(idle)
        elif len(busy) < max_concurrency:
            wait = cold_s
            cold_starts += 1
            instance = len(idle_since)
            idle_since.append(math.nan)
        else:
            refused += 1
            continue
        end = now + wait + each[i]
        heappush(busy, (end, instance))
        peak = max(peak, len(busy))
        waits[i], ends[i] = wait, end
        worked += each[i]
    span = max((e for e in ends if not math.isnan(e)), default=0.0)
    return Outcome(
        np.asarray(ends) - arrivals,
        np.asarray(waits),
        refused=refused,
        cold_starts=cold_starts,
        instance_seconds=worked + provisioned * span,
        busy_seconds=worked,
        span_s=span,
        peak_instances=peak,
    )


def track_invocations(per_instance_minute: float, floor: int, top: int, cool_s: float = 300.0) -> Policy:
    """Target tracking on invocations per instance and minute, as SageMakerVariantInvocationsPerInstance."""
    last_change = -math.inf

    def wish(load: Load) -> int:
        nonlocal last_change
        wanted = max(floor, min(top, math.ceil(load.arrived * 60 / TICK_S / per_instance_minute)))
        if wanted > load.instances:
            last_change = load.now
            return wanted
        if wanted < load.instances and load.now - last_change >= cool_s:
            last_change = load.now
            return wanted
        return load.instances

    return wish


def track_backlog(per_instance: float, floor: int, top: int, cool_s: float = SCALE_IN_S) -> Policy:
    """Target tracking on the backlog per instance, and from zero as soon as anything waits."""
    busy_at = 0.0

    def wish(load: Load) -> int:
        nonlocal busy_at
        if load.backlog or load.arrived:
            busy_at = load.now
        wanted = max(1 if load.backlog else 0, min(top, math.ceil(load.backlog / per_instance)))
        if wanted > load.instances:
            return wanted
        if load.now - busy_at >= cool_s:
            return floor
        return load.instances

    return wish


def timetable(hourly: Sequence[int]) -> Policy:
    """So many instances in each hour of the day."""
    return lambda load: hourly[int(load.now // 3600) % 24]


def run(plan: Plan, arrivals: Times | None = None, seed: int = 0) -> Outcome:
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
