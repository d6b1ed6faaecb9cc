"""Metric data queries: single metrics and arithmetic on them, as GetMetricData, alarms and scaling policies ask.

    [{"Id": "m1", "MetricStat": {…}}, {"Id": "e1", "Expression": "100 * m1 / FILL(m2, 1)"}]

Of CloudWatch's metric math there are + - * / ^ on series and numbers, and ABS, AVG, CEIL, FILL, FLOOR, MAX, MIN,
PERIOD, SUM. Between two series only the times that both have count.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fourfold.datapoints import Metric, metric
from fourfold.errors import ValidationError
from fourfold.monitor.history import History

Document = dict[str, Any]
Values = dict[float, float]
"""A series: value by start of the period."""

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
    waiting = {query["Id"]: query for query in queries if "MetricStat" not in query}
    while waiting:
        ready = next((id for id, query in waiting.items() if not _names(query) & set(waiting)), None)
        if ready is None:
            raise ValidationError(f"The expressions {', '.join(sorted(waiting))} need one another.")
        query = waiting.pop(ready)
        period = query.get("Period") or max(periods, default=60)
        found[ready] = _Calculation(found, period, start, end).series(query)
    return found


def returned(queries: Sequence[Document]) -> list[Document]:
    """Those whose series is part of the answer."""
    return [query for query in queries if query.get("ReturnData", True)]


def _names(query: Document) -> set[str]:
    return {node.id for node in ast.walk(_parsed(query)) if isinstance(node, ast.Name)}


def _parsed(query: Document) -> ast.expr:
    text: str = query.get("Expression", "")
    if not text:
        raise ValidationError(f"The query {query['Id']} has neither MetricStat nor Expression.")
    try:
        return ast.parse(text.replace("^", "**"), mode="eval").body
    except (SyntaxError, ValueError, RecursionError):
        raise ValidationError(f"The expression {text!r} cannot be understood.") from None


_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv, ast.Pow: math.pow,
}  # fmt: skip
_EACH: dict[str, Callable[[float], float]] = {"ABS": abs, "CEIL": math.ceil, "FLOOR": math.floor}
_ALL: dict[str, Callable[[list[float]], float]] = {
    "SUM": sum, "AVG": lambda found: sum(found) / len(found), "MIN": min, "MAX": max,
}  # fmt: skip


class _Calculation:
    """One expression over the series that are known."""

    def __init__(self, known: Mapping[str, Values], period: int, start: float, end: float) -> None:
        self._known = known
        self._period = period
        self._start, self._end = start, end

    def series(self, query: Document) -> Values:
        self._text = query["Expression"]
        result = self._value(_parsed(query))
        return result if isinstance(result, dict) else dict.fromkeys(self._times(), result)

    def _times(self) -> list[float]:
        count = math.ceil((self._end - self._start) / self._period)
        return [self._start + n * self._period for n in range(min(count, MOST_PERIODS))]

    def _value(self, node: ast.expr) -> Values | float:
        match node:
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                return float(number)
            case ast.Name(id=name) if name in self._known:
                return self._known[name]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return _each(lambda value: -value, self._value(operand))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return _both(_OPERATORS[type(op)], self._value(left), self._value(right))
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return self._call(name, arguments)
        raise ValidationError(
            f"The expression {self._text!r} uses what this server does not know: see docs/how-to/watch.md."
        )

    def _call(self, name: str, nodes: Sequence[ast.expr]) -> Values | float:
        if name in _ALL and len(nodes) == 1 and isinstance(nodes[0], ast.List):
            return self._across(_ALL[name], [self._value(node) for node in nodes[0].elts])
        arguments = [self._value(node) for node in nodes]
        match name, arguments:
            case "PERIOD", [dict()]:
                return float(self._period)
            case "FILL", [dict() as series, float() as number]:
                return dict.fromkeys(self._times(), number) | series
            case _, [value] if name in _EACH:
                return _each(_EACH[name], value)
            case _, [dict() as series] if name in _ALL:
                return _ALL[name](list(series.values())) if series else {}
        raise ValidationError(f"{name} in {self._text!r} is no function that this server knows with such arguments.")

    def _across(self, function: Callable[[list[float]], float], parts: Sequence[Values | float]) -> Values:
        times = {at for part in parts if isinstance(part, dict) for at in part}
        result = {}
        for at in sorted(times):
            result[at] = function(
                [p[at] if isinstance(p, dict) else p for p in parts if not isinstance(p, dict) or at in p]
            )
        return result


def _each(function: Callable[[float], float], value: Values | float) -> Values | float:
    if isinstance(value, dict):
        return {at: function(one) for at, one in value.items()}
    return function(value)


def _both(function: Callable[[float, float], float], left: Values | float, right: Values | float) -> Values | float:
    if isinstance(left, dict):
        if isinstance(right, dict):
            pairs = {at: (left[at], right[at]) for at in left if at in right}
        else:
            pairs = {at: (value, right) for at, value in left.items()}
    elif isinstance(right, dict):
        pairs = {at: (left, value) for at, value in right.items()}
    else:
        return _quiet(function, left, right)
    found = {at: _quiet(function, *pair) for at, pair in sorted(pairs.items())}
    return {at: value for at, value in found.items() if math.isfinite(value)}


def _quiet(function: Callable[[float, float], float], left: float, right: float) -> float:
    """A division by zero has no value, as in CloudWatch."""
    try:
        return float(function(left, right))
    except (ZeroDivisionError, OverflowError, ValueError):
        return math.nan
