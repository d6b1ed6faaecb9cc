"""A stated usage: how much of what ran in a month. Read from YAML or JSON and checked here; priced by `cost`.

Every member is optional but `type`; `MEMBERS` lists them with the types they belong to. A member that a type does not
have, two ways of saying the same thing, and half of a product (`requests` without `duration_ms`) are errors: a bill
never rests on a guess.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from fourfold.advisor import documents
from fourfold.advisor.prices import HOME_REGION, amount
from fourfold.errors import ValidationException

UsageType = Literal["real-time", "asynchronous", "batch", "serverless", "supporting"]
TYPES: tuple[UsageType, ...] = ("real-time", "asynchronous", "batch", "serverless", "supporting")

INSTANCES = frozenset({"real-time", "asynchronous", "batch"})
SERVERLESS = frozenset({"serverless"})
SAGEMAKER = INSTANCES | SERVERLESS

NUMBERS: dict[str, frozenset[str]] = {
    "instance_count": INSTANCES,
    "hours": INSTANCES,
    "hours_per_day": INSTANCES,
    "days": INSTANCES,
    "items": INSTANCES,
    "seconds_per_item": INSTANCES,
    "concurrency": INSTANCES,
    "startup_minutes": INSTANCES,
    "runs_per_month": INSTANCES,
    "storage_gb_month": SAGEMAKER,
    "data_in_gb": SAGEMAKER,
    "data_out_gb": SAGEMAKER,
    "memory_mb": SERVERLESS,
    "compute_seconds": SERVERLESS,
    "requests": SERVERLESS,
    "duration_ms": SERVERLESS,
    "provisioned_usage_seconds": SERVERLESS,
    "provisioned_concurrency": SERVERLESS,
    "provisioned_hours": SERVERLESS,
    "provisioned_duration_seconds": SERVERLESS,
    "message_kb": frozenset(TYPES),
}
"""Members that are numbers, and the types that have them."""

SERVICES: dict[str, str] = {
    "sqs_requests": "sqs",
    "sns_publishes": "sns",
    "sns_http_notifications": "sns-http",
    "sns_email_notifications": "sns-email",
    "sns_mobile_push_notifications": "sns-push",
    "scheduler_invocations": "scheduler",
    "eventbridge_events": "events",
    "pipes_requests": "pipes",
    "s3_put": "s3-put",
    "s3_get": "s3-get",
    "s3_gb_month": "s3-storage",
    "lambda_requests": "lambda-requests",
    "lambda_gb_seconds": "lambda-duration",
    "api_gateway_requests": "api-gateway",
    "step_functions_transitions": "step-functions",
    "logs_gb": "logs",
    "ecr_gb_month": "ecr",
}
"""Members for what stands around the model, and the key of their price. Every type may have them."""

OVERRIDES: dict[str, str] = {
    "usd_per_hour": "an instance-hour",
    "usd_per_gb": "a GB of data processed, in or out; in a `supporting` usage, of logs",
    "usd_per_gb_month": "a GB-month of the model's storage; in a `supporting` usage, of S3 and ECR",
    "usd_per_gb_second": "a GB-second of serverless compute",
    "usd_per_second": "a second of serverless compute at the stated memory_mb",
    "usd_per_provisioned_usage_second": "a second of one provisioned instance kept warm at the stated memory_mb",
    "usd_per_provisioned_duration_second": "a second of processing on it at the stated memory_mb",
    "usd_per_million": "a million requests, events, invocations, notifications or transitions of any kind",
    **{f"usd_per_million_{m}": f"a million of {m}" for m in SERVICES if not m.endswith(("_gb", "_gb_month"))},
}
"""Members of `price_overrides` and what each replaces the price of."""

MEMBERS = ("type", "name", "region", "instance_type", *NUMBERS, *SERVICES, "fifo", "free_tier", "price_overrides")

SERVERLESS_MEMORY_MB = (1024, 2048, 3072, 4096, 5120, 6144)
"""SageMaker's service model, ServerlessMemorySizeInMB: 1024 to 6144 in steps of 1024."""


