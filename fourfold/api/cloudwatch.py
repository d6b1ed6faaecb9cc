"""CloudWatch on the wire: metrics of what ran here and of what clients put, and alarms on them."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from fourfold.api.protocol import ApiCall, operation
from fourfold.clock import Clock
from fourfold.datapoints import Datapoint, Metric, Statistics
from fourfold.errors import FourfoldError, ValidationError
from fourfold.monitor import queries
from fourfold.monitor.alarms import Alarms
from fourfold.monitor.history import KEPT, History
from fourfold.store.alarm_history import Asked

Document = dict[str, Any]

LISTED = 500
"""Metrics in an answer of ListMetrics."""
RECENT = 3 * 3600.0
MOST_DATAPOINTS = 1440
"""Datapoints in an answer of GetMetricStatistics."""
MOST_DATA = 1000
MOST_VALUES = 150
"""Entries of a PutMetricData, and values of one of them."""
LARGEST = 2.0**360
DEFAULT_ALARMS = 50
MOST_HISTORY = 100
_ID = re.compile(r"[a-z]\w*", re.ASCII)
FUTURE = 2 * 3600.0
"""Seconds that a datapoint may be ahead of the clock."""


class InvalidParameterValue(FourfoldError):
    code = "InvalidParameterValue"
    status = 400


class InvalidParameterCombination(FourfoldError):
    code = "InvalidParameterCombination"
    status = 400


class InvalidNextToken(FourfoldError):
    code = "InvalidNextToken"
    status = 400


class CloudWatch:
    """The operations of the `cloudwatch` service."""

    service: ClassVar[str] = "cloudwatch"

    def __init__(self, history: History, alarms: Alarms, clock: Clock) -> None:
        self._history = history
        self._alarms = alarms
        self._clock = clock

    # Metrics

    @operation("PutMetricData")
    async def put_metric_data(self, call: ApiCall) -> Document:
        now = self._clock.now()
        found = [
            (_datapoint(call.params["Namespace"], datum), datum.get("Timestamp", now))
            for datum in call.params.get("MetricData", [])
        ]
        if call.params["Namespace"].startswith("AWS/"):
            raise InvalidParameterValue("A Namespace that begins with AWS/ is reserved for the services themselves.")
        if not 0 < len(found) <= MOST_DATA:
            raise InvalidParameterValue(f"MetricData must have 1 to {MOST_DATA:,} entries, not {len(found):,}.")
        for datapoint, at in found:
            if not now - KEPT <= at <= now + FUTURE:
                raise InvalidParameterValue(
                    f"The timestamp of {datapoint.metric.name} is more than two weeks in the past or two hours ahead."
                )
        for datapoint, at in found:
            self._history.put(datapoint, at)
        await self._history.flush()
        return {}

    @operation("ListMetrics")
    async def list_metrics(self, call: ApiCall) -> Document:
        wanted = call.params
        oldest = self._clock.now() - RECENT if wanted.get("RecentlyActive") else 0.0
        found = [
            {"Namespace": metric.namespace, "MetricName": metric.name, "Dimensions": _dimensions(metric)}
            for metric, _, newest in await self._history.known()
            if newest >= oldest - 60 and _matches(metric, wanted)
        ]
        page, token = _page(found, wanted.get("NextToken"), LISTED)
        return {"Metrics": page, "NextToken": token}

    @operation("GetMetricStatistics")
    async def get_metric_statistics(self, call: ApiCall) -> Document:
        params = call.params
        simple, percentiles = params.get("Statistics", []), params.get("ExtendedStatistics", [])
        if bool(simple) == bool(percentiles):
            raise InvalidParameterCombination("Exactly one of Statistics and ExtendedStatistics must be given.")
        for statistic in percentiles:
            queries.check_statistic(statistic)
        period = queries.check_period(params["Period"])
        start, end = _span(params, period)
        if (end - start) / period > MOST_DATAPOINTS:
            raise InvalidParameterCombination(
                f"More than {MOST_DATAPOINTS:,} datapoints are asked for: use a longer Period or less time."
            )
        metric = queries.named(params)
        unit = self._history.unit(metric) or params.get("Unit") or "None"
        wanted = params.get("Unit") in (None, unit)
        series = await self._history.read(metric, start, end, period) if wanted else []
        datapoints = []
        for at, statistics in series:
            entry = {"Timestamp": at, "Unit": unit} | {name: statistics.value(name) for name in simple}
            if percentiles:
                entry["ExtendedStatistics"] = _present({name: statistics.value(name) for name in percentiles})
            datapoints.append(entry)
        return {"Label": params["MetricName"], "Datapoints": datapoints}

    @operation("GetMetricData")
    async def get_metric_data(self, call: ApiCall) -> Document:
        params = call.params
        asked = params["MetricDataQueries"]
        ids = [query["Id"] for query in asked]
        if len(set(ids)) < len(ids):
            raise ValidationError("The Ids of MetricDataQueries must be different from one another.")
        if wrong := [id for id in ids if not _ID.fullmatch(id)]:
            raise ValidationError(f"An Id is a small letter and then letters, digits and _; {wrong[0]} is not.")
        periods = [query["MetricStat"]["Period"] for query in asked if "MetricStat" in query]
        start, end = _span(params, min(periods, default=60))
        series = await queries.evaluate(self._history, asked, start, end)
        newest_first = params.get("ScanBy", "TimestampDescending") == "TimestampDescending"
        results = []
        for query in queries.returned(asked):
            found = sorted(series[query["Id"]].items(), reverse=newest_first)
            results.append(
                {
                    "Id": query["Id"],
                    "Label": query.get("Label") or _label(query),
                    "Timestamps": [at for at, _ in found],
                    "Values": [value for _, value in found],
                    "StatusCode": "Complete",
                }
            )
        return {"MetricDataResults": results, "Messages": []}

    # Alarms

    @operation("PutMetricAlarm")
    async def put_metric_alarm(self, call: ApiCall) -> Document:
        await self._alarms.put(call.params)
        return {}

    @operation("DescribeAlarms")
    async def describe_alarms(self, call: ApiCall) -> Document:
        wanted = call.params
        if "MetricAlarm" not in wanted.get("AlarmTypes", ["MetricAlarm"]):
            return {"MetricAlarms": [], "CompositeAlarms": []}
        found = [alarm for alarm in await self._alarms.find() if _asked_for(alarm, wanted)]
        page, token = _page(found, wanted.get("NextToken"), wanted.get("MaxRecords", DEFAULT_ALARMS))
        return {"MetricAlarms": page, "CompositeAlarms": [], "NextToken": token}

    @operation("DescribeAlarmsForMetric")
    async def describe_alarms_for_metric(self, call: ApiCall) -> Document:
        metric = queries.named(call.params)
        found = await self._alarms.find()
        return {"MetricAlarms": [one for one in found if "MetricName" in one and queries.named(one) == metric]}

    @operation("DeleteAlarms")
    async def delete_alarms(self, call: ApiCall) -> Document:
        await self._alarms.delete(call.params["AlarmNames"])
        return {}

    @operation("EnableAlarmActions")
    async def enable_alarm_actions(self, call: ApiCall) -> Document:
        await self._alarms.enable_actions(call.params["AlarmNames"], True)
        return {}

    @operation("DisableAlarmActions")
    async def disable_alarm_actions(self, call: ApiCall) -> Document:
        await self._alarms.enable_actions(call.params["AlarmNames"], False)
        return {}

    @operation("DescribeAlarmHistory")
    async def describe_alarm_history(self, call: ApiCall) -> Document:
        params = call.params
        if "MetricAlarm" not in params.get("AlarmTypes", ["MetricAlarm"]):
            return {"AlarmHistoryItems": []}
        entries, after = await self._alarms.past(
            Asked(
                params.get("AlarmName"),
                params.get("HistoryItemType"),
                params.get("StartDate", 0.0),
                params.get("EndDate", math.inf),
                params.get("MaxRecords", MOST_HISTORY),
                _offset(params.get("NextToken")) or None,
                oldest_first=params.get("ScanBy") == "TimestampAscending",
            )
        )
        items = [
            {
                "AlarmName": entry.alarm,
                "AlarmType": "MetricAlarm",
                "Timestamp": entry.at,
                "HistoryItemType": entry.kind,
                "HistorySummary": entry.summary,
                "HistoryData": entry.data,
            }
            for entry in entries
        ]
        return {"AlarmHistoryItems": items, "NextToken": None if after is None else _token(after)}

    @operation("SetAlarmState")
    async def set_alarm_state(self, call: ApiCall) -> Document:
        params = call.params
        await self._alarms.set_state(
            params["AlarmName"], params["StateValue"], params["StateReason"], params.get("StateReasonData", "")
        )
        return {}


def _check_limits(datum: Document) -> None:
    """Raises InvalidParameterValue where CloudWatch would not keep a datum."""
    name, dimensions = datum["MetricName"], datum.get("Dimensions", [])
    values = datum.get("Values", [])
    numbers = [datum.get("Value", 0.0), *values, *datum.get("StatisticValues", {}).values()]
    if len({one["Name"] for one in dimensions}) < len(dimensions):
        raise InvalidParameterValue(f"Two Dimensions of {name} have the same Name.")
    if len(values) > MOST_VALUES:
        raise InvalidParameterValue(f"{name} can have {MOST_VALUES} Values, not {len(values)}.")
    if not all(abs(number) <= LARGEST for number in numbers):  # one that is no number is in no range
        raise InvalidParameterValue(f"A value of {name} is no number from -2**360 to 2**360.")


def _datapoint(namespace: str, datum: Document) -> Datapoint:
    _check_limits(datum)
    given = [member for member in ("Value", "Values", "StatisticValues") if datum.get(member) is not None]
    if len(given) != 1:
        raise InvalidParameterCombination(
            f"{datum['MetricName']} must have exactly one of Value, Values and StatisticValues."
        )
    statistics = Statistics()
    if given == ["Value"]:
        statistics.add(datum["Value"])
    elif given == ["Values"]:
        counts = datum.get("Counts") or [1.0] * len(datum["Values"])
        if len(counts) != len(datum["Values"]):
            raise InvalidParameterValue(f"{datum['MetricName']} must have as many Counts as Values.")
        for value, count in zip(datum["Values"], counts, strict=True):
            statistics.add(value, count)
    else:
        given_set = datum["StatisticValues"]
        least, most = given_set["Minimum"], given_set["Maximum"]
        statistics = Statistics(given_set["SampleCount"], given_set["Sum"], least, most)
    return Datapoint(queries.named(datum | {"Namespace": namespace}), statistics, datum.get("Unit", "None"))


def _span(params: Document, period: int) -> tuple[float, float]:
    """StartTime rounded down to the period, at most to the minute, and EndTime."""
    step = min(max(period, 10), 60)
    start, end = params["StartTime"] // step * step, params["EndTime"]
    if end <= params["StartTime"]:
        raise ValidationError("The parameter StartTime must be less than the parameter EndTime.")
    return start, end


def _label(query: Document) -> str:
    stat = query.get("MetricStat")
    return str(query["Id"] if stat is None else stat["Metric"]["MetricName"])


def _dimensions(metric: Metric) -> list[Document]:
    return [{"Name": name, "Value": value} for name, value in metric.dimensions]


def _matches(metric: Metric, wanted: Document) -> bool:
    here = dict(metric.dimensions)
    return (
        wanted.get("Namespace") in (None, metric.namespace)
        and wanted.get("MetricName") in (None, metric.name)
        and all(
            one["Name"] in here and one.get("Value") in (None, here[one["Name"]])
            for one in wanted.get("Dimensions", [])
        )
    )


def _asked_for(alarm: Document, wanted: Document) -> bool:
    name = alarm["AlarmName"]
    prefix = wanted.get("ActionPrefix", "")
    return (
        ("AlarmNames" not in wanted or name in wanted["AlarmNames"])
        and name.startswith(wanted.get("AlarmNamePrefix", ""))
        and wanted.get("StateValue") in (None, alarm["StateValue"])
        and (not prefix or any(arn.startswith(prefix) for arn in _actions(alarm)))
    )


def _actions(alarm: Document) -> Iterator[str]:
    for member in ("AlarmActions", "OKActions", "InsufficientDataActions"):
        yield from alarm[member]


def _present(members: Mapping[str, Any]) -> Document:
    return {name: value for name, value in members.items() if value is not None}


def _page(found: Sequence[Document], token: str | None, size: int) -> tuple[list[Document], str | None]:
    """One page; a token is how many entries came before. Raises InvalidNextToken."""
    start = _offset(token)
    stop = start + size
    return list(found[start:stop]), _token(stop) if stop < len(found) else None


def _offset(token: str | None) -> int:
    """The number in a token; 0 without one. Raises InvalidNextToken."""
    try:
        return 0 if token is None else int(base64.urlsafe_b64decode(token))
    except (binascii.Error, ValueError):
        raise InvalidNextToken("The NextToken is none of this operation's.") from None


def _token(number: int) -> str:
    return base64.urlsafe_b64encode(str(number).encode()).decode()
