"""When a schedule is run, and run again. All of it is pure: from a schedule's document and the time."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fourfold.control import expressions

Document = dict[str, Any]

DEFAULT_ATTEMPTS = 185
DEFAULT_AGE = 86400
"""EventBridge Scheduler's retry policy where the schedule states none: attempts, and seconds."""
FIRST_BACKOFF = 1.0
MOST_BACKOFF = 300.0
MOST_MISSED = 1000
"""Missed runs that are counted one by one; of more, those of the last day are."""


@dataclass(frozen=True)
class Decision:
    """What is to be done about a schedule now.

    Attributes:
        cursor: times up to here are dealt with.
        run: the scheduled time of a run that is to begin; None: none.
        begin: when it is to be tried, the flexible window considered.
        missed: scheduled times that will not be run.
        next: when to look again; None: never.
    """

    cursor: float
    run: float | None = None
    begin: float = 0.0
    missed: int = 0
    next: float | None = None


def decide(document: Document, now: float) -> Decision:
    """The next thing to do. Of several times that have passed (the server was down), the latest alone is run."""
    cursor: float = document["cursor"]
    if document.get("State", "ENABLED") == "DISABLED":
        return Decision(now)
    run, passed = None, 0
    at = _after(document, cursor)
    while at is not None and at <= now:
        run, passed = at, passed + 1
        at = _after(document, at if passed < MOST_MISSED else max(at, now - DEFAULT_AGE))
    if run is None:
        return Decision(cursor, next=at)
    begin = run + _offset(document, run)
    if now > run + _allowance(document):
        return Decision(run, missed=passed, next=at)
    return Decision(run, run, begin, passed - 1, next=at)


def next_run(document: Document) -> float | None:
    """When it is tried next, as far as is known now; None: never, or not while it is disabled."""
    if document["State"] == "DISABLED":
        return None
    pending = document["pending"]
    return float(pending["next"]) if pending is not None else _after(document, document["cursor"])


def finished(document: Document) -> bool:
    """Will it never be due again?"""
    return document["pending"] is None and _after(document, document["cursor"]) is None


_parsed = lru_cache(1024)(expressions.parse)


def _after(document: Document, moment: float) -> float | None:
    start, end = document.get("StartDate"), document.get("EndDate")
    expression = _parsed(document["ScheduleExpression"], document.get("ScheduleExpressionTimezone", "UTC"))
    if start is not None and moment < start:
        moment = start - 1e-6  # the start itself counts
    at = expression.after(moment, start if start is not None else document["CreationDate"])
    return None if at is None or (end is not None and at > end) else at


def _window(document: Document) -> float:
    window = document["FlexibleTimeWindow"]
    return 60.0 * window.get("MaximumWindowInMinutes", 0) if window["Mode"] == "FLEXIBLE" else 0.0


def _offset(document: Document, scheduled: float) -> float:
    """Where in its flexible window a run begins: anywhere, but at the same place however often it is asked."""
    seed = hashlib.sha256(f"{document['Name']}@{scheduled}".encode()).digest()
    return _window(document) * int.from_bytes(seed[:4], "big") / 2**32


def _allowance(document: Document) -> float:
    """How late a run may begin: its flexible window, or without one the retry policy's age."""
    return _window(document) or _retry_policy(document)[1]


def _retry_policy(document: Document) -> tuple[int, float]:
    policy = document["Target"].get("RetryPolicy", {})
    return policy.get("MaximumRetryAttempts", DEFAULT_ATTEMPTS), policy.get("MaximumEventAgeInSeconds", DEFAULT_AGE)


def exhausted(document: Document, pending: Document, later: float) -> str:
    """The member of the retry policy that forbids another attempt at `later`; empty where none does."""
    attempts, age = _retry_policy(document)
    if pending["attempt"] > attempts:
        return "MaximumRetryAttempts"
    return "MaximumEventAgeInSeconds" if later > pending["scheduled"] + age else ""


def backoff(attempt: int) -> float:
    """Seconds between one attempt and the next."""
    return min(MOST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(attempt - 1, 20))
