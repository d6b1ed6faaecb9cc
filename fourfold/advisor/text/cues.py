"""Finds the words that say something about a workload.

A cue is a way of saying one thing: `waits`, `later`, `sparse` and so on. All of them stand in one table,
`data/cues.txt`, with a weight that tells how plainly they say so. A cue that stands under a negation ("no need for
real-time answers") means what `NEGATED` says, or nothing.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from typing import Literal

import msgspec

from fourfold.advisor.text.phrases import sections

Meaning = Literal[
    "data_set", "one_by_one", "waits", "nobody_waits", "later", "strict", "relaxed", "sparse", "steady", "spiky",
    "diurnal", "scheduled", "no_idle", "always_on", "cold_ok", "cold_bad", "managed", "gpu", "cpu", "stream", "vpc",
    "several_models", "capture", "edge", "marketplace", "large", "long",
]  # fmt: skip

NEGATED: dict[Meaning, tuple[Meaning, int] | None] = {
    "waits": ("nobody_waits", 2),
    "strict": ("nobody_waits", 2),
    "cold_ok": ("cold_bad", 3),
    "cold_bad": None,
    "always_on": ("no_idle", 3),
    "steady": ("sparse", 1),
    "data_set": None,
    "scheduled": None,
    "gpu": ("cpu", 1),
    "one_by_one": None,
    "nobody_waits": ("waits", 1),
    "later": None,
    "large": None,
    "long": None,
    "sparse": None,
}
"""What a cue means with "not" before it. Not listed: a negation does not change it (the phrase has it already)."""
NEGATION_REACH = 6
"""Words that a negation reaches ahead, within its clause."""

REACH = 120
"""Characters before a cue that are looked at, within its sentence."""

_NEGATOR = re.compile(
    r"(?<!\w)(?:no|non(?=[ -]$)|not|nothing|never|without|neither|nor|n't|dont|doesnt|cant|wont|don't|doesn't|"
    r"isn't|aren't|won't|can't|cannot|needn't|nobody|"
    r"no longer|instead of|rather than|avoid\w*|unnecessary|hardly|not need\w*|free of)(?!\w)"
)
_NEVER = re.compile(r"(?<!\w)(?:never|not once|at no time)(?!\w)")
"""Only these deny that it is quiet: "never idle"; "no idle machine" is a wish."""
_PLAYED_DOWN = re.compile(
    r" (?:requirements? |needs? )?(?:(?:is|are|was|does|do|would be)(?: not|n't)|not|never|is no|are no) (?:\w+ ){0,2}?"
    r"(?:critical|important|essential|crucial|needed|required|necessary|matter|issue|concern|priority|relevant|urgent|"
    r"count|factor|planned|expected|foreseen|wanted|intended|involved|asked for|on the agenda)(?!\w)"
    r"| (?:is|are) (?:of (?:no|little|minor) \w+|unimportant|irrelevant|unnecessary|secondary|optional|negotiable)"
)
"""What takes back a demand that stands before it: "latency is not critical"."""
_COMPLAINT = re.compile(r"(?<!\w)(?:complain\w*|criticis\w+|dissatisf\w+|unhappy|annoyed)(?!\w)")
"""After these words what is missing is what is wanted: "users complain that answers do not come at once"."""
_CLAUSE_END = re.compile(
    r"[,;:()]|(?<!\w)(?:but|and|although|though|because|so|while|which|that|yet|however|if|when|as|how|whether|where|what|why|unless)(?!\w)"
)

_PAIR = re.compile(r"(?<!\w)(?:both|either|neither) [\w-]+ (?:and|or|nor)$")
"""An "and" that ends no clause: "avoid both servers and queues"."""


@dataclass(frozen=True)
class Hit:
    """A cue found in a text: what it says, how plainly, and where."""

    meaning: Meaning
    weight: int
    start: int
    end: int


@cache
def _table() -> tuple[tuple[Meaning, int, re.Pattern[str]], ...]:
    """Meaning, weight and compiled pattern of each section, the plainest first."""
    table: list[tuple[Meaning, int, re.Pattern[str]]] = []
    for heading, pattern in sections("cues.txt"):
        meaning, weight = heading.split()
        known: Meaning = msgspec.convert(meaning, Meaning)
        table.append((known, int(weight), re.compile(rf"(?<!\w)(?:{pattern})(?!\w)")))
    return tuple(sorted(table, key=lambda row: -row[1]))


def cues(text: str) -> list[Hit]:
    """Every cue of a prepared text; of two that overlap and mean the same, the plainer one. Negations are resolved."""
    found: list[Hit] = []
    taken: dict[Meaning, list[tuple[int, int]]] = defaultdict(list)
    for meaning, weight, pattern in _table():
        for match in pattern.finditer(text):
            start, end = match.span()
            if any(start < e and s < end for s, e in taken[meaning]):
                continue
            taken[meaning].append((start, end))
            hit = _under_negation(text, Hit(meaning, weight, start, end))
            if hit:
                found.append(hit)
    return sorted(found, key=lambda hit: (hit.start, hit.meaning))


def _under_negation(text: str, hit: Hit) -> Hit | None:
    if hit.meaning not in NEGATED or _CLAUSE_END.match(text, hit.start):
        return hit
    if hit.meaning in ("waits", "strict", "one_by_one") and _PLAYED_DOWN.match(text, hit.end):
        return Hit("nobody_waits", 2, hit.start, hit.end)
    before = text[max(0, hit.start - REACH) : hit.start]
    for stop in ".!?;\n":
        before = before.rpartition(stop)[2]
    clause = [end for end in _CLAUSE_END.finditer(before) if not _PAIR.search(before, 0, end.end())]
    scope = before[clause[-1].end() :] if clause else before
    if hit.meaning == "sparse" and not _NEVER.search(scope):
        return hit
    negators = [] if _COMPLAINT.search(before) else list(_NEGATOR.finditer(scope))
    if not negators or len(scope[negators[-1].end() :].split()) > NEGATION_REACH:
        return hit
    other = NEGATED[hit.meaning]
    if other is None or hit.weight == 1:
        return None
    return Hit(*other, hit.start - len(scope) + negators[-1].start(), hit.end)
