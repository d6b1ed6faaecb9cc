"""The autoscaler: keeps what `targets` says.

Alarms set policies off; a loop keeps bounds, runs scheduled actions and sees what became of changes. Decisions are pure
functions (`scaling`); this module brings the figures and the clock, and changes capacity as a client would, through the
same operations.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial

from sqlalchemy.engine import Connection

from fourfold.clock import Clock
from fourfold.control import expressions
from fourfold.control.autoscaling import managed, targets, tracking
from fourfold.control.autoscaling.activities import Activities, bounds_were_set
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
TIDY = 60.0
FULFILL = 900.0
"""Seconds after which a change that was not reached is given up."""


class Autoscaler:
    """Keeps the targets of one server.

    Args:
        store: where targets and activities are.
        targets: what is to be kept.
        clock: for everything that waits.
        measure: values of metrics, from which it is known how much is needed.
    """

    def __init__(self, store: Store, targets: Targets, clock: Clock, measure: Measure) -> None:
        self._store = store
        self._targets = targets
        self._activities = Activities(store, clock)
        self._clock = clock
        self._measure = measure
        self._deciding = asyncio.Lock()
        self._tidied = -TIDY
        self._started = clock.now()

    async def act(self, arn: str, alarm: Document, value: float | None) -> None:
        """An alarm's action: do what the policy of this ARN wants. Raises ObjectNotFound."""
        policy = await self._store.run(lambda db: resources.with_arn(db, POLICY, arn))
        if policy is None:
            raise ObjectNotFound(f"No scaling policy has the ARN {arn}.")
        async with self._deciding:
            await self._follow(policy, alarm, value)

    async def run(self) -> None:
        """Keep what was asked, for ever."""
        while True:
            await self._clock.sleep(TICK)
            await self.tick()

    async def tick(self) -> None:
        """Look at every target and action once."""
        for step in (self._manage, self._tidy, self._run_actions, self._look_at_targets):
            try:
                await step()
            except Exception:
                log.exception("the autoscaler met a defect")

    async def _manage(self) -> None:
        await managed.keep(self._store, self._targets)

    async def _tidy(self) -> None:
        """Once a minute: put back alarms that somebody has changed or deleted, and forget old activities."""
        now = self._clock.monotonic()
        if now < self._tidied + TIDY:
            return
        self._tidied = now
        await self._activities.forget_old()
        for policy in await self._targets.find(POLICY):
            try:
                await self._targets.keep_alarms(policy)
            except FourfoldError as error:
                log.warning("a policy lacks its alarms", extra={"policy": policy.arn, "reason": error.message})

    async def _run_actions(self) -> None:
        now = self._clock.now()
        for action in await self._targets.find(ACTION):
            due = _due(action.document, action.created_at, now)
            if due is not None:
                await self._store.run(partial(_set_bounds, action=action, due=due, now=now))

    async def _look_at_targets(self) -> None:
        async with self._deciding:
            for target in await self._targets.find(TARGET):
                try:
                    await self._look_at(target)
                except FourfoldError as error:
                    log.warning("not scaled", extra={"target": target.name, "reason": error.message})

    async def _look_at(self, target: Resource) -> None:
        """See what became of a change, and keep the bounds."""
        place, document = place_of(target), target.document
        found = await self._targets.scalable(place).capacity(place[0])
        if found is None:
            return
        current, settled = found
        if document.get("active"):
            await self._follow_up(target, current, settled)
            return
        low, high = document["min"], document["max"]
        if self._may_change(target, settled) and not low <= current <= high:
            bound, capacity = ("minimum", low) if current < low else ("maximum", high)
            await self._change(target, 0, capacity, f"{bound} capacity was set to {capacity}")

    def _may_change(self, target: Resource, settled: bool) -> bool:
        """Is nothing else going on?"""
        return settled and not target.document.get("active") and self._clock.now() >= target.document.get("retry_at", 0)

    async def _follow(self, policy: Resource, alarm: Document, value: float | None) -> None:
        """Do what a policy wants, where nothing else goes on; if it does, the alarm calls again in a minute."""
        place = place_of(policy)
        target, beside = await self._store.run(lambda db: (targets.get(db, place), targets.of(db, POLICY, place)))
        found = await self._targets.scalable(place).capacity(place[0])
        if found is None or not self._may_change(target, found[1]):
            return
        current, out = found[0], alarm["ComparisonOperator"].startswith("Greater")
        if policy.document["PolicyType"] == "StepScaling":
            configuration = policy.document["StepScalingPolicyConfiguration"]
            wish = _stepped(configuration, alarm, value, current)
        else:
            configuration = policy.document["TargetTrackingScalingPolicyConfiguration"]
            wish = await self._tracked(target, [policy] if out else beside, current, out=out)
        suspended = "DynamicScalingOutSuspended" if wish > current else "DynamicScalingInSuspended"
        if wish == current or target.document["suspended"].get(suspended):
            return
        cooled = self._cooled(target.document, configuration, current, wish)
        if cooled != current:
            name = policy.name.rpartition("|")[2]
            cause = f"monitor alarm {alarm['AlarmName']} in state {alarm['StateValue']} triggered policy {name}"
            await self._bounded_change(target, current, cooled, wish - current, cause)

    async def _tracked(self, target: Resource, policies: Sequence[Resource], current: int, *, out: bool) -> int:
        """The capacity that keeps metrics at their targets: the largest of what policies want.

        Only what was measured since the capacity changed counts: what was before says nothing of what is needed now.
        Nor does that nobody called while the server was down.
        """
        wishes = []
        for policy in policies:
            configuration = policy.document.get("TargetTrackingScalingPolicyConfiguration")
            if configuration is None or (not out and configuration.get("DisableScaleIn")):
                continue
            since = max(self._started, target.document.get("changed", 0.0))
            resource = place_of(policy)[0]
            values = await tracking.latest(self._measure, configuration, resource, self._clock.now(), since)
            wishes.append(tracked(current=current, values=values, target=configuration["TargetValue"], out=out))
        return max(wishes, default=current)

    def _cooled(self, target: Document, configuration: Document, current: int, wish: int) -> int:
        """What is left of a wish while the last change still takes effect.

        Capacity is taken away once per cooldown. More of it may be added at once: to a metric's target what is missing
        now, of a step what it adds beyond the last one.
        """
        steps, out = "StepAdjustments" in configuration, wish > current
        name = "Cooldown" if steps else "ScaleOutCooldown" if out else "ScaleInCooldown"
        last_out, added = target.get("last_out", 0.0), target.get("added", 0)
        last = last_out if out else max(last_out, target.get("last_in", 0.0))
        if self._clock.now() >= last + configuration.get(name, COOLDOWN):
            return wish
        if not out or wish - current <= added:
            return current
        return wish - added if steps else wish

    async def _bounded_change(self, target: Resource, current: int, wish: int, change: int, cause: str) -> None:
        low, high = target.document["min"], target.document["max"]
        capacity = min(max(wish, low), high)
        if capacity != current:
            await self._change(target, change, capacity, cause)
        elif wish != current:
            code = "AlreadyAtMaxCapacity" if wish > current else "AlreadyAtMinCapacity"
            bounds = {"MaxCapacity": high} if wish > current else {"MinCapacity": low}
            await self._activities.not_scaled(target, cause, {"Code": code, "CurrentCapacity": current} | bounds)

    async def _change(self, target: Resource, change: int, capacity: int, cause: str) -> None:
        place = place_of(target)
        scalable = self._targets.scalable(place)
        await self._activities.begin(target, change, capacity, scalable.words, cause)
        log.info("scaling", extra={"target": target.name, "to": capacity, "cause": cause})
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


def _stepped(configuration: Document, alarm: Document, value: float | None, current: int) -> int:
    """The capacity after the step that an alarm's value calls for; the current one where none does."""
    above = alarm["ComparisonOperator"].startswith("Greater")
    just_over = 1e-9 if above else -1e-9  # a state that was set by hand comes without a value
    step = step_of(configuration["StepAdjustments"], just_over if value is None else value - alarm["Threshold"])
    if step is None:
        return current
    return stepped(
        current=current, kind=configuration["AdjustmentType"], adjustment=int(step["ScalingAdjustment"]),
        least=configuration.get("MinAdjustmentMagnitude", 0),
    )  # fmt: skip


def _set_bounds(db: Connection, action: Resource, due: float, now: float) -> None:
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
    target.document = target.document | {"min": low, "max": high}
    resources.save(db, target)
    bounds_were_set(db, target, action.name.rpartition("|")[2], now)


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
