"""`fourfold cost`: usages priced by hand, the properties of any bill, and bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.advisor import cost, usage
from fourfold.advisor.prices import shipped
from fourfold.errors import ValidationException


def bill(*usages: dict[str, Any]) -> cost.Cost:
    return cost.price(usage.parse(list(usages)), shipped())


def total(*usages: dict[str, Any]) -> Decimal:
    return bill(*usages).total


# Each figure below was worked out by hand from the price table.
BY_HAND: list[tuple[str, dict[str, Any], str]] = [
    ("always on", {"type": "real-time", "instance_type": "ml.m5.xlarge", "hours": 730}, "167.9"),
    (
        "office hours on two",
        {"type": "real-time", "instance_type": "ml.c5.large", "instance_count": 2, "hours_per_day": 10, "days": 22},
        "44.88",
    ),
    (
        "storage and data",
        {"type": "real-time", "storage_gb_month": 50, "data_in_gb": 100, "data_out_gb": 25},
        "9",  # 50 × 0.14 + 125 × 0.016
    ),
    ("Ireland", {"type": "real-time", "region": "eu-west-1", "instance_type": "ml.m5.xlarge", "hours": 100}, "25.7"),
    ("Ireland's disk", {"type": "real-time", "region": "eu-west-1", "storage_gb_month": 10}, "1.54"),
    (
        "Ohio, component not named by the source",
        {"type": "batch", "region": "us-east-2", "instance_type": "ml.g4dn.2xlarge", "hours": 2},
        "1.88",
    ),
    (
        "asynchronous by items",
        {"type": "asynchronous", "instance_type": "ml.g4dn.xlarge", "items": 3600, "seconds_per_item": 10},
        "7.364",
    ),
    (
        "batch: 3 instances, 4 at once, 5 minutes of startup each, 30 runs",
        {
            "type": "batch",
            "instance_type": "ml.m5.large",
            "items": 720_000,
            "seconds_per_item": "0.1",
            "instance_count": 3,
            "concurrency": 4,
            "startup_minutes": 5,
            "runs_per_month": 30,
        },
        "18.1125",  # (20 h / 4 + 3 × 5/60 h) × 30 × 0.115
    ),
    (
        "batch by hours and runs",
        {
            "type": "batch", "instance_type": "ml.m5.xlarge", "instance_count": 2, "hours": "1.5",
            "startup_minutes": 3, "runs_per_month": 4,
        },
        "2.852",  # (2 × 1.5 + 2 × 0.05) × 4 × 0.23
    ),
    ("batch is not charged for data", {"type": "batch", "data_in_gb": 100}, "0"),
    (
        "serverless by requests",
        {"type": "serverless", "memory_mb": 2048, "requests": 1_000_000, "duration_ms": 120, "data_in_gb": 1},
        "4.816",  # 120,000 s × 2 GB × 0.00002 + 0.016
    ),
    ("serverless by seconds", {"type": "serverless", "memory_mb": 6144, "compute_seconds": 5000}, "0.6"),
    (
        "kept warm",
        {"type": "serverless", "memory_mb": 2048, "provisioned_concurrency": 2, "provisioned_hours": 730},
        "52.56",  # 5,256,000 s × 0.00001: the reading that the price comes from
    ),
    (
        "kept warm and working",
        {
            "type": "serverless", "memory_mb": 2048,
            "provisioned_usage_seconds": 1000, "provisioned_duration_seconds": 5_256_000,
        },
        "122.4748",  # 0.01 + 5,256,000 × 0.0000233
    ),
    ("free seconds", {"type": "serverless", "memory_mb": 1024, "compute_seconds": 250_000, "free_tier": True}, "2"),
    (
        "free hours",
        {"type": "real-time", "instance_type": "ml.m5.xlarge", "hours": 200, "free_tier": True},
        "17.25",  # 75 × 0.23
    ),
    (
        "no free hours for asynchronous",
        {"type": "asynchronous", "instance_type": "ml.m5.xlarge", "hours": 200, "free_tier": True},
        "46",
    ),
    ("SQS, 65 KB are two requests", {"type": "supporting", "sqs_requests": 1_000_000, "message_kb": 65}, "0.8"),
    ("SQS, 64 KB are one", {"type": "supporting", "sqs_requests": 1_000_000, "message_kb": 64}, "0.4"),
    ("SQS FIFO", {"type": "supporting", "sqs_requests": 2_000_000, "fifo": True}, "1"),
    ("SQS tiers", {"type": "supporting", "sqs_requests": 250_000_000_000}, "82000"),
    ("SQS free", {"type": "supporting", "sqs_requests": 1_500_000, "free_tier": True}, "0.2"),
    ("SNS", {"type": "supporting", "sns_publishes": 3_000_000, "message_kb": 256}, "6"),
    (
        "SNS FIFO: publishes and payload",
        {"type": "supporting", "sns_publishes": 1_048_576, "message_kb": 1, "fifo": True},
        "0.3315728",  # 1.048576 × 0.30 + 1 GB × 0.017
    ),
    ("schedules", {"type": "supporting", "scheduler_invocations": 2_000_000}, "2"),
    ("schedules, free", {"type": "supporting", "scheduler_invocations": 14_500_000, "free_tier": True}, "0.5"),
    ("events", {"type": "supporting", "eventbridge_events": 250_000}, "0.25"),
    ("S3", {"type": "supporting", "s3_put": 10_000, "s3_get": 10_000, "s3_gb_month": 100}, "2.354"),
    ("logs and images", {"type": "supporting", "logs_gb": 4, "ecr_gb_month": 12}, "3.2"),
    (
        "own price",
        {
            "type": "real-time", "hours": 10, "data_in_gb": 2,
            "price_overrides": {"usd_per_hour": 3, "usd_per_gb": "0.5"},
        },
        "31",
    ),
    (
        "own price in a region without any",
        {"type": "real-time", "region": "ap-south-1", "hours": 10, "price_overrides": {"usd_per_hour": "0.25"}},
        "2.5",
    ),
    (
        "own GB-second",
        {
            "type": "serverless", "memory_mb": 3072, "compute_seconds": 100,
            "price_overrides": {"usd_per_gb_second": "0.01"},
        },
        "3",
    ),
    (
        "own GB prices are the model's where there is a model",
        {
            "type": "real-time", "data_in_gb": 10, "storage_gb_month": 10, "logs_gb": 2, "ecr_gb_month": 5,
            "price_overrides": {"usd_per_gb": "0.02", "usd_per_gb_month": "0.1"},
        },
        "2.7",  # 10 × 0.02 + 10 × 0.1 + 2 × 0.50 + 5 × 0.10
    ),
    (
        "own GB prices around it",
        {
            "type": "supporting", "logs_gb": 2, "s3_gb_month": 10, "ecr_gb_month": 5,
            "price_overrides": {"usd_per_gb": "0.3", "usd_per_gb_month": "0.2"},
        },
        "3.6",  # 2 × 0.3 + 15 × 0.2
    ),
    (
        "own price of one kind of request, and of all others",
        {
            "type": "supporting", "sqs_requests": 2_000_000, "eventbridge_events": 3_000_000,
            "price_overrides": {"usd_per_million": "0.1", "usd_per_million_sqs_requests": "0.2"},
        },
        "0.7",
    ),
    (
        "own prices of provisioned concurrency",
        {
            "type": "serverless", "memory_mb": 4096, "compute_seconds": 10, "provisioned_usage_seconds": 100,
            "provisioned_duration_seconds": 1000,
            "price_overrides": {
                "usd_per_second": 1, "usd_per_provisioned_usage_second": "0.1",
                "usd_per_provisioned_duration_second": "0.01",
            },
        },
        "30",
    ),
    (
        "free requests are taken before the tiers",
        {"type": "supporting", "sqs_requests": 100_000_500_000, "message_kb": 1, "free_tier": True},
        "39999.75",  # 99,999 million × 0.40 + half a million × 0.30
    ),
    ("no free chunks without a free tier", {"type": "supporting", "sns_publishes": 500_000, "message_kb": 129}, "0.75"),
    # The examples of AWS's own pricing page, at this table's prices.
    (
        "the page's real-time endpoint: two machines all of a month with 31 days, 100 MB in and 10 MB out a day",
        {
            "type": "real-time", "instance_type": "ml.c5.xlarge", "instance_count": 2, "hours_per_day": 24, "days": 31,
            "data_in_gb": "3.1", "data_out_gb": "0.31",
        },
        "303.60656",  # 1,488 h × 0.204 + 3.41 GB × 0.016
    ),
    (
        "the page's asynchronous endpoint: two busy hours and half an hour of cooling down a day, 4 GB of disk",
        {
            "type": "asynchronous", "instance_type": "ml.c5.xlarge", "hours_per_day": "2.5", "days": 31,
            "storage_gb_month": "0.4", "data_in_gb": "0.31", "data_out_gb": "0.31",
        },
        "15.87592",  # 77.5 h × 0.204 + 0.4 × 0.14 + 0.62 GB × 0.016
    ),
    (
        "the page's transform job: four runs of a quarter of an hour on three machines",
        {"type": "batch", "instance_type": "ml.m5.4xlarge", "instance_count": 3, "hours": "0.25", "runs_per_month": 4},
        "2.766",  # 3 h × 0.922
    ),
    (
        "the page's payroll chatbot: 100 kept warm 8 hours on 5 days, 10 million calls there, 3 million on demand",
        {
            "type": "serverless", "memory_mb": 2048, "provisioned_concurrency": 100, "provisioned_hours": 40,
            "provisioned_duration_seconds": 1_000_000, "requests": 3_000_000, "duration_ms": 100, "data_in_gb": 13,
        },
        "179.508",  # 14,400,000 s × 0.00001 + 1,000,000 s × 0.0000233 + 300,000 s × 0.00004 + 13 GB × 0.016
    ),
    ("nothing", {"type": "supporting"}, "0"),
]  # fmt: skip


@pytest.mark.parametrize(("stated", "usd"), [(u, t) for _, u, t in BY_HAND], ids=[name for name, _, _ in BY_HAND])
def test_bills_worked_out_by_hand(stated: dict[str, Any], usd: str) -> None:
    assert total(stated) == Decimal(usd)


def test_quantity_times_price_is_cost_and_lines_add_up_exactly() -> None:
    answer = bill(*(stated for _, stated, _ in BY_HAND)).plain()
    lines = answer["lines"]
    assert isinstance(lines, list)
    for line in lines:
        assert Decimal(line["quantity"]) * Decimal(line["price_usd"]) == Decimal(line["cost_usd"])
        assert line["source"]
    assert sum(Decimal(line["cost_usd"]) for line in lines) == Decimal(str(answer["total_usd"]))


def test_free_amounts_are_an_accounts_and_go_to_the_dearest_first() -> None:
    small = {"type": "serverless", "memory_mb": 1024, "compute_seconds": 100_000, "free_tier": True}
    large = {"type": "serverless", "memory_mb": 4096, "compute_seconds": 100_000, "free_tier": True}
    # 150,000 free seconds: all of the large one and half of the small one.
    assert total(small, large) == total(large, small) == Decimal(1)


figures = st.decimals(0, 10**7, places=3)
counts = st.integers(1, 20)
instance_types = st.sampled_from(["ml.m5.large", "ml.m5.xlarge", "ml.c6i.2xlarge", "ml.g5.xlarge"])
flags = st.booleans()


@st.composite
def usages(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(usage.TYPES))
    stated: dict[str, Any] = {"type": kind, "free_tier": draw(flags)}
    if kind in usage.INSTANCES:
        stated |= {"instance_type": draw(instance_types), "instance_count": draw(counts)}
        stated |= draw(
            st.one_of(
                st.fixed_dictionaries({"hours": figures}),
                st.fixed_dictionaries({"hours_per_day": st.decimals(0, 24, places=2), "days": figures}),
                st.fixed_dictionaries({"items": figures, "seconds_per_item": figures, "concurrency": counts}),
            )
        )
        stated["startup_minutes"] = draw(figures)
    elif kind == "serverless":
        stated |= {"memory_mb": draw(st.sampled_from(usage.SERVERLESS_MEMORY_MB)), "compute_seconds": draw(figures)}
        stated["provisioned_usage_seconds"] = draw(figures)
    else:
        stated |= {
            member: draw(figures) for member in draw(st.sets(st.sampled_from(sorted(usage.SERVICES)), max_size=4))
        }
        stated |= {"message_kb": draw(st.decimals(0, 1024, places=1)), "fifo": draw(flags)}
    return stated


@given(st.lists(usages(), min_size=1, max_size=5), st.randoms())
def test_the_order_of_usages_does_not_matter(stated: list[dict[str, Any]], random: Any) -> None:
    shuffled = random.sample(stated, len(stated))
    assert abs(total(*stated) - total(*shuffled)) < Decimal("1e-9")


@given(usages(), usages())
def test_cost_adds_up_without_a_free_tier(one: dict[str, Any], other: dict[str, Any]) -> None:
    one, other = one | {"free_tier": False}, other | {"free_tier": False}
    assert total(one, other) == total(one) + total(other)


@given(st.lists(usages(), min_size=1, max_size=4))
def test_the_free_tier_never_raises_a_bill(stated: list[dict[str, Any]]) -> None:
    assert total(*(s | {"free_tier": True} for s in stated)) <= total(*(s | {"free_tier": False} for s in stated))


@given(usages(), st.data(), st.decimals(1, 10, places=2))
def test_more_never_costs_less(stated: dict[str, Any], data: st.DataObject, factor: Decimal) -> None:
    grows = sorted(
        {"hours", "days", "items", "seconds_per_item", "startup_minutes", "compute_seconds", *usage.SERVICES}
        & set(stated)
    )
    if grows:
        member = data.draw(st.sampled_from(grows))
        assert total(stated | {member: stated[member] * factor}) >= total(stated)


BAD: list[tuple[Any, str]] = [
    ({}, "type is missing"),
    ({"type": "realtime"}, "real-time"),
    ([], "at least one of them"),
    ("words", "mapping"),
    ({"type": "real-time", "instance_typ": "ml.m5.large"}, "did you mean instance_type"),
    ({"type": "real-time", "instance_type": "ml.m5.large"}, "hours is missing"),
    ({"type": "real-time", "hours": 5}, "instance_type is missing"),
    ({"type": "real-time", "instance_type": "ml.m5.larg", "hours": 5}, "ml.m5.larg"),
    ({"type": "real-time", "instance_type": "ml.m5.large", "hours": 5, "region": "eu-west-1"}, "us-east-1"),
    ({"type": "real-time", "instance_type": "ml.m5.large", "hours": 5, "region": "mars-1"}, "region"),
    ({"type": "supporting", "region": "mars-1"}, "region"),
    ({"type": "real-time", "instance_type": "ml.m5.large", "hours": -1}, "hours: -1 is negative"),
    ({"type": "real-time", "instance_type": "ml.m5.large", "hours": "many"}, "hours: expected a number"),
    ({"type": "real-time", "instance_type": "ml.m5.large", "hours": True}, "hours: expected a number"),
    ({"type": "real-time", "instance_type": "ml.m5.large", "hours": float("nan")}, "finite"),
    ({"type": "real-time", "instance_type": "ml.m5.large", "hours": float("inf")}, "finite"),
    ({"type": "real-time", "instance_type": "ml.m5.large", "hours": 1, "instance_count": 0}, "instance_count"),
    ({"type": "real-time", "instance_type": "ml.m5.large", "hours": 1, "instance_count": 1.5}, "whole number"),
    ({"type": "real-time", "instance_type": "ml.m5.large", "hours_per_day": 25, "days": 1}, "hours_per_day"),
    ({"type": "real-time", "instance_type": "ml.m5.large", "hours_per_day": 5}, "days is missing"),
    ({"type": "real-time", "instance_type": "ml.m5.large", "hours": 5, "items": 5, "seconds_per_item": 1}, "keep one"),
    ({"type": "batch", "instance_type": "ml.m5.large", "items": 5}, "seconds_per_item is missing"),
    (
        {"type": "batch", "instance_type": "ml.m5.large", "items": 5, "seconds_per_item": 1, "concurrency": 0},
        "concurrency",
    ),
    ({"type": "batch", "instance_type": "ml.c5.large", "hours": 5}, "ml.c5.xlarge"),
    ({"type": "serverless", "compute_seconds": 5}, "memory_mb is missing"),
    ({"type": "serverless", "memory_mb": 1000, "compute_seconds": 5}, "1024, 2048"),
    ({"type": "serverless", "memory_mb": 1024, "requests": 5}, "duration_ms is missing"),
    ({"type": "serverless", "instance_type": "ml.m5.large"}, "does not belong"),
    ({"type": "real-time", "memory_mb": 1024}, "does not belong"),
    ({"type": "supporting", "fifo": "yes"}, "true or false"),
    ({"type": "real-time", "price_overrides": {"usd": 1}}, "price_overrides.usd"),
    ({"type": "real-time", "price_overrides": 5}, "price_overrides"),
    ([{"type": "supporting"}, {"type": "supporting", "s3_put": -1}], "usage 2: s3_put"),
]


@pytest.mark.parametrize(("stated", "message"), BAD)
def test_bad_input_names_the_member(stated: Any, message: str) -> None:
    with pytest.raises(ValidationException, match=r".") as caught:
        cost.price(usage.parse(stated), shipped())
    assert message in caught.value.message


FILES: list[tuple[str, str, str]] = [
    ("nan.yaml", "{type: real-time, instance_type: ml.m5.large, hours: .NaN}", "hours: expected a number"),
    ("inf.yaml", "{type: real-time, instance_type: ml.m5.large, hours: -.INF}", "hours: expected a number"),
    (
        "clock.yaml",
        "{type: real-time, instance_type: ml.m5.large, hours: 1:30}",
        "hours: expected a number, got '1:30'",
    ),
    ("hex.yaml", "{type: real-time, instance_type: ml.m5.large, hours: 0x10}", "hours: expected a number"),
    (
        "nan.json",
        '{"type": "real-time", "instance_type": "ml.m5.large", "hours": NaN}',
        "hours: expected a finite number",
    ),
    ("long.json", '{"type": "supporting", "s3_put": %s}' % ("9" * 5000), "s3_put: 9999"),
    ("deep.json", "[" * 100_000, "nested too deeply"),
    ("deep.yaml", "[" * 3_000, "nested too deeply"),
    ("key.yaml", "? [type]\n: batch\n", "type is missing"),
    ("twice.yaml", "{type: batch, hours: 1, hours: 2}", "hours is given twice"),
    ("empty.yaml", "", "expected a mapping"),
    ("two.yaml", "type: batch\n---\ntype: batch\n", "single document"),
]


@pytest.mark.parametrize(("name", "text", "message"), FILES, ids=[name for name, _, _ in FILES])
def test_a_bad_file_is_explained(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValidationException) as caught:
        usage.read(tmp_path / name)
    assert message in caught.value.message
    assert len(caught.value.message) < 500


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("leading-zero.yaml", "{type: real-time, instance_type: ml.m5.large, hours: 0100}"),
        ("underscore.yaml", "{type: real-time, instance_type: ml.m5.large, hours: 1_00}"),
        ("power.yaml", "{type: real-time, instance_type: ml.m5.large, hours: 1e2}"),
        ("marked.json", '\ufeff{"type": "real-time", "instance_type": "ml.m5.large", "hours": 1e2}'),
        ("merged.yaml", "- &one {type: real-time, instance_type: ml.m5.large, hours: 70}\n- {<<: *one, hours: 30}\n"),
    ],
)
def test_numbers_are_read_as_they_are_written(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert cost.price(usage.read(tmp_path / name), shipped()).total == Decimal("11.5")


def test_prices_of_your_own(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(
        "prices:\n"
        "  - {key: hosting, instance_type: ml.m5.large, price_usd: 0.05}\n"
        "machines:\n"
        "  shed-1: {price_usd: 8760, lifetime_years: 4, watts: 500, usd_per_kwh: 0.30, vcpu: 16, memory_gib: 64}\n"
    )
    prices = shipped().over(own)
    cheap = usage.parse({"type": "real-time", "instance_type": "ml.m5.large", "hours": 100})
    machine = usage.parse({"type": "batch", "instance_type": "shed-1", "hours": 100})
    assert cost.price(cheap, prices).total == Decimal(5)
    assert cost.price(machine, prices).total == Decimal(40)  # 0.25 depreciation + 0.15 power an hour
    assert cost.price(cheap, shipped()).total == Decimal("11.5")


def test_own_csv_with_an_unknown_column(tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text("key,price\nhosting,5\n")
    with pytest.raises(ValidationException, match="unknown columns"):
        shipped().over(own)


def fourfold(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "fourfold", *arguments], capture_output=True, text=True, check=False)


def test_the_command_prints_a_total_as_json(tmp_path: Path) -> None:
    stated = tmp_path / "usage.yaml"
    stated.write_text("- {type: batch, instance_type: ml.m5.large, hours: 0.1}\n- {type: supporting, s3_put: 1e3}\n")
    ran = fourfold("cost", "--file", str(stated), "--json")
    answer = json.loads(ran.stdout)
    assert answer["total_usd"] == "0.0165"
    assert set(answer["lines"][0]) == {"item", "quantity", "unit", "price_usd", "cost_usd", "source"}


def test_the_command_explains_what_is_wrong(tmp_path: Path) -> None:
    stated = tmp_path / "usage.json"
    stated.write_text('{"type": "real-time", "hours": 1, "hours": 2}')
    ran = fourfold("cost", "--file", str(stated))
    assert ran.returncode == 1
    assert ran.stdout == ""
    assert "hours is given twice" in ran.stderr
