"""What a quantity says about the workload, by the words around it.

`20 minutes` may be the time that the model takes, the time until the answer is needed, the time that a whole job
runs, or a silence between two bursts. The words stand in `data/roles.txt`; the order in which they are asked stands
here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

from fourfold.advisor.text.phrases import sections
from fourfold.advisor.text.units import DAY, HOUR, MINUTE, YEAR, Quantity

Role = Literal[
    "latency", "deadline", "processing", "job", "window", "history", "silence", "cold start", "payload",
    "model memory", "data set", "records", "recording", "concurrency", "people", "image", "none",
]  # fmt: skip

AHEAD = 60
BACK = 80
"""Characters on either side of a figure that are looked at, within its sentence."""
LONG_LATENCY = 30.0
"""Seconds: a limit beyond this is a deadline; nobody holds a connection for it."""
BARE_LATENCY = 0.3
"""Seconds: so short a time without a word beside it is a demand, a longer one the time that the model takes."""
SMALL_MODEL_MB = 5.0
"""A smaller size that stands near a model is that of a request."""
STORED_MB = 1000.0
HUGE_MB = 5000.0
"""Sizes above this belong to a data set, whatever is said of them; those above `STORED_MB` if the words say so."""
MANY = 500
"""Things counted from here on are records; fewer may be anything."""


@dataclass(frozen=True)
class Context:
    """The text on both sides of a figure."""

    before: str
    after: str

    def has(self, heading: str) -> bool:
        """Whether a section of the table fits here."""
        pattern, leading = _sections()[heading]
        return bool(pattern.search(self.before) if leading else pattern.match(self.after))


@cache
def _sections() -> dict[str, tuple[re.Pattern[str], bool]]:
    """Each section's pattern by its heading ("billed before"), and whether it looks before the figure."""
    found = {}
    for heading, pattern in sections("roles.txt"):
        name, side, *gap = heading.rsplit(maxsplit=2) if heading[-1].isdigit() else (*heading.rsplit(maxsplit=1),)
        if gap:
            between = rf"(?!\w)[^.;]{{0,{gap[0]}}}" if gap[0] != "0" else ""
            found[f"{name} {side}"] = re.compile(rf"(?:(?<!\w)|(?=<))(?:{pattern}){between}[ -]*$"), True
        else:
            found[f"{name} {side}"] = re.compile(rf"(?:{pattern})(?!\w)"), False
    return found


def _context(quantity: Quantity, text: str) -> Context:
    before = re.split(r"(?<=[a-z0-9])[.?!;]\s", text[max(0, quantity.start - BACK) : quantity.start])[-1]
    return Context(before, text[quantity.end : quantity.end + AHEAD].split(". ")[0].lstrip(" -,"))


def is_payload(quantity: Quantity, text: str) -> bool:
    """Whether a size is said to be that of a request: "256 KB request", "bodies of 40 KB"."""
    context = _context(quantity, text)
    return context.has("payload before") or context.has("payload after")


def role_of(quantity: Quantity, text: str) -> Role:
    """The role of a duration, size or count; rates, periods and money speak for themselves ("none")."""
    context = _context(quantity, text)
    if quantity.kind == "duration":
        return _duration(quantity.value, context, quantity.vague)
    if quantity.kind == "size":
        return _size(quantity.value, context)
    if quantity.kind == "count":
        if context.has("at once after"):
            return "concurrency"
        if context.has("people after") or (context.has("places before") and context.has("places after")):
            return "people"
        return "records" if quantity.value >= MANY else "none"
    return "none"


def _duration(seconds: float, context: Context, vague: bool) -> Role:
    has = context.has
    if has("complaint before") or has("no limit before"):
        return "none"
    if seconds >= DAY and has("history after"):
        return "history"
    if (seconds >= DAY and has("age before")) or has("billed before") or has("not inference after"):
        return "none"
    if has("timeout after"):  # of an application; a longer one is a limit that somebody set, and says nothing
        return "latency" if seconds < LONG_LATENCY else "none"
    if has("recording after") or (seconds >= MINUTE and has("recording before")):
        return "recording" if seconds >= MINUTE else "none"
    if seconds <= MINUTE and has("answer takes before"):
        return "latency"
    if seconds >= DAY and (has("share after") or (has("span before") and has("span after"))):
        return "silence"
    if has("window after") and seconds >= DAY:
        return "deadline"
    if (
        has("window after")
        or (seconds < DAY and has("share after"))
        or has("active before")
        or (seconds >= MINUTE and has("traffic before"))
    ):
        return "window"
    if has("silence after"):
        return "silence"
    if has("processing after"):
        return "processing"
    if seconds <= MINUTE and (has("cold start before") or has("cold start after")) and not has("limit before"):
        return "cold start" if seconds >= 1 else "latency"
    if has("later after"):
        return "deadline" if seconds >= LONG_LATENCY else "latency"
    if seconds >= HOUR and has("silence before") and not has("processing before") and not has("allowed after"):
        return "silence"
    if seconds >= 10 * MINUTE and has("job before"):
        return "job"
    if has("allowed after"):
        return "deadline" if seconds >= MINUTE else "latency"
    if seconds >= DAY:
        return _days(seconds, context, vague)
    return _short(seconds, context)


def _days(seconds: float, context: Context, vague: bool) -> Role:
    if context.has("allowed before") and not vague:
        return "deadline"
    return "history" if seconds >= 0.8 * YEAR else "silence"


def _short(seconds: float, context: Context) -> Role:
    """Less than a day, and nothing plainer was found: a limit ("less than 1 s") before a working time ("takes")."""
    has = context.has
    if has("answer within before") or (has("limit before") and not has("work time before")):
        return "latency" if seconds <= LONG_LATENCY else "deadline"
    if has("processing before"):
        return "processing"
    if has("latency before") or has("latency after"):
        return "latency" if seconds <= LONG_LATENCY else "deadline"
    if seconds >= MINUTE and has("allowed before"):
        return "deadline"
    modelled = has("model time before") or has("model time after")
    return "latency" if seconds < BARE_LATENCY and not modelled else "processing"


def _size(megabytes: float, context: Context) -> Role:
    if context.has("limit after"):
        return "none"
    if context.has("image before") or context.has("image after"):
        return "image"
    if context.has("model memory after") and not context.has("request is before"):
        return "model memory"
    named = context.has("payload after")
    if context.has("model memory before") and not (named and megabytes < SMALL_MODEL_MB):
        return "model memory"
    if context.has("model clause before") and megabytes >= SMALL_MODEL_MB:
        return "model memory"
    stored = context.has("data set before") or context.has("data set after")
    return "data set" if megabytes >= HUGE_MB or (megabytes > STORED_MB and stored) else "payload"
