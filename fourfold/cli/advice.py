"""How advice looks on a terminal: the mode first, then money, time, the way there, and why the others lost."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from fourfold.advisor.pictures import duration
from fourfold.cli.output import print_table

if TYPE_CHECKING:
    from rich.console import Console

    from fourfold.advisor.advise import Advice


def show(advice: Advice) -> None:
    """Print advice for a person."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    _headline(console, advice)
    if advice.plan.cost.lines:
        print_table(
            ("item", "quantity", "unit", "price USD", "cost USD"),
            [
                (x.item, f"{x.quantity:,.6g}", x.unit, f"{x.price_usd:,.6g}", f"{x.cost_usd:,.4f}")
                for x in advice.plan.cost.lines
            ],
        )
    if advice.mixed is not None:
        _list(console, "A mixed plan would be cheaper", [advice.mixed.text])
    _list(
        console,
        "What was read",
        [f"{e.member}: {_value(e.value)}, from “{e.source}”" for e in advice.scenario.evidence],
    )
    _list(console, "The way there", [f"{s.question} [b]{s.answer}[/b]: {s.because}" for s in advice.decision.path])
    for other in advice.alternatives:
        cost = "" if other.monthly_cost_usd is None else f", {other.monthly_cost_usd:,.2f} USD a month"
        possible = "possible" if other.feasible else "not possible"
        _list(console, f"Not {other.type} ({possible}{cost})", [f"{r.text} \\[{r.source}]" for r in other.reasons])
    _list(console, "Assumed", list(advice.assumptions))
    _list(console, "Answers that would sharpen this", list(advice.questions))


def _headline(console: Console, advice: Advice) -> None:
    name = f"{advice.scenario.id}: " if advice.scenario.id else ""
    console.print(f"{name}[b]{advice.mode}[/b]: {advice.decision.text}")
    latency = ", ".join(f"{q} {duration(ms)}" for q, ms in advice.plan.latency_ms.items())
    console.print(f"{advice.plan.cost.total:,.2f} USD a month" + (f"; {latency}" if latency else ""))
    if not advice.feasible:
        _list(console, "[red]As it stands it cannot be done[/red]", [r.text for r in advice.reasons])


def _list(console: Console, title: str, lines: list[str]) -> None:
    if lines:
        console.print(f"\n[b]{title}[/b]")
        for line in lines:
            console.print(f"  - {line}")


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
