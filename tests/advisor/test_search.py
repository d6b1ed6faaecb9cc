"""The cheapest plan of a mode, what stands against it, and what a choice trades away."""

from __future__ import annotations

import itertools
from decimal import Decimal
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.advisor import search, tradeoffs
from fourfold.advisor.prices import shipped
from fourfold.advisor.scenario import MODES, Mode, Scenario
from fourfold.errors import ValidationException

PRICES = shipped()
FRAUD = Scenario(
    id="fraud", latency_p99_ms=80, requests_per_second=300, payload_mb=0.005, processing_s=0.01, pattern="steady",
    memory_gb=1, strict_latency=True,
)  # fmt: skip
CHATBOT = Scenario(requests_per_day=25, pattern="intermittent", payload_mb=0.02, processing_s=0.3, memory_gb=1)
VIDEO = Scenario(payload_mb=750, processing_s=1320, gpu=True, pattern="intermittent", requests_per_day=20, memory_gb=8)
SEGMENTS = Scenario(rows=900_000, processing_s=0.02, deadline_s=5 * 3600, whole_dataset=True, runs_per_month=30)


def test_steady_traffic_gets_instances_for_its_peak() -> None:
    plan = search.plan(FRAUD, "real-time", PRICES)
    assert plan.feasible
    assert plan.sizing is not None
    # 300/s × 1.2 × 0.01 s = 3.6 busy vCPUs; at most 80 % of the vCPUs may be busy.
    assert plan.sizing.count * plan.sizing.concurrency >= 3.6 / 0.8
    assert plan.latency_ms["p99"] <= 80
    assert {line.unit for line in plan.cost.lines} == {"instance-hour", "GB"}


def test_a_rare_question_costs_cents_without_a_server_and_dollars_with_one() -> None:
    plans = search.plans(CHATBOT, PRICES)
    assert plans["serverless"].cost.total < Decimal("0.10")
    assert plans["real-time"].cost.total > 30
    assert search.best(CHATBOT, PRICES, ("real-time", "serverless")).mode == "serverless"


def test_long_gpu_work_scales_to_zero() -> None:
    plan = search.plan(VIDEO, "asynchronous", PRICES)
    assert plan.feasible
    assert plan.configuration["RegisterScalableTarget"]["MinCapacity"] == 0
    assert plan.cost.total < search.plan(VIDEO, "real-time", PRICES).cost.total / 5
    reason = search.plan(VIDEO, "serverless", PRICES).reasons[0]
    assert reason.code == "accelerator"


def test_a_batch_gets_as_many_instances_as_its_deadline_asks_for() -> None:
    slow = search.plan(SEGMENTS, "batch", PRICES)
    fast = search.plan(Scenario(**{**SEGMENTS.__dict__, "deadline_s": 600.0}), "batch", PRICES)
    assert slow.feasible
    assert fast.feasible
    assert slow.sizing is not None
    assert fast.sizing is not None
    assert fast.sizing.count * fast.sizing.concurrency > slow.sizing.count * slow.sizing.concurrency
    assert fast.latency_ms["p99"] <= 600_000


@pytest.mark.parametrize(
    ("scenario", "mode", "code", "words"),
    [
        (Scenario(latency_p99_ms=50, payload_mb=2000), "real-time", "latency", "smaller payload"),
        (Scenario(latency_p99_ms=50, processing_s=1), "real-time", "latency", "faster model"),
        (Scenario(budget_usd=5, requests_per_day=1e6), "real-time", "budget", "raise it by"),
        (Scenario(memory_gb=11), "serverless", "memory", "6 GB"),
        (Scenario(peak_requests_per_second=1e4, processing_s=1), "serverless", "concurrency", "200"),
        (Scenario(concurrency=500), "serverless", "concurrency", "500 requests"),
        (Scenario(gpu=True, memory_gb=5000), "real-time", "capacity", "5000 GB"),
        (Scenario(latency_p99_ms=100, rows=10.0), "batch", "latency", "run has ended"),
        (Scenario(rows=1e9, processing_s=5, deadline_s=400), "batch", "capacity", "carries the load"),
        (Scenario(deadline_s=400, processing_s=500, requests_per_day=10), "asynchronous", "deadline", "allow"),
    ],
)
def test_where_nothing_fits_the_reason_says_what_to_relax(
    scenario: Scenario, mode: Mode, code: str, words: str
) -> None:
    plan = search.plan(scenario, mode, PRICES)
    assert not plan.feasible
    assert code in [reason.code for reason in plan.reasons]
    assert words in " ".join(reason.text for reason in plan.reasons)


