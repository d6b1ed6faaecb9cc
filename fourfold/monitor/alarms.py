"""Metric alarms: kept in the store, evaluated after each collection, with actions on what they find.

    INSUFFICIENT_DATA ◄─► OK ◄─► ALARM

A new state is written before its actions run, and that they ran is written after, so that a crash between the two
repeats an action and loses none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy.engine import Connection

from fourfold.clock import Clock
from fourfold.errors import FourfoldError, ResourceNotFound, ThrottlingException, ValidationError
from fourfold.monitor import queries
from fourfold.monitor.arithmetic import Values
from fourfold.monitor.history import History
from fourfold.records import Partition
from fourfold.store import Store, alarm_history, resources
from fourfold.store.alarm_history import Asked, Entry
from fourfold.store.resources import Resource

log = logging.getLogger(__name__)

Document = dict[str, Any]
Action = Callable[[str, Document, float | None], Awaitable[None]]
"""Does what an alarm's action ARN asks; gets the alarm as DescribeAlarms shows it, and its metric's newest value."""

ALARM = "alarm"
MOST_ALARMS = 5000
EXTRA_PERIODS = 2
"""Periods before the evaluated ones whose values stand in for missing ones, as CloudWatch does it."""
MINUTE = 60
REPEAT = 60.0
"""Seconds after which a scaling action runs again while the alarm lasts."""
SCALING = ":scalingPolicy:"
TOPIC = ":sns:"
"""Parts of ARNs that tell actions apart."""
LONGEST_RANGE = 7 * 86400

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "GreaterThanOrEqualToThreshold": lambda value, threshold: value >= threshold,
    "GreaterThanThreshold": lambda value, threshold: value > threshold,
    "LessThanThreshold": lambda value, threshold: value < threshold,
    "LessThanOrEqualToThreshold": lambda value, threshold: value <= threshold,
}
_INNER = ("Acted", "HeldUntil", "PreviousState", "Tags")
"""Members of an alarm's document that DescribeAlarms does not show."""
_STATE = ("State", "Acted", "HeldUntil", "PreviousState")
"""How the members of an alarm's document begin that are not from its request."""
_TREATMENTS = ("missing", "ignore", "breaching", "notBreaching")
_TRIGGER = (
    "MetricName", "Namespace", "Statistic", "ExtendedStatistic", "Unit", "Period", "EvaluationPeriods",
    "DatapointsToAlarm", "ComparisonOperator", "Threshold", "TreatMissingData", "Metrics",
)  # fmt: skip
_ACTIONS = {"ALARM": "AlarmActions", "OK": "OKActions", "INSUFFICIENT_DATA": "InsufficientDataActions"}


class Actions:
    """What alarms can do, by the part of an action's ARN that tells them apart. Parts that offer one add it."""

    def __init__(self) -> None:
        self.known: dict[str, Action] = {}

    async def __call__(self, arn: str, alarm: Document, value: float | None) -> None:
        """Run an action. Raises ValidationError where nothing here takes such an ARN."""
        for part, action in self.known.items():
            if part in arn:
                await action(arn, alarm, value)
                return
        raise ValidationError(f"Nothing here can run the action {arn}.")


def notification(alarm: Document, partition: Partition) -> tuple[str, str]:
    """Subject and message for a topic, as CloudWatch writes them."""
    state, name = alarm["StateValue"], alarm["AlarmName"]
    trigger = {member: alarm.get(member) for member in _TRIGGER if alarm.get(member) is not None}
    trigger["Dimensions"] = [{"name": one["Name"], "value": one["Value"]} for one in alarm.get("Dimensions", [])]
    changed = datetime.fromtimestamp(alarm["StateTransitionedTimestamp"], UTC)
    message = {
        "AlarmName": name,
        "AlarmDescription": alarm.get("AlarmDescription"),
        "AWSAccountId": partition.account,
        "NewStateValue": state,
        "NewStateReason": alarm["StateReason"],
        "StateChangeTime": changed.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "+0000",
        "Region": partition.region,
        "AlarmArn": alarm["AlarmArn"],
        "OldStateValue": alarm["PreviousState"],
        "OKActions": alarm["OKActions"],
        "AlarmActions": alarm["AlarmActions"],
        "InsufficientDataActions": alarm["InsufficientDataActions"],
        "Trigger": trigger,
    }
    return f'{state}: "{name}" in {partition.region}'[:100], msgspec.json.encode(message).decode()


