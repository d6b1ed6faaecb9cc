"""The alarms of policies that track a metric: one for too much, one for too little.

They are what sets such a policy off. Anybody can look at them; the autoscaler puts back what somebody changes.
"""

from __future__ import annotations

import uuid
from typing import Protocol

from sqlalchemy.engine import Connection

from fourfold.control.autoscaling import tracking
from fourfold.control.autoscaling.capacities import Document
from fourfold.scaling import LOW
from fourfold.store.resources import Resource

SHORT, MINUTE = 10, 60
"""Periods in seconds. Three short ones in a row set off, where the metric has a value for each, else one minute:
SageMaker waits three minutes until it adds capacity, and fifteen until it takes it away."""


class Alarms(Protocol):
    """What keeps alarms and finds their states."""

    def set(self, db: Connection, request: Document) -> None:
        """PutMetricAlarm; one that is so already is left as it is. Raises FourfoldError."""

    def remove(self, db: Connection, name: str) -> bool:
        """Delete an alarm. False where there is none."""

    def detach(self, db: Connection, action: str) -> None:
        """Take an action from all alarms that have it."""


def keep(db: Connection, policy: Resource, alarms: Alarms) -> None:
    """See to it that a policy has the alarms that it should have. Raises FourfoldError where one cannot be."""
    wanted = _wanted(policy)
    for side in ("High", "Low"):
        if side in wanted:
            alarms.set(db, wanted[side])
        else:
            alarms.remove(db, _name(policy, side))


def drop(db: Connection, policy: Resource, alarms: Alarms) -> None:
    """A policy is no more: nor are its alarms, and those that somebody else made do not call it any longer."""
    for side in ("High", "Low"):
        alarms.remove(db, _name(policy, side))
    alarms.detach(db, policy.arn)


def _wanted(policy: Resource) -> dict[str, Document]:
    """The alarms of a policy, by side; none where it does not track a metric."""
    configuration = policy.document.get("TargetTrackingScalingPolicyConfiguration")
    if configuration is None:
        return {}
    goal = configuration["TargetValue"]
    wanted = {"High": _alarm(policy, configuration, "High") | {"Threshold": goal}}
    if not configuration.get("DisableScaleIn", False):
        wanted["Low"] = _alarm(policy, configuration, "Low") | {"Threshold": LOW * goal}
    return wanted


def _alarm(policy: Resource, configuration: Document, side: str) -> Document:
    """An alarm as PutMetricAlarm takes it, but for its threshold."""
    high = side == "High"
    period = SHORT if high and tracking.is_high_resolution(configuration) else MINUTE
    alarm: Document = {
        "AlarmName": _name(policy, side),
        "AlarmDescription": f"DO NOT EDIT OR DELETE. For TargetTrackingScaling policy {policy.arn}.",
        "ActionsEnabled": True,
        "AlarmActions": [policy.arn],
        "ComparisonOperator": "GreaterThanThreshold" if high else "LessThanThreshold",
        "EvaluationPeriods": 3 if period == SHORT else 1,
    }
    metric = tracking.metric_of(configuration, _resource(policy))
    if "Metrics" in metric:
        return alarm | {"Metrics": tracking.with_period(metric["Metrics"], period)}
    if not high and tracking.is_quiet(metric):  # or the last calls would count until they are four minutes old
        return alarm | {"Metrics": _filled(metric, period)}
    return alarm | metric | {"Period": period}


def _filled(metric: Document, period: int) -> list[Document]:
    """A metric with 0 where it has no value."""
    filled = {"Id": "filled", "Expression": "FILL(m, 0)", "Label": metric["MetricName"]}
    return [tracking.single(metric, period) | {"ReturnData": False}, filled]


def _name(policy: Resource, side: str) -> str:
    """As Application Auto Scaling names them. The same each time, so that it need not be kept."""
    return f"TargetTracking-{_resource(policy)}-Alarm{side}-{uuid.uuid5(uuid.NAMESPACE_URL, f'{policy.arn}/{side}')}"


def _resource(policy: Resource) -> str:
    return policy.name.partition("|")[0]