def test_cold_starts_that_are_not_tolerated_are_paid_for() -> None:
    cold = search.plan(CHATBOT, "serverless", PRICES)
    warm = search.plan(
        Scenario(**{**CHATBOT.__dict__, "latency_p99_ms": 1000.0, "tolerates_cold_start": False}), "serverless", PRICES
    )
    assert warm.configuration["CreateEndpointConfig"]["ProductionVariants"][0]["ServerlessConfig"][
        "ProvisionedConcurrency"
    ]
    assert warm.latency_ms["p99"] < 1000 < cold.latency_ms["p99"]
    assert warm.cost.total > cold.cost.total


def test_requests_that_come_at_once_find_room() -> None:
    scenario = Scenario(concurrency=15, requests_per_day=100, processing_s=0.4, pattern="intermittent", memory_gb=1)
    serverless = search.plan(scenario, "serverless", PRICES).sizing
    realtime = search.plan(scenario, "real-time", PRICES).sizing
    assert serverless is not None
    assert realtime is not None
    assert serverless.max_concurrency == 15
    assert realtime.count * realtime.concurrency >= 15


def test_a_data_set_of_so_many_gigabytes_is_counted_in_records() -> None:
    plan = search.plan(Scenario(dataset_gb=10, payload_mb=0.1, processing_s=0.1, runs_per_month=1), "batch", PRICES)
    assert any("100,000 records" in said for said in plan.assumptions)


def test_a_region_without_prices_is_estimated_aloud_and_one_that_does_not_exist_is_refused() -> None:
    plan = search.plan(Scenario(region="ap-southeast-2"), "real-time", PRICES)
    assert any("us-east-1" in said for said in plan.assumptions)
    with pytest.raises(ValidationException, match="mars-1"):
        search.plan(Scenario(region="mars-1"), "real-time", PRICES)


scenarios = st.builds(
    Scenario,
    requests_per_day=st.floats(1, 1e7),
    processing_s=st.floats(0.001, 30),
    payload_mb=st.floats(0.001, 20),
    memory_gb=st.floats(0.1, 100),
    latency_p99_ms=st.none() | st.floats(20, 60_000),
    pattern=st.sampled_from(["steady", "diurnal", "spiky", "intermittent", "scheduled"]),
    gpu=st.booleans(),
    rows=st.none() | st.floats(1, 1e7),
    budget_usd=st.none() | st.floats(1, 10_000),
    deadline_s=st.none() | st.floats(60, 1e6),
)


def requests_of(configuration: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (op, m) for op, members in configuration.items() for m in (members if isinstance(members, list) else [members])
    ]


@pytest.fixture(scope="module")
def shapes() -> dict[str, Any]:
    session = botocore.session.get_session()
    models = [session.get_service_model(name) for name in ("sagemaker", "application-autoscaling")]
    return {op: m.operation_model(op).input_shape for m in models for op in m.operation_names}


@settings(max_examples=60, deadline=None)
@given(scenario=scenarios, mode=st.sampled_from(MODES))
def test_a_plan_is_deterministic_its_members_valid_and_its_verdict_founded(
    scenario: Scenario, mode: Mode, shapes: dict[str, Any]
) -> None:
    plan = search.plan(scenario, mode, PRICES)
    assert plan == search.plan(scenario, mode, PRICES)
    assert plan.feasible == (not plan.reasons)
    if plan.feasible and scenario.budget_usd is not None:
        assert plan.cost.total <= Decimal(scenario.budget_usd)
    for operation, members in requests_of(plan.configuration):
        report = ParamValidator().validate(members, shapes[operation])
        assert not report.has_errors(), report.generate_report()


@settings(max_examples=30, deadline=None)
@given(scenario=scenarios, factor=st.floats(1, 20), mode=st.sampled_from(["real-time", "asynchronous"]))
def test_more_requests_never_cost_less(scenario: Scenario, factor: float, mode: Mode) -> None:
    one = tradeoffs.at_rate(scenario, scenario.requests_per_day or 1)
    more = tradeoffs.at_rate(scenario, (scenario.requests_per_day or 1) * factor)
    before, after = (search.plan(s, mode, PRICES) for s in (one, more))
    if before.feasible and after.feasible:
        assert after.cost.total >= before.cost.total * Decimal("0.999999")


