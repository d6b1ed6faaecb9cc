"""What a quantity says about the workload, by the words around it: `20 minutes` may be the time that the model takes, the
time until the answer is needed, the time that a whole job runs, or a silence between two bursts."""

from __future__ import annotations

import re
from typing import Literal

from fourfold.advisor.text.quantities import Quantity

Role = Literal[
    "latency", "deadline", "processing", "job", "window", "history", "silence", "cold start", "payload", "model memory", "data set",
    "records", "concurrency", "ignored",
]  # fmt: skip

_LATENCY_BEFORE = re.compile(
    r"(?:latenc\w+|respon[ds]\w*|response times?|answer\w*|repl\w+|p ?\d\d(?:th)?|percentile|within|in|under|below|less than|at most|"
    r"no (?:more|longer|higher|later|slower) than|faster than|not (?:exceed|take more|take longer)|slower than|longer than|anything above|"
    r"delay|deadline|late|later than|wait\w*|leaves?|budget|target|objective|guarantee\w*|<|every|sla|slo|sub)"
    r"[^.;]{0,40}$"
)
_LATENCY_AFTER = re.compile(
    r"^[ -]*(?:(?:\w+ ){0,3}(?:latenc\w+|respon\w+|p\d\d|percentile|answers?|repl\w+|sla|budget|deadline|for the model|late)|later?\b|"
    r"after (?:the|each|every)|or less|or faster|at the \d)"
)
_PROCESSING_BEFORE = re.compile(
    r"(?:tak(?:es?|ing)|took|needs?|lasts?|lasting|runs?(?: for)?|running for|computes?|comput\w+|process\w*(?: times?)?|render\w*|inference times?|"
    r"runtimes?|execution times?|durations?|inversion|analysis|analysed|analyzed|works?|require[sd]?|spends?|"
    r"(?:kb|mb|gb|kilobytes|megabytes)(?: \w+)?(?: and| in,?| each,?|,)?)[^.;]{0,28}$"
)
_PROCESSING_AFTER = re.compile(
    r"^(?: each| long)?[ ,]*(?:(?:of|on|with|in) (?:an? |the |one )?(?:\w+ )?(?:gpu|cpu|comput\w+|process\w+|check\w*|inference|calculat\w+|render\w*|work)|"
    r"(?:gpu|cpu|processing|compute)(?: time)?\b|each\b|per (?:call|request|image|item|file|document|video|record|clip|invocation|inference|prediction|page|frame|sample|scan|recording|job|run|series|case|one)|"
    r"for (?:each|every|one)|to (?:process|compute|run|complete|answer|analy\w+|finish|generate|render|infer|score|transcribe|produce))"
)
_LATER_AFTER = re.compile(r"^ (?:\w+ ){0,1}?(?:later|afterwards|after (?:the|upload|they|it|each)|after)\b")
_ALLOWED_BEFORE = re.compile(
    r"(?:(?:may|can|could|allowed|allows?|there (?:are|is)|has|have|has to be|within|in|due in|by|deadline|until|over|project has|expect\w*|needed)\b)[^.;]{0,30}$"
)
_ALLOWED_AFTER = re.compile(
    r"^ (?:for it|(?:\w+ ){0,3}(?:is|are) (?:\w+ )?(?:fine|enough|ok|okay|acceptable|quick enough|normal|tolerable)|will do|is quick|is soon)"
)
_JOB_BEFORE = re.compile(r"(?:\b(?:job|run|scoring|batch|whole|all|it all|everything|simulation|pass)\b)[^.;]{0,30}$")
_SILENCE = re.compile(
    r"(?:quiet|idle|silen\w+|nothing|none|nobody|never|pass\w*|some|in other|other|exam|between\w*|unused|dribbl\w*|pause\w*|stretch\w*|phases|for)[^.;,]{0,24}$"
)
_SILENCE_AFTER = re.compile(r"^ (?:of|with|without) (?:\w+ ){0,2}(?:silence|inactivity|idle\w*|quiet|traffic|requests?|calls?|visits?|visitors?|use|usage|questions?)\b")
_COLD = re.compile(r"(?:first|pause|cold|start ?up|warm\w*|accept\w*|delay of|wait of|tolerat\w*)[^.;]{0,40}$")
_COLD_AFTER = re.compile(r"^[^.;]{0,30}(?:first|cold start|start ?up|warm ?up)")
_NOT_INFERENCE = re.compile(r"^ (?:to (?:load|start|boot|warm|deploy|train|retrain|provision|spin)|of (?:training|history|data)|to be (?:loaded|trained))")
_WINDOW = re.compile(r"^ (?:period|window|slot|interval|timeframe|time frame|span|stretch)")
_ACTIVE = re.compile(r"(?:busy|active|in use|used|open|awake|asked|traffic) (?:only )?(?:for|during) (?:about |some |the |only )*$")
_ANSWER_TAKES = re.compile(r"(?:answer|response|reply|repl\w+|verdict) (?:may|can|could|might|must not|should not) (?:take|need|last)[^.;]{0,20}$")
_BILLED = re.compile(r"(?:bill\w*|charged|pay\w*|priced?)[^.;]{0,24}$")
_HISTORY = re.compile(
    r"^(?:'s)? (?:of|worth of) (?:\w+ ){0,3}(?:data|history|records|reports|logs|transactions|archives?|documents|recordings|footage|"
    r"readings|images|claims|files|mails?|messages|reviews|prices|measurements|samples|articles|photos|scans|tickets|cases)\b"
)
_AGE = re.compile(r"(?:last|past|previous|of the|over the)(?: \w+)? ?$")
_WEIGHTS_BEFORE = re.compile(
    r"(?:model|classifier|transformer|encoder|llm|forest|weights|memory|ram|artifact|network|checkpoint|container|image size)(?: \w+){0,3} (?:of|with|has|is|needs|requires|takes|in|size of|about|around|up to)?(?: \w+){0,2} ?$"
)
_WEIGHTS_AFTER = re.compile(
    r"^ ?(?:in memory|(?:of )?(?:memory|ram|weights|vram|gpu memory)|(?:\w+ ){0,3}(?:model|classifier|network|checkpoint|transformer|encoder|artifact|llm|forest)\b)"
)
_DATA_SET_BEFORE = re.compile(
    r"(?:data ?sets?|archive|collection|output|corpus|lake|bucket|tables?|history|logs?|records?|all|total(?: of)?|simulation|network|spring)[^.;]{0,25}$"
)
_DATA_SET_AFTER = re.compile(
    r"^ ?(?:data ?set|of (?:\w+ ){0,2}(?:data|images|logs?|records|pictures|documents|text|files|history|history|reviews|photos|scans|rows)\b|(?:\w+ )?data ?set|in total)"
)
_PEOPLE = re.compile(
    r"^(?:\w+ )?(?:users?|editors?|visitors?|people|players?|agents?|devices?|beds?|candidates?|members?|conversations?|consultations?|friends?|listeners?|clients|testers|employees|staff|concurrent|readers|cameras|crews|at once|at a time|at the same|simultaneous)\b"
)


