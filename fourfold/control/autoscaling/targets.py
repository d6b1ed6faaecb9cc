"""What application-autoscaling is asked to keep: scalable targets, their policies and scheduled actions, as records.

scalable target   a capacity with bounds: instances or provisioned concurrency of a variant, copies of a component
scaling policy    tracks a metric's target, or takes steps when an alarm goes off
scheduled action  sets new bounds at a time
scaling activity  what was done and why, or why nothing was (`activities`)
"""

from __future__ import annotations

import hashlib
import math
import uuid
from collections.abc import Mapping

from sqlalchemy.engine import Connection

from fourfold.clock import Clock
from fourfold.control import expressions
from fourfold.control.autoscaling import tracking
from fourfold.control.autoscaling.alarms import Alarms, drop, keep
from fourfold.control.autoscaling.capacities import INSTANCES, Document, Place, Scalable
from fourfold.errors import ResourceLimitExceeded, ResourceNotFound, ValidationError, ValidationException
from fourfold.records import Partition
from fourfold.scaling import fault_of
from fourfold.store import Store, resources, tags
from fourfold.store.resources import Resource

TARGET = "scalable-target"
POLICY = "scaling-policy"
ACTION = "scheduled-action"
ACTIVITY = "scaling-activity"

MOST_OF_A_KIND = {POLICY: 50, ACTION: 200}
"""For one target, as in AWS."""


class ObjectNotFound(ResourceNotFound):
    code = "ObjectNotFoundException"


class LimitExceeded(ResourceLimitExceeded):
    code = "LimitExceededException"


