"""The advisor's pictures, as SVG text: cost against requests a day, the latency × payload map, the frontier, the parts.

Each takes a scenario or a plan and gives a whole SVG document.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fourfold.advisor import tradeoffs, workload
from fourfold.advisor.prices import Prices
from fourfold.advisor.scenario import MODES, Mode, Scenario
from fourfold.advisor.sizing import overhead_ms
from fourfold.advisor.svg import FAINT, INK, Drawing, Plot, decades
from fourfold.advisor.tradeoffs import Point

COLOURS: dict[Mode, str] = {
    "real-time": "#0072b2",
    "batch": "#008060",
    "asynchronous": "#b36b00",
    "serverless": "#a8497f",
}
"""From the palette of Okabe and Ito, darkened to be read as text; told apart by people who do not see red or green."""


@dataclass(frozen=True)
class Box:
    """A part of a deployment, at a column and row of the drawing."""

    id: str
    title: str
    detail: str
    column: int
    row: int


@dataclass(frozen=True)
class Arrow:
    start: str
    end: str
    text: str = ""


def cost_by_rate(scenario: Scenario, prices: Prices, fitting: Sequence[Mode] = MODES) -> str:
    """Monthly cost of the four modes against requests a day, with the rates at which the cheapest of those that fit
    changes. The others are dashed.
    """
    rates = tradeoffs.rates(6)
    curves = {mode: tradeoffs.curve(scenario, prices, rates, mode) for mode in MODES}
    known = [usd for curve in curves.values() for usd in curve if usd]
    if not known:
        known = [1.0]
    low, high = max(min(known), 0.001), max(known)
    drawing = Drawing(760, 440, "Cost a month against requests a day")
    plot = Plot(drawing, (tradeoffs.LOW, tradeoffs.HIGH), (low / 2, high * 2))
    x_ticks = [(v, short(v)) for v in decades(*plot.x_range)]
    plot.axes("requests a day", "US dollars a month", x_ticks, money_ticks(plot.y_range))
    ends = []
    for mode, curve in curves.items():
        drawn = [plot.at(r, max(usd, low)) for r, usd in zip(rates, curve, strict=True) if usd is not None]
        if drawn:
            drawing.line(drawn, COLOURS[mode], 2.5 if mode in fitting else 1.5, "" if mode in fitting else "6 5")
            ends.append((drawn[-1][1], mode, COLOURS[mode]))
    plot.labels(ends)
    absent = [mode for mode in MODES if mode not in {mode for _, mode, _ in ends}]
    if absent:
        said = f"not drawn, because it does not fit this scenario: {', '.join(absent)}"
        drawing.text(plot.left, 44, said, 11, FAINT)
    for crossing in tradeoffs.crossings(scenario, prices, fitting):
        x = plot.x(crossing.requests_per_day)
        drawing.line([(x, plot.y_span[0]), (x, plot.y_span[1])], FAINT, 1, "4 4")
        drawing.text(x, plot.y_span[1] - 6, short(tradeoffs.rounded(crossing.requests_per_day)), 11, FAINT, "middle")
    here = workload.of(scenario).requests_per_day
    if here > 0:
        x = plot.x(here)
        drawing.line([(x, plot.y_span[0]), (x, plot.y_span[1])], INK, 1.5)
        drawing.text(x + 5, plot.y_span[0] - 8, f"this scenario, {short(tradeoffs.rounded(here))}", 11, INK)
    return drawing.render()


REGIONS: tuple[tuple[Mode, float, float, float, float, str], ...] = (
    ("batch", 0.001, 100_000, 60_000, 1e9, "batch: data sets of any size, minutes to days"),
    ("asynchronous", 0.001, 1000, 1000, 3.6e6, "asynchronous: to 1 GB, to 1 h"),
    ("real-time", 0.001, 25, 5, 60_000, "real-time: to 25 MB, 60 s"),
    ("serverless", 0.001, 4, 100, 60_000, "serverless: to 4 MB, 60 s"),
)
"""Payload from and to (MB), time to the answer from and to (ms): the documented limits, drawn from the widest to the
narrowest. The lower edges in time are what a mode can do at best, not limits."""


def latency_payload_map(scenario: Scenario) -> str:
    """Where each mode works, by payload and by the time in which the answer is needed, with the scenario on it."""
    drawing = Drawing(760, 440, "Payload and time to the answer: where each mode works")
    plot = Plot(drawing, (0.001, 100_000), (5, 1e9), left=84, right=30)
    times = [
        (10, "10 ms"),
        (100, "100 ms"),
        (1e3, "1 s"),
        (1e4, "10 s"),
        (6e4, "1 min"),
        (3.6e6, "1 h"),
        (8.64e7, "1 day"),
    ]
    sizes = [
        (0.001, "1 KB"),
        (0.1, "100 KB"),
        (1, "1 MB"),
        (4, "4"),
        (25, "25"),
        (100, "100"),
        (1e3, "1 GB"),
        (1e5, "100 GB"),
    ]
    plot.axes("payload", "time to the answer", sizes, times)
    for mode, small, large, soon, late, text in REGIONS:
        (x0, y0), (x1, y1) = plot.at(small, late), plot.at(large, soon)
        drawing.box(x0, y0, x1 - x0, y1 - y0, COLOURS[mode], COLOURS[mode], 6, 0.14)
        low = mode == "real-time"
        drawing.text(x0 + 10, y1 - 9 if low else y0 + 19, text, 12, COLOURS[mode], weight="600")
    work = workload.of(scenario)
    needed = scenario.latency_p99_ms or (scenario.deadline_s or 0) * 1000
    stated = needed or overhead_ms(work) + work.service_s * 1000
    x, y = plot.at(work.payload_mb, stated)
    drawing.dot(x, y, INK, 7, "this scenario")
    words = "this scenario" if needed else "this scenario (no target: its own processing time)"
    right = x > 480
    drawing.text(x - 12 if right else x + 12, y + 4, words, 12, INK, "end" if right else "start", "600")
    return drawing.render()


def frontier(points: Sequence[Point], target_ms: float | None = None) -> str:
    """Configurations by cost and p99; those that nothing beats are joined, the cheapest and the fastest named.

    With a target, what takes more than ten times as long is left out.
    """
    drawing = Drawing(760, 440, "Cost against p99: the line joins what nothing beats")
    shown = [p for p in points if p.usd > 0 and (target_ms is None or p.p99_ms <= 10 * target_ms)]
    if not shown:
        drawing.text(380, 220, "no configuration comes near the target", 13, FAINT, "middle")
        return drawing.render()
    best = tradeoffs.unbeaten(shown)
    low, high = min(p.p99_ms for p in shown), max(p.p99_ms for p in shown)
    usd = min(p.usd for p in shown), max(p.usd for p in shown)
    plot = Plot(drawing, (usd[0] / 1.6, usd[1] * 1.6), (low / 2.5, max(high, target_ms or 0) * 2.5), left=84)
    plot.axes("US dollars a month", "p99, from request to answer", money_ticks(plot.x_range), time_ticks(plot.y_range))
    if target_ms:
        y = plot.y(target_ms)
        drawing.line([(plot.x_span[0], y), (plot.x_span[1], y)], "#b42318", 1.5, "6 4")
        drawing.text(plot.x_span[1] - 4, y - 6, f"target {duration(target_ms)}", 11, "#b42318", "end")
    for point in shown:
        drawing.dot(*plot.at(point.usd, point.p99_ms), COLOURS[point.mode], 3.5, f"{point.mode}, {point.label}")
    drawing.line([plot.at(p.usd, p.p99_ms) for p in best], INK, 1.5)
    for point in best:
        tip = f"{point.mode}, {point.label}: {point.usd:,.2f} USD, {duration(point.p99_ms)}"
        drawing.dot(*plot.at(point.usd, point.p99_ms), COLOURS[point.mode], 6, tip)
    for point, below in {best[0]: False, best[-1]: True}.items():
        x, y = plot.at(point.usd, point.p99_ms)
        drawing.text(x + 9, y + (20 if below else -10), point.label, 11, INK)
    modes = [m for m in MODES if m in {p.mode for p in shown}]
    plot.labels([(plot.y_span[1] + 18 * i, m, COLOURS[m]) for i, m in enumerate(modes)])
    return drawing.render()


def money_ticks(span: tuple[float, float]) -> list[tuple[float, str]]:
    """Powers of ten; for less than two of them, 1, 2 and 5 of each as well."""
    ticks = decades(*span)
    if len(ticks) < 2:
        ticks = [m * v for v in decades(span[0] / 10, span[1]) for m in (1, 2, 5) if span[0] <= m * v <= span[1]]
    return [(v, short(v)) for v in ticks]


def time_ticks(span: tuple[float, float]) -> list[tuple[float, str]]:
    """Round times between two figures of milliseconds."""
    round_times = (1, 10, 100, 1e3, 1e4, 6e4, 6e5, 3.6e6, 3.6e7, 8.64e7, 8.64e8)
    return [(ms, duration(ms)) for ms in round_times if span[0] <= ms <= span[1]]


COLUMN, ROW, WIDTH, HEIGHT = 255, 112, 190, 62


def architecture(boxes: Sequence[Box], arrows: Sequence[Arrow]) -> str:
    """Boxes on a grid and the arrows between them."""
    first = min(b.row for b in boxes)
    columns, rows = max(b.column for b in boxes) + 1, max(b.row for b in boxes) + 1 - first
    drawing = Drawing(COLUMN * columns, ROW * rows + 10, "Architecture")
    middle = {b.id: (COLUMN * b.column + COLUMN / 2, ROW * (b.row - first) + ROW / 2 + 5) for b in boxes}
    for arrow in arrows:
        (x1, y1), (x2, y2) = middle[arrow.start], middle[arrow.end]
        start, end = _edge(x1, y1, x2, y2), _edge(x2, y2, x1, y1)
        drawing.arrow(*start, *end)
        if arrow.text:
            x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
            drawing.box(x - 3.1 * len(arrow.text) - 3, y - 8, 6.2 * len(arrow.text) + 6, 15, "#fff")
            drawing.text(x, y + 4, arrow.text, 10.5, FAINT, "middle")
    for box in boxes:
        x, y = middle[box.id]
        drawing.box(x - WIDTH / 2, y - HEIGHT / 2, WIDTH, HEIGHT, "#f8fafc", "#9aa5b1", 8)
        drawing.text(x, y - 4, box.title, 13, INK, "middle", "600")
        drawing.text(x, y + 15, box.detail, 10.5, FAINT, "middle")
    return drawing.render()


def _edge(x1: float, y1: float, x2: float, y2: float) -> tuple[float, float]:
    """Where the line from the middle of a box leaves it."""
    dx, dy = x2 - x1, y2 - y1
    share = min(WIDTH / 2 / abs(dx) if dx else 9e9, HEIGHT / 2 / abs(dy) if dy else 9e9)
    return x1 + dx * share, y1 + dy * share


def short(value: float) -> str:
    """`1.2k`, `3M`; figures below 1000 as they are."""
    for limit, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{sign}"
    return f"{value:.3g}"


def duration(ms: float) -> str:
    """Milliseconds in the unit that a person would use."""
    for limit, unit in ((8.64e7, "d"), (3.6e6, "h"), (6e4, "min"), (1e3, "s")):
        if ms >= limit:
            return f"{ms / limit:.3g} {unit}"
    return f"{ms:.3g} ms"
