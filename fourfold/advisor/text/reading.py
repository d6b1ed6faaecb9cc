"""Decides the facts of a scenario from the weights of its text, and states its figures; each fact quotes its words."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from fourfold.advisor.scenario import Evidence, Pattern, Scenario
from fourfold.advisor.text.cues import Hit, Meaning, cues
from fourfold.advisor.text.phrases import sections
from fourfold.advisor.text.prepare import prepare
from fourfold.advisor.text.quantities import quantities
from fourfold.advisor.text.roles import Role, is_payload, role_of
from fourfold.advisor.text.units import DAY, HOUR, MINUTE, Quantity
from fourfold.advisor.text.weights import Found, Weights, counts_runs, weigh

AT_ONCE = 7.0
"""Points from which on "at once" is so plainly meant that no data set can be."""
SYNCHRONOUS_MB, SYNCHRONOUS_S = 25.0, 60.0
"""Words such as "at once" are not meant strictly of requests beyond this."""

FIGURES: dict[Role, tuple[str, float]] = {
    "latency": ("latency_p99_ms", 1000), "deadline": ("deadline_s", 1), "processing": ("processing_s", 1),
    "payload": ("payload_mb", 1), "model memory": ("memory_gb", 0.001), "image": ("image_gb", 0.001),
    "data set": ("dataset_gb", 0.001), "records": ("rows", 1), "concurrency": ("concurrency", 1),
}  # fmt: skip
"""Member of the scenario that a figure of each role becomes, and the factor to its unit."""
OF_REQUESTS, OF_DATA_SETS = {"latency", "processing"}, {"records"}
"""Roles that say nothing of a data set, or of single requests."""
_PEAK = re.compile(r"\b(?:peaks?|spikes?|bursts?|surges?|max(?:imum|imal)?|up to|at most)\b(?:\W+\w+){0,2}\W*$")
"""Before a rate that is reached only now and then."""
PLAIN: dict[str, Meaning] = {
    "managed": "managed", "stream": "stream", "vpc": "vpc", "multi_model": "several_models", "data_capture": "capture",
    "edge": "edge", "marketplace": "marketplace",
}  # fmt: skip
"""Members that are true when their meaning is said."""


@dataclass
class Facts:
    """The scenario in the making, with its evidence. What was set first stays."""

    text: str
    values: dict[str, Any] = field(default_factory=dict)
    evidence: list[Evidence] = field(default_factory=list)

    def set(self, member: str, value: object, words: str) -> None:
        if value is not None and member not in self.values:
            self.values[member] = value
            self.evidence.append(Evidence(member, value, words))

    def quote(self, member: str, value: object, quantity: Quantity) -> None:
        self.set(member, value, self.text[quantity.start : quantity.end])

    def __getitem__(self, member: str) -> Any:
        return self.values.get(member)


def understand(text: str, id: str | None = None) -> Scenario:
    """Reads a scenario from English text. Deterministic; what the text does not say stays None."""
    prepared = prepare(text)
    hits = cues(prepared)
    found: Found = [(q, role_of(q, prepared)) for q in quantities(prepared) if not _is_timetable(q, hits)]
    weights = weigh(text, hits, found)
    facts = Facts(text)
    _decide_shape(facts, weights)
    _state_figures(facts, found, prepared)
    _decide_runs(facts, prepared)
    _decide_traffic(facts, weights, found, prepared)
    _decide_patience(facts, weights)
    _decide_needs(facts, weights)
    return replace(Scenario(id=id, text=text, **facts.values), evidence=tuple(facts.evidence))


def _is_timetable(q: Quantity, hits: list[Hit]) -> bool:
    """Whether a figure is part of a phrase: "refreshed once a day" is no rate, "365 days" no deadline."""
    around = [hit for hit in hits if hit.start <= q.start and q.end <= hit.end]
    return any(
        (hit.meaning == "scheduled" and hit.start < q.start) or (hit.meaning == "steady" and q.kind == "duration")
        for hit in around
    )


def _decide_shape(facts: Facts, weights: Weights) -> None:
    """A data set or single requests; whether somebody waits, and whether the answer may come later."""
    w = weights
    waits = w.sum("waits", "strict") - w["nobody_waits"] - 0.5 * w["later"]
    # A timetable alone may also be that of the people who ask: "on Thursdays students call a model".
    whole = w["data_set"] + (1 if w["data_set"] >= 2 else 0.5) * w["scheduled"] + min(w["nobody_waits"], 3)
    single = w.sum("one_by_one", "later", "cold_ok") + max(waits, 0) + 0.5 * w["sparse"]
    # Nobody waits, nothing arrives by itself, nothing is fetched later: what is left is a job.
    silent = not w.sum("later", "sparse", "cold_ok", "waits", "strict") and w["one_by_one"] < 3
    at_once = w["waits"] + w["strict"] >= AT_ONCE and w["nobody_waits"] < 2
    if at_once:
        whole = 0.0
    if (w["nobody_waits"] >= 2 and silent) or (w.sum("data_set", "scheduled") >= 2 and whole > single):
        said = w.words("data_set", "scheduled") or w.words("nobody_waits")
        facts.set("whole_dataset", True, said)
        facts.set("interactive", False, w.words("nobody_waits") or said)
        return
    if w["one_by_one"]:
        facts.set("whole_dataset", False, w.words("one_by_one"))
    if w["later"] >= 2 and w.sum("later", "nobody_waits") > w.sum("waits", "strict"):
        facts.set("answer_later", True, w.words("later", "nobody_waits"))
        facts.set("interactive", False, w.words("later", "nobody_waits"))
    elif waits >= 2:
        facts.set("interactive", True, w.words("waits", "strict"))
    elif w["nobody_waits"] >= 2:
        facts.set("interactive", False, w.words("nobody_waits"))


def _state_figures(facts: Facts, found: Found, prepared: str) -> None:
    """The figures themselves; of several with one role the largest, of latencies the first."""
    skipped = OF_REQUESTS if facts["whole_dataset"] else OF_DATA_SETS
    for role, (member, factor) in FIGURES.items():
        figures = [q for q, r in found if r == role and not q.vague]
        if role == "payload":  # "256 KB request, 2048 MB": the size that is said to be a request's
            figures = [q for q in figures if is_payload(q, prepared)] or figures[:1]
        if figures and role not in skipped:
            q = figures[0] if role == "latency" else max(figures, key=lambda q: q.value)
            facts.quote(member, round(q.value * factor, 9), q)
    for q, _ in found:
        if q.kind == "money":
            facts.quote("budget_usd", q.value, q)


def _decide_runs(facts: Facts, prepared: str) -> None:
    """How often a job runs in a month."""
    if not facts["whole_dataset"]:
        return
    for runs, pattern in _timetables():
        match = pattern.search(prepared)
        if match:
            facts.set("runs_per_month", runs, facts.text[match.start() : match.end()])


@cache
def _timetables() -> tuple[tuple[float, re.Pattern[str]], ...]:
    return tuple(
        (float(heading), re.compile(rf"(?<!\w)(?:{pattern})(?!\w)")) for heading, pattern in sections("timetables.txt")
    )


def _decide_traffic(facts: Facts, weights: Weights, found: Found, prepared: str) -> None:
    if not facts["whole_dataset"]:
        for q, role in found:
            if (role == "window" or q.kind == "hours a day") and q.value <= DAY:
                facts.quote("active_hours_per_day", q.value / HOUR, q)
        records = any(role == "records" for _, role in found)
        rates = [q for q, _ in found if q.kind == "rate" and not counts_runs(q, records)]
        periods = [replace(q, value=1 / q.value) for q, _ in found if q.kind == "period"]
        _state_rates(facts, rates or periods, prepared)
    pattern, meaning = _pattern(weights, bool(facts["whole_dataset"]))
    facts.set("pattern", pattern, weights.words(meaning))
    if weights["no_idle"] >= 3:
        facts.set("idle_tolerated", False, weights.words("no_idle"))


def _state_rates(facts: Facts, rates: list[Quantity], prepared: str) -> None:
    """The volume of a day follows the average where a peak stands beside it; else the largest rate."""
    peaks = [q for q in rates if _PEAK.search(prepared[max(0, q.start - 30) : q.start])]
    if peaks:
        q = max(peaks, key=lambda q: q.value)
        facts.quote("peak_requests_per_second", round(q.value, 9), q)
    if rates:
        q = max([q for q in rates if q not in peaks] or rates, key=lambda q: q.value)
        facts.quote("requests_per_day", round(q.value * DAY, 6), q)
        if q.per <= MINUTE:
            facts.quote("requests_per_second", q.value, q)


def _pattern(weights: Weights, whole: bool) -> tuple[Pattern | None, Meaning]:
    """The shape of the traffic, and the meaning that says so."""
    if whole:
        return ("scheduled" if weights["scheduled"] else None), "scheduled"
    if weights["sparse"] >= max(weights["steady"], 1):
        return "intermittent", "sparse"
    if weights["steady"]:
        return ("diurnal", "diurnal") if weights["diurnal"] >= 2 else ("steady", "steady")
    if weights["spiky"]:
        return "spiky", "spiky"
    return ("intermittent" if weights["scheduled"] >= 3 and not weights["waits"] else None), "scheduled"


def _decide_patience(facts: Facts, weights: Weights) -> None:
    """Whether a cold start may happen, and whether every answer has to come at once."""
    w = weights
    if w["cold_bad"] >= 3 and w["cold_bad"] >= w["cold_ok"]:
        facts.set("tolerates_cold_start", False, w.words("cold_bad"))
    elif w.sum("cold_ok", "relaxed") >= 2 and not facts["whole_dataset"]:
        facts.set("tolerates_cold_start", True, w.words("cold_ok", "relaxed"))
    # "Low latency" is a wish where traffic is rare; a figure or a stronger word makes it strict.
    needed = 3 if w["sparse"] >= 2 or w["no_idle"] >= 3 else 2
    small = (facts["payload_mb"] or 0) <= SYNCHRONOUS_MB and (facts["processing_s"] or 0) <= SYNCHRONOUS_S
    awaited = small and not facts["whole_dataset"] and not facts["answer_later"]
    if awaited and w["strict"] >= needed and w["strict"] > w.sum("relaxed", "cold_ok"):
        facts.set("strict_latency", True, w.words("strict"))


def _decide_needs(facts: Facts, weights: Weights) -> None:
    """What the model and its surroundings need."""
    if weights["gpu"] > weights["cpu"]:
        facts.set("gpu", True, weights.words("gpu"))
    elif weights["cpu"]:
        facts.set("gpu", False, weights.words("cpu"))
    for member, meaning in PLAIN.items():
        if weights[meaning] >= 2:
            facts.set(member, True, weights.words(meaning))
    if facts["strict_latency"] or facts["latency_p99_ms"] is not None:
        return  # "large" and "long" are relative where an answer is due at once
    if weights["large"] >= 2 and facts["payload_mb"] is None:
        facts.set("large_payload", True, weights.words("large"))
    if weights["long"] >= 2 and facts["processing_s"] is None:
        facts.set("long_processing", True, weights.words("long"))