class AlarmNotFound(ResourceNotFound):
    status = 404


def judge(values: Sequence[float | None], breaches: Callable[[float], bool], needed: int, of: int, missing: str) -> str:
    """The state that some periods call for; empty: the one that there is.

    Args:
        values: of the periods, oldest first, `of` and a few before; None where one has no value.
        breaches: is a value beyond the threshold?
        needed: how many of `of` periods must breach.
        of: periods that are looked at.
        missing: TreatMissingData, used where even with the earlier periods there are fewer than `of` values.

    The rules, with examples: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarms-and-missing-data.html
    """
    there = [value for value in values if value is not None][-of:]
    breaching = sum(map(breaches, there))
    gaps = of - len(there)
    if breaching >= needed:
        return "ALARM"
    if not gaps or missing == "notBreaching":
        return "OK"
    if missing == "breaching":
        return "ALARM" if breaching + gaps >= needed else "OK"
    if not there:
        return "INSUFFICIENT_DATA" if missing == "missing" else ""
    if breaching == len(there):
        return "ALARM" if missing == "missing" else ""
    return "OK"


class Alarms:
    """The alarms of one server.

    Args:
        store: keeps them.
        history: what they look at.
        partition: for ARNs.
        clock: for periods and stamps.
        act: runs one action.
    """

    def __init__(self, store: Store, history: History, partition: Partition, clock: Clock, act: Action) -> None:
        self._store = store
        self._history = history
        self._partition = partition
        self._clock = clock
        self._act = act
        self._awake = asyncio.Event()
        self._repeated: dict[str, float] = {}

    # What people ask

    async def put(self, request: Document) -> None:
        """PutMetricAlarm. Raises ValidationError."""
        await self._store.run(lambda db: self.set(db, request))

    def set(self, db: Connection, request: Document) -> None:
        """PutMetricAlarm in a transaction of somebody else; an alarm that is so already is left as it is.

        Raises:
            ValidationError: the request makes no alarm.
            ThrottlingException: there are too many.
        """
        document, now = _checked(request), self._clock.now()
        name = document["AlarmName"]
        found = resources.get(db, ALARM, name)
        if found is None:
            if len(resources.every(db, ALARM)) >= MOST_ALARMS:
                raise ThrottlingException(f"There are {MOST_ALARMS:,} alarms already. Delete some.")
            state = _state("INSUFFICIENT_DATA", "Unchecked: Initial alarm creation", "", now) | {"Acted": now}
            alarm = Resource(ALARM, name, self._arn(name), now, now, "INSUFFICIENT_DATA", document | state)
            resources.insert(db, alarm)
            self._note_change(db, name, "created", {"type": "Create", "createdAlarm": document})
            return
        if document != {member: value for member, value in found.document.items() if not member.startswith(_STATE)}:
            kept = {member: value for member, value in found.document.items() if member.startswith(("State", "Acted"))}
            found.document, found.modified_at = document | kept, now
            resources.save(db, found)
            self._note_change(db, name, "updated", {"type": "Update", "updatedAlarm": document})

    def remove(self, db: Connection, name: str) -> bool:
        """Delete an alarm in a transaction of somebody else. False where there is none."""
        removed = resources.delete(db, ALARM, name)
        self._repeated.pop(name, None)
        if removed:
            self._note_change(db, name, "deleted", {"type": "Delete"})
        return removed

    def detach(self, db: Connection, action: str) -> None:
        """Take a scaling action that is no more from the alarms that have it."""
        for alarm in resources.every(db, ALARM, containing=SCALING):
            lists = {member: alarm.document.get(member, []) for member in _ACTIONS.values()}
            if any(action in actions for actions in lists.values()):
                left = {member: [arn for arn in actions if arn != action] for member, actions in lists.items()}
                alarm.document = alarm.document | left
                resources.save(db, alarm)

    async def find(self) -> list[Document]:
        """Every alarm as DescribeAlarms shows it, by name."""
        found = await self._store.run(lambda db: resources.every(db, ALARM))
        return sorted(map(_described, found), key=lambda alarm: str(alarm["AlarmName"]))

    async def past(self, asked: Asked) -> tuple[Sequence[Entry], int | None]:
        """What became of alarms: a page of it, and where the next one begins."""
        return await self._store.run(lambda db: alarm_history.page(db, asked))

    async def states(self, names: Sequence[str]) -> dict[str, str]:
        """The states of some alarms; those that do not exist are missing."""
        found = await self._store.run(lambda db: [resources.get(db, ALARM, name) for name in names])
        return {alarm.name: alarm.status for alarm in found if alarm is not None}

    async def delete(self, names: Sequence[str]) -> None:
        """DeleteAlarms. Raises AlarmNotFound where one does not exist; none is deleted then."""

        def write(db: Connection) -> None:
            for name in names:
                if not self.remove(db, name):
                    raise AlarmNotFound(f"Alarm {name} does not exist; no alarm was deleted.")

        await self._store.run(write)

    async def set_state(self, name: str, state: str, reason: str, data: str = "") -> None:
        """SetAlarmState: for a period, then an evaluation may find otherwise. Raises AlarmNotFound."""
        alarm = await self._store.run(lambda db: resources.get(db, ALARM, name))
        if alarm is None:
            raise AlarmNotFound(f"Alarm {name} does not exist.")
        await self._reached(alarm, state, reason, data)
        await self._write(alarm, {"HeldUntil": self._clock.now() + _period(alarm.document)})
        await self._run_actions(alarm, None)

    async def enable_actions(self, names: Sequence[str], enabled: bool) -> None:
        """EnableAlarmActions and DisableAlarmActions; names that nothing has are passed over, as in CloudWatch."""

        def write(db: Connection) -> None:
            for alarm in (resources.get(db, ALARM, name) for name in names):
                if alarm is not None:
                    alarm.document, alarm.modified_at = alarm.document | {"ActionsEnabled": enabled}, self._clock.now()
                    resources.save(db, alarm)
                    self._note_change(db, alarm.name, "updated", {"type": "Update", "actionsEnabled": enabled})

        await self._store.run(write)

    # The loop

    def wake(self) -> None:
        """There are new values."""
        self._awake.set()

    async def run(self) -> None:
        """Evaluate whenever there are new values, for ever."""
        while True:
            await self._awake.wait()
            self._awake.clear()
            await self.evaluate()

    async def evaluate(self) -> None:
        """Look at every alarm once, and run what is due."""
        for alarm in await self._store.run(lambda db: resources.every(db, ALARM)):
            try:
                if alarm.document["Acted"] is None:  # a crash prevented it
                    await self._run_actions(alarm, None)
                if alarm.document.get("HeldUntil", 0.0) > self._clock.now():
                    continue
                value = await self._look_at(alarm)
                await self._run_actions(alarm, value)
            except FourfoldError as error:
                log.warning("alarm not evaluated", extra={"alarm": alarm.name, "reason": error.message})
            except Exception:
                log.exception("alarm not evaluated", extra={"alarm": alarm.name})
            await asyncio.sleep(0)  # calls come first

    async def _look_at(self, alarm: Resource) -> float | None:
        document = alarm.document
        period, of = _period(document), document["EvaluationPeriods"]
        step = min(period, MINUTE)  # periods of several minutes are looked at each minute, as CloudWatch does it
        end = self._clock.now() // step * step
        starts = [end - n * period for n in range(of + EXTRA_PERIODS, 0, -1)]
        series = await self._series(document, starts[0], end, period)
        values = [series.get(start) for start in starts]
        compare, threshold = _COMPARE[document["ComparisonOperator"]], document["Threshold"]
        needed = document.get("DatapointsToAlarm", of)
        missing = document.get("TreatMissingData", "missing")
        state = judge(values, lambda value: compare(value, threshold), needed, of, missing)
        there = [value for value in values if value is not None]
        if state and state != alarm.status:
            await self._reached(alarm, state, *_reason(document, state, there[-of:], end))
        return there[-1] if there else None

    async def _series(self, document: Document, start: float, end: float, period: int) -> Values:
        asked = document.get("Metrics")
        if asked is not None:
            found = await queries.evaluate(self._history, asked, start, end)
            return found[queries.returned(asked)[0]["Id"]]
        statistic = document.get("Statistic") or document["ExtendedStatistic"]
        metric = queries.named(document)
        return await queries.values(self._history, metric, statistic, period, start, end, document.get("Unit"))

    async def _reached(self, alarm: Resource, state: str, reason: str, data: str) -> None:
        now, before = self._clock.now(), alarm.status
        changes = _state(state, reason, data, now) | {"PreviousState": before}
        happened = None
        if state == before:
            del changes["StateTransitionedTimestamp"], changes["Acted"], changes["PreviousState"]
        else:
            old = {"stateValue": before, "stateReason": alarm.document["StateReason"]}
            told = {"oldState": old, "newState": {"stateValue": state, "stateReason": reason}}
            happened = _entry(alarm.name, now, "StateUpdate", f"Alarm updated from {before} to {state}", told)
        alarm.status = state
        await self._write(alarm, changes, happened)
        log.info("alarm", extra={"alarm": alarm.name, "state": state, "reason": reason})

    async def _run_actions(self, alarm: Resource, value: float | None) -> None:
        document, now = alarm.document, self._clock.now()
        acted = document.get("Acted")
        if acted is not None and now < max(acted, self._repeated.get(alarm.name, 0.0)) + REPEAT:
            return
        actions = document.get(_ACTIONS[alarm.status], []) if document.get("ActionsEnabled", True) else []
        if acted is not None:
            actions = [arn for arn in actions if SCALING in arn]
            if not actions:
                return
        happened = [await self._run_action(alarm, arn, value) for arn in actions]
        if acted is None:
            await self._write(alarm, {"Acted": now}, *happened)
        else:
            self._repeated[alarm.name] = now  # no news, and nothing that a crash may not repeat: not worth a write

    async def _run_action(self, alarm: Resource, arn: str, value: float | None) -> Entry:
        summary, failure = f"Successfully executed action {arn}", None
        try:
            await self._act(arn, _described(alarm) | {"PreviousState": alarm.document.get("PreviousState")}, value)
        except FourfoldError as error:
            log.warning("alarm action failed", extra={"alarm": alarm.name, "action": arn, "reason": error.message})
            summary, failure = f"Failed to execute action {arn}", error.message
        told = {"actionState": "Failed" if failure else "Succeeded", "notificationResource": arn, "error": failure}
        return _entry(alarm.name, self._clock.now(), "Action", summary, told)

    async def _write(self, alarm: Resource, changes: Document, *happened: Entry | None) -> None:
        def write(db: Connection) -> None:
            found = resources.get(db, ALARM, alarm.name)
            if found is not None:
                found.document, found.status = found.document | changes, alarm.status
                resources.save(db, found)
                for entry in filter(None, happened):
                    alarm_history.add(db, entry)

        alarm.document = alarm.document | changes
        await self._store.run(write)

    def _note_change(self, db: Connection, name: str, verb: str, told: Document) -> None:
        alarm_history.add(db, _entry(name, self._clock.now(), "ConfigurationUpdate", f'Alarm "{name}" {verb}', told))

    def _arn(self, name: str) -> str:
        return self._partition.arn(f"alarm:{name}", "cloudwatch")


