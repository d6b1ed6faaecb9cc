"""Arithmetic on series, as CloudWatch's metric math has it.

    100 * errors / calls      IF(calls > 0, errors / calls, 0)      SUM(METRICS())      RATE(FILL(bytes, REPEAT))

An expression is read as Python's grammar reads it, once CloudWatch's own signs are Python's. Values are series, numbers
and lists of both. Of two series only the times that both have count; a comparison is 1 or 0.
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/using-metric-math.html
"""

from __future__ import annotations

import ast
import math
import operator
import re
import statistics
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise

from fourfold.errors import ValidationError

Values = dict[float, float]
"""A series: value by start of the period."""
Value = Values | float | list["Values | float"]

_SIGNS = ((r"&&|\bAND\b", " and "), (r"\|\||\bOR\b", " or "), (r"\^", "**"))
"""CloudWatch's signs that are others in Python."""
_OPERATORS: dict[type[ast.operator | ast.cmpop | ast.boolop], Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv, ast.Pow: math.pow,
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.And: lambda left, right: bool(left) and bool(right), ast.Or: lambda left, right: bool(left) or bool(right),
}  # fmt: skip
_EACH: dict[str, Callable[[float], float]] = {
    "ABS": abs, "CEIL": math.ceil, "FLOOR": math.floor, "LOG": math.log, "LOG10": math.log10,
}  # fmt: skip
_ALL: dict[str, Callable[[list[float]], float]] = {
    "SUM": sum, "AVG": statistics.fmean, "MIN": min, "MAX": max, "STDDEV": statistics.pstdev,
}  # fmt: skip
_WAYS = ("REPEAT", "LINEAR")
"""How FILL makes up values that are missing, where it has no number to put there."""


def names(text: str) -> set[str]:
    """What an expression needs to know. Raises ValidationError where it cannot be understood."""
    nodes = list(ast.walk(_parsed(text)))
    functions = {node.func for node in nodes if isinstance(node, ast.Call)}
    found = {node.id for node in nodes if isinstance(node, ast.Name) and node not in functions}
    return found - set(_WAYS)


