"""A few lines of SVG: shapes with escaped text, and a plot with logarithmic axes. No dependency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

INK, FAINT, GRID = "#1f2933", "#616e7c", "#e4e7eb"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


@dataclass
class Drawing:
    """Shapes in the order in which they are drawn; `render` gives the document."""

    width: float
    height: float
    title: str
    shapes: list[str] = field(default_factory=list)

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: float = 1.0, dash: str = "") -> None:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self.shapes.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}" '
            f'stroke-linejoin="round" stroke-linecap="round"{dashed}/>'
        )

    def box(
        self, x: float, y: float, width: float, height: float, fill: str, stroke: str = "none", radius: float = 0,
        opacity: float = 1,
    ) -> None:  # fmt: skip
        self.shapes.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{radius:g}" fill="{fill}" '
            f'fill-opacity="{opacity:g}" stroke="{stroke}" stroke-width="1.5"/>'
        )

    def dot(self, x: float, y: float, colour: str, radius: float = 4, title: str = "") -> None:
        tip = f"<title>{escape(title)}</title>" if title else ""
        place = f'cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"'
        self.shapes.append(f'<circle {place} fill="{colour}" stroke="#fff" stroke-width="1.5">{tip}</circle>')

    def text(
        self, x: float, y: float, text: str, size: float = 12, colour: str = INK, anchor: str = "start",
        weight: str = "normal", turned: bool = False,
    ) -> None:  # fmt: skip
        turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
        self.shapes.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" fill="{colour}" text-anchor="{anchor}" '
            f'font-weight="{weight}"{turn}>{escape(text)}</text>'
        )

    def arrow(self, x1: float, y1: float, x2: float, y2: float, colour: str = FAINT) -> None:
        angle = math.atan2(y2 - y1, x2 - x1)
        self.line([(x1, y1), (x2 - 6 * math.cos(angle), y2 - 6 * math.sin(angle))], colour, 1.5)
        wings = [(x2 - 9 * math.cos(angle + turn), y2 - 9 * math.sin(angle + turn)) for turn in (-0.45, 0.45)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in [(x2, y2), *wings])
        self.shapes.append(f'<polygon points="{path}" fill="{colour}"/>')

    def render(self) -> str:
        body = "\n".join(self.shapes)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width:g} {self.height:g}" '
            f'width="{self.width:g}" height="{self.height:g}" role="img" font-family="{FONT}">\n'
            f"<title>{escape(self.title)}</title>\n"
            f'<rect width="100%" height="100%" fill="#fff"/>\n{body}\n</svg>\n'
        )


@dataclass
class Plot:
    """A drawing with logarithmic axes; `at` turns values into positions."""

    drawing: Drawing
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    left: float = 70
    right: float = 130
    top: float = 56
    bottom: float = 54

    @property
    def x_span(self) -> tuple[float, float]:
        return self.left, self.drawing.width - self.right

    @property
    def y_span(self) -> tuple[float, float]:
        return self.drawing.height - self.bottom, self.top

    def x(self, value: float) -> float:
        return _place(value, self.x_range, self.x_span)

    def y(self, value: float) -> float:
        return _place(value, self.y_range, self.y_span)

    def at(self, x: float, y: float) -> tuple[float, float]:
        return self.x(x), self.y(y)

    def axes(
        self, x_name: str, y_name: str, x_ticks: Sequence[tuple[float, str]], y_ticks: Sequence[tuple[float, str]]
    ) -> None:
        draw = self.drawing
        (x0, x1), (y0, y1) = self.x_span, self.y_span
        draw.text(self.left, 26, draw.title, 15, weight="600")
        for value, text in x_ticks:
            draw.line([(self.x(value), y0), (self.x(value), y1)], GRID)
            draw.text(self.x(value), y0 + 18, text, 11, FAINT, "middle")
        for value, text in y_ticks:
            draw.line([(x0, self.y(value)), (x1, self.y(value))], GRID)
            draw.text(x0 - 8, self.y(value) + 4, text, 11, FAINT, "end")
        draw.text((x0 + x1) / 2, draw.height - 14, x_name, 12, INK, "middle")
        draw.text(18, (y0 + y1) / 2, y_name, 12, INK, "middle", turned=True)

    def labels(self, entries: Sequence[tuple[float, str, str]], gap: float = 16) -> None:
        """Names at the right edge: (y position, text, colour), moved apart where they would overlap."""
        y0, y1 = self.y_span
        placed: list[float] = []
        ordered = sorted(entries)
        for position, _, _ in ordered:
            placed.append(max(position, placed[-1] + gap) if placed else max(position, y1))
        over = placed[-1] - y0 if placed else 0
        for i in range(len(placed) - 1, -1, -1):
            if over > 0:
                limit = placed[i + 1] - gap if i + 1 < len(placed) else y0
                placed[i] = min(placed[i], limit)
        for y, (_, text, colour) in zip(placed, ordered, strict=True):
            self.drawing.text(self.x_span[1] + 8, y + 4, text, 12, colour, weight="600")


def _place(value: float, values: tuple[float, float], span: tuple[float, float]) -> float:
    low, high = values
    share = math.log(min(max(value, low), high) / low) / math.log(high / low)
    return span[0] + share * (span[1] - span[0])


def decades(low: float, high: float) -> list[float]:
    """The powers of ten from `low` to `high`."""
    return [10.0**e for e in range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)]