def _entry(name: str, at: float, kind: str, summary: str, told: Document) -> Entry:
    return Entry(name, at, kind, summary, msgspec.json.encode({"version": "1.0"} | told).decode())


def _state(state: str, reason: str, data: str, now: float) -> Document:
    return {
        "StateValue": state,
        "StateReason": reason,
        "StateReasonData": data,
        "StateUpdatedTimestamp": now,
        "StateTransitionedTimestamp": now,
        "Acted": None,
    }


def _described(alarm: Resource) -> Document:
    members = {member: value for member, value in alarm.document.items() if member not in _INNER}
    defaults = {"ActionsEnabled": True, "OKActions": [], "AlarmActions": [], "InsufficientDataActions": []}
    defaults |= {"Dimensions": []} if "Metrics" not in members else {}
    stamps = {"AlarmArn": alarm.arn, "AlarmConfigurationUpdatedTimestamp": alarm.modified_at}
    return defaults | members | stamps | {"StateReasonData": members["StateReasonData"] or None}


def _period(document: Document) -> int:
    if "Metrics" not in document:
        return int(document["Period"])
    periods = [query["MetricStat"]["Period"] for query in document["Metrics"] if "MetricStat" in query]
    return int(queries.returned(document["Metrics"])[0].get("Period") or max(periods))


