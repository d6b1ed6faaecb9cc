"""The autoscaler: what application-autoscaling is asked to keep, and the loop that keeps it.

    scalable target   a capacity with bounds: instances or provisioned concurrency of a variant, copies of a component
    scaling policy    tracks a metric's target, or takes steps when an alarm goes off
    scheduled action  sets new bounds at a time
    scaling activity  what was done and why, or why nothing was

Decisions are pure functions (`scaling`); this module brings the figures and the clock, and changes capacity as a client
would, through the same operations. One activity of a target is under way at a time; it is written before it is begun.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from sqlalchemy.engine import Connection

from fourfold.clock import Clock
from fourfold.control import expressions
from fourfold.datapoints import ENDPOINTS, SAGEMAKER
from fourfold.errors import FourfoldError, ResourceLimitExceeded, ResourceNotFound, ValidationException
from fourfold.records import Partition
from fourfold.scaling import step_of, stepped, tracked
from fourfold.store import Store, resources, tags
from fourfold.store.resources import Resource

log = logging.getLogger(__name__)

Document = dict[str, Any]
Place = tuple[str, str]
"""ResourceId and ScalableDimension."""
Measure = Callable[[Sequence[Document], float, float], Awaitable[Mapping[str, Mapping[float, float]]]]
"""Values of metric data queries by id and time."""

TARGET = "scalable-target"
POLICY = "scaling-policy"
ACTION = "scheduled-action"
ACTIVITY = "scaling-activity"

INSTANCES = "sagemaker:variant:DesiredInstanceCount"
PROVISIONED = "sagemaker:variant:DesiredProvisionedConcurrency"
COPIES = "sagemaker:inference-component:DesiredCopyCount"

TICK = 5.0
LOOK = 10
"""Seconds between two values of a metric."""
MINUTE = 60
WINDOW = 30
"""Seconds that one value is taken over where the metric is known to come every ten seconds, else a minute.
Sums are scaled to a minute, in which targets are given."""
HISTORY = 120
COOLDOWN = 300
"""Seconds after a change before the next of its kind, where a policy says nothing; SageMaker's default."""
FULFILL = 900.0
"""Seconds after which a change that was not reached is given up."""
RETRY = 60.0
"""Seconds after which a change that failed is tried again."""
MOST_ACTIVITIES = 100
"""Activities that are kept of one target."""
MOST_OF_A_KIND = {POLICY: 50, ACTION: 200}
"""For one target, as in AWS."""

PREDEFINED: dict[str, tuple[str, str, str]] = {
    "SageMakerVariantInvocationsPerInstance": (SAGEMAKER, "InvocationsPerInstance", "Sum"),
    "SageMakerVariantConcurrentRequestsPerModelHighResolution": (SAGEMAKER, "ConcurrentRequestsPerModel", "Average"),
    "SageMakerVariantProvisionedConcurrencyUtilization": (
        SAGEMAKER, "ServerlessProvisionedConcurrencyUtilization", "Average",
    ),
    "SageMakerInferenceComponentInvocationsPerCopy": (SAGEMAKER, "InvocationsPerCopy", "Sum"),
    "SageMakerInferenceComponentConcurrentRequestsPerCopyHighResolution": (
        SAGEMAKER, "ConcurrentRequestsPerCopy", "Average",
    ),
}  # fmt: skip
"""Predefined metrics: namespace, name, statistic."""


MANAGED: Document = {
    "PolicyName": "managed-instance-scaling",
    "PolicyType": "TargetTrackingScaling",
    "TargetTrackingScalingPolicyConfiguration": {
        "TargetValue": 4.0,
        "PredefinedMetricSpecification": {
            "PredefinedMetricType": "SageMakerVariantConcurrentRequestsPerModelHighResolution"
        },
        "ScaleOutCooldown": 60,
        "ScaleInCooldown": 300,
    },
}
"""The policy of variants with ManagedInstanceScaling: four calls at once for each worker. SageMaker does not say what
it goes by; most workers have one call at a time, so with four some wait, and none for long."""


class ObjectNotFound(ResourceNotFound):
    code = "ObjectNotFoundException"


class LimitExceeded(ResourceLimitExceeded):
    code = "LimitExceededException"


