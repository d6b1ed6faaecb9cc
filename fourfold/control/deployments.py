"""Deployments: how traffic moves from an endpoint's old fleet to its new one, and back when that goes wrong.

    new fleet starts ─► ActivatingTraffic ─► Baking ─► ActivatingTraffic ─► Baking ─► … ─► old fleet ends
                                              └► an alarm, a fleet that cannot stay up, or the time limit ─► back

Blue/green starts the whole new fleet first and then moves traffic in one, two or many steps. A rolling update moves
capacity with the traffic. Both are a list of shares; `plan` makes it from a DeploymentConfig and is pure.
Limits: https://docs.aws.amazon.com/sagemaker/latest/dg/deployment-guardrails.html
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection

from fourfold.clock import Clock
from fourfold.errors import FourfoldError, ModelLoadError, ValidationException
from fourfold.pool.fleet import Fleet
from fourfold.pool.several import Several, Workers
from fourfold.store import resources

Document = dict[str, Any]
Fleets = Mapping[str, Workers]

LONGEST = 28_800
"""Seconds that a deployment may take where MaximumExecutionTimeoutInSeconds does not say less."""
WATCH = 1.0
"""Seconds between two looks at alarms and fleets while baking."""


@dataclass(frozen=True)
class Plan:
    """The steps of one deployment.

    Attributes:
        shares: of traffic on the new fleet after each step; the last is 1.
        wait: seconds of baking after each step.
        rolling: does capacity move with the traffic?
        back: share that returns at once when a rolling update is rolled back.
        termination_wait: seconds that the old fleet stays after the last step.
        timeout: seconds for all of it.
        alarms: names of the alarms that roll it back.
    """

    shares: tuple[float, ...] = (1.0,)
    wait: float = 0.0
    rolling: bool = False
    back: float = 1.0
    termination_wait: float = 0.0
    timeout: float = LONGEST
    alarms: tuple[str, ...] = ()


class RolledBack(FourfoldError):
    """A deployment that is not to go on; the message becomes the endpoint's FailureReason."""


def plan(config: Document | None, instances: int) -> Plan:
    """The steps that a DeploymentConfig asks for. None: all traffic at once.

    Args:
        config: as in UpdateEndpoint or UpdateInferenceComponent.
        instances: of the new fleet in all; a component's copies.

    Raises:
        ValidationException: it has no size where one is needed, a size out of bounds, or more waits than time.
    """
    config = config or {}
    alarms = tuple(alarm["AlarmName"] for alarm in config.get("AutoRollbackConfiguration", {}).get("Alarms", []))
    if "BlueGreenUpdatePolicy" in config and "RollingUpdatePolicy" in config:
        raise ValidationException("A DeploymentConfig has either a BlueGreenUpdatePolicy or a RollingUpdatePolicy.")
    rolling = config.get("RollingUpdatePolicy")
    if rolling is not None:
        step = _size(rolling["MaximumBatchSize"], instances, "MaximumBatchSize", 0.05)
        back = rolling.get("RollbackMaximumBatchSize")
        result = Plan(
            _steps(step),
            rolling["WaitIntervalInSeconds"],
            rolling=True,
            back=1.0 if back is None else _size(back, instances, "RollbackMaximumBatchSize", 0.05, 1.0),
            timeout=rolling.get("MaximumExecutionTimeoutInSeconds", LONGEST),
            alarms=alarms,
        )
    elif "BlueGreenUpdatePolicy" in config:
        policy = config["BlueGreenUpdatePolicy"]
        routing = policy["TrafficRoutingConfiguration"]
        result = Plan(
            _traffic(routing, instances),
            routing["WaitIntervalInSeconds"],
            termination_wait=policy.get("TerminationWaitInSeconds", 0),
            timeout=policy.get("MaximumExecutionTimeoutInSeconds", LONGEST),
            alarms=alarms,
        )
    else:
        result = Plan(alarms=alarms)
    waits = len(result.shares) * result.wait + result.termination_wait
    if waits > result.timeout:
        raise ValidationException(
            f"The deployment would wait {waits:g} s, longer than its MaximumExecutionTimeoutInSeconds "
            f"({result.timeout:g}). Use fewer or shorter waits."
        )
    return result


def _traffic(routing: Document, instances: int) -> tuple[float, ...]:
    match routing["Type"]:
        case "CANARY":
            return (_size(routing.get("CanarySize"), instances, "CanarySize", 0.0), 1.0)
        case "LINEAR":
            return _steps(_size(routing.get("LinearStepSize"), instances, "LinearStepSize", 0.1))
    return (1.0,)


def _steps(step: float) -> tuple[float, ...]:
    count = math.ceil(1 / step - 1e-9)
    return (*(step * n for n in range(1, count)), 1.0)


def _size(size: Document | None, instances: int, name: str, least: float, most: float = 0.5) -> float:
    """A size as a share. One instance or copy is always allowed, or nothing could be done with few of them."""
    if size is None:
        raise ValidationException(f"{name} is needed for this kind of deployment.")
    share: float = size["Value"] / (100.0 if size["Type"] == "CAPACITY_PERCENT" else max(1, instances))
    one = size["Type"] != "CAPACITY_PERCENT" and size["Value"] == 1
    if not (least <= share <= most or one):
        raise ValidationException(f"{name} must be {least:.0%} to {most:.0%} of the capacity; it is {share:.0%}.")
    return min(share, 1.0)


