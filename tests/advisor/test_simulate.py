"""The simulation against closed forms, and against what each mechanism must do."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.advisor import arrivals, queueing, search
from fourfold.advisor.prices import shipped
from fourfold.advisor.scenario import Scenario
from fourfold.advisor.simulate.constant import constant
from fourfold.advisor.simulate.outcome import Outcome
from fourfold.advisor.simulate.plans import simulated
from fourfold.advisor.simulate.policies import track_backlog, track_invocations
from fourfold.advisor.simulate.queue import Batching, queue
from fourfold.advisor.simulate.serverless import serverless
from fourfold.advisor.simulate.waking import waking
from fourfold.errors import ValidationException

WITHIN = 0.02
"""Agreement asked for between a simulation and its closed form."""
COUNT = 400_000
SEEDS = (1, 2, 3)


def exponential(mean: float, seed: int) -> np.ndarray:
    return np.random.default_rng(1000 + seed).exponential(mean, COUNT)


def averaged(figure: Callable[[int], float]) -> float:
    return float(np.mean([figure(seed) for seed in SEEDS]))


def test_mm1_mean_wait_and_time_quantiles() -> None:
    def outcome(seed: int) -> Outcome:
        return queue(arrivals.poisson(6, COUNT, seed), exponential(0.1, seed), 1)

    seen = [outcome(seed) for seed in SEEDS]
    mean = float(np.mean([o.wait_s.mean() for o in seen]))
    p95 = float(np.mean([np.percentile(o.latency_s, 95) for o in seen]))
    assert mean == pytest.approx(queueing.mean_wait(6, 0.1), rel=WITHIN)
    assert p95 == pytest.approx(queueing.mm1_time_quantile(6, 0.1, 0.95), rel=WITHIN)


@pytest.mark.parametrize(("rate", "servers"), [(1.4, 2), (5.6, 8)])
def test_mmc_waits_as_erlang_c_says(rate: float, servers: int) -> None:
    seen = [queue(arrivals.poisson(rate, COUNT, s), exponential(1.0, s), servers) for s in SEEDS]
    waiting = float(np.mean([(o.wait_s > 0).mean() for o in seen]))
    mean = float(np.mean([o.wait_s.mean() for o in seen]))
    assert waiting == pytest.approx(queueing.erlang_c(rate, servers), rel=WITHIN)
    assert mean == pytest.approx(queueing.mean_wait(rate, 1.0, servers), rel=WITHIN)


def test_md1_mean_and_distribution_of_the_wait() -> None:
    waits = queue(arrivals.poisson(0.7, 3_000_000, 1), 1.0, 1).wait_s
    assert waits.mean() == pytest.approx(queueing.mg1_mean_wait(0.7, 1.0, 0.0), rel=WITHIN)
    for seconds in (0.0, 0.5, 1.0, 2.5, 5.0):
        assert (waits <= seconds + 1e-9).mean() == pytest.approx(
            queueing.md1_wait_within(0.7, 1.0, seconds), rel=WITHIN
        )


def test_mdc_mean_wait() -> None:
    waits = queue(arrivals.poisson(3.2, 2_000_000, 1), 1.0, 4).wait_s
    assert waits.mean() == pytest.approx(queueing.mdc_mean_wait(3.2, 1.0, 4), rel=WITHIN)


def test_serverless_refuses_as_erlang_b_says() -> None:
    def refused(seed: int) -> float:
        times = arrivals.poisson(8, COUNT, seed)
        return serverless(times, exponential(1.0, seed), max_concurrency=10, cold_s=0).refused / COUNT

    assert averaged(refused) == pytest.approx(queueing.erlang_b(8, 10), rel=WITHIN)


def test_serverless_starts_cold_as_often_as_gaps_are_long() -> None:
    times = arrivals.poisson(0.01, 100_000, 1)
    outcome = serverless(times, 0.0, max_concurrency=1, cold_s=0.0, kept_s=100)
    assert outcome.cold_starts / 100_000 == pytest.approx(math.exp(-1), rel=WITHIN)


def test_provisioned_concurrency_never_starts_cold() -> None:
    times = np.array([0.0, 0.1, 5000.0, 5000.1])
    outcome = serverless(times, 1.0, max_concurrency=5, cold_s=3.0, provisioned=2)
    assert outcome.cold_starts == 0
    assert outcome.latency_s.tolist() == pytest.approx([1.0] * 4)
    third = serverless(np.array([0.0, 0.1, 0.2]), 1.0, max_concurrency=5, cold_s=3.0, provisioned=2)
    assert third.latency_s.tolist() == pytest.approx([1.0, 1.0, 4.0])


def test_a_request_takes_the_warm_instance_that_started_first() -> None:
    times = np.array([0.0, 0.5, 6.0, 6.5])  # the second instance, idle since 1.5, is still there at 6.5
    assert serverless(times, 1.0, max_concurrency=2, cold_s=0.0, kept_s=5.2).cold_starts == 2
    assert serverless(times, 1.0, max_concurrency=2, cold_s=0.0, kept_s=4.9).cold_starts == 3


@given(
    st.lists(st.floats(0, 50), min_size=1, max_size=60),
    st.integers(1, 5),
    st.floats(0.01, 5),
)
def test_the_loop_and_the_running_maximum_agree(gaps: list[float], workers: int, service: float) -> None:
    times = np.cumsum(gaps)
    looped = queue(times, np.full(len(times), service), workers)
    assert looped.latency_s == pytest.approx(constant(times, service, workers).latency_s)


@given(st.lists(st.floats(0, 3), min_size=1, max_size=80), st.integers(1, 4), st.integers(0, 5))
def test_every_request_is_answered_or_refused(gaps: list[float], workers: int, bound: int) -> None:
    times = np.cumsum(gaps)
    outcome = queue(times, 1.0, workers, queue_length=bound)
    assert outcome.answered + outcome.refused == len(times)
    answered = outcome.wait_s[~np.isnan(outcome.wait_s)]
    assert (answered >= 0).all()
    assert (answered <= (bound / workers + 1) * 1.0 + 1e-9).all()


def test_a_batch_takes_what_waits_and_no_more_than_its_maximum() -> None:
    batching = Batching(most=3, fixed_s=1.0, each_s=0.1)
    outcome = queue(np.array([0.0, 0.1, 0.2, 0.3, 0.4]), 0.0, 1, batching=batching)
    # The first goes alone; three of the four that gathered go next; the last goes alone.
    assert outcome.latency_s.tolist() == pytest.approx([1.1, 2.3, 2.2, 2.1, 3.1])


def test_a_batch_may_wait_for_more() -> None:
    batching = Batching(most=4, fixed_s=1.0, each_s=0.0, delay_s=0.5)
    outcome = queue(np.array([0.0, 0.2, 0.4, 2.0]), 0.0, 1, batching=batching)
    assert outcome.wait_s.tolist() == pytest.approx([0.5, 0.3, 0.1, 0.5])


def test_a_request_expires_when_it_has_waited_too_long() -> None:
    outcome = queue(np.array([0.0, 0.1, 0.2]), 10.0, 1, ttl_s=15)
    assert outcome.expired == 1
    assert outcome.answered == 2


def test_capacity_comes_after_the_delay_and_goes_when_it_is_idle() -> None:
    times = np.arange(0.25, 3600, 0.5)
    policy = track_invocations(per_instance_minute=60, floor=1, top=3)
    outcome = queue(times, 0.9, 1, policy=policy, start_s=120)
    assert outcome.peak_instances == 2
    # A second instance is wished for after the first minute and up at second 180. The 200th request, of second 100, is
    # the last that the first instance begins alone: it waits longest.
    assert outcome.wait_s.max() == pytest.approx(80, abs=1)
    assert outcome.latency_s[-1] == pytest.approx(0.9)


def test_from_zero_and_back() -> None:
    times = np.array([30.0, 20_000.0])
    policy = track_backlog(per_instance=2, floor=0, top=4, cool_s=600)
    outcome = queue(times, 5.0, 1, instances=0, policy=policy, start_s=300)
    assert outcome.answered == 2
    assert 300 <= outcome.wait_s.min() <= outcome.wait_s.max() <= 361  # a tick, then the start
    assert 600 <= outcome.instance_seconds <= 1000  # up for the first, idle for ten minutes, gone until the second


def test_arrivals_are_repeatable_sorted_and_as_many_as_asked() -> None:
    assert arrivals.poisson(5, 100, 7).tolist() == arrivals.poisson(5, 100, 7).tolist()
    day = arrivals.over_day([0.0] * 12 + [10.0] * 12, seed=3)
    assert (np.diff(day) >= 0).all()
    assert day.min() >= 12 * 3600
    assert len(day) == pytest.approx(12 * 3600 * 10, rel=WITHIN)


def test_a_trace_is_read(tmp_path: Path) -> None:
    trace = tmp_path / "arrivals.csv"
    trace.write_text("time\n12\n10.5,GET\n30\n")
    assert arrivals.read(trace).tolist() == [0.0, 1.5, 19.5]
    trace.write_text("time\n12\nsoon\n")
    with pytest.raises(ValidationException, match="line 3"):
        arrivals.read(trace)


@pytest.mark.parametrize("mode", ["real-time", "asynchronous", "serverless", "batch"])
def test_a_plan_keeps_what_it_promises(mode: search.Mode) -> None:
    scenario = Scenario(requests_per_day=200_000, processing_s=0.1, pattern="diurnal", payload_mb=0.1, memory_gb=1)
    plan = search.plan(scenario, mode, shipped())
    seen = simulated(plan).latency_ms()
    assert plan.feasible
    assert seen["p50"] == pytest.approx(plan.latency_ms["p50"], rel=0.15)
    assert seen["p99"] <= plan.latency_ms["p99"] * 1.15
    assert seen == simulated(plan).latency_ms()


def test_a_worker_is_woken_by_what_finds_none_and_goes_when_nothing_comes() -> None:
    arrivals = np.array([10.0, 10.5, 30.0, 100.0])
    seen = waking(arrivals, 1.0, start_s=2.0, kept_s=20.0)
    assert seen.latency_s.tolist() == [3.0, 3.5, 1.0, 3.0]  # woken; behind the first; still there; woken again
    assert seen.cold_starts == 2
    assert seen.instance_seconds == (31 + 20 - 10) + (103 - 100)
    assert seen.busy_seconds == 4.0


def test_a_worker_that_is_always_there_is_a_plain_queue() -> None:
    times = arrivals.poisson(0.7, 50_000, 3)
    woken = waking(times, 1.0, start_s=0.0, kept_s=math.inf)
    assert np.allclose(woken.latency_s, constant(times, 1.0, 1).latency_s)
