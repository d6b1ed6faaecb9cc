"""The advisor's answer as one HTML page that needs nothing else: text, tables and drawings in one file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from fourfold.advisor import pictures, tradeoffs
from fourfold.advisor.cost import Cost, plain
from fourfold.advisor.export import diagram
from fourfold.advisor.simulate.plans import simulated
from fourfold.errors import ValidationException

if TYPE_CHECKING:
    from fourfold.advisor.advise import Advice
    from fourfold.advisor.prices import Prices
    from fourfold.advisor.scenario import Mode

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: #1f2933; margin: 0; }
main { max-width: 860px; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem; }
.key { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.2rem 0; }
.key div { border: 1px solid #e4e7eb; border-radius: 8px; padding: .6rem 1rem; min-width: 8rem; }
.key b { display: block; font-size: 1.25rem; }
.key span, .faint { color: #616e7c; font-size: .85rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .35rem .6rem .35rem 0; border-bottom: 1px solid #e4e7eb; vertical-align: top;
  overflow-wrap: anywhere; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
svg { max-width: 100%; height: auto; }
.no { color: #b42318; } .yes { color: #008060; }
"""


def write(advice: Advice, prices: Prices, path: Path) -> Path:
    """Write the page.

    Raises:
        ValidationException: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page(advice, prices), encoding="utf-8")
    except OSError as error:
        raise ValidationException(f"report: {path} cannot be written: {error.strerror}") from error
    return path


def page(advice: Advice, prices: Prices) -> str:
    """The page as HTML."""
    scenario, plan = advice.scenario, advice.plan
    title = f"{advice.mode.capitalize()} inference" + (f" for {scenario.id}" if scenario.id else "")
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(scenario.text)}</p>" if scenario.text else "",
        _key(advice),
        _list("What stands in the way", [r.text for r in advice.reasons]),
        "<h2>What was understood</h2>",
        _table(("fact", "value", "from"), [(e.member, _shown(e.value), e.source) for e in scenario.evidence]),
        "<h2>The way to the answer</h2>",
        _table(("question", "answer", "because"), [(s.question, s.answer, s.because) for s in advice.decision.path]),
        "<h2>Cost, line by line</h2>",
        _bill(plan.cost),
        "<h2>The other modes</h2>",
        _others(advice),
        "<h2>Cost against requests a day</h2>",
        pictures.cost_by_rate(scenario, prices, _fitting(advice)),
        _list("", _findings(advice, prices)),
        "<h2>Payload and time to the answer</h2>",
        pictures.latency_payload_map(scenario),
        "<h2>Cost against p99</h2>",
        pictures.frontier(tradeoffs.points(scenario, prices, _fitting(advice)), scenario.latency_p99_ms),
        _architecture(advice),
        _list("Assumed", advice.assumptions),
        _list("Questions whose answers would sharpen this", advice.questions),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _key(advice: Advice) -> str:
    plan = advice.plan
    facts = [
        ("recommendation", advice.mode),
        ("feasible", "yes" if advice.feasible else "no"),
        ("a month", f"${plan.cost.total:,.2f}"),
    ]
    if plan.sizing is not None:
        facts.append(("configuration", tradeoffs.label(plan.sizing)))
    facts += [(name, pictures.duration(ms)) for name, ms in plan.latency_ms.items()]
    return '<div class="key">' + "".join(f"<div><span>{n}</span><b>{escape(v)}</b></div>" for n, v in facts) + "</div>"


def _bill(cost: Cost) -> str:
    rows = [
        (
            line.item,
            plain(round(line.quantity, 3)),
            line.unit,
            plain(line.price_usd),
            f"{line.cost_usd:,.4f}",
            line.source,
        )
        for line in cost.lines
    ]
    heads = ("item", "quantity", "unit", "price USD", "cost USD", "source")
    return _table(heads, rows, figures={1, 3, 4}) + f"<p><b>Total: ${cost.total:,.2f} a month</b></p>"


def _others(advice: Advice) -> str:
    rows = []
    for other in advice.alternatives:
        usd = "" if other.monthly_cost_usd is None else f"{other.monthly_cost_usd:,.2f}"
        verdict = "fits" if other.feasible else "does not fit"
        rows.append((other.type, verdict, usd, " ".join(r.text for r in other.reasons)))
    return _table(("mode", "", "USD a month", "why not"), rows, figures={2})


def _findings(advice: Advice, prices: Prices) -> list[str]:
    """What the pictures say, in words."""
    said = [f"{c.text[0].upper()}{c.text[1:]}." for c in tradeoffs.crossings(advice.scenario, prices, _fitting(advice))]
    if advice.mixed is not None:
        said.append(f"A mixed plan would be cheaper: {advice.mixed.text}.")
    seen = simulated(advice.plan).latency_ms()
    if seen:
        figures = ", ".join(f"{name} {pictures.duration(ms)}" for name, ms in seen.items())
        said.append(f"Simulated on the scenario's arrivals: {figures}.")
    return said


def _fitting(advice: Advice) -> list[Mode]:
    """The recommended mode and the others that would do."""
    return [advice.mode, *(other.type for other in advice.alternatives if other.feasible)]


def _architecture(advice: Advice) -> str:
    if advice.plan.sizing is None:
        return ""
    boxes, arrows = diagram.parts(advice.plan)
    return "<h2>Architecture</h2>\n" + pictures.architecture(boxes, arrows)


def _list(title: str, entries: Sequence[str]) -> str:
    if not entries:
        return ""
    head = f"<h2>{escape(title)}</h2>\n" if title else ""
    return head + "<ul>" + "".join(f"<li>{escape(entry)}</li>" for entry in entries) + "</ul>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], figures: set[int] | None = None) -> str:
    numeric = figures or set()

    def cells(tag: str, values: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=n' if i in numeric else ''}>{escape(value)}</{tag}>" for i, value in enumerate(values)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>\n" for row in rows)
    if not body:
        return '<p class="faint">None.</p>'
    return f'<div class="scroll"><table>\n<tr>{cells("th", heads)}</tr>\n{body}</table></div>'


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
