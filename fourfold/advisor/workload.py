"""A scenario with every gap filled: the figures that sizing and simulation work on, and what was assumed to get them.

The assumptions are plain sentences, made here once, so that each plan can show them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fourfold.advisor.prices import HOME_REGION
from fourfold.advisor.scenario import Pattern, Scenario

HOURS_PER_MONTH = 730.0
DAYS_PER_MONTH = HOURS_PER_MONTH / 24
GIB = 1024**3

ACTIVE_HOURS: dict[Pattern, float] = {"steady": 24, "diurnal": 24, "spiky": 24, "intermittent": 4, "scheduled": 8}
"""Hours of a day that have traffic, where the scenario does not say."""
BURST: dict[Pattern, float] = {"steady": 1.2, "diurnal": 1.3, "spiky": 4.0, "intermittent": 3.0, "scheduled": 1.2}
"""How far the busiest minutes are above the busiest hour's average, where no peak is given."""


@dataclass(frozen=True)
class Workload:
    """What has to be served. Sizes in MB of 10^6 bytes, memory in GB."""

    service_s: float
    """Seconds of model time for one request or record."""
    payload_mb: float
    response_mb: float
    requests_per_day: float
    hourly: tuple[float, ...]
    """Requests a second in each of the day's 24 hours."""
    peak: float
    """Requests a second that must be served without delay building up."""
    at_once: float
    """Requests in work at the same time that must not wait for each other; 0 where nothing is said."""
    pattern: Pattern
    memory_gb: float
    gpu: bool
    latency_p99_ms: float | None
    deadline_s: float | None
    cold_start_allowed: bool
    items_per_run: float
    runs_per_month: float
    budget_usd: float | None
    region: str
    assumptions: tuple[str, ...]

    @property
    def requests_per_month(self) -> float:
        return self.requests_per_day * DAYS_PER_MONTH

    @property
    def foreseeable(self) -> bool:
        """Load changes slowly enough, or on a known timetable, for capacity to follow it."""
        return self.pattern in ("diurnal", "scheduled")


def of(scenario: Scenario) -> Workload:
    """The workload of a scenario."""
    said: list[str] = []

    def given(value: float | None, default: float, text: str) -> float:
        if value is not None:
            return float(value)
        said.append(text.format(default))
        return default

    pattern = scenario.pattern or _pattern(scenario, said)
    default_s = 60.0 if scenario.long_processing else 0.1 if scenario.gpu else 0.05
    if scenario.latency_p99_ms is not None:
        default_s = min(default_s, scenario.latency_p99_ms / 4000)
    service_s = given(scenario.processing_s, default_s, "The model takes {:g} s for a request.")
    default_mb = 50.0 if scenario.large_payload else 0.01
    payload = given(scenario.payload_mb, default_mb, "A request has {:g} MB.")
    response = scenario.response_mb if scenario.response_mb is not None else min(payload, 0.01)
    memory = given(scenario.memory_gb, 1.0, "The loaded model needs {:g} GB of memory.")
    active = scenario.active_hours_per_day or ACTIVE_HOURS[pattern]
    per_day = _per_day(scenario, pattern, active, said)
    hourly = _hourly(pattern, per_day, active)
    peak = scenario.peak_requests_per_second
    if peak is None:
        peak = max(hourly) * BURST[pattern]
        if per_day:
            said.append(f"The busiest minutes see {BURST[pattern]:g} times the rate of the busiest hour.")
    items, runs = _runs(scenario, per_day, payload, said)
    cold = scenario.tolerates_cold_start
    if cold is None:
        cold = not scenario.strict_latency and (scenario.latency_p99_ms is None or scenario.latency_p99_ms >= 5000)
    return Workload(
        service_s=service_s,
        payload_mb=payload,
        response_mb=response,
        requests_per_day=per_day,
        hourly=hourly,
        peak=max(peak, max(hourly)),
        at_once=scenario.concurrency or 0.0,
        pattern=pattern,
        memory_gb=memory,
        gpu=bool(scenario.gpu),
        latency_p99_ms=scenario.latency_p99_ms,
        deadline_s=scenario.deadline_s,
        cold_start_allowed=cold,
        items_per_run=items,
        runs_per_month=runs,
        budget_usd=scenario.budget_usd,
        region=scenario.region or HOME_REGION,
        assumptions=tuple(said),
    )


def _pattern(scenario: Scenario, said: list[str]) -> Pattern:
    if scenario.whole_dataset:
        return "scheduled"
    guess: Pattern = "intermittent" if scenario.idle_tolerated is False else "steady"
    said.append(f"Traffic is {guess}.")
    return guess


def _per_day(scenario: Scenario, pattern: Pattern, active: float, said: list[str]) -> float:
    if scenario.requests_per_day is not None:
        return scenario.requests_per_day
    rate = scenario.requests_per_second
    if rate is None and scenario.trace and len(scenario.trace) > 1 and scenario.trace[-1] > 0:
        return len(scenario.trace) / scenario.trace[-1] * 86400
    if rate is None and scenario.peak_requests_per_second is not None:
        rate = scenario.peak_requests_per_second / BURST[pattern]
        said.append(f"The average rate while there is traffic is the peak over {BURST[pattern]:g}.")
    if rate is not None:
        return rate * active * 3600
    rows = scenario.rows
    if rows is None and scenario.dataset_gb is not None:
        rows = scenario.dataset_gb * 1000 / (scenario.payload_mb or 0.01)
    if rows is not None:
        return rows * (scenario.runs_per_month or 1) / DAYS_PER_MONTH
    default = 100.0 if pattern == "intermittent" else 10_000.0
    said.append(f"There are {default:,.0f} requests a day.")
    return default


def _hourly(pattern: Pattern, per_day: float, active: float) -> tuple[float, ...]:
    """The day's rates: flat over the active hours, a wave for diurnal, two hours at four times the rest for spiky."""
    hours = range(24)
    if pattern == "diurnal":
        weights = [1 - 0.8 * math.cos(2 * math.pi * (h - 2) / 24) for h in hours]
    elif pattern == "spiky":
        weights = [4.0 if h in (12, 18) else 1.0 for h in hours]
    else:
        count = max(1, min(24, round(active)))
        first = 0 if count > 16 else 8
        weights = [1.0 if first <= h < first + count else 0.0 for h in hours]
    total = sum(weights)
    return tuple(per_day * w / total / 3600 for w in weights)


def _runs(scenario: Scenario, per_day: float, payload_mb: float, said: list[str]) -> tuple[float, float]:
    """Items of one batch run, and runs a month."""
    rows = scenario.rows
    if rows is None and scenario.dataset_gb is not None and payload_mb > 0:
        rows = scenario.dataset_gb * 1000 / payload_mb
        said.append(f"The data set has {rows:,.0f} records of {payload_mb:g} MB.")
    if rows is not None:
        if scenario.runs_per_month is None:
            said.append("A batch run takes place once a month.")
        return rows, scenario.runs_per_month or 1.0
    runs = scenario.runs_per_month
    if runs is None:
        said.append("As a batch, a day's requests would be run once a day.")
        runs = DAYS_PER_MONTH
    return per_day * DAYS_PER_MONTH / runs if runs else 0.0, runs