def _parsed(text: str) -> ast.expr:
    python = text
    for sign, replacement in _SIGNS:
        python = re.sub(sign, replacement, python)
    try:
        return ast.parse(python.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValidationError(f"The expression {text!r} cannot be understood.") from None


class Calculation:
    """Expressions over the series of one request.

    Args:
        known: series by id.
        metrics: ids of those that are metrics, which METRICS() stands for.
        period: seconds between two values.
        start, end: of the result, where an expression has values for every period.
        most: periods of one result.
    """

    def __init__(
        self, known: Mapping[str, Values], metrics: Sequence[str], period: int, start: float, end: float, most: int
    ) -> None:
        self._known = known
        self._metrics = metrics
        self._period = period
        count = min(math.ceil((end - start) / period), most)
        self._times = [start + n * period for n in range(count)]

    def series(self, text: str) -> Values:
        """An expression's series. Raises ValidationError where it has none."""
        self._text = text
        try:
            result = self._value(_parsed(text))
        except RecursionError:
            raise ValidationError(f"The expression {text[:50]!r}… is nested too deeply.") from None
        if isinstance(result, list):
            raise ValidationError(f"The expression {text!r} has several series: make one of them, as SUM does.")
        found = result if isinstance(result, dict) else dict.fromkeys(self._times, result)
        return {at: float(value) for at, value in sorted(found.items()) if math.isfinite(value)}

    def _value(self, node: ast.expr) -> Value:
        match node:
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                return float(number)
            case ast.Name(id=name):
                if name not in self._known:
                    raise ValidationError(f"The expression {self._text!r} names {name}, which is no Id of a query.")
                return self._known[name]
            case ast.List(elts=parts):
                return list(self._flat(parts))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return _each(operator.neg, self._single(operand))
            case (
                ast.BinOp(left=left, op=op, right=right)
                | ast.Compare(left=left, ops=[op], comparators=[right])
                | ast.BoolOp(op=op, values=[left, right])
            ) if type(op) in _OPERATORS:
                return _both(_OPERATORS[type(op)], self._single(left), self._single(right))
            case ast.BoolOp(op=op, values=[*first, last]):
                return self._value(ast.BoolOp(op, [ast.BoolOp(op, first), last]))
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return self._call(name, arguments)
        raise ValidationError(
            f"The expression {self._text!r} uses what this server does not know: see docs/how-to/watch.md."
        )

    def _single(self, node: ast.expr) -> Values | float:
        value = self._value(node)
        if isinstance(value, list):
            raise ValidationError(f"In {self._text!r} several series stand where one is needed.")
        return value

    def _flat(self, nodes: Sequence[ast.expr]) -> Iterator[Values | float]:
        for node in nodes:
            value = self._value(node)
            if isinstance(value, list):
                yield from value
            else:
                yield value

    def _call(self, name: str, nodes: Sequence[ast.expr]) -> Value:
        match name, nodes:
            case "METRICS", []:
                return [self._known[id] for id in self._metrics]
            case "METRICS", [ast.Constant(value=str() as part)]:
                return [self._known[id] for id in self._metrics if part in id]
            case "FILL", [sparse, ast.Name(id=way)] if way in _WAYS:
                return self._fill(self._value(sparse), way)
        arguments = [self._value(node) for node in nodes]
        match name, arguments:
            case "FILL", [(dict() | list()) as filled, (dict() | float()) as other]:
                return self._fill(filled, other)
            case "IF", [(dict() | float()) as condition, (dict() | float()) as then]:
                return _if(condition, then, {})
            case "IF", [(dict() | float()) as condition, (dict() | float()) as then, (dict() | float()) as other]:
                return _if(condition, then, other)
            case "PERIOD", [dict()]:
                return float(self._period)
            case "TIME_SERIES", [float() as number]:
                return dict.fromkeys(self._times, number)
            case "METRIC_COUNT", [list() as several]:
                return float(len(several))
            case "DATAPOINT_COUNT", [dict() as series]:
                return float(len(series))
            case "DIFF" | "RATE", [dict() as series]:
                return _steps(series, per_second=name == "RATE")
            case "RUNNING_SUM", [dict() as series]:
                times = sorted(series)
                return dict(zip(times, accumulate(series[at] for at in times), strict=True))
            case "FIRST" | "LAST", [[_, *_] as several]:
                return several[0 if name == "FIRST" else -1]
            case _, [(dict() | float()) as value] if name in _EACH:
                return _each(_EACH[name], value)
            case _, [dict() as series] if name in _ALL:
                return _ALL[name](list(series.values())) if series else {}
            case _, [list() as several] if name in _ALL:
                return _across(_ALL[name], several)
        raise ValidationError(f"{name} in {self._text!r} is no function that this server knows with such arguments.")

    def _fill(self, filled: Value, way: Values | float | str) -> Value:
        if isinstance(filled, list):
            return [self._filled(one, way) for one in filled]
        return self._filled(filled, way)

    def _filled(self, series: Values | float, way: Values | float | str) -> Values | float:
        if isinstance(series, float):
            return series
        match way:
            case dict():
                return way | series
            case float():
                return dict.fromkeys(self._times, way) | series
        known = sorted(series)
        missing = {at: _made_up(series, known, at, way) for at in self._times}
        return {at: value for at, value in missing.items() if value is not None} | series


def _made_up(series: Values, known: Sequence[float], at: float, way: str) -> float | None:
    """A value for a time that has none, from those before and after it."""
    place = bisect_left(known, at)
    if not place or (way == "LINEAR" and place == len(known)):
        return None
    before = known[place - 1]
    if way == "REPEAT":
        return series[before]
    after = known[place]
    return series[before] + (series[after] - series[before]) * (at - before) / (after - before)


def _steps(series: Values, *, per_second: bool) -> Values:
    """From each value to the next."""
    return {
        at: (series[at] - series[before]) / (at - before if per_second else 1.0)
        for before, at in pairwise(sorted(series))
    }


def _if(condition: Values | float, then: Values | float, other: Values | float) -> Values | float:
    if isinstance(condition, float):
        return then if condition else other
    chosen = ((at, then if value else other) for at, value in condition.items())
    return {at: of[at] if isinstance(of, dict) else of for at, of in chosen if not isinstance(of, dict) or at in of}


def _across(function: Callable[[list[float]], float], parts: Sequence[Values | float]) -> Values:
    times = {at for part in parts if isinstance(part, dict) for at in part}
    return {
        at: function([p[at] if isinstance(p, dict) else p for p in parts if not isinstance(p, dict) or at in p])
        for at in times
    }


def _each(function: Callable[[float], float], value: Values | float) -> Values | float:
    if isinstance(value, dict):
        return {at: _quiet(function, one) for at, one in value.items()}
    return _quiet(function, value)


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
    found = {at: _quiet(function, *pair) for at, pair in pairs.items()}
    return {at: value for at, value in found.items() if math.isfinite(value)}


def _quiet(function: Callable[..., float], *values: float) -> float:
    """A division by zero or a logarithm of it has no value, as in CloudWatch."""
    try:
        return float(function(*values))
    except (ZeroDivisionError, OverflowError, ValueError):
        return math.nan