class Scalable(Protocol):
    """A kind of capacity: how much there is, and how to ask for another."""

    words: str
    """What is counted, e.g. `desired instance count`."""

    async def capacity(self, resource: str) -> tuple[int, bool] | None:
        """What is wanted now, and whether it has been reached. None: the resource does not exist."""

    async def change(self, resource: str, capacity: int) -> None:
        """Ask for another capacity. Raises FourfoldError where that cannot be."""

    async def least(self, resource: str) -> int:
        """The smallest capacity that it may have."""


class Variants:
    """Capacity of production variants: instances, or provisioned concurrency.

    Args:
        store: where endpoints are.
        update: UpdateEndpointWeightsAndCapacities.
        dimension: INSTANCES or PROVISIONED.
    """

    def __init__(
        self, store: Store, update: Callable[[Document], Awaitable[Document]], dimension: str = INSTANCES
    ) -> None:
        self._store = store
        self._update = update
        self._provisioned = dimension == PROVISIONED
        self.words = "provisioned concurrency" if self._provisioned else "desired instance count"

    async def capacity(self, resource: str) -> tuple[int, bool] | None:
        """As in `Scalable`."""
        found = await self._find(resource)
        if found is None:
            return None
        endpoint, variant = found
        wanted = endpoint.document["wanted"]
        settled = endpoint.status in ("InService", "OutOfService", "UpdateRollbackFailed")
        if not self._provisioned:
            return int(wanted["counts"][variant]), settled
        for one in wanted["config"]["ProductionVariants"]:
            if one["VariantName"] == variant and "ServerlessConfig" in one:
                return int(one["ServerlessConfig"].get("ProvisionedConcurrency", 0)), settled
        return None

    async def change(self, resource: str, capacity: int) -> None:
        """As in `Scalable`."""
        endpoint, variant = _endpoint_and_variant(resource)
        change: Document = {"VariantName": variant}
        if self._provisioned:
            change["ServerlessUpdateConfig"] = {"ProvisionedConcurrency": capacity}
        else:
            change["DesiredInstanceCount"] = capacity
        await self._update({"EndpointName": endpoint, "DesiredWeightsAndCapacities": [change]})

    async def least(self, resource: str) -> int:
        """As in `Scalable`. Only asynchronous endpoints can do without any: their calls wait in a queue."""
        found = await self._find(resource)
        waits = found is not None and "AsyncInferenceConfig" in found[0].document["wanted"]["config"]
        return 0 if waits and not self._provisioned else 1

    async def _find(self, resource: str) -> tuple[Resource, str] | None:
        endpoint_name, variant = _endpoint_and_variant(resource)
        endpoint = await self._store.run(lambda db: resources.get(db, "endpoint", endpoint_name))
        if endpoint is None or variant not in endpoint.document["wanted"]["counts"]:
            return None
        return endpoint, variant