def _reason(document: Document, state: str, values: Sequence[float], end: float) -> tuple[str, str]:
    """StateReason and StateReasonData, in CloudWatch's words."""
    stamp = datetime.fromtimestamp(end, UTC).strftime("%d/%m/%y %H:%M:%S")
    shown = ", ".join(f"{value:g}" for value in values)
    threshold = document["Threshold"]
    if state == "INSUFFICIENT_DATA":
        reason = "Insufficient Data: no datapoints were received in the evaluated periods."
    elif not values:
        of, treated = document["EvaluationPeriods"], document["TreatMissingData"]
        several, were = ("s", "were") if of > 1 else ("", "was")
        reason = f"Threshold Crossed: no datapoints were received for {of} period{several} and {of} missing "
        reason += f"datapoint{several} {were} treated as [{'Breaching' if treated == 'breaching' else 'NonBreaching'}]."
    else:
        which = f"{len(values)} datapoint{'s' if len(values) != 1 else ''} [{shown} ({stamp})]"
        words = {"Greater": "greater than", "Less": "less than"}
        operator = document["ComparisonOperator"]
        side = words["Greater" if operator.startswith("Greater") else "Less"]
        side += " or equal to" if "OrEqual" in operator else ""
        negation = "" if state == "ALARM" else " not"
        reason = f"Threshold Crossed: {which} {'were' if len(values) != 1 else 'was'}{negation} {side} the threshold "
        reason += f"({threshold:g})."
    data = {"version": "1.0", "recentDatapoints": list(values), "threshold": threshold, "period": _period(document)}
    return reason, msgspec.json.encode(data).decode()