class Targets:
    """Targets, policies and scheduled actions of one server.

    Args:
        store: keeps them.
        partition: for ARNs.
        clock: for stamps.
        dimensions: kinds of capacity by their ScalableDimension.
        alarms: keeps those of policies that track a metric.
    """

    def __init__(
        self,
        store: Store,
        partition: Partition,
        clock: Clock,
        dimensions: Mapping[str, Scalable],
        alarms: Alarms,
    ) -> None:
        self._store = store
        self._partition = partition
        self._clock = clock
        self._dimensions = dimensions
        self._alarms = alarms

    async def register(self, request: Document) -> str:
        """RegisterScalableTarget; returns the ARN.

        Raises:
            ValidationException: no such resource, or bounds that do not fit.
        """
        place = _place(request)
        scalable = self.scalable(place)
        if await scalable.capacity(place[0]) is None:
            raise ValidationException(f"No endpoint, variant or component found for resource ID: {place[0]}.")
        now = self._clock.now()
        arn = self._partition.arn(f"scalable-target/{_digest(place)}", "application-autoscaling")
        least = await scalable.least(place[0])

        def write(db: Connection) -> None:
            found = resources.get(db, TARGET, key(place))
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
                resources.insert(db, Resource(TARGET, key(place), arn, now, now, "", document))
            elif request.get("Tags"):
                raise ValidationException(
                    "The scalable target that you tried to tag already exists. To update tags on an existing scalable "
                    "target, use the TagResource API."
                )
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
        await self._store.run(lambda db: self._forget(db, get(db, place)))

    def forget(self, db: Connection, arn: str) -> None:
        """An endpoint or component is gone: so are its targets, as in SageMaker."""
        resource = arn.rpartition(":")[2]
        for target in resources.every(db, TARGET):
            id = place_of(target)[0]
            if id == resource or id.startswith(f"{resource}/"):
                self._forget(db, target)

    def _forget(self, db: Connection, target: Resource) -> None:
        place = place_of(target)
        for policy in of(db, POLICY, place):
            drop(db, policy, self._alarms)
        for kind in (POLICY, ACTION):
            for one in of(db, kind, place):
                resources.delete(db, kind, one.name)
        resources.delete(db, TARGET, target.name)
        tags.remove(db, target.arn)

    async def put_policy(self, request: Document) -> str:
        """PutScalingPolicy, with the alarms of one that tracks a metric; returns the ARN.

        Raises:
            ObjectNotFound: there is no such target.
            ValidationException: the policy cannot be followed.
            LimitExceeded: the target has too many policies.
            ThrottlingException: there are too many alarms.
        """
        place = _place(request)
        kind = request.get("PolicyType", "StepScaling")
        configuration = request.get(f"{kind}PolicyConfiguration")
        if kind == "PredictiveScaling":
            raise ValidationException(
                "Predictive scaling (PredictiveScalingPolicyConfiguration) is not here: use TargetTrackingScaling or "
                "StepScaling."
            )
        if not configuration:
            raise ValidationException(f"{kind}PolicyConfiguration is needed for a policy of type {kind}.")
        if kind == "TargetTrackingScaling":
            tracking.check(configuration, place[1])
        else:
            _check_steps(configuration)
        document = {"PolicyType": kind, f"{kind}PolicyConfiguration": configuration}
        try:
            return await self._put(POLICY, place, request["PolicyName"], document)
        except ValidationError as error:  # CloudWatch's word for what Application Auto Scaling calls an exception
            raise ValidationException(error.message) from error

    async def put_action(self, request: Document) -> None:
        """PutScheduledAction. Raises ObjectNotFound, ValidationException, LimitExceeded."""
        place, name = _place(request), request["ScheduledActionName"]
        members = ("Schedule", "Timezone", "StartTime", "EndTime", "ScalableTargetAction")
        given = {member: request[member] for member in members if request.get(member) is not None}
        known = await self._store.run(lambda db: resources.get(db, ACTION, key(place, name)))
        kept = {} if known is None else {member: value for member, value in known.document.items() if member in _KEPT}
        document = kept | given
        _check_action(document)
        document["cursor"] = self._clock.now()
        await self._put(ACTION, place, name, document)

    async def delete(self, kind: str, request: Document, name: str) -> None:
        """Delete a policy or an action. Raises ObjectNotFound."""
        place = _place(request)

        def write(db: Connection) -> None:
            found = resources.get(db, kind, key(place, name))
            if found is None:
                what = "scaling policy" if kind == POLICY else "scheduled action"
                raise ObjectNotFound(
                    f"No {what} found for service namespace: sagemaker, {_words(place)}, name: {name}."
                )
            if kind == POLICY:
                drop(db, found, self._alarms)
            resources.delete(db, kind, found.name)

        await self._store.run(write)

    async def keep_alarms(self, policy: Resource) -> None:
        """Give a policy the alarms that it should have, if it still exists."""

        def write(db: Connection) -> None:
            found = resources.get(db, POLICY, policy.name)
            if found is not None:
                keep(db, found, self._alarms)

        await self._store.run(write)

    async def find(self, kind: str) -> list[Resource]:
        """All of one kind, oldest first."""
        return await self._store.run(lambda db: resources.every(db, kind))

    def scalable(self, place: Place) -> Scalable:
        """The kind of capacity. Raises ValidationException."""
        scalable = self._dimensions.get(place[1])
        if scalable is None:
            raise ValidationException(
                f"The scalable dimension {place[1]} is not here: use {', '.join(self._dimensions)}."
            )
        return scalable

    async def _put(self, kind: str, place: Place, name: str, document: Document) -> str:
        now = self._clock.now()
        what = "scalingPolicy" if kind == POLICY else "scheduledAction"
        label = "policyName" if kind == POLICY else "scheduledActionName"
        arn = self._partition.arn(f"{what}:{uuid.uuid4()}:resource/sagemaker/{place[0]}:{label}/{name}", "autoscaling")

        def write(db: Connection) -> str:
            get(db, place)
            found = resources.get(db, kind, key(place, name))
            if found is not None:
                found.document, found.modified_at = document, now
                resources.save(db, found)
            elif len(of(db, kind, place)) >= MOST_OF_A_KIND[kind]:
                raise LimitExceeded(f"A scalable target can have {MOST_OF_A_KIND[kind]} of these. Delete some.")
            else:
                found = Resource(kind, key(place, name), arn, now, now, "", document)
                resources.insert(db, found)
            if kind == POLICY:
                keep(db, found, self._alarms)
            return found.arn

        return await self._store.run(write)


