"""Metric math: what expressions make of series."""

from __future__ import annotations

import math

import pytest

from fourfold.errors import ValidationError
from fourfold.monitor.arithmetic import Calculation, names

UP = {0.0: 1.0, 60.0: 2.0, 120.0: 3.0, 180.0: 4.0}
GAPS = {60.0: 10.0, 180.0: 30.0}
SERIES = {"up": UP, "gaps": GAPS, "e1": {0.0: 100.0}}


def calculated(text: str) -> dict[float, float]:
    return Calculation(SERIES, ["up", "gaps"], 60, 0.0, 240.0, 100).series(text)


def of(*values: float | None) -> dict[float, float]:
    return {60.0 * n: value for n, value in enumerate(values) if value is not None}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-(up + 1) ^ 2 / 2", of(-2, -4.5, -8, -12.5)),
        ("gaps - up", of(None, 8, None, 26)),
        ("up / (up - 2)", of(-1, None, 3, 2)),
        ("up >= 2 AND up != 3", of(0, 1, 0, 1)),
        ("up < 2 || up == 4 || up == 3", of(1, 0, 1, 1)),
        ("up > 1 && up > 2 && up <= 3", of(0, 0, 1, 0)),
        ("IF(up > 2, up, 0)", of(0, 0, 3, 4)),
        ("IF(up > 2, 1)", of(None, None, 1, 1)),
        ("IF(up, gaps, 5)", of(None, 10, None, 30)),
        ("IF(SUM(up) > 9, up, gaps)", UP),
        ("FILL(gaps, 7)", of(7, 10, 7, 30)),
        ("FILL(gaps, REPEAT)", of(None, 10, 10, 30)),
        ("FILL(gaps, LINEAR)", of(None, 10, 20, 30)),
        ("FILL(gaps, up)", of(1, 10, 3, 30)),
        ("SUM(METRICS())", of(1, 12, 3, 34)),
        ("AVG(FILL(METRICS(), 0))", of(0.5, 6, 1.5, 17)),
        ('MAX(METRICS("ga"))', GAPS),
        ("MIN([up, gaps, 2.5])", of(1, 2, 2.5, 2.5)),
        ("STDDEV(up)", of(*[math.sqrt(1.25)] * 4)),
        ("METRIC_COUNT(METRICS()) + DATAPOINT_COUNT(gaps)", of(4, 4, 4, 4)),
        ("LAST([up, gaps])", GAPS),
        ("DIFF(gaps)", of(None, None, None, 20)),
        ("RATE(up) * PERIOD(up)", of(None, 1, 1, 1)),
        ("RUNNING_SUM(up)", of(1, 3, 6, 10)),
        ("CEIL(up / 2) + FLOOR(up / 2) + ABS(-up)", of(2, 4, 6, 8)),
        ("LOG10(up - 1)", of(None, 0, math.log10(2), math.log10(3))),
        ("TIME_SERIES(3)", of(3, 3, 3, 3)),
        ("up / 0", {}),
    ],
)
def test_what_an_expression_makes_of_series(text, expected):
    found = calculated(text)
    assert found == pytest.approx(expected)
    assert all(type(value) is float for value in found.values())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("up +", "cannot be understood"),
        ("other * 2", "names other"),
        ("METRICS()", "several series"),
        ("METRICS() * 2", "several series"),
        ("1 < up < 3", "does not know"),
        ("up.real", "does not know"),
        ("'a'", "does not know"),
        ("__import__('os')", "does not know"),
        ("SQRT(up)", "SQRT"),
        ("FILL(gaps, NEAREST)", "names NEAREST"),
        ("-" * 900 + "up", "nested too deeply"),
    ],
)
def test_what_is_no_expression(text, told):
    with pytest.raises(ValidationError, match=told):
        calculated(text)


def test_what_an_expression_needs_to_know():
    assert names("IF(a > 1 && b, FILL(c, REPEAT), SUM(METRICS()))") == {"a", "b", "c"}