def check(db: Connection, config: Document | None, instances: int) -> None:
    """Raises ValidationException where `plan` does, or where a DeploymentConfig names an alarm that does not exist."""
    for alarm in plan(config, instances).alarms:
        if resources.get(db, "alarm", alarm) is None:
            raise ValidationException(
                f'Could not find alarm "{alarm}" of AutoRollbackConfiguration. Make it with PutMetricAlarm first.'
            )


class Deployment:
    """One change of fleets under way.

    Args:
        plan: its steps.
        clock: for the waits.
        old, new: fleets by variant; one that stays is in both.
        publish: moves traffic: the share that the new fleet gets.
        alarms: the states of some alarms by name.
        stage: told of each stage, in SageMaker's words for a variant's status.
        fits: is there room for so many of the new fleet beside the old one? If not, the old one shrinks first.
    """

    def __init__(
        self,
        plan: Plan,
        clock: Clock,
        old: Fleets,
        new: Fleets,
        publish: Callable[[float], None],
        alarms: Callable[[Sequence[str]], Awaitable[Mapping[str, str]]],
        stage: Callable[[str], Awaitable[None]],
        fits: Callable[[int], bool] = lambda _count: True,
    ) -> None:
        self._plan = plan
        self._clock = clock
        self._publish = publish
        self._alarms = alarms
        self._stage = stage
        self._fits = fits
        self._old = {name: fleet for name, fleet in old.items() if new.get(name) is not fleet}
        self._new = {name: fleet for name, fleet in new.items() if old.get(name) is not fleet}
        self._counts = {id(fleet): fleet.wanted for fleet in self._old.values()}
        self._share = 0.0

    async def run(self, counts: Mapping[str, int], started: float) -> None:
        """Move everything to the new fleet.

        Args:
            counts: instances that the new fleet is to have.
            started: `clock.monotonic()` when the deployment began, which its time limit counts from.

        Raises:
            RolledBack: it must not go on. Traffic is where it was at that moment.
        """
        deadline = started + self._plan.timeout
        await self._watch(deadline, self._plan.alarms)  # of what is known to be wrong, the new fleet gets no call
        for share in self._plan.shares:
            await self._stage("ActivatingTraffic")
            await self._grow(share, counts)
            self._move(share)
            if self._plan.wait:
                await self._stage("Baking")
            await self._bake(self._plan.wait, deadline, self._plan.alarms)
        if self._plan.termination_wait:
            await self._bake(self._plan.termination_wait, deadline, ())

    async def back(self) -> None:
        """Give everything back to the old fleet. Raises ModelLoadError where that cannot be brought back."""
        while self._share > 0:
            share = max(0.0, self._share - self._plan.back)
            if self._plan.rolling:
                for fleet in self._old.values():
                    if isinstance(fleet, Fleet):
                        await fleet.reach(max(1, math.ceil((1 - share) * self._counts[id(fleet)])))
            for name, fleet in self._old.items():
                if not fleet.ready and fleet.failure is not None:
                    raise ModelLoadError(f"The old fleet of {name} does not run: {fleet.failure.message}")
            self._share = share
            self._publish(share)

    async def _grow(self, share: float, counts: Mapping[str, int]) -> None:
        """In a rolling update the new fleet has as much capacity as it is to get of the traffic."""
        if not self._plan.rolling:
            return
        for name, fleet in self._new.items():
            if isinstance(fleet, Fleet | Several):
                count = part(counts[name], share)
                if not self._fits(count):
                    self._shrink(share)
                try:
                    await fleet.reach(count)
                except ModelLoadError as error:
                    raise RolledBack(f"The new fleet could not be started: {error.message}") from error

    def _move(self, share: float) -> None:
        self._share = share
        self._publish(share)
        if self._plan.rolling and share < 1:
            self._shrink(share)

    def _shrink(self, share: float) -> None:
        """Leave the old fleet what it needs for the rest of the traffic; calls must not be without any."""
        for fleet in self._old.values():
            if isinstance(fleet, Fleet):
                fleet.scale(max(1, self._counts[id(fleet)] - math.floor(share * self._counts[id(fleet)])))

    async def _bake(self, seconds: float, deadline: float, alarms: Sequence[str]) -> None:
        """Wait, and watch: alarms, the new fleet, the time limit."""
        end = self._clock.monotonic() + seconds
        while True:
            await self._watch(deadline, alarms)
            left = end - self._clock.monotonic()
            if left <= 0:
                return
            await self._clock.sleep(min(WATCH, left))

    async def _watch(self, deadline: float, alarms: Sequence[str]) -> None:
        for name, fleet in self._new.items():
            if not fleet.ready and fleet.failure is not None:
                raise RolledBack(f"The new fleet of {name} cannot be kept running: {fleet.failure.message}")
        if self._clock.monotonic() > deadline:
            raise RolledBack(f"The deployment took longer than its limit of {self._plan.timeout:g} s.")
        if alarms:
            states = await self._alarms(alarms)
            raised = [name for name in alarms if states.get(name) == "ALARM"]
            if raised:
                raise RolledBack(f"One or more alarms went into ALARM during the deployment: {', '.join(raised)}.")


def part(count: int, share: float) -> int:
    """Instances for a share of a fleet: rounded up, at least one."""
    return max(1, math.ceil(count * share - 1e-9)) if count else 0