def check_update(db: Connection, endpoint: str, before: Document, after: Document) -> None:
    """May an endpoint's config become another?

    Raises:
        ValidationException: a variant that is a scalable target is not in it, or has another InstanceType.
    """
    types = {one["VariantName"]: one.get("InstanceType") for one in after["ProductionVariants"]}
    changed = []
    for variant in before["ProductionVariants"]:
        name = variant["VariantName"]
        target = resources.get(db, TARGET, key((f"endpoint/{endpoint}/variant/{name}", INSTANCES)))
        same = name in types and types[name] == variant.get("InstanceType")
        if target is not None and not target.document.get("managed") and not same:
            changed.append(f'"{name}"')
    if changed:
        raise ValidationException(
            f'The variant(s) "[{", ".join(changed)}]" must be deregistered as scalable targets with AWS Auto Scaling '
            "before they can be removed or have their instance type updated."
        )


def get(db: Connection, place: Place) -> Resource:
    """A scalable target. Raises ObjectNotFound."""
    target = resources.get(db, TARGET, key(place))
    if target is None:
        raise ObjectNotFound(f"No scalable target registered for service namespace: sagemaker, {_words(place)}.")
    return target


_KEPT = ("Schedule", "Timezone", "ScalableTargetAction")
"""Members of a scheduled action that stay where an update does not name them; times go, as in AWS."""


def _check_action(action: Document) -> None:
    if "Schedule" not in action:
        raise ValidationException("Schedule is required for a new scheduled action.")
    expressions.parse(action["Schedule"], action.get("Timezone", "UTC"))
    bounds = action.get("ScalableTargetAction")
    if not bounds:
        raise ValidationException("ScalableTargetAction must have MinCapacity or MaxCapacity.")
    if bounds.get("MinCapacity", 0) > bounds.get("MaxCapacity", math.inf):
        raise ValidationException("MinCapacity of ScalableTargetAction must not be greater than its MaxCapacity.")
    if action.get("StartTime", -math.inf) >= action.get("EndTime", math.inf):
        raise ValidationException("StartTime must be before EndTime.")


def _check_steps(configuration: Document) -> None:
    if not configuration.get("StepAdjustments") or "AdjustmentType" not in configuration:
        raise ValidationException("A step policy needs AdjustmentType and StepAdjustments.")
    fault = fault_of(configuration["StepAdjustments"])
    if fault:
        raise ValidationException(f"The StepAdjustments cannot be followed: {fault}.")
    if configuration.get("Cooldown", 0) < 0:
        raise ValidationException("Cooldown must not be negative.")


def _check_bounds(low: int | None, high: int | None, least: int) -> None:
    if low is None or high is None:
        raise ValidationException("MinCapacity and MaxCapacity are both required for a new scalable target.")
    if low > high:
        raise ValidationException(f"MinCapacity ({low}) must not be greater than MaxCapacity ({high}).")
    if low < least:
        raise ValidationException(f"MinCapacity must be at least {least}.")


def _place(request: Document) -> Place:
    if request["ServiceNamespace"] != "sagemaker":
        raise ValidationException(f"Only the service namespace sagemaker is here, not {request['ServiceNamespace']}.")
    return request["ResourceId"], request["ScalableDimension"]


def place_of(resource: Resource) -> Place:
    """ResourceId and ScalableDimension of a target, policy, action or activity."""
    parts = resource.name.split("|")
    return parts[0], parts[1]


def key(place: Place, name: str = "") -> str:
    """The name that the record of a target, or of something of it, has in the store."""
    return "|".join((*place, name) if name else place)


def _words(place: Place) -> str:
    return f"resource ID: {place[0]}, scalable dimension: {place[1]}"


def _digest(place: Place) -> str:
    return hashlib.sha256(key(place).encode()).hexdigest()[:32]


def of(db: Connection, kind: str, place: Place) -> list[Resource]:
    """A target's policies, actions or activities, oldest first."""
    return resources.below(db, kind, f"{key(place)}|")
