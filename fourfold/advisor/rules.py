"""The decision tree: a handful of yes-or-no questions that lead from a scenario to a mode.

The same object (`TREE`) is run by the engine (`decide`), printed by `fourfold advise --tree`, walked by
`fourfold advise -i` and shown in the docs. Questions read facts and the table of limits; they know nothing of words
(`text`) or prices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from fourfold.advisor.limits import STRICT_BELOW_MS, Reason, limit, violations
from fourfold.advisor.scenario import Mode, Scenario

RARE_PER_DAY = 1500.0
"""At fewer requests a day than this (about one a minute) an instance is idle nearly all the time."""
BUSY_PER_DAY = 86_400.0
"""More requests a day than this (one a second) are sustained traffic, if nothing else is said of its shape."""
SMALL_BUDGET_USD = 40.0
"""US dollars a month; the smallest instance (ml.t2.medium in us-east-1) costs 40.88 in 730 hours."""
SHORT_DAY = 6.0
"""Hours: traffic in so few of them leaves an instance idle for most of the day."""


@dataclass(frozen=True)
class Answer:
    """What a scenario answers to a question, and why. Assumed: nothing in the scenario speaks for or against it."""

    yes: bool
    because: str
    assumed: bool = False


@dataclass(frozen=True)
class Choice:
    """A leaf: the mode to use and the AWS guidance in one sentence."""

    mode: Mode
    text: str


@dataclass(frozen=True)
class Question:
    """A node of the tree.

    `if_yes` and `if_no` are the facts that a plain yes or no on the command line stands for, so that the walk by hand
    and the engine take the same branch.
    """

    key: str
    text: str
    judge: Callable[[Scenario], Answer]
    yes: Node
    no: Node
    if_yes: Mapping[str, Any] = field(default_factory=dict)
    if_no: Mapping[str, Any] = field(default_factory=dict)
    reads: tuple[str, ...] = ()
    """The members of the scenario that can answer it."""

    def answered(self, scenario: Scenario, yes: bool) -> Scenario:
        """The scenario with a plain answer to this question put in."""
        return replace(scenario, **(self.if_yes if yes else self.if_no))


Node: TypeAlias = Question | Choice


@dataclass(frozen=True)
class Step:
    """One step on the way down."""

    question: str
    answer: str
    because: str
    assumed: bool = False
    key: str = ""


@dataclass(frozen=True)
class Decision:
    """The mode that the tree chose, and the way there."""

    mode: Mode
    text: str
    path: tuple[Step, ...]


def decide(scenario: Scenario, tree: Node | None = None) -> Decision:
    """Walks the tree. Deterministic; never fails: a question without an answer is assumed, and the step says so."""
    node = tree or TREE
    path: list[Step] = []
    while isinstance(node, Question):
        answer = node.judge(scenario)
        path.append(Step(node.text, "yes" if answer.yes else "no", answer.because, answer.assumed, node.key))
        node = node.yes if answer.yes else node.no
    return Decision(node.mode, node.text, tuple(path))


def questions(node: Node) -> Iterator[Question]:
    """Every question of a tree, from the top, yes before no."""
    if isinstance(node, Question):
        yield node
        yield from questions(node.yes)
        yield from questions(node.no)


def _quote(scenario: Scenario, *members: str) -> str:
    """The words that the members were read from."""
    said = [e for e in scenario.evidence if e.member in members]
    return "; ".join(f"{e.member} = {_shown(e.value)}, from “{e.source}”" for e in said)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _because(scenario: Scenario, *members: str) -> str:
    known = {m: getattr(scenario, m) for m in members if getattr(scenario, m) is not None}
    return _quote(scenario, *known) or "; ".join(f"{m} = {_shown(v)}" for m, v in known.items())


def _data_set(s: Scenario) -> Answer:
    facts = ("whole_dataset", "rows", "dataset_gb", "pattern", "deadline_s", "interactive")
    if s.whole_dataset is not None:
        return Answer(s.whole_dataset, _because(s, "whole_dataset"))
    waits = s.interactive or s.latency_p99_ms is not None or s.strict_latency or s.stream
    arrives = s.requests_per_day is not None or s.requests_per_second is not None or s.trace is not None
    stored = s.rows is not None or s.dataset_gb is not None or s.pattern == "scheduled" or s.runs_per_month is not None
    if stored and not waits and not (arrives and s.rows is None):
        return Answer(True, _because(s, *facts))
    if waits or arrives or s.answer_later or s.payload_mb or s.processing_s or s.pattern:
        shown = _because(s, "interactive", "latency_p99_ms", "strict_latency", "stream", "requests_per_day", "pattern")
        return Answer(False, shown or "requests come one at a time")
    return Answer(
        False, "nothing says that the input is a stored data set; requests are taken to come one at a time", True
    )


def _too_much(s: Scenario) -> Answer:
    broken = violations(s, "real-time")
    if broken:
        return Answer(True, " ".join(reason.text for reason in broken))
    known = _because(s, "payload_mb", "response_mb", "processing_s")
    return Answer(False, known or "no size or duration above the limits is known", not known)


def _beyond_queue(s: Scenario) -> Answer:
    broken = [r for r in violations(s, "asynchronous") if r.code in ("asynchronous-payload", "asynchronous-processing")]
    if broken:
        return Answer(True, " ".join(reason.text for reason in broken))
    return Answer(False, _because(s, "payload_mb", "processing_s") or "within the limits of an asynchronous request")


def _at_once(s: Scenario) -> Answer:
    facts = ("strict_latency", "tolerates_cold_start", "latency_p99_ms", "stream", "edge")
    known = _because(s, *facts)
    if s.stream or s.edge or s.tolerates_cold_start is False:
        return Answer(True, known)
    tight = s.strict_latency or (s.latency_p99_ms is not None and s.latency_p99_ms < STRICT_BELOW_MS)
    if tight and s.tolerates_cold_start is not True:
        return Answer(True, known)
    return Answer(False, known or "no latency is asked for that a start-up would break", not known)


def _later(s: Scenario) -> Answer:
    known = _because(s, "answer_later", "interactive", "deadline_s")
    if s.answer_later is not None:
        return Answer(s.answer_later, known)
    late = s.deadline_s is not None and s.deadline_s >= 60 and s.interactive is not True
    return Answer(late, known or "nothing says that the answer is fetched or sent afterwards", not known)


def _idle(s: Scenario) -> Answer:
    facts = ("pattern", "idle_tolerated", "requests_per_day", "tolerates_cold_start", "managed", "budget_usd")
    known = _because(s, *facts)
    short = s.active_hours_per_day is not None and s.active_hours_per_day <= SHORT_DAY
    if short and (s.managed or s.idle_tolerated is False):
        return Answer(True, _because(s, "active_hours_per_day", "managed", "idle_tolerated"))
    if s.pattern in ("steady", "diurnal") and s.idle_tolerated is not False:
        return Answer(False, known)
    busy = s.requests_per_day is not None and s.requests_per_day > RARE_PER_DAY
    sparse = s.pattern in ("intermittent", "spiky") or s.idle_tolerated is False
    rare = s.requests_per_day is not None and not busy
    if sparse or rare:
        return Answer(True, known)
    if busy:
        return Answer(False, known)
    if s.tolerates_cold_start or s.managed:
        return Answer(True, known)
    if s.budget_usd is not None and s.budget_usd < SMALL_BUDGET_USD:
        return Answer(True, f"{known}: less than the smallest instance costs a month")
    if s.interactive is False or (s.latency_p99_ms is not None and s.latency_p99_ms >= STRICT_BELOW_MS):
        return Answer(True, "nothing is said of steady traffic, and an answer may take seconds", True)
    return Answer(False, "nothing is said of idle times: traffic is taken to be steady", True)


def _fits(s: Scenario) -> Answer:
    broken = violations(s, "serverless")
    if broken:
        return Answer(False, " ".join(reason.text for reason in broken))
    return Answer(True, _because(s, "payload_mb", "processing_s", "memory_gb", "gpu") or "no limit is broken")


def _caller_waits(s: Scenario) -> Answer:
    known = _because(s, "interactive", "latency_p99_ms", "strict_latency")
    if s.interactive or s.latency_p99_ms is not None or s.strict_latency:
        return Answer(True, known)
    if s.interactive is None:
        return Answer(False, "nothing says that the caller waits, and a queue costs nothing while it is empty", True)
    return Answer(False, known)


_REAL_TIME = Choice("real-time", "A persistent endpoint: low latency for traffic that keeps it busy.")
_BATCH = Choice("batch", "A transform job over the whole data set: no endpoint stays behind.")
_ASYNCHRONOUS = Choice("asynchronous", "A queue before the model: large payloads, long processing, scale to zero.")
_SERVERLESS = Choice("serverless", "Capacity only while requests run: intermittent traffic that tolerates cold starts.")

_SYNC_MB = f"{limit('real-time-payload').greatest:g} MB"
_SYNC_S = f"{limit('real-time-processing').greatest:g} s"
_QUEUE_GB = f"{limit('asynchronous-payload').value} {limit('asynchronous-payload').unit}"
_QUEUE_S = f"{limit('asynchronous-processing').greatest / 3600:g} h"
_FITS = (
    f"{limit('serverless-payload').value} MB, {limit('serverless-processing').value} s, "
    f"{limit('serverless-memory').greatest / 1024:g} GB of memory, no GPU, no VPC"
)

TREE: Node = Question(
    "data_set",
    "Is the input a data set that is there as a whole, with nobody waiting for single answers?",
    _data_set,
    reads=(
        "whole_dataset",
        "rows",
        "dataset_gb",
        "runs_per_month",
        "interactive",
        "latency_p99_ms",
        "requests_per_day",
        "requests_per_second",
        "trace",
    ),
    if_yes={"whole_dataset": True, "interactive": False},
    if_no={"whole_dataset": False},
    yes=_BATCH,
    no=Question(
        "too_much",
        f"Is a request larger than {_SYNC_MB}, or does it take longer than {_SYNC_S}?",
        _too_much,
        reads=("payload_mb", "processing_s", "large_payload", "long_processing"),
        if_yes={"large_payload": True, "long_processing": True},
        if_no={"large_payload": False, "long_processing": False},
        yes=Question(
            "beyond_queue",
            f"Is a request larger than {_QUEUE_GB}, or does it take longer than {_QUEUE_S}?",
            _beyond_queue,
            reads=("payload_mb", "processing_s"),
            if_yes={"payload_mb": 1000.1 + limit("asynchronous-payload").greatest},
            yes=_BATCH,
            no=_ASYNCHRONOUS,
        ),
        no=Question(
            "at_once",
            f"Must every answer come at once (within {STRICT_BELOW_MS / 1000:g} s), the first one after a pause too?",
            _at_once,
            reads=("strict_latency", "latency_p99_ms", "tolerates_cold_start", "stream", "edge"),
            if_yes={"strict_latency": True, "tolerates_cold_start": False},
            if_no={"strict_latency": False, "tolerates_cold_start": True},
            yes=_REAL_TIME,
            no=Question(
                "later",
                "Is the answer fetched, mailed or notified some time after the request?",
                _later,
                reads=("answer_later", "interactive", "deadline_s"),
                if_yes={"answer_later": True, "interactive": False},
                if_no={"answer_later": False, "interactive": True},
                yes=_ASYNCHRONOUS,
                no=Question(
                    "idle",
                    "Does traffic come only now and then, or must nothing be paid while nothing is asked?",
                    _idle,
                    reads=("pattern", "idle_tolerated", "requests_per_day"),
                    if_yes={"pattern": "intermittent", "idle_tolerated": False},
                    if_no={"pattern": "steady"},
                    yes=Question(
                        "fits",
                        f"Does a request fit a serverless endpoint ({_FITS})?",
                        _fits,
                        reads=("payload_mb", "processing_s", "memory_gb", "gpu"),
                        if_no={"gpu": True},
                        yes=_SERVERLESS,
                        no=Question(
                            "caller_waits",
                            "Does the caller wait for the answer on the same connection?",
                            _caller_waits,
                            reads=("interactive", "latency_p99_ms"),
                            if_yes={"interactive": True},
                            if_no={"interactive": False},
                            yes=_REAL_TIME,
                            no=_ASYNCHRONOUS,
                        ),
                    ),
                    no=_REAL_TIME,
                ),
            ),
        ),
    ),
)
"""The tree."""

_DEPLOY = "AWS developer guide, https://docs.aws.amazon.com/sagemaker/latest/dg/deploy-model.html (deploy-model.md)"
_ALL_MONTH = "A real-time endpoint is paid for every hour of the month"
_JOB = "a transform job reads a whole data set, has no endpoint and answers no single request"


def _guidance(code: str, text: str, made_for: str) -> Reason:
    return Reason(code, text, made_for, "", _DEPLOY)


GUIDANCE: Mapping[tuple[Mode, Mode], Reason] = {
    ("real-time", "batch"): _guidance(
        "no-endpoint-needed", f"{_ALL_MONTH}; here nobody waits for single answers.", "interactive requests"
    ),
    ("real-time", "asynchronous"): _guidance(
        "caller-need-not-wait", f"{_ALL_MONTH}, and the caller would have to hold the connection.", "low latency"
    ),
    ("real-time", "serverless"): _guidance(
        "idle-cost", f"{_ALL_MONTH}, also while nothing is asked.", "sustained traffic"
    ),
    ("batch", "real-time"): _guidance("one-by-one", f"Each answer is needed on its own; {_JOB}.", "whole data sets"),
    ("batch", "asynchronous"): _guidance("one-by-one", f"Requests come one at a time; {_JOB}.", "whole data sets"),
    ("batch", "serverless"): _guidance("one-by-one", f"Requests come now and then; {_JOB}.", "whole data sets"),
    ("asynchronous", "real-time"): _guidance(
        "caller-waits", "Requests are queued and answers are picked up from S3, which a waiting caller cannot do.",
        "large payloads and long processing",
    ),
    ("asynchronous", "batch"): _guidance(
        "data-set", "Every record would be a request of its own; a transform job splits the data set itself.",
        "single large requests",
    ),
    ("asynchronous", "serverless"): _guidance(
        "caller-waits", "Requests are queued, and an instance that was scaled to zero takes minutes to start.",
        "large payloads and long processing",
    ),
    ("serverless", "real-time"): _guidance(
        "steady-traffic", "It is made for intermittent traffic that tolerates cold starts.", "intermittent traffic"
    ),
    ("serverless", "batch"): _guidance(
        "data-set", "Every record would be a billed request; a transform job runs over the whole data set.",
        "intermittent requests",
    ),
    ("serverless", "asynchronous"): _guidance(
        "caller-need-not-wait", "The caller would hold the connection; there is no queue and no notification.",
        "intermittent requests that are answered at once",
    ),
}  # fmt: skip
"""Why AWS's guidance prefers the second mode to the first where no limit is broken."""
