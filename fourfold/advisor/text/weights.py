"""Adds up how strongly a text says each meaning: what the cues say, and what figures say beside their value.

A latency of 80 ms says that somebody waits; a rate, that requests arrive one by one; ten days, that it is a job.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from fourfold.advisor.text.cues import Hit, Meaning
from fourfold.advisor.text.roles import Role
from fourfold.advisor.text.units import DAY, HOUR, MINUTE, Quantity

Says = Iterator[tuple[Meaning, float]]
Found = Sequence[tuple[Quantity, Role]]

STRICT_S, PATIENT_S = 1.6, 5.0
"""Seconds: a shorter latency leaves no room for a cold start; from the second on nobody sits and waits in earnest."""
LONG_S = 30.0
"""Seconds of model time from which a caller would rather not hold the connection."""
SHORT_DAY = 6 * HOUR
"""Traffic that lasts less than this leaves a machine idle for most of a day."""
RARE_PER_DAY, VERY_RARE_PER_DAY = 1500.0, 400.0
"""Fewer requests a day than this (one a minute) leave a machine idle most of the time."""
BUSY_PER_SECOND = 1.0
"""More requests a second than this keep a machine busy."""
QUARTER = 90 * DAY
"""What happens up to four times in so long is a timetable rather than traffic."""
FEW_PEOPLE = 100
"""So few people hardly keep a machine busy."""
BULK = 20_000
"""So many things a day or month are a data set as likely as they are requests."""

RUNS = ("run", "job", "batch", "pas", "wave", "campaign", "export", "dump", "delivery", "report", "round", "mailing")
"""What is no request but a whole job (the last letter of "pass" is lost with the plural's)."""


@dataclass
class Weights:
    """Points of each meaning, and the places that gave them. A repeated word adds nothing."""

    text: str
    points: dict[Meaning, float] = field(default_factory=lambda: defaultdict(float))
    places: dict[Meaning, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    _seen: set[tuple[Meaning, str]] = field(default_factory=set)

    def add(self, meaning: Meaning, weight: float, start: int, end: int) -> None:
        words = (meaning, self.text[start:end].lower())
        if words not in self._seen:
            self._seen.add(words)
            self.points[meaning] += weight
            self.places[meaning].append((start, end))

    def __getitem__(self, meaning: Meaning) -> float:
        return self.points.get(meaning, 0.0)

    def sum(self, *meanings: Meaning) -> float:
        return sum(self[meaning] for meaning in meanings)

    def words(self, *meanings: Meaning) -> str:
        """The quotes behind these meanings, in the order of the text."""
        spans = sorted({span for meaning in meanings for span in self.places.get(meaning, ())})
        return " … ".join(" ".join(self.text[start:end].split()) for start, end in spans)


def weigh(text: str, hits: Sequence[Hit], found: Found) -> Weights:
    """The weights of a text from its cues and from its quantities with their roles."""
    weights = Weights(text)
    for hit in hits:
        inside = {role for q, role in found if hit.start <= q.start < hit.end}
        if hit.meaning != "long" or inside <= {
            "processing",
            "recording",
            "none",
        }:  # "the fair lasts two hours" is no work
            weights.add(hit.meaning, hit.weight, hit.start, hit.end)
    records = any(role == "records" for _, role in found)
    for quantity, role in found:
        for meaning, weight in (*_by_role(quantity, role), *_by_kind(quantity, records)):
            weights.add(meaning, weight, quantity.start, quantity.end)
    return weights


def _by_role(q: Quantity, role: Role) -> Says:
    if role == "latency":
        yield "one_by_one", 3
        yield "waits", 4 if q.value < PATIENT_S else 2
        yield ("strict", 3) if q.value < STRICT_S else ("relaxed", 1)
    elif role == "deadline":
        yield from _by_deadline(q.value)
    elif role == "processing" and q.value >= LONG_S:
        yield "one_by_one", 2
        yield "later", 1
        if q.vague and q.value >= MINUTE:
            yield "long", 2
    elif role == "payload" and q.value >= 20:
        yield "one_by_one", 3
        if q.vague:
            yield "large", 2
    elif role == "recording":
        yield ("data_set", 3) if q.value >= 100 * HOUR else ("long", 2)
    elif role == "cold start":
        yield "relaxed", 2
        yield "cold_ok", 1
    elif role == "records":
        yield "data_set", 2 if q.value < 10_000 else 3
    elif role in ("job", "history"):
        yield "data_set", 3
    elif role == "data set":
        yield "data_set", 4
    elif role == "people" and q.value <= FEW_PEOPLE:
        yield "sparse", 1
    elif role == "silence":
        yield "sparse", 2
    elif role == "window" and q.value <= SHORT_DAY:
        yield "sparse", 1


def _by_deadline(seconds: float) -> Says:
    yield "nobody_waits", 1
    if seconds >= 6 * HOUR:
        yield "data_set", 3 if seconds >= 2 * DAY else 2
        yield "later", 1
    elif seconds >= MINUTE:
        yield "later", 2


def _by_kind(q: Quantity, records: bool) -> Says:
    if q.kind == "rate":
        yield from _by_rate(q, records)
    elif q.kind == "period" and q.value < HOUR:
        yield "one_by_one", 3
        yield "steady" if q.value < 2 * MINUTE else "sparse", 3
    elif q.kind == "hours a day":
        yield "steady" if q.value > SHORT_DAY else "sparse", 3
    elif q.kind == "money" and q.value < 60:
        yield "sparse", 1
        yield "no_idle", 2


def counts_runs(q: Quantity, records: bool) -> bool:
    """Whether a rate counts the runs of a job ("once a month", "two exports a day") instead of requests."""
    number = q.value * q.per
    what = q.what.split()[-1].rstrip("s") if q.what else ""
    if what in RUNS or (what == "file" and number <= 1):
        return q.per >= DAY and number <= 12
    runs = 12 if records else 4 if q.per >= QUARTER else 1
    return what in ("time", "") and q.per >= 7 * DAY and number <= runs


def _by_rate(q: Quantity, records: bool) -> Says:
    """A rate: requests, unless it counts the runs of a job or so much that it may be records."""
    number, per_day = q.value * q.per, q.value * DAY
    if counts_runs(q, records):
        yield "scheduled", 3 if q.what in RUNS else 2
        return
    if q.per >= DAY and number >= BULK:
        yield "data_set", 2 if q.per >= 7 * DAY else 1
        yield "one_by_one", 1
    else:
        yield "one_by_one", 3
    if q.value >= BUSY_PER_SECOND:
        yield "steady", 4
    elif q.per < DAY and per_day > 4 * RARE_PER_DAY:
        yield "steady", 3
    elif per_day <= RARE_PER_DAY:
        yield "sparse", 4 if per_day < VERY_RARE_PER_DAY else 3
