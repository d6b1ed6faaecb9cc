"""Workers with one FIFO queue."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from heapq import heappop, heappush, heapreplace

import numpy as np
from numpy.typing import NDArray

from fourfold.advisor.arrivals import Times
from fourfold.advisor.simulate.constant import constant
from fourfold.advisor.simulate.outcome import Outcome
from fourfold.advisor.simulate.policies import TICK_S, Load, Policy
from fourfold.advisor.sizing import INSTANCE_START_S


@dataclass(frozen=True)
class Batching:
    """Calls that wait are taken together, `most` at once; a call of b takes `fixed_s` + b × `each_s`."""

    most: int
    fixed_s: float
    each_s: float
    delay_s: float = 0.0
    """A batch that is not full waits so long for more. 0: whatever is there goes."""


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
            now = max(now, math.floor(following / TICK_S) * TICK_S)
    return line.outcome(up, now, peak)
