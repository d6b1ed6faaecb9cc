"""The load of a job, as steps of constant users."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fourfold.advisor.trial import Step
from fourfold.errors import ValidationException

Document = dict[str, Any]

DEFAULT_STEPS = tuple(Step(users, 3.0) for users in (1, 2, 4, 8, 16, 32))
"""The load of a job without a traffic pattern: twice the users every three seconds, until the rate is flat."""


def steps(wanted: Document) -> tuple[Step, ...]:
    """The load of a job as steps of constant users.

    A phase begins with its InitialNumberOfUsers and gets SpawnRate more each minute; stairs get UsersPerStep more each
    step.

    Raises:
        ValidationException: the pattern's type and its members do not go together.
    """
    pattern = wanted.get("TrafficPattern")
    if not pattern:
        return DEFAULT_STEPS
    if pattern.get("TrafficType", "PHASES") == "PHASES":
        if not pattern.get("Phases"):
            raise ValidationException("InputConfig.TrafficPattern.Phases is missing; TrafficType is PHASES.")
        return tuple(step for phase in pattern["Phases"] for step in _phase(phase))
    stairs = pattern.get("Stairs")
    if not stairs:
        raise ValidationException("InputConfig.TrafficPattern.Stairs is missing; TrafficType is STAIRS.")
    each, seconds = stairs.get("UsersPerStep", 1), stairs.get("DurationInSeconds", 120)
    return tuple(Step(each * (number + 1), float(seconds)) for number in range(stairs.get("NumberOfSteps", 1)))


def _phase(phase: Document) -> Iterator[Step]:
    left, users = float(phase.get("DurationInSeconds", 120)), phase.get("InitialNumberOfUsers", 1)
    while left > 0:
        yield Step(users, min(left, 60.0))
        left, users = left - 60, users + phase.get("SpawnRate", 0)
