"""The autoscaler: the loop that keeps what `targets` says.

Decisions are pure functions (`scaling`); this module brings the figures and the clock, and changes capacity as a client
would, through the same operations.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

from sqlalchemy.engine import Connection

from fourfold.clock import Clock
from fourfold.control import expressions
from fourfold.control.autoscaling import managed, targets, tracking
from fourfold.control.autoscaling.activities import Activities
from fourfold.control.autoscaling.capacities import Document
from fourfold.control.autoscaling.targets import ACTION, POLICY, TARGET, ObjectNotFound, Targets, key, place_of
from fourfold.control.autoscaling.tracking import Measure
from fourfold.errors import FourfoldError
from fourfold.scaling import step_of, stepped, tracked
from fourfold.store import Store, resources
from fourfold.store.resources import Resource

log = logging.getLogger(__name__)

TICK = 5.0
COOLDOWN = 300
"""Seconds after a change before the next of its kind, where a policy says nothing; SageMaker's default."""
FULFILL = 900.0
"""Seconds after which a change that was not reached is given up."""


class Autoscaler:
    """Keeps the targets of one server.

    Args:
        store: where targets and activities are.
        targets: what is to be kept.
        clock: for everything that waits.
        measure: values of metrics.
    """

    def __init__(self, store: Store, targets: Targets, clock: Clock, measure: Measure) -> None:
        self._store = store
        self._targets = targets
        self._activities = Activities(store, clock)
        self._clock = clock
        self._measure = measure

    async def act(self, arn: str, alarm: Document, value: float | None) -> None:
        """An alarm's action: run the step policy of this ARN. Raises ObjectNotFound."""
        for policy in await self._targets.find(POLICY):
            if policy.arn == arn:
                await self._step(policy, alarm, value)
                return
        raise ObjectNotFound(f"No scaling policy has the ARN {arn}.")

    async def run(self) -> None:
        """Keep what was asked, for ever."""
        while True:
            await self._clock.sleep(TICK)
            await self.tick()

    async def tick(self) -> None:
        """Look at every target and action once."""
        for step in (self._manage, self._run_actions, self._look_at_targets):
            try:
                await step()
            except Exception:
                log.exception("the autoscaler met a defect")

    async def _manage(self) -> None:
        await managed.keep(self._store, self._targets)

    async def _run_actions(self) -> None:
        now = self._clock.now()
        for action in await self._targets.find(ACTION):
            due = _due(action.document, action.created_at, now)
            if due is not None:
                await self._store.run(partial(_set_bounds, action=action, due=due))

    async def _look_at_targets(self) -> None:
        policies = await self._targets.find(POLICY)
        for target in await self._targets.find(TARGET):
            mine = [policy for policy in policies if place_of(policy) == place_of(target)]
            try:
                await self._look_at(target, mine)
            except FourfoldError as error:
                log.warning("not scaled", extra={"target": target.name, "reason": error.message})

    async def _look_at(self, target: Resource, policies: Sequence[Resource]) -> None:
        place, document = place_of(target), target.document
        scalable = self._targets.scalable(place)
        found = await scalable.capacity(place[0])
        if found is None:
            return
        current, settled = found
        if document.get("active"):
            await self._follow_up(target, current, settled)
            return
        if not settled or self._clock.now() < document.get("retry_at", 0.0):
            return
        low, high = document["min"], document["max"]
        if not low <= current <= high:
            bound, capacity = ("minimum", low) if current < low else ("maximum", high)
            cause = document.get("cause") or f"{bound} capacity was set to {capacity}"
            await self._change(target, current, capacity, cause)
            return
        await self._track(target, policies, current)

    async def _track(self, target: Resource, policies: Sequence[Resource], current: int) -> None:
        """Follow the policies that track a target: the largest of what they want."""
        suspended = target.document["suspended"]
        wishes: list[tuple[int, str]] = []
        for policy in policies:
            configuration = policy.document.get("TargetTrackingScalingPolicyConfiguration")
            if configuration is None:
                continue
            values = await tracking.latest(
                self._measure,
                configuration,
                place_of(policy)[0],
                self._clock.now(),
                target.document.get("changed", 0.0),
            )
            goal = configuration["TargetValue"]
            scale_in = not configuration.get("DisableScaleIn", False)
            wish = tracked(current=current, values=values, target=goal, scale_in=scale_in)
            cooldown = _cooldown(configuration, out=wish > current)
            if wish != current and self._cooling(target, cooldown, out=wish > current):
                wish = current
            name = policy.name.rpartition("|")[2]
            shown = f"{values[-1]:g}" if values else "none"
            wishes.append((wish, f"metric value {shown} for target {goal:g} triggered policy {name}"))
        if not wishes:
            return
        wish, cause = max(wishes)
        if wish > current and suspended.get("DynamicScalingOutSuspended"):
            return
        if wish < current and suspended.get("DynamicScalingInSuspended"):
            return
        await self._bounded_change(target, current, wish, cause)

    async def _step(self, policy: Resource, alarm: Document, value: float | None) -> None:
        place = place_of(policy)
        target = await self._store.run(lambda db: targets.get(db, place))
        found = await self._targets.scalable(place).capacity(place[0])
        if found is None or target.document.get("active") or not found[1]:
            return  # a scaling action runs again a minute later, while its alarm lasts
        current = found[0]
        configuration = policy.document["StepScalingPolicyConfiguration"]
        above = alarm.get("ComparisonOperator", "").startswith("Greater")
        just_over = 1e-9 if above else -1e-9  # a state that was set by hand comes without a value
        over = just_over if value is None else value - alarm.get("Threshold", 0.0)
        step = step_of(configuration["StepAdjustments"], over)
        if step is None:
            return
        wish = stepped(
            current=current, kind=configuration["AdjustmentType"], adjustment=int(step["ScalingAdjustment"]),
            least=configuration.get("MinAdjustmentMagnitude", 0),
        )  # fmt: skip
        out = wish > current
        suspended = target.document["suspended"]
        if suspended.get("DynamicScalingOutSuspended" if out else "DynamicScalingInSuspended"):
            return
        if self._cooling(target, configuration.get("Cooldown", COOLDOWN), out=out):
            return
        name = policy.name.rpartition("|")[2]
        cause = f"monitor alarm {alarm['AlarmName']} in state {alarm['StateValue']} triggered policy {name}"
        await self._bounded_change(target, current, wish, cause)

    def _cooling(self, target: Resource, cooldown: float, *, out: bool) -> bool:
        """Was there a change in this direction, or for less capacity any, so short a time ago?"""
        document, now = target.document, self._clock.now()
        last = (
            document.get("last_out", 0.0) if out else max(document.get("last_out", 0.0), document.get("last_in", 0.0))
        )
        return bool(now < last + cooldown)

    async def _bounded_change(self, target: Resource, current: int, wish: int, cause: str) -> None:
        low, high = target.document["min"], target.document["max"]
        capacity = min(max(wish, low), high)
        if capacity != current:
            await self._change(target, current, capacity, cause)
        elif wish != current:
            code = "AlreadyAtMaxCapacity" if wish > current else "AlreadyAtMinCapacity"
            bounds = {"MaxCapacity": high} if wish > current else {"MinCapacity": low}
            await self._activities.not_scaled(target, cause, {"Code": code, "CurrentCapacity": current} | bounds)

    async def _change(self, target: Resource, current: int, capacity: int, cause: str) -> None:
        place = place_of(target)
        scalable = self._targets.scalable(place)
        await self._activities.begin(target, current, capacity, scalable.words, cause)
        log.info("scaling", extra={"target": target.name, "from": current, "to": capacity, "cause": cause})
        try:
            await scalable.change(place[0], capacity)
        except FourfoldError as error:
            failure = f"Failed to set {scalable.words} to {capacity}. Reason: {error.message}"
            await self._activities.finish(target, "Failed", failure)

    async def _follow_up(self, target: Resource, current: int, settled: bool) -> None:
        """An activity is under way: has it reached its goal?"""
        words, goal = self._targets.scalable(place_of(target)).words, target.document["goal"]
        if not settled:
            if self._clock.now() < target.document.get("begun", 0.0) + FULFILL:
                return
            status, message = "Unfulfilled", f"Setting {words} to {goal} was not fulfilled in time."
        elif current == goal:
            status = "Successful"
            message = f"Successfully set {words} to {goal}. Change successfully fulfilled by sagemaker."
        else:
            status, message = "Failed", f"{words} is {current}, not {goal}: see the endpoint's FailureReason."
        await self._activities.finish(target, status, message)


