"""The documented limits of the four modes, each with its source and date: one table, `data/limits.csv`.

`violations(scenario, mode)` compares a scenario with those that can rule a mode out. What a mode is good for, rather
than capable of, is the decision tree's business (`rules.py`).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import msgspec

from fourfold.advisor.scenario import Mode, Scenario

_MEGABYTES = {"MB": 1.0, "GB": 1000.0, "bytes": 1e-6}


@dataclass(frozen=True)
class Limit:
    """One row of the table. `code` is empty where no rule uses the row."""

    code: str
    type: Mode
    limit: str
    value: str
    unit: str
    source: str
    source_date: str

    @property
    def greatest(self) -> float:
        """The figure, in MB for sizes, else in the row's unit; of a range the upper end."""
        figure = float(self.value.removeprefix("up to ").split("-")[-1])
        return figure * _MEGABYTES.get(self.unit, 1.0)

    @property
    def shown(self) -> str:
        return f"{self.limit}: {self.value} {self.unit}".rstrip()


@dataclass(frozen=True)
class Reason:
    """Why a mode lost: what it allows or is made for (`limit`), what the scenario has (`value`), and who says so."""

    code: str
    text: str
    limit: str
    value: str
    source: str


@cache
def limits() -> tuple[Limit, ...]:
    """The whole table, in the order of the file."""
    with (files("fourfold.advisor") / "data" / "limits.csv").open(encoding="utf-8") as table:
        return msgspec.convert(list(csv.DictReader(table)), tuple[Limit, ...])


@cache
def limit(code: str) -> Limit:
    """The row with this code. Raises KeyError."""
    for row in limits():
        if row.code == code:
            return row
    raise KeyError(code)


def violations(scenario: Scenario, mode: Mode) -> tuple[Reason, ...]:
    """The limits of a mode that a scenario breaks; empty if it could be served that way."""
    checks = {"real-time": _real_time, "serverless": _serverless, "asynchronous": _asynchronous, "batch": _batch}
    return tuple(checks[mode](scenario))


def _real_time(s: Scenario) -> Iterator[Reason]:
    yield from _payload(s, "real-time-payload")
    code = "real-time-processing-streamed" if s.stream else "real-time-processing"
    yield from _processing(s, code)


def _serverless(s: Scenario) -> Iterator[Reason]:
    yield from _payload(s, "serverless-payload")
    yield from _processing(s, "serverless-processing")
    if s.memory_gb is not None and s.memory_gb * 1000 > limit("serverless-memory").greatest:
        yield _broken(
            "serverless-memory", "The model needs more memory than a serverless endpoint has", f"{s.memory_gb:g} GB"
        )
    for needed, code, text, value in (
        (s.gpu, "serverless-gpu", "Serverless endpoints have no GPU", "GPU"),
        (s.vpc, "serverless-vpc", "Serverless endpoints cannot be placed in a VPC", "VPC"),
        (
            s.multi_model,
            "serverless-multi-model",
            "A serverless endpoint has one variant of one model",
            "several models",
        ),
        (s.data_capture, "serverless-data-capture", "Serverless endpoints capture no data", "data capture"),
        (
            s.marketplace,
            "serverless-marketplace",
            "Serverless endpoints take neither",
            "Marketplace or private registry",
        ),
    ):
        if needed:
            yield _broken(code, text, value)
    if s.concurrency is not None and s.concurrency > limit("serverless-concurrency").greatest:
        yield _broken("serverless-concurrency", "More requests at once than an endpoint takes", f"{s.concurrency:g}")
    if s.image_gb is not None and s.image_gb > float(limit("serverless-image").value):
        yield _broken("serverless-image", "The container image is too large", f"{s.image_gb:g} GB")
    if s.stream:
        yield Reason(
            "serverless-stream",
            "Serverless endpoints send an answer as a whole.",
            "response streaming: real-time endpoints only",
            "streamed response",
            "https://docs.aws.amazon.com/sagemaker/latest/dg/realtime-endpoints-test-endpoints.html",
        )
    if s.tolerates_cold_start is False:
        yield _broken("serverless-cold-start", "A cold start can delay the answer", "no cold start")
    elif _strict(s) and s.tolerates_cold_start is None:
        yield _broken("serverless-cold-start", "A cold start takes longer than the answer may", _latency(s))


def _asynchronous(s: Scenario) -> Iterator[Reason]:
    yield from _payload(s, "asynchronous-payload")
    yield from _processing(s, "asynchronous-processing")
    if s.stream:
        yield Reason(
            "asynchronous-stream",
            "An asynchronous answer is an object in S3, not a stream.",
            "response streaming: real-time endpoints only",
            "streamed response",
            "https://docs.aws.amazon.com/sagemaker/latest/dg/realtime-endpoints-test-endpoints.html",
        )
    if _strict(s):
        yield Reason(
            "asynchronous-latency",
            "Requests are queued and answers are picked up from S3: no latency can be promised.",
            "requests are queued",
            _latency(s),
            limit("asynchronous-queue-time").source,
        )


def _batch(s: Scenario) -> Iterator[Reason]:
    if (
        _strict(s)
        or (s.latency_p99_ms is not None and s.latency_p99_ms <= 60_000)
        or (s.interactive and not s.whole_dataset)
    ):
        yield Reason(
            "batch-latency",
            "A transform job starts its instances first and has no endpoint that could answer.",
            limit("batch-endpoint").shown,
            _latency(s),
            limit("batch-endpoint").source,
        )


def _payload(s: Scenario, code: str) -> Iterator[Reason]:
    row = limit(code)
    for figure, what in ((s.payload_mb, "request"), (s.response_mb, "response")):
        if figure is not None and figure > row.greatest:
            yield _broken(code, f"A {what} is larger than this mode carries", f"{figure:g} MB")
    if s.payload_mb is None and s.large_payload and row.greatest <= limit("real-time-payload").greatest:
        yield _broken(code, "Requests are said to be large", "large requests")


def _processing(s: Scenario, code: str) -> Iterator[Reason]:
    row = limit(code)
    if s.processing_s is not None and s.processing_s > row.greatest:
        yield _broken(code, "A request takes longer than this mode allows", f"{s.processing_s:g} s")
    if s.processing_s is None and s.long_processing and row.greatest <= 60:
        yield _broken(code, "Requests are said to take long", "long processing")


def _broken(code: str, text: str, value: str) -> Reason:
    row = limit(code)
    return Reason(code, f"{text}: {value} against {row.value} {row.unit}".rstrip() + ".", row.shown, value, row.source)


def _strict(s: Scenario) -> bool:
    return bool(s.strict_latency or (s.latency_p99_ms is not None and s.latency_p99_ms < STRICT_BELOW_MS))


def _latency(s: Scenario) -> str:
    return f"p99 of {s.latency_p99_ms:g} ms" if s.latency_p99_ms is not None else "an answer at once"


STRICT_BELOW_MS = 2000.0
"""A p99 below this leaves no room for a cold start, which takes seconds."""
