"""Scaling policies, as a simulation asks them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fourfold.advisor.sizing import SCALE_IN_S

TICK_S = 60.0
"""Metrics are read once a minute, as in CloudWatch."""


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
