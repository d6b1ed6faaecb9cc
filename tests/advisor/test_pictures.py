"""The pictures are well-formed SVG, say what the figures say, and the report needs nothing beside itself."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fourfold.advisor import pictures, report, search, svg, tradeoffs
from fourfold.advisor.advise import advise
from fourfold.advisor.export import diagram
from fourfold.advisor.load import from_members
from fourfold.advisor.prices import shipped
from fourfold.advisor.scenario import MODES, Mode, Scenario

PRICES = shipped()
SCENARIO = Scenario(
    id="demo", processing_s=0.1, payload_mb=0.5, pattern="diurnal", requests_per_day=300_000, memory_gb=2,
    latency_p99_ms=500,
)  # fmt: skip


def parse(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


def words(drawing: ElementTree.Element) -> str:
    return " ".join(node.text or "" for node in drawing.iter("{http://www.w3.org/2000/svg}text"))


def inside(drawing: ElementTree.Element) -> bool:
    """Whether every text begins inside the drawing."""
    width, height = float(drawing.attrib["width"]), float(drawing.attrib["height"])
    texts = drawing.iter("{http://www.w3.org/2000/svg}text")
    return all(0 <= float(t.attrib["x"]) <= width and 0 <= float(t.attrib["y"]) <= height for t in texts)


def test_cost_by_rate_shows_the_modes_that_fit_and_where_the_cheapest_changes() -> None:
    drawing = parse(pictures.cost_by_rate(SCENARIO, PRICES))
    crossing = tradeoffs.crossings(SCENARIO, PRICES)[0]
    said = words(drawing)
    assert pictures.short(tradeoffs.rounded(crossing.requests_per_day)) in said
    assert "real-time" in said
    assert "serverless" in said
    assert "does not fit this scenario: batch" in said
    assert "this scenario, 300k" in said
    assert inside(drawing)


@pytest.mark.parametrize(
    "scenario",
    [SCENARIO, Scenario(), Scenario(payload_mb=50_000, deadline_s=1e6), Scenario(latency_p99_ms=1, payload_mb=1e-6)],
)
def test_every_picture_copes_with_any_scenario(scenario: Scenario) -> None:
    for text in (
        pictures.latency_payload_map(scenario),
        pictures.frontier(tradeoffs.points(scenario, PRICES), scenario.latency_p99_ms),
    ):
        assert inside(parse(text))


def test_the_frontier_leaves_out_what_is_far_from_the_target() -> None:
    points = tradeoffs.points(SCENARIO, PRICES)
    assert "batch" in words(parse(pictures.frontier(points)))
    assert "batch" not in words(parse(pictures.frontier(points, 500)))


@pytest.mark.parametrize("mode", MODES)
def test_an_architecture_names_the_configuration(mode: Mode) -> None:
    plan = search.plan(SCENARIO, mode, PRICES)
    boxes, arrows = diagram.parts(plan)
    drawing = parse(pictures.architecture(boxes, arrows))
    assert plan.sizing is not None
    assert tradeoffs.label(plan.sizing) in words(drawing)
    assert inside(drawing)
    assert {a.start for a in arrows} | {a.end for a in arrows} == {b.id for b in boxes}
    assert diagram.mermaid(boxes, arrows).startswith("flowchart LR\n")


def test_text_is_escaped() -> None:
    drawing = svg.Drawing(10, 10, "<a> & b")
    drawing.text(1, 1, "<script>")
    assert parse(drawing.render()).findtext("{http://www.w3.org/2000/svg}title") == "<a> & b"


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag in ("table", "tr", "ul", "li", "div", "main", "svg", "h2"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("table", "tr", "ul", "li", "div", "main", "svg", "h2"):
            assert self.open.pop() == tag


def test_the_report_is_one_self_contained_page(tmp_path: Path) -> None:
    text = "A shop's <b>chatbot</b> & co: asked 400 times a day at odd moments, 20 KB, 300 ms on a CPU."
    advice = advise(from_members({"id": "shop", "text": text}, "flag"), PRICES)
    path = report.write(advice, PRICES, tmp_path / "out" / "report.html")
    html = path.read_text()
    links = Links()
    links.feed(html)
    assert links.fetched == []
    assert links.open == []
    assert "&lt;b&gt;chatbot&lt;/b&gt; &amp; co" in html
    assert html.count("<svg") == 4
    assert f"${advice.plan.cost.total:,.2f}" in html
    assert re.search(r"erverless is cheaper below [\d,]+ requests a day", html)
