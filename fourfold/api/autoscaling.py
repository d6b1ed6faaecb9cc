"""Application Auto Scaling on the wire, for the namespace `sagemaker`."""

from __future__ import annotations

import base64
import binascii
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from sqlalchemy.engine import Connection

from fourfold.api.protocol import ApiCall, operation
from fourfold.control.autoscaling.targets import ACTION, ACTIVITY, POLICY, TARGET, Targets, place_of
from fourfold.errors import FourfoldError
from fourfold.monitor.alarms import Alarms
from fourfold.store import Store, resources, tags
from fourfold.store.resources import Resource

Document = dict[str, Any]

LISTED = 50
"""Entries of a page where MaxResults is not given."""
ROLE = "role/aws-service-role/sagemaker.application-autoscaling.amazonaws.com/AWSServiceRoleForApplicationAutoScaling"
SUSPENSIONS = ("DynamicScalingInSuspended", "DynamicScalingOutSuspended", "ScheduledScalingSuspended")


class InvalidNextToken(FourfoldError):
    code = "InvalidNextTokenException"
    status = 400


class TargetNotFound(FourfoldError):
    code = "ResourceNotFoundException"
    status = 400


class Autoscaling:
    """The operations of the `application-autoscaling` service."""

    service: ClassVar[str] = "application-autoscaling"

    def __init__(self, store: Store, targets: Targets, alarms: Alarms, account: str) -> None:
        self._store = store
        self._targets = targets
        self._alarms = alarms
        self._role = f"arn:aws:iam::{account}:{ROLE}_SageMakerEndpoint"

    # Targets

    @operation("RegisterScalableTarget", kept=("RoleARN",))
    async def register(self, call: ApiCall) -> Document:
        return {"ScalableTargetARN": await self._targets.register(call.params)}

    @operation("DeregisterScalableTarget")
    async def deregister(self, call: ApiCall) -> Document:
        await self._targets.deregister(call.params)
        return {}

    @operation("DescribeScalableTargets")
    async def describe_targets(self, call: ApiCall) -> Document:
        ids = call.params.get("ResourceIds")
        found = [t for t in await self._targets.find(TARGET) if not ids or place_of(t)[0] in ids]
        return _page("ScalableTargets", found, call.params, self._target)

    def _target(self, target: Resource) -> Document:
        document = target.document
        return _placed(target) | {
            "MinCapacity": document["min"],
            "MaxCapacity": document["max"],
            "RoleARN": document["role"] or self._role,
            "CreationTime": target.created_at,
            "SuspendedState": {name: document["suspended"].get(name, False) for name in SUSPENSIONS},
            "ScalableTargetARN": target.arn,
        }

    # Policies

    @operation("PutScalingPolicy", refused=("PredictiveScalingPolicyConfiguration",))
    async def put_policy(self, call: ApiCall) -> Document:
        arn = await self._targets.put_policy(call.params)
        return {"PolicyARN": arn, "Alarms": (await self._alarms_by_policy())[arn]}

    @operation("DescribeScalingPolicies")
    async def describe_policies(self, call: ApiCall) -> Document:
        names = call.params.get("PolicyNames")
        found = [p for p in await self._targets.find(POLICY) if not names or _name(p) in names]
        alarms = await self._alarms_by_policy()
        return _page("ScalingPolicies", found, call.params, lambda policy: _policy(policy, alarms[policy.arn]))

    async def _alarms_by_policy(self) -> Mapping[str, list[Document]]:
        """The alarms that set policies off, by the policy's ARN."""
        found: defaultdict[str, list[Document]] = defaultdict(list)
        for alarm in await self._alarms.find():
            for arn in {*alarm["AlarmActions"], *alarm["OKActions"], *alarm["InsufficientDataActions"]}:
                found[arn].append({"AlarmName": alarm["AlarmName"], "AlarmARN": alarm["AlarmArn"]})
        return found

    @operation("DeleteScalingPolicy")
    async def delete_policy(self, call: ApiCall) -> Document:
        await self._targets.delete(POLICY, call.params, call.params["PolicyName"])
        return {}

    # Scheduled actions

    @operation("PutScheduledAction")
    async def put_action(self, call: ApiCall) -> Document:
        await self._targets.put_action(call.params)
        return {}

    @operation("DescribeScheduledActions")
    async def describe_actions(self, call: ApiCall) -> Document:
        names = call.params.get("ScheduledActionNames")
        found = [a for a in await self._targets.find(ACTION) if not names or _name(a) in names]
        return _page("ScheduledActions", found, call.params, _action)

    @operation("DeleteScheduledAction")
    async def delete_action(self, call: ApiCall) -> Document:
        await self._targets.delete(ACTION, call.params, call.params["ScheduledActionName"])
        return {}

    # Activities

    @operation("DescribeScalingActivities")
    async def describe_activities(self, call: ApiCall) -> Document:
        all_ = call.params.get("IncludeNotScaledActivities", False)
        found = [a for a in await self._targets.find(ACTIVITY) if all_ or "NotScaledReasons" not in a.document]
        return _page("ScalingActivities", found[::-1], call.params, _activity)

    # Tags

    @operation("TagResource")
    async def tag(self, call: ApiCall) -> Document:
        await self._on_target(call, lambda db, arn: tags.put(db, arn, call.params["Tags"]))
        return {}

    @operation("UntagResource")
    async def untag(self, call: ApiCall) -> Document:
        await self._on_target(call, lambda db, arn: tags.remove(db, arn, call.params["TagKeys"]))
        return {}

    @operation("ListTagsForResource")
    async def list_tags(self, call: ApiCall) -> Document:
        found: dict[str, str] = {}
        await self._on_target(call, lambda db, arn: found.update(tags.of(db, arn)))
        return {"Tags": found}

    async def _on_target(self, call: ApiCall, query: Callable[[Connection, str], None]) -> None:
        arn = call.params["ResourceARN"]

        def run(db: Connection) -> None:
            if not any(target.arn == arn for target in resources.every(db, TARGET)):
                raise TargetNotFound(f"No scalable target has the ARN {arn}.")
            query(db, arn)

        await self._store.run(run)


