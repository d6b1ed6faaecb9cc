"""The cheapest configuration of a mode that meets latency and budget; where none does, the nearest, and what to relax.

Exhaustive over what the price table knows: every instance type, or memory size, is sized (`sizing`), priced (`cost`)
and compared. Deterministic; a scenario takes a few milliseconds. The documented limits of each mode (payload, time)
are for `rules`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fourfold.advisor import cost, requests, workload
from fourfold.advisor.cost import Cost
from fourfold.advisor.prices import Prices
from fourfold.advisor.scenario import MODES, Mode, Scenario
from fourfold.advisor.sizing import SERVERLESS_CONCURRENCY, Sizing, overhead_ms, sizings
from fourfold.advisor.workload import Workload


@dataclass(frozen=True)
class Reason:
    """Why a plan does not fit, and what would."""

    code: str
    """`latency`, `deadline`, `budget`, `memory`, `accelerator`, `concurrency` or `capacity`."""
    text: str
    limit: float | None = None
    value: float | None = None
    source: str = ""


@dataclass(frozen=True)
class Plan:
    """One mode's answer to a scenario."""

    mode: Mode
    feasible: bool
    configuration: dict[str, Any]
    """SageMaker request members by operation, e.g. `CreateEndpointConfig`; empty where nothing can be deployed."""
    cost: Cost
    latency_ms: dict[str, float]
    """`p50`, `p95`, `p99`; empty where nothing can be deployed."""
    reasons: tuple[Reason, ...] = ()
    assumptions: tuple[str, ...] = ()
    sizing: Sizing | None = None
    scenario: Scenario = Scenario()  # noqa: RUF009 (frozen)


def plan(scenario: Scenario, mode: Mode, prices: Prices) -> Plan:
    """The cheapest plan of one mode that meets the scenario's latency, deadline and budget, or the nearest to it.

    Raises:
        ValidationException: the region does not exist.
    """
    work = workload.of(scenario)
    table = prices.filled(work.region)
    offers = [(size, estimate(size, table)) for size in sizings(mode, work, table)]
    if not offers:
        why = (_impossible(mode, work),)
        return Plan(mode, False, {}, Cost(), {}, why, work.assumptions, scenario=scenario)
    # First what meets the latency; then the cheapest; ties go to the faster, then to the name.
    size, _ = min(offers, key=lambda offer: _rank(offer[0], offer[1], work))
    bill = cost.price(size.usages, table)
    reasons = (*_late(size, work), *_dear(bill, work))
    borrowed = (
        (f"Where {work.region} has no price in the table, the price of us-east-1 is taken.",) if table.borrowed else ()
    )
    return Plan(
        mode,
        not reasons,
        requests.configuration(size, scenario),
        bill,
        size.latency.plain(),
        reasons,
        (*work.assumptions, *size.assumptions, *borrowed),
        size,
        scenario,
    )


def plans(scenario: Scenario, prices: Prices) -> dict[Mode, Plan]:
    return {mode: plan(scenario, mode, prices) for mode in MODES}


def best(scenario: Scenario, prices: Prices, modes: tuple[Mode, ...] = MODES) -> Plan:
    """The cheapest feasible plan of some modes; where none is feasible, the one with the fewest reasons against it."""
    return min(
        (plan(scenario, mode, prices) for mode in modes),
        key=lambda p: (not p.feasible, p.sizing is None, len(p.reasons), p.cost.total),
    )


def _rank(size: Sizing, usd: float, work: Workload) -> tuple[bool, float, float, str]:
    name = size.instance.name if size.instance else ""
    return bool(_late(size, work)), round(usd, 6), size.latency.p99, name


def estimate(size: Sizing, prices: Prices) -> float:
    """US dollars a month of what differs between the sizings of a mode: for instances, nothing else does."""
    if size.instance is not None:
        return size.hours * float(size.instance.usd_per_hour)
    return float(cost.price(size.usages, prices).total)


def _late(size: Sizing, work: Workload) -> tuple[Reason, ...]:
    """Reasons for which a sizing misses the latency or the deadline."""
    target = work.latency_p99_ms
    if size.mode == "batch" and target is not None and size.latency.p99 > target:
        text = f"a batch answers when its run has ended, after {size.latency.p99 / 1000:,.0f} s; the target is"
        return (Reason("latency", f"{text} {target:,.0f} ms", limit=target, value=size.latency.p99),)
    if size.mode == "batch":
        return _after_deadline(size.latency.p99, work, "the run") if work.deadline_s else ()
    p99 = size.warm_p99_ms if work.cold_start_allowed and size.mode == "serverless" else size.latency.p99
    if target is not None and p99 > target:
        return (Reason("latency", _relax(p99, target, size, work), limit=target, value=round(p99, 1)),)
    if work.deadline_s and size.mode == "asynchronous":
        return _after_deadline(size.latency.p99, work, "the last answers")
    return ()


def _after_deadline(ms: float, work: Workload, what: str) -> tuple[Reason, ...]:
    assert work.deadline_s is not None
    if ms / 1000 <= work.deadline_s:
        return ()
    text = f"{what} would come after {ms / 1000:,.0f} s, the deadline is {work.deadline_s:,.0f} s"
    return (Reason("deadline", f"{text}; allow {ms / 1000:,.0f} s", limit=work.deadline_s, value=ms / 1000),)


def _relax(p99: float, target: float, size: Sizing, work: Workload) -> str:
    model, other = work.service_s * 1000, overhead_ms(work)
    text = f"p99 would be {p99:,.0f} ms, the target is {target:,.0f} ms"
    if model + other > target:
        parts = f"the model takes {model:,.0f} ms and the way {other:,.0f} ms"
        return f"{text}: {parts}. Allow {model + other:,.0f} ms, or bring a faster model or a smaller payload"
    if size.mode == "serverless":
        return f"{text}, because of cold starts; tolerate them, or keep {max(1, size.provisioned)} instance(s) warm"
    if size.mode == "asynchronous":
        return f"{text}; an asynchronous request may wait for an instance to start. Allow {p99 / 1000:,.0f} s"
    return f"{text}; allow {p99:,.0f} ms"


def _dear(bill: Cost, work: Workload) -> tuple[Reason, ...]:
    budget, total = work.budget_usd, float(bill.total)
    if budget is None or total <= budget:
        return ()
    text = f"the cheapest configuration costs {total:,.2f} USD a month, the budget is {budget:,.2f}"
    return (Reason("budget", f"{text}; raise it by {total - budget:,.2f}", limit=budget, value=round(total, 2)),)


def _impossible(mode: Mode, work: Workload) -> Reason:
    """Why no configuration of a mode exists at all."""
    if mode == "serverless" and work.gpu:
        return Reason("accelerator", "serverless inference has no GPU; use another mode, or a model that runs on CPU")
    if mode == "serverless" and work.memory_gb > 6:
        text = f"the model needs {work.memory_gb:g} GB, serverless inference offers 6 GB at most; use a smaller model"
        return Reason("memory", text, limit=6.0, value=work.memory_gb)
    load = max(work.peak * work.service_s, work.at_once)
    if mode == "serverless":
        text = f"{load:,.0f} requests would run at once, a serverless endpoint takes {SERVERLESS_CONCURRENCY} at most"
        return Reason("concurrency", text, limit=float(SERVERLESS_CONCURRENCY), value=round(load, 1))
    kind = "GPU " if work.gpu else ""
    text = f"no {kind}instance type in the price table holds a model of {work.memory_gb:g} GB and carries the load"
    return Reason(
        "capacity", f"{text}; use a smaller or faster model, or add instance types with --prices", value=work.memory_gb
    )