@dataclass(frozen=True)
class Usage:
    """What one workload, or one of its parts, used in a month. Units stand in the names; GB and KB are binary."""

    type: UsageType
    name: str = ""
    """Free text that begins each line's item."""
    region: str = HOME_REGION
    instance_type: str = ""

    instance_count: Decimal = Decimal(1)
    hours: Decimal | None = None
    """Hours that each instance runs, in one run."""
    hours_per_day: Decimal | None = None
    days: Decimal | None = None
    items: Decimal | None = None
    """Records, or requests, of one run: `items` × `seconds_per_item` / (`instance_count` × `concurrency`) hours."""
    seconds_per_item: Decimal | None = None
    concurrency: Decimal = Decimal(1)
    """Items that one instance works on at once."""
    startup_minutes: Decimal = Decimal(0)
    """Billed once per instance and run, beside the time above."""
    runs_per_month: Decimal = Decimal(1)
    storage_gb_month: Decimal | None = None
    data_in_gb: Decimal | None = None
    data_out_gb: Decimal | None = None

    memory_mb: Decimal | None = None
    compute_seconds: Decimal | None = None
    requests: Decimal | None = None
    duration_ms: Decimal | None = None
    provisioned_usage_seconds: Decimal | None = None
    """Seconds that provisioned concurrency is kept, summed over the instances kept."""
    provisioned_concurrency: Decimal | None = None
    provisioned_hours: Decimal | None = None
    provisioned_duration_seconds: Decimal | None = None
    """Seconds of processing on provisioned concurrency; billed beside the time kept, instead of on-demand compute."""

    message_kb: Decimal | None = None
    """Size of one SQS or SNS message: each 64 KB begun is a request. None: one request a message."""
    fifo: bool = False
    services: Mapping[str, Decimal] = field(default_factory=dict)
    """Quantities by member of `SERVICES`."""
    free_tier: bool = False
    overrides: Mapping[str, Decimal] = field(default_factory=dict)

    @property
    def instance_hours(self) -> Decimal | None:
        """Billed hours of all instances in a month; None where no time is stated."""
        if self.items is not None and self.seconds_per_item is not None:
            # The time of one run on each instance, times the instances: instance_count cancels out.
            busy = self.items * self.seconds_per_item / (self.concurrency * 3600)
        elif self.hours is not None:
            busy = self.hours * self.instance_count
        elif self.hours_per_day is not None and self.days is not None:
            busy = self.hours_per_day * self.days * self.instance_count
        else:
            return None
        return (busy + self.startup_minutes / 60 * self.instance_count) * self.runs_per_month

    @property
    def billed_compute_seconds(self) -> Decimal | None:
        if self.requests is not None and self.duration_ms is not None:
            return self.requests * self.duration_ms / 1000
        return self.compute_seconds

    @property
    def kept_warm_seconds(self) -> Decimal | None:
        if self.provisioned_concurrency is not None and self.provisioned_hours is not None:
            return self.provisioned_concurrency * self.provisioned_hours * 3600
        return self.provisioned_usage_seconds


