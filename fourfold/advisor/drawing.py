"""Draws a decision tree as text, Mermaid or SVG. The tree itself is `rules.TREE`; nothing of it is repeated here."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from fourfold.advisor.rules import TREE, Choice, Node, Question
from fourfold.advisor.svg import FAINT, Drawing
from fourfold.errors import ValidationException

BOX_WIDTH, LINE_HEIGHT, GAP_X, GAP_Y, PADDING = 200, 16, 24, 56, 10
"""Pixels of the SVG."""
WRAP = 28
"""Characters in a line of a box."""


def draw_tree(form: str = "text", tree: Node = TREE) -> str:
    """The tree as `text`, `mermaid` or `svg`.

    Raises:
        ValidationException: another form is asked for.
    """
    forms = {"text": text_tree, "mermaid": mermaid_tree, "svg": svg_tree}
    if form not in forms:
        raise ValidationException(f"tree: is {form!r}; use one of {', '.join(forms)}")
    return forms[form](tree)


def text_tree(tree: Node) -> str:
    return "\n".join(_branches(tree, "", ""))


def mermaid_tree(tree: Node) -> str:
    """A Mermaid flowchart; questions are diamonds named by their key, leaves are rounded boxes."""
    lines = ["flowchart TD"]
    leaves = 0

    def add(node: Node) -> str:
        nonlocal leaves
        if isinstance(node, Choice):
            leaves += 1
            name = f"leaf{leaves}"
            lines.append(f'    {name}(["{node.mode}"])')
            return name
        lines.append(f'    {node.key}{{"{node.text}"}}')
        for word, child in (("yes", node.yes), ("no", node.no)):
            lines.append(f"    {node.key} -->|{word}| {add(child)}")
        return node.key

    add(tree)
    return "\n".join(lines)


def svg_tree(tree: Node) -> str:
    """One self-contained SVG; each leaf has a column of its own, each level a row."""
    boxes: list[_Box] = []
    root = _place(tree, 0, boxes)
    heights = [0] * (1 + max(box.depth for box in boxes))
    for box in boxes:
        heights[box.depth] = max(heights[box.depth], box.height)
    tops = [PADDING + sum(heights[:depth]) + GAP_Y * depth for depth in range(len(heights))]
    width = max(box.x for box in boxes) + BOX_WIDTH + PADDING
    drawing = Drawing(width, tops[-1] + heights[-1] + PADDING, "Which of the four modes fits?")
    _draw_edges(drawing, root, tops)
    for box in boxes:
        _draw_box(drawing, box, tops[box.depth])
    return drawing.render()


def _branches(node: Node, lead: str, indent: str) -> Iterator[str]:
    if isinstance(node, Choice):
        yield f"{lead}{node.mode}. {node.text}"
        return
    yield f"{lead}{node.text}"
    yield from _branches(node.yes, f"{indent}├─ yes: ", f"{indent}│  ")
    yield from _branches(node.no, f"{indent}└─ no: ", f"{indent}   ")


@dataclass
class _Box:
    """A node with its place: `x` in pixels, `depth` in levels."""

    node: Node
    depth: int
    x: float
    children: tuple[_Box, ...]

    @property
    def lines(self) -> list[str]:
        if isinstance(self.node, Question):
            return textwrap.wrap(self.node.text, WRAP)
        return [self.node.mode, *textwrap.wrap(self.node.text, WRAP)]

    @property
    def height(self) -> int:
        return len(self.lines) * LINE_HEIGHT + 2 * PADDING

    @property
    def middle(self) -> float:
        return self.x + BOX_WIDTH / 2


def _place(node: Node, depth: int, boxes: list[_Box]) -> _Box:
    """Puts a subtree right of what is there: leaves take columns, a question stands between its answers."""
    if isinstance(node, Choice):
        leaves = sum(isinstance(box.node, Choice) for box in boxes)
        box = _Box(node, depth, PADDING + leaves * (BOX_WIDTH + GAP_X), ())
    else:
        yes = _place(node.yes, depth + 1, boxes)
        no = _place(node.no, depth + 1, boxes)
        box = _Box(node, depth, (yes.x + no.x) / 2, (yes, no))
    boxes.append(box)
    return box


def _draw_edges(drawing: Drawing, box: _Box, tops: list[int]) -> None:
    for word, child in zip(("yes", "no"), box.children, strict=False):
        x1, y1, x2, y2 = box.middle, tops[box.depth] + box.height, child.middle, tops[child.depth]
        drawing.line([(x1, y1), (x2, y2)], FAINT)
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        drawing.box(x - 14, y - 9, 28, 16, "#fff")
        drawing.text(x, y + 4, word, anchor="middle")
        _draw_edges(drawing, child, tops)


def _draw_box(drawing: Drawing, box: _Box, top: int) -> None:
    leaf = isinstance(box.node, Choice)
    drawing.box(box.x, top, BOX_WIDTH, box.height, "#e8f4ea" if leaf else "#eef1f8", FAINT, 16 if leaf else 3)
    for number, line in enumerate(box.lines):
        weight = "bold" if leaf and number == 0 else "normal"
        drawing.text(box.middle, top + PADDING + LINE_HEIGHT * number + 12, line, anchor="middle", weight=weight)