def role_of(quantity: Quantity, text: str) -> Role:
    """The role of a duration, size or count; rates, periods and money speak for themselves."""
    before = _sentence_before(text, quantity.start)
    after = text[quantity.end : quantity.end + 60].split(". ")[0]
    if quantity.kind == "duration":
        return _duration(quantity.value, before, after, quantity.vague)
    if quantity.kind == "size":
        return _size(quantity.value, before, after)
    if quantity.kind == "count":
        if _PEOPLE.match(quantity.what + after[:0]) or _PEOPLE.match(after.lstrip()):
            return "concurrency"
        return "records" if quantity.value >= 500 else "ignored"
    return "ignored"


def _sentence_before(text: str, end: int) -> str:
    before = text[max(0, end - 80) : end]
    return re.split(r"(?<=[a-z0-9])[.?!;]\s", before)[-1]


def _duration(seconds: float, before: str, after: str, vague: bool) -> Role:
    if seconds >= 86400 and _HISTORY.match(after):
        return "history"
    if seconds >= 86400 and _AGE.search(before):
        return "ignored"
    near = before[-34:]
    if _ANSWER_TAKES.search(near) and seconds <= 60:
        return "latency"
    if _BILLED.search(near) or _NOT_INFERENCE.match(after):
        return "ignored"
    if _WINDOW.match(after) and seconds >= 86400:
        return "deadline"
    if _WINDOW.match(after) or _ACTIVE.search(near) or (near.endswith("for ") and after.startswith(" after")):
        return "window"
    if _SILENCE_AFTER.match(after):
        return "silence"
    processing = _PROCESSING_BEFORE.search(near) is not None
    if _PROCESSING_AFTER.match(after):
        return "processing"
    if seconds <= 60 and (_COLD.search(before[-48:]) or _COLD_AFTER.match(after)) and "within" not in near:
        return "cold start" if seconds >= 1 else "latency"
    if _LATER_AFTER.match(after):
        return "deadline" if seconds >= 30 else "latency"
    if _SILENCE.search(near) and seconds >= 3600 and not processing and not _ALLOWED_AFTER.match(after):
        return "silence"
    if seconds >= 600 and (_JOB_BEFORE.search(before[-45:])):
        return "job"
    if _ALLOWED_AFTER.match(after):
        return "deadline" if seconds >= 60 else "latency"
    if seconds >= 86400:
        if _ALLOWED_BEFORE.search(near) and not vague:
            return "deadline"
        return "history" if seconds >= 300 * 86400 else "silence"
    last = _last_word_role(near)
    if last == "latency" or (last is None and _LATENCY_AFTER.match(after)):
        return "latency" if seconds <= 30 else "deadline"
    if last == "processing":
        return "processing"
    if seconds >= 60:
        return "deadline" if _ALLOWED_BEFORE.search(near) else "processing"
    if seconds < 1:
        return "latency"
    return "processing"


def _last_word_role(near: str) -> Role | None:
    """Which came last before the figure, a word of time limits or a word of work; "takes less than 1 s" is a limit."""
    if re.search(
        r"(?:within|respon\w+|latenc\w+|less than|under|below|at most|no (?:more|longer|higher) than|not exceed|anything above|slower than|"
        r"faster than|later than|longer than|<|delay of|p\d\d|every|sub)(?: \w+){0,3}[ -]?$",
        near,
    ) and not re.search(r"(?:process\w*|inference|execution|comput\w*|run ?)(?: times?)?(?: \w+){0,2}[ -]?$", near):
        return "latency"
    if _PROCESSING_BEFORE.search(near):
        return "processing"
    if _LATENCY_BEFORE.search(near):
        return "latency"
    return None


def _size(megabytes: float, before: str, after: str) -> Role:
    if _WEIGHTS_AFTER.match(after) or _WEIGHTS_BEFORE.search(before[-40:]):
        return "model memory"
    if megabytes >= 5000 or (megabytes > 1000 and _DATA_SET_AFTER.match(after)):
        return "data set"
    if megabytes > 1000 and _DATA_SET_BEFORE.search(before[-40:]):
        return "data set"
    return "payload"