def _checked(request: Document) -> Document:
    """The request, where it makes an alarm."""
    document = {member: value for member, value in request.items() if value is not None}
    for member in ("EvaluationPeriods", "ComparisonOperator", "Threshold"):
        if member not in document:
            raise ValidationError(f"The parameter {member} is required.")
    if document["ComparisonOperator"] not in _COMPARE:
        raise ValidationError(
            f"The operator {document['ComparisonOperator']} is for anomaly detection, which is not here."
        )
    if document.get("TreatMissingData", "missing") not in _TREATMENTS:
        raise ValidationError(f"TreatMissingData must be one of {', '.join(_TREATMENTS)}.")
    if document.get("DatapointsToAlarm", 1) > document["EvaluationPeriods"]:
        raise ValidationError("DatapointsToAlarm must not be more than EvaluationPeriods.")
    for arn in (arn for member in _ACTIONS.values() for arn in document.get(member, [])):
        if not arn.startswith("arn:"):
            raise ValidationError(f"Invalid arn syntax: {arn}")
    if "Metrics" in document:
        _check_queries(document)
    else:
        _check_metric(document)
    if _period(document) * document["EvaluationPeriods"] > LONGEST_RANGE:
        raise ValidationError("Period times EvaluationPeriods must not be more than 7 days.")
    return document


def _check_metric(document: Document) -> None:
    for member in ("MetricName", "Namespace", "Period"):
        if member not in document:
            raise ValidationError(f"The parameter {member} is required where Metrics is not given.")
    if ("Statistic" in document) == ("ExtendedStatistic" in document):
        raise ValidationError("Exactly one of Statistic and ExtendedStatistic must be given.")
    queries.check_statistic(document.get("Statistic") or document["ExtendedStatistic"])
    if document["Period"] not in (10, 20, 30) and document["Period"] % 60:
        raise ValidationError("Period must be 10, 20, 30, or a multiple of 60.")


def _check_queries(document: Document) -> None:
    if "MetricName" in document:
        raise ValidationError("MetricName and Metrics exclude one another.")
    if len(queries.returned(document["Metrics"])) != 1:
        raise ValidationError("Exactly one query of Metrics must have ReturnData true.")
    if not any("MetricStat" in query for query in document["Metrics"]):
        raise ValidationError("Metrics must have a query with MetricStat.")
    queries.check(document["Metrics"])
