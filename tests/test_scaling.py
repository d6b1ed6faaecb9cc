"""Scaling decisions, as functions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.scaling import fault_of, needed, step_of, stepped, tracked

counts = st.integers(0, 1000)
series = st.lists(st.floats(0, 1e6), max_size=12)
targets = st.floats(0.01, 1e6)


@given(counts, series, targets)
def test_tracking_moves_towards_the_target_and_only_for_a_reason(current, values, target):
    more = tracked(current=current, values=values, target=target, out=True)
    less = tracked(current=current, values=values, target=target, out=False)
    assert less <= current <= more
    if more > current:
        assert values[-1] > target or not current
    if less < current:
        assert max(values[-4:]) < target


@given(st.integers(1, 1000), st.floats(0, 1e6), targets)
def test_what_is_needed_brings_the_value_to_its_target(current, value, target):
    wish = needed(current, value, target)
    if wish:
        assert current * value / wish <= target * 1.001
    assert wish <= current * value / target + 1


@given(counts, counts)
def test_more_load_never_calls_for_less(low, high):
    low, high = sorted((low, high))
    for out in (True, False):
        calls = [tracked(current=5, values=[float(v)] * 12, target=100.0, out=out) for v in (low, high)]
        assert calls == sorted(calls)


@pytest.mark.parametrize(
    ("current", "kind", "adjustment", "least", "after"),
    [
        (4, "ChangeInCapacity", 2, 0, 6),
        (4, "ChangeInCapacity", -9, 0, 0),
        (4, "ExactCapacity", 7, 0, 7),
        (4, "PercentChangeInCapacity", 10, 0, 5),  # 0.4 is rounded up to 1
        (15, "PercentChangeInCapacity", 10, 0, 16),  # 1.5 down
        (15, "PercentChangeInCapacity", -10, 0, 14),
        (4, "PercentChangeInCapacity", 10, 2, 6),
        (0, "PercentChangeInCapacity", 50, 0, 0),
    ],
)
def test_a_step(current, kind, adjustment, least, after):
    assert stepped(current=current, kind=kind, adjustment=adjustment, least=least) == after


def test_bounds_belong_to_one_step():
    up = [
        {"MetricIntervalLowerBound": 0.0, "MetricIntervalUpperBound": 10.0, "ScalingAdjustment": 1},
        {"MetricIntervalLowerBound": 10.0, "ScalingAdjustment": 2},
    ]
    assert [(step_of(up, over) or {}).get("ScalingAdjustment") for over in (-1, 0, 9, 10, 99)] == [None, 1, 1, 2, 2]
    down = [{"MetricIntervalUpperBound": 0.0, "ScalingAdjustment": -1}]
    assert step_of(down, -5.0) == down[0]


@pytest.mark.parametrize(
    ("spans", "fault"),
    [
        ([(None, None)], ""),
        ([(0, 10), (10, None), (None, 0)], ""),
        ([(0, 20), (10, None)], "overlap"),
        ([(None, None), (0, None)], "overlap"),
        ([(0, 5), (10, None)], "gap"),
        ([(10, 5)], "less than"),
    ],
)
def test_steps_that_cannot_be_followed(spans, fault):
    names = ("MetricIntervalLowerBound", "MetricIntervalUpperBound")
    steps = [{name: bound for name, bound in zip(names, span, strict=True) if bound is not None} for span in spans]
    assert fault in fault_of(steps)
    assert bool(fault) == bool(fault_of(steps))