def _cooldown(configuration: Document, *, out: bool) -> float:
    return float(configuration.get("ScaleOutCooldown" if out else "ScaleInCooldown", COOLDOWN))


def _set_bounds(db: Connection, action: Resource, due: float) -> None:
    """A scheduled action's time has come: its target gets new bounds, unless that is suspended."""
    found = resources.get(db, ACTION, action.name)
    target = resources.get(db, TARGET, key(place_of(action)))
    if found is None or target is None:
        return
    found.document = found.document | {"cursor": due}
    resources.save(db, found)
    if target.document["suspended"].get("ScheduledScalingSuspended"):
        return
    bounds = action.document["ScalableTargetAction"]
    low = bounds.get("MinCapacity", target.document["min"])
    high = max(low, bounds.get("MaxCapacity", target.document["max"]))
    cause = f"scheduled action name {action.name.rpartition('|')[2]} was triggered"
    target.document = target.document | {"min": low, "max": high, "cause": cause}
    resources.save(db, target)


def _due(document: Document, created: float, now: float) -> float | None:
    """The latest time of an action that has come and was not dealt with. None: there is none."""
    expression = expressions.parse(document["Schedule"], document.get("Timezone", "UTC"))
    anchor = document.get("StartTime", created)
    at = expression.after(max(document["cursor"], anchor - 1e-3), anchor)
    if at is None or at > now or at > document.get("EndTime", at):
        return None
    while (later := expression.after(at, anchor)) is not None and later <= now:
        at = later
    return at
