"""Metric data queries: single metrics and arithmetic on them, as GetMetricData, alarms and scaling policies ask.

    [{"Id": "m1", "MetricStat": {…}}, {"Id": "e1", "Expression": "100 * m1 / FILL(m2, 1)"}]

Expressions: see `arithmetic`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fourfold.datapoints import Metric, metric
from fourfold.errors import ValidationError
from fourfold.monitor import arithmetic
from fourfold.monitor.arithmetic import Calculation, Values
from fourfold.monitor.history import History

Document = dict[str, Any]

PERCENTILE = re.compile(r"p(100|\d{1,2}(\.\d{1,10})?)")
STATISTICS = ("Average", "Sum", "Minimum", "Maximum", "SampleCount")
MOST_PERIODS = 100_800
"""Values of one series in one answer, as CloudWatch has it for GetMetricData."""


def named(members: Mapping[str, Any]) -> Metric:
    """The metric of a request's Namespace, MetricName and Dimensions."""
    dimensions = {entry["Name"]: entry["Value"] for entry in members.get("Dimensions", [])}
    return metric(members["Namespace"], members["MetricName"], dimensions)


def check_statistic(statistic: str) -> str:
    """Raises ValidationError where there is no such statistic."""
    if statistic not in STATISTICS and not PERCENTILE.fullmatch(statistic):
        raise ValidationError(
            f"The statistic {statistic!r} is not supported: use {', '.join(STATISTICS)}, or a percentile (p99, p99.9)."
        )
    return statistic


def check_period(period: int) -> int:
    """Raises ValidationError where CloudWatch has no such period."""
    if period not in (1, 5, 10, 20, 30) and period % 60:
        raise ValidationError(f"The period {period} is not valid: use 10, 20, 30, or a multiple of 60 seconds.")
    return max(period, 10)


async def values(
    history: History, metric: Metric, statistic: str, period: int, start: float, end: float, unit: str | None = None
) -> Values:
    """One statistic of one metric for each period in [start, end). A `unit` that it does not have finds nothing."""
    if (end - start) / period > MOST_PERIODS:
        raise ValidationError(f"More than {MOST_PERIODS:,} periods are asked for: use a longer Period or less time.")
    if unit is not None and history.unit(metric) not in (None, unit):
        return {}
    series = await history.read(metric, start, end, period)
    found = ((at, statistics.value(statistic)) for at, statistics in series)
    return {at: value for at, value in found if value is not None}


async def evaluate(history: History, queries: Sequence[Document], start: float, end: float) -> dict[str, Values]:
    """Every query's series by id, whether it is to be returned or not.

    Raises:
        ValidationError: a query is neither a metric nor an expression, or an expression cannot be understood.
    """
    found: dict[str, Values] = {}
    periods: list[int] = []
    for query in queries:
        stat = query.get("MetricStat")
        if stat is None:
            continue
        period = check_period(stat["Period"])
        periods.append(period)
        statistic = check_statistic(stat["Stat"])
        found[query["Id"]] = await values(
            history, named(stat["Metric"]), statistic, period, start, end, stat.get("Unit")
        )
    metrics = list(found)
    waiting = {query["Id"]: query for query in queries if "MetricStat" not in query}
    while waiting:
        ready = next((id for id, query in waiting.items() if not arithmetic.names(_text(query)) & set(waiting)), None)
        if ready is None:
            raise ValidationError(f"The expressions {', '.join(sorted(waiting))} need one another.")
        query = waiting.pop(ready)
        period = query.get("Period") or max(periods, default=60)
        found[ready] = Calculation(found, metrics, period, start, end, MOST_PERIODS).series(_text(query))
    return found


def _text(query: Document) -> str:
    text: str = query.get("Expression", "")
    if not text:
        raise ValidationError(f"The query {query['Id']} has neither MetricStat nor Expression.")
    return text


def check(queries: Sequence[Document]) -> None:
    """Raises ValidationError where a query can never be answered: no such statistic or Id, no expression at all."""
    ids = {query["Id"] for query in queries}
    for query in queries:
        stat = query.get("MetricStat")
        if stat is not None:
            check_period(stat["Period"])
            check_statistic(stat["Stat"])
        elif unknown := arithmetic.names(_text(query)) - ids:
            raise ValidationError(
                f"The expression {query['Expression']!r} names {', '.join(sorted(unknown))}, which is no Id of a query."
            )


def returned(queries: Sequence[Document]) -> list[Document]:
    """Those whose series is part of the answer."""
    return [query for query in queries if query.get("ReturnData", True)]
