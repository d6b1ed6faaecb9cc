"""Reads the tables of phrases in `advisor/data`: sections in brackets, one regular expression a line."""

from __future__ import annotations

import re
from importlib.resources import files


def sections(name: str) -> list[tuple[str, str]]:
    """Heading and joined pattern (without groups of its own) of each section of a table, in the order of the file."""
    found: list[tuple[str, list[str]]] = []
    for line in (files("fourfold.advisor") / "data" / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            found.append((line.strip("[]"), []))
        elif line.strip() and not line.startswith("#"):
            found[-1][1].append(expand(line))
    return [(heading, "|".join(lines)) for heading, lines in found]


def expand(line: str) -> str:
    """A line as a regular expression: groups that only group, ` .. ` and spaces replaced by what they stand for."""
    line = re.sub(r"\((?!\?)", "(?:", line)
    return line.replace(" .. ", r"[\s,]+(?:[\w'-]+[\s,]+){0,4}?").replace(" ", "[ -]")
