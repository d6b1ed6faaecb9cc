"""Puts the advisor together: a scenario in, a mode with its configuration, cost and latency out, and why
the others lost.

The tree (`rules`) applies AWS's guidance, the limits rule modes out, and a plan (`search`) prices and times each mode.
Where the guidance leaves two modes open, the cheaper one is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from fourfold.advisor.limits import Reason, violations
from fourfold.advisor.rules import BUSY_PER_DAY, GUIDANCE, Decision, Step, decide
from fourfold.advisor.scenario import MODES, Mode, Scenario

if TYPE_CHECKING:
    from fourfold.advisor.prices import Prices
    from fourfold.advisor.search import Plan
    from fourfold.advisor.tradeoffs import Mixed

EDGE = (
    "The answer is needed where the network cannot be waited for: a round trip to a cloud region takes tens of "
    "milliseconds at best and fails without coverage. Serve the model in real time on the machine itself; the cloud's "
    "figures below are for comparison."
)
ASK = {
    "payload_mb": "How large is a request, in MB?",
    "processing_s": "How long does the model take for one request, in seconds?",
    "requests_per_day": "How many requests come in a day, and how are they spread?",
    "rows": "How many records does the data set have?",
    "latency_p99_ms": "Within how many milliseconds must 99 of 100 answers be there?",
    "deadline_s": "When must the results be there?",
    "memory_gb": "How much memory does the loaded model need, in GB?",
    "gpu": "Does the model need a GPU?",
}
ASKED: dict[Mode, tuple[str, ...]] = {
    "real-time": ("latency_p99_ms", "requests_per_day", "processing_s", "memory_gb", "gpu"),
    "batch": ("rows", "processing_s", "deadline_s", "gpu"),
    "asynchronous": ("requests_per_day", "payload_mb", "processing_s", "gpu"),
    "serverless": ("requests_per_day", "processing_s", "payload_mb", "memory_gb"),
}
"""The figures that matter most to the cost and latency of each mode."""


@dataclass(frozen=True)
class Alternative:
    """A mode that lost."""

    type: Mode
    feasible: bool
    monthly_cost_usd: Decimal | None
    """None where no configuration can be deployed."""
    reasons: tuple[Reason, ...]


@dataclass(frozen=True)
class Advice:
    """The answer to a scenario; `plain()` is its JSON."""

    scenario: Scenario
    decision: Decision
    plan: Plan
    alternatives: tuple[Alternative, ...]
    assumptions: tuple[str, ...]
    questions: tuple[str, ...]
    mixed: Mixed | None = None
    """Instances with a serverless endpoint above them, where that is cheaper than either of the two alone."""

    @property
    def mode(self) -> Mode:
        return self.decision.mode

    @property
    def feasible(self) -> bool:
        return self.plan.feasible and not violations(self.scenario, self.mode)

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """What stands against the recommended mode itself; empty where it is feasible."""
        return (*violations(self.scenario, self.mode), *_plan_reasons(self.plan))

    def plain(self) -> dict[str, Any]:
        """The contract of `fourfold advise --json`, with the input's id in front where it had one."""
        plan = self.plan
        answer: dict[str, Any] = {
            "recommendation": self.mode,
            "feasible": self.feasible,
            "configuration": plan.configuration,
            "monthly_cost_usd": _number(plan.cost.total),
            "cost_lines": [_line(line.plain()) for line in plan.cost.lines],
            "latency_ms": {q: plan.latency_ms.get(q) for q in ("p50", "p95", "p99")},
            "alternatives": [
                {
                    "type": a.type,
                    "feasible": a.feasible,
                    "monthly_cost_usd": None if a.monthly_cost_usd is None else _number(a.monthly_cost_usd),
                    "reasons": [asdict(reason) for reason in a.reasons],
                }
                for a in self.alternatives
            ],
            "path": [{"question": s.question, "answer": s.answer, "because": s.because} for s in self.decision.path],
            "mixed": self.mixed
            and {
                "text": self.mixed.text,
                "monthly_cost_usd": _number(self.mixed.cost.total),
                "cost_lines": [_line(line.plain()) for line in self.mixed.cost.lines],
                "configuration": self.mixed.configuration,
            },
            "assumptions": list(self.assumptions),
            "questions": list(self.questions),
            "facts": [{"member": e.member, "value": e.value, "from": e.source} for e in self.scenario.evidence],
            "reasons": [asdict(reason) for reason in self.reasons],
        }
        return answer if self.scenario.id is None else {"id": self.scenario.id, **answer}

    def saved(self) -> dict[str, Any]:
        """The answer with the scenario's figures, as `fourfold verify --plan` reads it."""
        known = {f.name: getattr(self.scenario, f.name) for f in fields(self.scenario) if f.name != "evidence"}
        return {**self.plain(), "scenario": {name: value for name, value in known.items() if value is not None}}