class Autoscaler:
    """Targets, policies, actions and activities of one server.

    Args:
        store: keeps them.
        partition: for ARNs.
        clock: for everything that waits.
        measure: values of metrics.
        dimensions: kinds of capacity by their ScalableDimension.
    """

    def __init__(
        self,
        store: Store,
        partition: Partition,
        clock: Clock,
        measure: Measure,
        dimensions: dict[str, Scalable],
    ) -> None:
        self._store = store
        self._partition = partition
        self._clock = clock
        self._measure = measure
        self.dimensions = dimensions

    # What people ask

    async def register(self, request: Document) -> str:
        """RegisterScalableTarget; returns the ARN.

        Raises:
            ValidationException: no such resource, or bounds that do not fit.
        """
        place = _place(request)
        scalable = self._scalable(place)
        if await scalable.capacity(place[0]) is None:
            raise ValidationException(f"No endpoint, variant or component found for resource ID: {place[0]}.")
        now = self._clock.now()
        arn = self._partition.arn(f"scalable-target/{_digest(place)}", "application-autoscaling")
        least = await scalable.least(place[0])

        def write(db: Connection) -> None:
            found = resources.get(db, TARGET, _key(place))
            old = found.document if found is not None else {}
            low, high = request.get("MinCapacity", old.get("min")), request.get("MaxCapacity", old.get("max"))
            _check_bounds(low, high, least)
            document = {
                "min": low,
                "max": high,
                "role": request.get("RoleARN", old.get("role")),
                "suspended": {**old.get("suspended", {}), **request.get("SuspendedState", {})},
            }
            if found is None:
                resources.insert(db, Resource(TARGET, _key(place), arn, now, now, "", document))
            else:
                found.document, found.modified_at = old | document, now
                resources.save(db, found)
            if request.get("Tags"):
                tags.put(db, arn, request["Tags"])

        await self._store.run(write)
        return arn

    async def deregister(self, request: Document) -> None:
        """DeregisterScalableTarget, with its policies and actions. Raises ObjectNotFound."""
        place = _place(request)

        def write(db: Connection) -> None:
            target = self._target(db, place)
            for kind in (POLICY, ACTION):
                for one in _of(db, kind, place):
                    resources.delete(db, kind, one.name)
            resources.delete(db, TARGET, target.name)
            tags.remove(db, target.arn)

        await self._store.run(write)

    async def put_policy(self, request: Document) -> str:
        """PutScalingPolicy; returns the ARN. Raises ObjectNotFound, ValidationException, LimitExceeded."""
        kind = request.get("PolicyType", "StepScaling")
        configuration = request.get(f"{kind}PolicyConfiguration")
        if kind == "PredictiveScaling":
            raise ValidationException("Predictive scaling is not here: use TargetTrackingScaling or StepScaling.")
        if not configuration:
            raise ValidationException(f"{kind}PolicyConfiguration is needed for a policy of type {kind}.")
        _check_policy(kind, configuration)
        document = {"PolicyType": kind, f"{kind}PolicyConfiguration": configuration}
        return await self._put(POLICY, _place(request), request["PolicyName"], document)

    async def put_action(self, request: Document) -> None:
        """PutScheduledAction. Raises ObjectNotFound, ValidationException, LimitExceeded."""
        members = ("Schedule", "Timezone", "StartTime", "EndTime", "ScalableTargetAction")
        document = {member: request[member] for member in members if request.get(member) is not None}

        def check(db: Connection) -> None:
            known = resources.get(db, ACTION, _key(_place(request), request["ScheduledActionName"]))
            merged = (known.document if known is not None else {}) | document
            if "Schedule" not in merged:
                raise ValidationException("Schedule is required for a new scheduled action.")
            expressions.parse(merged["Schedule"], merged.get("Timezone", "UTC"))
            if not merged.get("ScalableTargetAction"):
                raise ValidationException("ScalableTargetAction must have MinCapacity or MaxCapacity.")

        await self._store.run(check)
        document["cursor"] = self._clock.now()
        await self._put(ACTION, _place(request), request["ScheduledActionName"], document)

    async def delete(self, kind: str, request: Document, name: str) -> None:
        """Delete a policy or an action. Raises ObjectNotFound."""
        place = _place(request)
        if not await self._store.run(lambda db: resources.delete(db, kind, _key(place, name))):
            what = "scaling policy" if kind == POLICY else "scheduled action"
            raise ObjectNotFound(f"No {what} found for service namespace: sagemaker, {_words(place)}, name: {name}.")

    async def find(self, kind: str) -> list[Resource]:
        """All of one kind, oldest first."""
        return await self._store.run(lambda db: resources.every(db, kind))

    async def act(self, arn: str, alarm: Document, value: float | None) -> None:
        """An alarm's action: run the step policy of this ARN. Raises ObjectNotFound."""
        for policy in await self.find(POLICY):
            if policy.arn == arn:
                await self._step(policy, alarm, value)
                return
        raise ObjectNotFound(f"No scaling policy has the ARN {arn}.")

    # The loop

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
        """Variants with ManagedInstanceScaling have a target of their own that follows the calls at once.

        A target that somebody registered for such a variant is left as it is.
        """
        wanted = await self._store.run(_managed)
        for target in await self.find(TARGET):
            place = place_of(target)
            if target.document.get("managed") and place not in wanted:
                await self.deregister(_request(place))
        known = {place_of(target) for target in await self.find(TARGET)}
        for place in wanted.keys() - known:
            low, high = wanted[place]
            await self.register(_request(place) | {"MinCapacity": low, "MaxCapacity": high})
            await self.put_policy(_request(place) | MANAGED)
            await self._store.run(partial(_mark_managed, place=place))

    async def _run_actions(self) -> None:
        now = self._clock.now()
        for action in await self.find(ACTION):
            document = action.document
            due = _due(document, action.created_at, now)
            if due is None:
                continue
            place = place_of(action)

            def write(db: Connection, place: Place = place, action: Resource = action, due: float = due) -> None:
                found = resources.get(db, ACTION, action.name)
                target = resources.get(db, TARGET, _key(place))
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

            await self._store.run(write)

    async def _look_at_targets(self) -> None:
        policies = await self.find(POLICY)
        for target in await self.find(TARGET):
            mine = [policy for policy in policies if place_of(policy) == place_of(target)]
            try:
                await self._look_at(target, mine)
            except FourfoldError as error:
                log.warning("not scaled", extra={"target": target.name, "reason": error.message})

    async def _look_at(self, target: Resource, policies: Sequence[Resource]) -> None:
        place, document = place_of(target), target.document
        scalable = self._scalable(place)
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
            values = await self._values(policy, configuration, target.document.get("changed", 0.0))
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
        target = await self._store.run(lambda db: self._target(db, place))
        found = await self._scalable(place).capacity(place[0])
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

    async def _values(self, policy: Resource, configuration: Document, since: float) -> list[float]:
        """The policy's metric, one value each ten seconds, oldest first; as much as is known without a gap.

        Only what was measured `since` the capacity changed: what was before says nothing of what is needed now.
        """
        resource = place_of(policy)[0]
        queries, wanted, statistic, quiet = _queries(configuration, resource)
        end = self._clock.now() // LOOK * LOOK
        start = end - HISTORY
        series = (await self._measure(queries, start, end))[wanted]
        times = [start + n * LOOK for n in range(HISTORY // LOOK) if start + n * LOOK >= since]
        found = (dict.fromkeys(times, 0.0) if quiet else {}) | dict(series)
        length = (WINDOW if quiet else MINUTE) // LOOK
        sums = statistic in ("Sum", "SampleCount")
        values: list[float] = []
        for n in range(len(times)):
            slots = times[max(0, n + 1 - length) : n + 1]
            window = [found[at] for at in slots if at in found]
            if not window:
                values.clear()
                continue
            values.append(sum(window) * MINUTE / LOOK / len(slots) if sums else sum(window) / len(window))
        return values

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
            await self._not_scaled(target, cause, {"Code": code, "CurrentCapacity": current} | bounds)

    # Activities

    async def _change(self, target: Resource, current: int, capacity: int, cause: str) -> None:
        place, now = place_of(target), self._clock.now()
        scalable = self._scalable(place)
        activity = {
            "Description": f"Setting {scalable.words} to {capacity}.",
            "Cause": cause,
            "StartTime": now,
            "StatusCode": "InProgress",
            "StatusMessage": f"Successfully asked for a {scalable.words} of {capacity}; it is being fulfilled.",
        }
        id = str(uuid.uuid4())
        stamp = {"last_out" if capacity > current else "last_in": now}
        await self._write_activity(target, id, activity, {"active": id, "goal": capacity, "cause": None} | stamp)
        log.info("scaling", extra={"target": target.name, "from": current, "to": capacity, "cause": cause})
        try:
            await scalable.change(place[0], capacity)
        except FourfoldError as error:
            await self._finish(
                target, "Failed", f"Failed to set {scalable.words} to {capacity}. Reason: {error.message}"
            )

    async def _follow_up(self, target: Resource, current: int, settled: bool) -> None:
        """An activity is under way: has it reached its goal?"""
        words, goal = self._scalable(place_of(target)).words, target.document["goal"]
        if not settled:
            if self._clock.now() < target.document.get("begun", 0.0) + FULFILL:
                return
            await self._finish(target, "Unfulfilled", f"Setting {words} to {goal} was not fulfilled in time.")
        elif current == goal:
            done = f"Successfully set {words} to {goal}. Change successfully fulfilled by sagemaker."
            await self._finish(target, "Successful", done)
        else:
            await self._finish(target, "Failed", f"{words} is {current}, not {goal}: see the endpoint's FailureReason.")

    async def _finish(self, target: Resource, status: str, message: str) -> None:
        id, now = target.document["active"], self._clock.now()
        changes = {"active": None} | ({"changed": now} if status == "Successful" else {"retry_at": now + RETRY})

        def write(db: Connection) -> None:
            activity = resources.get(db, ACTIVITY, _key(place_of(target), id))
            if activity is not None:
                ends = {"EndTime": now, "StatusCode": status, "StatusMessage": message}
                activity.document, activity.modified_at = activity.document | ends, now
                resources.save(db, activity)
            found = resources.get(db, TARGET, target.name)
            if found is not None:
                found.document = found.document | changes
                resources.save(db, found)

        target.document = target.document | changes
        await self._store.run(write)

    async def _not_scaled(self, target: Resource, cause: str, reason: Document) -> None:
        """Note once why nothing was done; the same again is no news."""
        now = self._clock.now()
        newest = target.document.get("not_scaled")
        if newest == reason:
            return
        activity = {
            "Description": "Attempting to scale due to alarm triggered",
            "Cause": cause,
            "StartTime": now,
            "EndTime": now,
            "StatusCode": "Failed",
            "StatusMessage": f"Not scaled: {reason['Code']}.",
            "NotScaledReasons": [reason],
        }
        await self._write_activity(target, str(uuid.uuid4()), activity, {"not_scaled": reason})

    async def _write_activity(self, target: Resource, id: str, activity: Document, changes: Document) -> None:
        place, now = place_of(target), self._clock.now()
        if "active" in changes:
            changes = changes | {"begun": now, "not_scaled": None}

        def write(db: Connection) -> None:
            for old in _of(db, ACTIVITY, place)[: -MOST_ACTIVITIES + 1]:
                resources.delete(db, ACTIVITY, old.name)
            name = _key(place, id)
            resources.insert(db, Resource(ACTIVITY, name, f"scaling-activity/{id}", now, now, "", activity))
            found = resources.get(db, TARGET, target.name)
            if found is not None:
                found.document = found.document | changes
                resources.save(db, found)

        target.document = target.document | changes
        await self._store.run(write)

    # Store

    async def _put(self, kind: str, place: Place, name: str, document: Document) -> str:
        now = self._clock.now()
        what = "scalingPolicy" if kind == POLICY else "scheduledAction"
        label = "policyName" if kind == POLICY else "scheduledActionName"
        arn = self._partition.arn(f"{what}:{uuid.uuid4()}:resource/sagemaker/{place[0]}:{label}/{name}", "autoscaling")

        def write(db: Connection) -> str:
            self._target(db, place)
            found = resources.get(db, kind, _key(place, name))
            if found is not None:
                found.document, found.modified_at = found.document | document, now
                resources.save(db, found)
                return found.arn
            if len(_of(db, kind, place)) >= MOST_OF_A_KIND[kind]:
                raise LimitExceeded(f"A scalable target can have {MOST_OF_A_KIND[kind]} of these. Delete some.")
            resources.insert(db, Resource(kind, _key(place, name), arn, now, now, "", document))
            return arn

        return await self._store.run(write)

    def _target(self, db: Connection, place: Place) -> Resource:
        target = resources.get(db, TARGET, _key(place))
        if target is None:
            raise ObjectNotFound(f"No scalable target registered for service namespace: sagemaker, {_words(place)}.")
        return target

    def _scalable(self, place: Place) -> Scalable:
        scalable = self.dimensions.get(place[1])
        if scalable is None:
            raise ValidationException(
                f"The scalable dimension {place[1]} is not here: use {', '.join(self.dimensions)}."
            )
        return scalable


def _place(request: Document) -> Place:
    if request["ServiceNamespace"] != "sagemaker":
        raise ValidationException(f"Only the service namespace sagemaker is here, not {request['ServiceNamespace']}.")
    return request["ResourceId"], request["ScalableDimension"]


def _managed(db: Connection) -> dict[Place, tuple[int, int]]:
    """Variants whose instances are to be managed, with their bounds."""
    found: dict[Place, tuple[int, int]] = {}
    for endpoint in resources.every(db, "endpoint"):
        for variant in endpoint.document["wanted"]["config"]["ProductionVariants"]:
            scaling = variant.get("ManagedInstanceScaling", {})
            if scaling.get("Status") == "ENABLED" and "ModelName" in variant and endpoint.document["deployed"]:
                place = (f"endpoint/{endpoint.name}/variant/{variant['VariantName']}", INSTANCES)
                low = max(1, scaling.get("MinInstanceCount", 1))
                found[place] = (low, max(low, scaling.get("MaxInstanceCount", low)))
    return found


def _mark_managed(db: Connection, place: Place) -> None:
    target = resources.get(db, TARGET, _key(place))
    if target is not None:
        target.document = target.document | {"managed": True}
        resources.save(db, target)


def _request(place: Place) -> Document:
    return {"ServiceNamespace": "sagemaker", "ResourceId": place[0], "ScalableDimension": place[1]}


def place_of(resource: Resource) -> Place:
    """ResourceId and ScalableDimension of a target, policy, action or activity."""
    parts = resource.name.split("|")
    return parts[0], parts[1]


def _key(place: Place, name: str = "") -> str:
    return "|".join((*place, name) if name else place)


def _words(place: Place) -> str:
    return f"resource ID: {place[0]}, scalable dimension: {place[1]}"


def _digest(place: Place) -> str:
    return hashlib.sha256(_key(place).encode()).hexdigest()[:32]


def _of(db: Connection, kind: str, place: Place) -> list[Resource]:
    return [one for one in resources.every(db, kind) if place_of(one) == place]


def _endpoint_and_variant(resource: str) -> tuple[str, str]:
    match resource.split("/"):
        case ["endpoint", endpoint, "variant", variant]:
            return endpoint, variant
    raise ValidationException(f"The resource ID {resource} must be endpoint/<name>/variant/<name>.")


def _check_bounds(low: int | None, high: int | None, least: int) -> None:
    if low is None or high is None:
        raise ValidationException("MinCapacity and MaxCapacity are both required for a new scalable target.")
    if low > high:
        raise ValidationException(f"MinCapacity ({low}) must not be greater than MaxCapacity ({high}).")
    if low < least:
        raise ValidationException(f"MinCapacity must be at least {least}.")


def _check_policy(kind: str, configuration: Document) -> None:
    if kind == "StepScaling":
        if not configuration.get("StepAdjustments") or "AdjustmentType" not in configuration:
            raise ValidationException("A step policy needs AdjustmentType and StepAdjustments.")
        return
    given = [m for m in ("PredefinedMetricSpecification", "CustomizedMetricSpecification") if configuration.get(m)]
    if len(given) != 1:
        raise ValidationException(
            "Exactly one of PredefinedMetricSpecification and CustomizedMetricSpecification must be given."
        )
    if configuration["TargetValue"] <= 0:
        raise ValidationException("TargetValue must be greater than 0.")
    kind = configuration.get("PredefinedMetricSpecification", {}).get("PredefinedMetricType")
    if kind is not None and kind not in PREDEFINED:
        raise ValidationException(f"{kind} is no metric of SageMaker: use {', '.join(PREDEFINED)}.")


def _cooldown(configuration: Document, *, out: bool) -> float:
    return float(configuration.get("ScaleOutCooldown" if out else "ScaleInCooldown", COOLDOWN))


def _queries(configuration: Document, resource: str) -> tuple[list[Document], str, str, bool]:
    """Queries of a tracked metric, the id of the wanted one, its statistic, and whether no value means none.

    Counts of calls have no value while nobody calls; there the capacity may go down.
    """
    predefined = configuration.get("PredefinedMetricSpecification")
    if predefined is not None:
        namespace, name, statistic = PREDEFINED[predefined["PredefinedMetricType"]]
        metric = {"Namespace": namespace, "MetricName": name, "Dimensions": _dimensions(resource)}
        return [_query(metric, statistic)], "m", statistic, True
    custom = configuration["CustomizedMetricSpecification"]
    if "Metrics" in custom:
        asked = [
            query | {"MetricStat": query["MetricStat"] | {"Period": LOOK}} if "MetricStat" in query else query
            for query in custom["Metrics"]
        ]
        wanted = next(query for query in asked if query.get("ReturnData", True))
        return asked, wanted["Id"], wanted.get("MetricStat", {}).get("Stat", "Average"), False
    for member in ("Namespace", "MetricName", "Statistic"):
        if member not in custom:
            raise ValidationException(f"CustomizedMetricSpecification needs {member}, or Metrics.")
    quiet = custom["Namespace"] in (SAGEMAKER, ENDPOINTS) and custom["MetricName"].startswith("Invocation")
    return [_query(custom, custom["Statistic"])], "m", custom["Statistic"], quiet


def _query(metric: Document, statistic: str) -> Document:
    members = {member: metric[member] for member in ("Namespace", "MetricName", "Dimensions") if member in metric}
    return {"Id": "m", "MetricStat": {"Metric": members, "Period": LOOK, "Stat": statistic}}


def _dimensions(resource: str) -> list[Document]:
    if resource.startswith("inference-component/"):
        return [{"Name": "InferenceComponentName", "Value": resource.partition("/")[2]}]
    endpoint, variant = _endpoint_and_variant(resource)
    return [{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": variant}]


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
