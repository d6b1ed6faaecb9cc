"""A queue with a fixed number of workers and constant service."""

from __future__ import annotations

import numpy as np

from fourfold.advisor.arrivals import Times
from fourfold.advisor.simulate.outcome import Outcome


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
