"""Weighs what cues and quantities say, and decides each fact of the scenario."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

from fourfold.advisor.scenario import Evidence, Pattern, Scenario
from fourfold.advisor.text.cues import Meaning, cues
from fourfold.advisor.text.prepare import prepare
from fourfold.advisor.text.quantities import quantities
from fourfold.advisor.text.roles import Role, role_of
from fourfold.advisor.text.units import DAY, HOUR, Quantity

SHORT_WINDOW = 6 * HOUR
"""Traffic that lasts less than this leaves a machine idle for most of a day."""
SYNCHRONOUS_MB, SYNCHRONOUS_S = 25.0, 60.0
"""Words such as "at once" are not meant strictly of requests beyond this."""
RARE_PER_DAY = 1500.0
"""Fewer requests a day than this (one a minute) leave a machine idle most of the time."""
BUSY_PER_SECOND = 1.0
"""More requests a second than this keep a machine busy."""


@dataclass
class Weights:
    """How strongly the text says each meaning, and the places that say so. A repeated word adds nothing."""

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

    def words(self, *meanings: Meaning) -> str:
        """The quotes behind these meanings, in the order of the text."""
        spans = sorted({span for meaning in meanings for span in self.places.get(meaning, ())})
        return " … ".join(" ".join(self.text[start:end].split()) for start, end in spans)


@dataclass
class Facts:
    """The scenario in the making, with its evidence."""

    text: str
    values: dict[str, Any] = field(default_factory=dict)
    evidence: list[Evidence] = field(default_factory=list)

    def set(self, member: str, value: object, words: str) -> None:
        if value is not None and member not in self.values:
            self.values[member] = value
            self.evidence.append(Evidence(member, value, words))

    def quote(self, member: str, value: object, quantity: Quantity) -> None:
        self.set(member, value, self.text[quantity.start : quantity.end])


def understand(text: str, id: str | None = None) -> Scenario:
    """Reads a scenario from English text. Deterministic; what the text does not say stays None."""
    prepared = prepare(text)
    weights = Weights(text)
    for hit in cues(prepared):
        weights.add(hit.meaning, hit.weight, hit.start, hit.end)
    found = [(q, role_of(q, prepared)) for q in quantities(prepared)]
    facts = Facts(text)
    _weigh_quantities(found, weights)
    _decide_shape(facts, weights, found)
    _state_quantities(facts, found)
    _decide_traffic(facts, weights, found)
    _decide_wishes(facts, weights)
    return replace(Scenario(id=id, text=text, **facts.values), evidence=tuple(facts.evidence))


def _weigh_quantities(found: list[tuple[Quantity, Role]], weights: Weights) -> None:
    """What figures say beside their value: a small latency means that somebody waits, a rate that requests arrive."""

    def add(meaning: Meaning, weight: float, q: Quantity) -> None:
        weights.add(meaning, weight, q.start, q.end)

    for q, role in found:
        if role == "latency":
            add("waits", 4 if q.value < 5 else 2, q)
            add("strict" if q.value < 1.6 else "relaxed", 3 if q.value < 1.6 else 1, q)
            add("one_by_one", 3, q)
        elif role == "deadline":
            add("nobody_waits", 1, q)
            if q.value >= 6 * HOUR:
                add("data_set", 3 if q.value >= 2 * DAY else 2, q)
                add("later", 1, q)
            elif q.value >= 60:
                add("later", 2, q)
        elif role == "job":
            add("data_set", 3, q)
        elif role == "processing" and q.value >= 30:
            add("one_by_one", 2, q)
            add("later", 1, q)
            if q.vague and q.value >= 60:
                add("long", 2, q)
        elif role == "window" and q.value <= SHORT_WINDOW:
            add("sparse", 1, q)
        elif role == "silence":
            add("sparse", 2, q)
        elif role == "cold start":
            add("relaxed", 2, q)
            add("cold_ok", 1, q)
        elif role == "payload" and q.value >= 20:
            add("one_by_one", 3, q)
            if q.vague:
                add("large", 2, q)
        elif role == "data set":
            add("data_set", 4, q)
        elif role == "recording":
            add("long", 2, q)
            if q.value >= 100 * HOUR:
                add("data_set", 3, q)
        elif role == "history":
            add("data_set", 3, q)
        elif q.kind == "hours a day":
            add("steady" if q.value > SHORT_WINDOW else "sparse", 3, q)
        elif role == "records":
            add("data_set", 2 if q.value < 10_000 else 3, q)
        elif q.kind == "rate":
            _weigh_rate(q, add, any(role == "records" for _, role in found))
        elif q.kind == "period" and q.value < 3600:
            add("one_by_one", 3, q)
            add("steady" if q.value < 120 else "sparse", 3, q)
        elif q.kind == "money" and q.value < 60:
            add("sparse", 1, q)
            add("no_idle", 2, q)


def _weigh_rate(q: Quantity, add: Any, records: bool) -> None:
    per_day = q.value * DAY
    if q.per >= DAY and q.value * q.per >= 20_000:
        add("data_set", 2 if q.per >= 7 * DAY else 1, q)
        add("one_by_one", 1, q)
    elif q.what in ("times", "") and q.per >= 7 * DAY and (q.value * q.per <= 1 or (records and q.value * q.per <= 12)):
        add("scheduled", 2, q)
        return
    else:
        add("one_by_one", 3, q)
    if q.value >= BUSY_PER_SECOND or (q.per < DAY and per_day > 4 * RARE_PER_DAY):
        add("steady", 3, q)
    elif per_day <= RARE_PER_DAY:
        add("sparse", 4 if per_day < 400 else 3, q)


def _decide_shape(facts: Facts, weights: Weights, found: list[tuple[Quantity, Role]]) -> None:
    """Data set or single requests; does anybody wait; may the answer come later."""
    waits = weights["waits"] + weights["strict"] - weights["nobody_waits"] - 0.5 * weights["later"]
    whole = weights["data_set"] + weights["scheduled"] + min(weights["nobody_waits"], 3)
    single = weights["one_by_one"] + max(waits, 0) + weights["later"] + 0.5 * weights["sparse"] + weights["cold_ok"]
    # Nobody waits, nothing arrives by itself, nothing is fetched later: what is left is a job.
    idle_talk = weights["later"] + weights["sparse"] + weights["cold_ok"] + weights["waits"] + weights["strict"]
    if weights["nobody_waits"] >= 2 and not idle_talk and weights["one_by_one"] <= 3:
        facts.set("whole_dataset", True, weights.words("nobody_waits"))
        facts.set("interactive", False, weights.words("nobody_waits"))
    elif weights["data_set"] + weights["scheduled"] >= 2 and whole > single:
        facts.set("whole_dataset", True, weights.words("data_set", "scheduled"))
        facts.set("interactive", False, weights.words("nobody_waits") or weights.words("data_set", "scheduled"))
    else:
        if weights["one_by_one"]:
            facts.set("whole_dataset", False, weights.words("one_by_one"))
        if weights["later"] >= 2 and weights["later"] + weights["nobody_waits"] > weights["waits"] + weights["strict"]:
            facts.set("answer_later", True, weights.words("later", "nobody_waits"))
            facts.set("interactive", False, weights.words("later", "nobody_waits"))
        elif waits >= 2:
            facts.set("interactive", True, weights.words("waits", "strict"))
        elif weights["nobody_waits"] >= 2:
            facts.set("interactive", False, weights.words("nobody_waits"))


def _state_quantities(facts: Facts, found: list[tuple[Quantity, Role]]) -> None:
    whole = facts.values.get("whole_dataset")
    by_role: dict[Role, list[Quantity]] = defaultdict(list)
    for q, role in found:
        if not q.vague:
            by_role[role].append(q)
    for q in by_role["latency"]:
        if not whole:
            facts.quote("latency_p99_ms", q.value * 1000, q)
    if by_role["deadline"]:
        q = max(by_role["deadline"], key=lambda q: q.value)
        facts.quote("deadline_s", q.value, q)
    if by_role["processing"] and not whole:
        q = max(by_role["processing"], key=lambda q: q.value)
        facts.quote("processing_s", q.value, q)
    if by_role["payload"]:
        q = max(by_role["payload"], key=lambda q: q.value)
        facts.quote("payload_mb", q.value, q)
    if by_role["model memory"]:
        q = max(by_role["model memory"], key=lambda q: q.value)
        facts.quote("memory_gb", q.value / 1000, q)
    if by_role["data set"]:
        q = max(by_role["data set"], key=lambda q: q.value)
        facts.quote("dataset_gb", q.value / 1000, q)
    if by_role["records"] and whole:
        q = max(by_role["records"], key=lambda q: q.value)
        facts.quote("rows", q.value, q)
    for q, _ in found:
        if q.kind == "money":
            facts.quote("budget_usd", q.value, q)


def _decide_traffic(facts: Facts, weights: Weights, found: list[tuple[Quantity, Role]]) -> None:
    rates = [q for q, _ in found if q.kind == "rate"]
    if rates and not facts.values.get("whole_dataset"):
        q = max(rates, key=lambda q: q.value)
        facts.quote("requests_per_day", round(q.value * DAY, 6), q)
        if q.per <= 60:
            facts.quote("requests_per_second", q.value, q)
    pattern: Pattern | None = None
    meaning: Meaning = "steady"
    if facts.values.get("whole_dataset"):
        if weights["scheduled"]:
            pattern, meaning = "scheduled", "scheduled"
    elif weights["sparse"] > max(weights["steady"], 1):
        pattern, meaning = "intermittent", "sparse"
    elif weights["steady"]:
        pattern, meaning = "steady", "steady"
        if weights["diurnal"] >= 2:
            pattern, meaning = "diurnal", "diurnal"
    elif weights["spiky"]:
        pattern, meaning = "spiky", "spiky"
    facts.set("pattern", pattern, weights.words(meaning))
    for q, role in found:
        if (role == "window" or q.kind == "hours a day") and q.value <= DAY and not facts.values.get("whole_dataset"):
            facts.quote("active_hours_per_day", q.value / 3600, q)
    if weights["no_idle"] >= 3:
        facts.set("idle_tolerated", False, weights.words("no_idle"))


def _decide_wishes(facts: Facts, weights: Weights) -> None:
    if weights["cold_bad"] >= 3 and weights["cold_bad"] >= weights["cold_ok"]:
        facts.set("tolerates_cold_start", False, weights.words("cold_bad"))
    elif weights["cold_ok"] + weights["relaxed"] >= 2 and facts.values.get("whole_dataset") is not True:
        facts.set("tolerates_cold_start", True, weights.words("cold_ok", "relaxed"))
    if (
        weights["strict"] >= (3 if weights["sparse"] >= 2 or weights["no_idle"] >= 3 else 2)
        and weights["strict"] > weights["relaxed"] + weights["cold_ok"]
        and not (facts.values.get("whole_dataset") or facts.values.get("answer_later"))
        and facts.values.get("payload_mb", 0) <= SYNCHRONOUS_MB
        and facts.values.get("processing_s", 0) <= SYNCHRONOUS_S
    ):
        facts.set("strict_latency", True, weights.words("strict"))
    if weights["managed"]:
        facts.set("managed", True, weights.words("managed"))
    if weights["gpu"] > weights["cpu"]:
        facts.set("gpu", True, weights.words("gpu"))
    elif weights["cpu"]:
        facts.set("gpu", False, weights.words("cpu"))
    for member, meaning in _PLAIN.items():
        if weights[meaning] >= 2:
            facts.set(member, True, weights.words(meaning))
    soon = facts.values.get("strict_latency") or "latency_p99_ms" in facts.values
    if weights["large"] >= 2 and "payload_mb" not in facts.values and not soon:
        facts.set("large_payload", True, weights.words("large"))
    if weights["long"] >= 2 and "processing_s" not in facts.values and not soon:
        facts.set("long_processing", True, weights.words("long"))


_PLAIN: dict[str, Meaning] = {
    "stream": "stream", "vpc": "vpc", "multi_model": "several_models", "data_capture": "capture", "edge": "edge",
}  # fmt: skip
