"""What a simulation saw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
