"""No queue: a warm instance, a cold one, or a refusal."""

from __future__ import annotations

import math
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from fourfold.advisor.arrivals import Times
from fourfold.advisor.simulate.outcome import Outcome
from fourfold.advisor.sizing import KEPT_WARM_S


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
    instances = _Instances(provisioned, kept_s)
    refused = cold_starts = peak = 0
    worked = 0.0
    for i, now in enumerate(times):
        instances.settle(now)
        instance, wait = instances.take_warm(), 0.0
        if instance is None:
            if len(instances.busy) >= max_concurrency:
                refused += 1
                continue
            instance, wait = instances.start(), cold_s
            cold_starts += 1
        waits[i], ends[i] = wait, now + wait + each[i]
        heappush(instances.busy, (ends[i], instance))
        peak = max(peak, len(instances.busy))
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


class _Instances:
    """Instances by number, in the order in which they started; the first `provisioned` never go."""

    def __init__(self, provisioned: int, kept_s: float) -> None:
        self.busy: list[tuple[float, int]] = []
        """End of work and instance, a heap."""
        self._provisioned = provisioned
        self._kept_s = kept_s
        self._idle = list(range(provisioned))  # a heap
        self._idle_since = [math.inf] * provisioned  # of every instance that ever was

    def settle(self, now: float) -> None:
        """What has happened up to now: work ended, and idle instances went."""
        while self.busy and self.busy[0][0] <= now:
            end, instance = heappop(self.busy)
            if instance >= self._provisioned:
                self._idle_since[instance] = end
            heappush(self._idle, instance)
        while self._idle and self._idle_since[self._idle[0]] + self._kept_s < now:
            heappop(self._idle)

    def take_warm(self) -> int | None:
        """The idle instance that started first; None where all work."""
        return heappop(self._idle) if self._idle else None

    def start(self) -> int:
        """A new instance."""
        self._idle_since.append(math.nan)
        return len(self._idle_since) - 1