def read(path: Path) -> list[Usage]:
    """The usages of a YAML or JSON file: a mapping, or a list of them.

    Raises:
        ValidationException: the file cannot be read, or a member is wrong; the message names it and what would work.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValidationException(f"--file: {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValidationException(f"--file: {path} is not UTF-8 text: {error.reason}") from error
    return parse(documents.load(text, f"--file: {path.name}", exact=True))


def parse(data: object) -> list[Usage]:
    """Usages of plain data: a mapping or a list of mappings."""
    if isinstance(data, Mapping):
        return [parse_one(data)]
    if not isinstance(data, list) or not data:
        raise ValidationException("usage: expected a mapping with a `type`, or a list with at least one of them")
    return [parse_one(entry, f"usage {number}: ") for number, entry in enumerate(data, 1)]


def parse_one(data: object, where: str = "") -> Usage:
    """One usage of plain data; `where` begins each message."""
    if not isinstance(data, Mapping):
        raise ValidationException(f"{where}expected a mapping with a `type`, got {type(data).__name__}")
    kind = data.get("type")
    if kind not in TYPES:
        said = "type is missing" if kind is None else f"type: {kind!r} is unknown"
        raise ValidationException(f"{where}{said}; use one of {', '.join(TYPES)}")
    for member in data:
        if member not in MEMBERS:
            raise ValidationException(f"{where}{member!r} is not a member of a usage; {_nearest(str(member), MEMBERS)}")
        owners = NUMBERS.get(member, INSTANCES if member == "instance_type" else frozenset(TYPES))
        if kind not in owners:
            theirs = ", ".join(t for t in TYPES if t in owners)
            raise ValidationException(f"{where}{member} does not belong to type {kind}; it is for {theirs}")
    given = {member: value for member, value in data.items() if value is not None}
    usage = Usage(
        type=kind,
        name=_text(given, "name", "", where),
        region=_text(given, "region", HOME_REGION, where),
        instance_type=_text(given, "instance_type", "", where),
        fifo=_flag(given, "fifo", where),
        free_tier=_flag(given, "free_tier", where),
        services={m: amount(given[m], f"{where}{m}") for m in SERVICES if m in given},
        overrides=_overrides(given.get("price_overrides", {}), where),
        **{m: amount(given[m], f"{where}{m}") for m in NUMBERS if m in given},
    )
    check(usage, where)
    return usage


def check(usage: Usage, where: str = "") -> None:
    """Raise ValidationException where members contradict each other or one lacks its partner."""

    def said(*members: str) -> list[str]:
        return [m for m in members if getattr(usage, m) is not None]

    def fail(message: str) -> None:
        raise ValidationException(where + message)

    times = said("hours", "hours_per_day", "items")
    if len(times) > 1:
        fail(f"{times[1]}: {times[0]} states the time already; keep one of them")
    for one, other in (
        ("hours_per_day", "days"),
        ("items", "seconds_per_item"),
        ("requests", "duration_ms"),
        ("provisioned_concurrency", "provisioned_hours"),
    ):
        if len(said(one, other)) == 1:
            missing = other if said(one) else one
            fail(f"{missing} is missing; {one} × {other} needs both")
    if len(said("compute_seconds", "requests")) > 1:
        fail("compute_seconds: requests × duration_ms states the compute time already; keep one of them")
    if len(said("provisioned_usage_seconds", "provisioned_concurrency")) > 1:
        fail(
            "provisioned_usage_seconds: provisioned_concurrency × provisioned_hours states it already; keep one of them"
        )
    if usage.instance_count < 1 or usage.instance_count % 1:
        fail(f"instance_count: {usage.instance_count} is not a whole number of instances; use 1 or more")
    if usage.concurrency <= 0:
        fail("concurrency: use more than 0")
    if usage.hours_per_day is not None and usage.hours_per_day > 24:
        fail(f"hours_per_day: {usage.hours_per_day} is more than a day has; use 24 or less")
    timed = usage.instance_hours is not None
    if usage.instance_type and not timed:
        fail("hours is missing for instance_type; give hours, hours_per_day × days, or items × seconds_per_item")
    if timed and not usage.instance_type and "usd_per_hour" not in usage.overrides:
        fail("instance_type is missing; name one, or give price_overrides.usd_per_hour")
    seconds = said("compute_seconds", "requests", "provisioned_usage_seconds", "provisioned_concurrency")
    seconds += said("provisioned_duration_seconds")
    if seconds and usage.memory_mb is None:
        fail(f"memory_mb is missing; {seconds[0]} is charged by memory: one of {_listed(SERVERLESS_MEMORY_MB)}")
    if usage.memory_mb is not None and usage.memory_mb not in SERVERLESS_MEMORY_MB:
        fail(f"memory_mb: {usage.memory_mb} is not a serverless memory size; use {_listed(SERVERLESS_MEMORY_MB)}")


def _overrides(data: object, where: str) -> dict[str, Decimal]:
    if not isinstance(data, Mapping):
        raise ValidationException(f"{where}price_overrides: expected a mapping such as {{usd_per_hour: 0.5}}")
    for member in data:
        if member not in OVERRIDES:
            raise ValidationException(f"{where}price_overrides.{member}: unknown; {_nearest(str(member), OVERRIDES)}")
    return {member: amount(value, f"{where}price_overrides.{member}") for member, value in data.items()}


def _text(data: Mapping[str, Any], member: str, default: str, where: str) -> str:
    value = data.get(member, default)
    if not isinstance(value, str):
        raise ValidationException(f"{where}{member}: expected text, got {value!r}")
    return value


def _flag(data: Mapping[str, Any], member: str, where: str) -> bool:
    value = data.get(member, False)
    if not isinstance(value, bool):
        raise ValidationException(f"{where}{member}: expected true or false, got {value!r}")
    return value


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=3)
    return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"


def _listed(values: tuple[int, ...]) -> str:
    return ", ".join(str(v) for v in values)