def test_the_frontier_is_not_beaten_by_any_configuration() -> None:
    scenario = Scenario(requests_per_day=1e6, processing_s=0.1, pattern="steady")
    every = tradeoffs.points(scenario, PRICES)
    best = tradeoffs.frontier(scenario, PRICES)
    assert [p.usd for p in best] == sorted(p.usd for p in best)
    assert [p.p99_ms for p in best] == sorted((p.p99_ms for p in best), reverse=True)
    for point in every:
        assert any(b.usd <= point.usd and b.p99_ms <= point.p99_ms for b in best)


def test_at_a_crossing_the_two_modes_cost_the_same() -> None:
    scenario = Scenario(processing_s=0.1, payload_mb=0.01, memory_gb=3, pattern="steady")
    crossing = tradeoffs.crossings(scenario, PRICES, ("real-time", "serverless"))[0]
    assert (crossing.below, crossing.above) == ("serverless", "real-time")
    assert "serverless is cheaper below" in crossing.text
    below, above = (
        search.plan(tradeoffs.at_rate(scenario, crossing.requests_per_day), mode, PRICES).cost.total
        for mode in (crossing.below, crossing.above)
    )
    assert float(below) == pytest.approx(float(above), rel=0.02)


def test_a_mixed_plan_beats_both_of_its_parts() -> None:
    scenario = Scenario(
        processing_s=0.1, payload_mb=0.05, pattern="spiky", requests_per_day=5e6, memory_gb=2, latency_p99_ms=500
    )
    mix = tradeoffs.mixed(scenario, PRICES)
    assert mix is not None
    assert 0 < mix.overflow < 1
    for mode in ("real-time", "serverless"):
        assert mix.cost.total < search.plan(scenario, mode, PRICES).cost.total  # type: ignore[arg-type]
    assert set(mix.configuration) == {"base", "overflow"}
    assert tradeoffs.mixed(CHATBOT, PRICES) is None


def test_the_base_of_a_mixed_plan_is_what_is_kept_warm_and_its_lines_add_up() -> None:
    """Where cold starts are not tolerated, serverless alone pays for warm capacity; above a base it need not."""
    scenario = Scenario(
        processing_s=0.1, payload_mb=0.05, pattern="spiky", requests_per_day=5e6, memory_gb=2, latency_p99_ms=500,
        tolerates_cold_start=False,
    )  # fmt: skip
    mix = tradeoffs.mixed(scenario, PRICES)
    assert mix is not None
    (variant,) = mix.configuration["overflow"]["CreateEndpointConfig"]["ProductionVariants"]
    assert "ProvisionedConcurrency" not in variant["ServerlessConfig"]
    (base,) = mix.configuration["base"]["CreateEndpointConfig"]["ProductionVariants"]
    assert (base["InstanceType"], base["InitialInstanceCount"]) == (mix.instance, mix.count)
    alone = search.plan(scenario, "real-time", PRICES)
    hourly = alone.sizing.instance.usd_per_hour  # type: ignore[union-attr]
    seconds = Decimal(str(mix.overflow * 5e6 * 730 / 24 * 0.1))
    data = Decimal(str(5e6 * 730 / 24 * 0.06 * 1e6 / 2**30 * 0.016))
    by_hand = mix.count * 730 * hourly + seconds * 2 * Decimal("0.00002") + data
    assert float(mix.cost.total) == pytest.approx(float(by_hand), rel=1e-6)
    assert mix.saves_usd > 0


@settings(max_examples=8, deadline=None)
@given(seconds=st.floats(0.02, 2), memory=st.floats(0.5, 5), pattern=st.sampled_from(["steady", "intermittent"]))
def test_a_break_even_point_is_where_the_other_mode_becomes_the_cheaper(
    seconds: float, memory: float, pattern: Any
) -> None:
    scenario = Scenario(processing_s=seconds, payload_mb=0.01, memory_gb=memory, pattern=pattern)
    modes: tuple[Mode, ...] = ("real-time", "serverless")
    for crossing in tradeoffs.crossings(scenario, PRICES, modes):
        for factor, mode in ((0.98, crossing.below), (1.02, crossing.above)):
            at = tradeoffs.at_rate(scenario, crossing.requests_per_day * factor)
            plans = [search.plan(at, one, PRICES) for one in modes]
            assert min((p for p in plans if p.feasible), key=lambda p: p.cost.total).mode == mode


@settings(max_examples=25, deadline=None)
@given(scenario=scenarios)
def test_a_frontier_falls_in_latency_as_it_rises_in_cost(scenario: Scenario) -> None:
    best = tradeoffs.frontier(scenario, PRICES)
    for cheaper, dearer in itertools.pairwise(best):
        assert cheaper.usd < dearer.usd
        assert cheaper.p99_ms > dearer.p99_ms
