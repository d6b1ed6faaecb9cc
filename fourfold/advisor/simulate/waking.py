"""One worker and its queue, started when something comes and given back when nothing does."""

from __future__ import annotations

import math

import numpy as np

from fourfold.advisor.arrivals import Times
from fourfold.advisor.simulate.outcome import Outcome


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