def advise(scenario: Scenario, prices: Prices | None = None) -> Advice:
    """The best mode for a scenario, with a price and a latency. Deterministic; needs no server.

    Args:
        prices: the shipped table if None.

    Raises:
        ValidationException: the scenario contradicts itself or names a region that does not exist.
    """
    from fourfold.advisor.load import check
    from fourfold.advisor.prices import shipped
    from fourfold.advisor.search import plans
    from fourfold.advisor.tradeoffs import mixed

    check(scenario)
    table = prices or shipped()
    offers = plans(scenario, table)
    decision = _settle(scenario, decide(scenario), offers)
    chosen = offers[decision.mode]
    alternatives = tuple(
        _alternative(scenario, offers[mode], chosen, decision.path[-1].because)
        for mode in MODES
        if mode != decision.mode
    )
    return Advice(
        scenario, decision, chosen, alternatives, tuple(_assumptions(scenario, decision, chosen)),
        tuple(_questions(scenario, decision)),
        mixed(scenario, table) if decision.mode in ("real-time", "serverless") else None,
    )  # fmt: skip


def _settle(scenario: Scenario, decision: Decision, offers: dict[Mode, Plan]) -> Decision:
    """Lets the cost decide between an instance and serverless where the guidance cannot: the rate is known
    and not sustained, its shape is unknown."""
    rate = scenario.requests_per_day
    if (
        rate is None
        or rate > BUSY_PER_DAY
        or scenario.pattern
        or scenario.idle_tolerated is not None
        or decision.path[-1].key not in ("idle", "fits")
    ):
        return decision
    open_modes: list[Mode] = [
        m for m in ("real-time", "serverless") if not violations(scenario, m) and offers[m].feasible
    ]
    if len(open_modes) < 2:
        return decision
    mode = min(open_modes, key=lambda m: offers[m].cost.total)
    costs = ", ".join(f"{m} {offers[m].cost.total:,.2f} USD" for m in open_modes)
    step = Step("Which of the modes that fit costs least a month?", mode, costs, key="cost")
    return replace(decision, mode=mode, path=(*decision.path, step))


def _alternative(scenario: Scenario, plan: Plan, chosen: Plan, because: str) -> Alternative:
    winner = chosen.mode
    broken = violations(scenario, plan.mode)
    reasons = [*broken, *_plan_reasons(plan)]
    feasible = plan.feasible and not broken
    guidance = replace(GUIDANCE[plan.mode, winner], value=because)
    cost = plan.cost.total if plan.configuration else None
    if cost is not None and chosen.configuration and cost > chosen.cost.total:
        reasons.append(
            Reason(
                "cost",
                f"It would cost {cost:,.2f} USD a month, {winner} costs {chosen.cost.total:,.2f} USD.",
                f"{chosen.cost.total:,.2f} USD",
                f"{cost:,.2f} USD",
                "cost lines of this answer and the shipped price table",
            )
        )
    return Alternative(plan.mode, feasible, cost, (*reasons, guidance))


def _plan_reasons(plan: Plan) -> Iterator[Reason]:
    for reason in plan.reasons:
        yield Reason(
            reason.code,
            reason.text,
            _figure(reason.limit),
            _figure(reason.value),
            reason.source or "estimate of this plan",
        )


def _figure(value: float | str | None) -> str:
    return f"{value:,.6g}" if isinstance(value, (int, float)) else value or ""


def _assumptions(scenario: Scenario, decision: Decision, plan: Plan) -> Iterator[str]:
    if scenario.edge:
        yield EDGE
    for step in decision.path:
        if step.assumed:
            yield f"{step.question} {step.answer.capitalize()}: {step.because}."
    yield from plan.assumptions


def _questions(scenario: Scenario, decision: Decision) -> Iterator[str]:
    yield from (step.question for step in decision.path if step.assumed)
    for member in ASKED[decision.mode]:
        if getattr(scenario, member) is None and not (member == "latency_p99_ms" and scenario.stream):
            yield ASK[member]


def _line(line: dict[str, str]) -> dict[str, Any]:
    figures = ("quantity", "price_usd", "cost_usd")
    return {k: _number(Decimal(v)) if k in figures else v for k, v in line.items()}


def _number(value: Decimal) -> float:
    return round(float(value), 9)