def _placed(resource: Resource) -> Document:
    id, dimension = place_of(resource)
    return {"ServiceNamespace": "sagemaker", "ResourceId": id, "ScalableDimension": dimension}


def _name(resource: Resource) -> str:
    return resource.name.split("|", 2)[2]


def _policy(policy: Resource, alarms: Sequence[Document]) -> Document:
    named = {"PolicyARN": policy.arn, "PolicyName": _name(policy), "CreationTime": policy.created_at, "Alarms": alarms}
    return _placed(policy) | policy.document | named


def _action(action: Resource) -> Document:
    members = {member: value for member, value in action.document.items() if member != "cursor"}
    named = {
        "ScheduledActionName": _name(action),
        "ScheduledActionARN": action.arn,
        "CreationTime": action.created_at,
    }
    return _placed(action) | members | named


def _activity(activity: Resource) -> Document:
    return _placed(activity) | activity.document | {"ActivityId": _name(activity)}


def _page(member: str, found: Sequence[Resource], wanted: Document, shown: Callable[[Resource], Document]) -> Document:
    """A page of those of one place; a token is how many entries came before. Raises InvalidNextToken."""
    ids, dimension = wanted.get("ResourceId"), wanted.get("ScalableDimension")
    here = [one for one in found if ids in (None, place_of(one)[0]) and dimension in (None, place_of(one)[1])]
    if wanted["ServiceNamespace"] != "sagemaker":
        here = []
    token = wanted.get("NextToken")
    try:
        start = 0 if token is None else int(base64.urlsafe_b64decode(token))
    except (binascii.Error, ValueError):
        raise InvalidNextToken("The NextToken is none of this operation's.") from None
    stop = start + wanted.get("MaxResults", LISTED)
    more = base64.urlsafe_b64encode(str(stop).encode()).decode() if stop < len(here) else None
    return {member: [shown(one) for one in here[start:stop]], "NextToken": more}
