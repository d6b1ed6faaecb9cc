"""Scaling decisions as pure functions of what is seen now; those who call them bring the clock."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise


def serverless_starts(*, waiting: int, starting: int, workers: int, max_concurrency: int) -> int:
    """How many workers to start for calls that wait: one for each call that no starting worker will take.

    Args:
        waiting: calls that no worker has.
        starting: workers that are being started.
        workers: workers that are there, starting ones not counted.
        max_concurrency: most workers in all.
    """
    wanted = waiting - starting
    room = max_concurrency - workers - starting
    return max(0, min(wanted, room))


def serverless_surplus(*, idle_seconds: list[float], limit: float, workers: int, provisioned: int) -> int:
    """How many of the idle workers to end: those idle for longer than `limit`, keeping `provisioned` in all.

    Args:
        idle_seconds: for each idle worker how long it has been so.
        limit: seconds that an idle worker is kept.
        workers: workers that are there, busy ones included.
        provisioned: workers that stay whatever happens.
    """
    expired = sum(seconds >= limit for seconds in idle_seconds)
    return max(0, min(expired, workers - provisioned))


LOOKS = 4
"""Values in a row, one each ten seconds, that must be low before capacity is taken away."""
LOW = 0.9
"""Share of the target below which capacity is taken away, as AWS's target tracking has it."""


def tracked(*, current: int, values: Sequence[float], target: float, out: bool) -> int:
    """The capacity that brings a metric to its target; the current one where its newest values call for no other.

    Args:
        current: capacity now.
        values: of the metric, one each ten seconds, oldest first, per unit of capacity.
        target: the value to keep.
        out: is capacity to be added? If not, it is to be taken away.
    """
    if out:
        return max(current, needed(current, values[-1], target)) if values else current
    low = values[-LOOKS:]
    if len(low) < LOOKS or max(low) >= LOW * target:
        return current
    return min(current, needed(current, max(low), target))


def needed(current: int, value: float, target: float) -> int:
    """Capacity at which `value` per unit would be the target. With none, the value is that of all the work."""
    return math.ceil(max(1, current) * value / target - 1e-9)


def stepped(*, current: int, kind: str, adjustment: int, least: int = 0) -> int:
    """The capacity after one step of a step policy.

    Args:
        current: capacity now.
        kind: ChangeInCapacity, PercentChangeInCapacity or ExactCapacity.
        adjustment: units, percent, or the capacity itself.
        least: with percent, the smallest change (MinAdjustmentMagnitude).
    """
    if kind == "ExactCapacity":
        return max(0, adjustment)
    if kind == "ChangeInCapacity":
        return max(0, current + adjustment)
    change = current * adjustment / 100.0
    size = max(1, math.floor(abs(change))) if change else 0
    size = max(size, least) if adjustment else 0
    return max(0, current + (size if adjustment > 0 else -size))


def step_of(steps: Sequence[Mapping[str, float]], over: float) -> Mapping[str, float] | None:
    """The step whose bounds hold how far a value is over the alarm's threshold. None: no step does.

    A bound that is missing is infinite; the lower one belongs to the step above zero, the upper one below it.
    """
    for step in steps:
        lower = step.get("MetricIntervalLowerBound", -math.inf)
        upper = step.get("MetricIntervalUpperBound", math.inf)
        if lower <= over < upper or (over < 0 and lower < over <= upper):
            return step
    return None


def fault_of(steps: Sequence[Mapping[str, float]]) -> str:
    """What is wrong with steps that cannot be followed; empty: nothing."""
    spans = sorted(
        (step.get("MetricIntervalLowerBound", -math.inf), step.get("MetricIntervalUpperBound", math.inf))
        for step in steps
    )
    if any(lower >= upper for lower, upper in spans):
        return "a step's MetricIntervalLowerBound must be less than its MetricIntervalUpperBound"
    for (_, end), (start, _) in pairwise(spans):
        if start < end:
            return "the ranges of steps must not overlap"
        if start > end:
            return "there must be no gap between the ranges of steps"
    return ""
