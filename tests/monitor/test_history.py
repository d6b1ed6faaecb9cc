"""Datapoints: what statistics say of values, and what the history keeps."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.clock import ManualClock
from fourfold.datapoints import Datapoint, Statistics, metric
from fourfold.monitor.history import FINE_KEPT, History
from fourfold.store import Store, datapoints
from fourfold.store.migrate import upgrade

CALLS = metric("AWS/SageMaker", "Invocations", {"VariantName": "b", "EndpointName": "a"})
values = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)


@pytest.fixture
def store(tmp_path):
    store = Store(f"sqlite:///{tmp_path}/x.db")
    upgrade(store)
    yield store
    store.close()


@given(values, values)
def test_statistics_of_parts_are_those_of_the_whole(first, second):
    merged = Statistics.of(*first)
    merged.merge(Statistics.of(*second))
    whole = Statistics.of(*first, *second)
    for name in ("Sum", "Minimum", "Maximum", "SampleCount", "Average", "p50", "p99"):
        assert merged.value(name) == pytest.approx(whole.value(name))


def test_a_percentile_is_right_within_a_few_percent():
    numbers = [random.Random(1).lognormvariate(3, 1) for _ in range(10_000)]
    statistics = Statistics.of(*numbers)
    for percent in (1, 50, 90, 99, 99.9):
        exact = sorted(numbers)[int(percent * 100) - 1]
        assert statistics.percentile(percent) == pytest.approx(exact, rel=0.03)


def test_a_set_without_its_values_has_no_percentile_and_takes_it_from_others():
    statistics = Statistics(3, 6.0, 1.0, 3.0)
    assert statistics.value("p50") is None
    other = Statistics.of(2.0)
    other.merge(statistics)
    assert (other.value("p50"), other.value("Average")) == (None, 2.0)


async def test_periods_count_from_the_start_and_leave_out_what_has_no_value(store):
    history = History(store, ManualClock(6065.0))
    for at, value in ((6060, 1.0), (6069, 2.0), (6075, 4.0), (6190, 8.0)):
        history.put(Datapoint(CALLS, Statistics.of(value)), at)
    found = [(at, s.total) for at, s in await history.read(CALLS, 6060, 6240, 10)]
    assert found == [(6060, 3.0), (6070, 4.0), (6190, 8.0)]
    found = [(at, s.total) for at, s in await history.read(CALLS, 6060, 6240, 60)]
    assert found == [(6060, 7.0), (6180, 8.0)]
    assert await history.read(metric("x", "y"), 0, 9999, 60) == []


async def test_what_was_flushed_is_there_after_a_crash_and_counts_once(store):
    clock = ManualClock(6000.0)
    history = History(store, clock)
    history.put(Datapoint(CALLS, Statistics.of(1.0, 3.0), "Count"), 6061)
    await history.flush()
    history.put(Datapoint(CALLS, Statistics.of(5.0), "Count"), 6065)
    await history.flush()
    again = History(store, ManualClock(6100.0))
    (at, statistics) = (await again.read(CALLS, 6000, 6600, 60))[0]
    assert (at, statistics.total, statistics.count, statistics.maximum) == (6060, 9.0, 3, 5.0)
    again.put(Datapoint(CALLS, Statistics.of(7.0), "Count"), 6100)  # of a minute that began before the restart
    assert (await again.read(CALLS, 6000, 6600, 60))[0][1].total == 16.0
    assert [(known.metric, known.unit) for known in await again.known()] == [(CALLS, "Count")]


async def test_memory_holds_an_hour_and_the_rest_is_read_from_the_store(store):
    clock = ManualClock(6000.0)
    history = History(store, clock)
    history.put(Datapoint(CALLS, Statistics.of(1.0)), 6060)
    await clock.advance(FINE_KEPT + 200)
    history.put(Datapoint(CALLS, Statistics.of(2.0)), clock.now())
    await history.flush()
    assert len(history._fine[CALLS]) == 1
    assert sum(s.total for _, s in await history.read(CALLS, 6000, clock.now() + 60, 60)) == 3.0


async def test_everybody_who_flushes_waits_until_it_is_written(store):
    history = History(store, ManualClock(6000.0))
    for number in range(500):
        history.put(Datapoint(metric("shop", str(number)), Statistics.of(1.0)), 6000)
    await asyncio.gather(history.flush(), _flushed(history, store))


async def _flushed(history, store) -> None:
    await asyncio.sleep(0)  # the other one has begun
    await history.flush()
    assert len(store.run_now(datapoints.known)) == 500
