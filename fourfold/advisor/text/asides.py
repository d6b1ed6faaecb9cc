"""Blanks what a text says that is no evidence of the workload.

That is the options which a question offers, the names of modes that stand side by side to choose from, names in
quotes, words asked back ("Batch? There is no batch"), the way of serving that is in use today or that somebody else
proposed, what is said of other systems, and how the model is trained. The phrases stand in `data/asides.txt`.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise

from fourfold.advisor.text.phrases import sections

MODE_NAMES = {
    "real-time": r"real[ -]?time (?:inference|endpoints?|hosting|hosted|predictions?|deployment|option|mode)"
    r"|real[ -]?time(?=,? (?:or|and|vs\.?|versus) )|(?<=[:,(] )real[ -]?time(?=,)|(?:hosted|persistent) endpoints?",
    "asynchronous": r"async(?:hronous)?(?: inference)?(?: endpoints?| option| mode)?",
    "batch": r"(?:(?:nightly|daily|weekly|monthly|offline) )?"
    r"batch[ -]?(?:transforms?|inference|predictions?|scoring|mode|option)(?: jobs?)?|batch(?=,? (?:or|and|vs) )"
    r"|(?<=[,] )batch(?=,)",
    "serverless": r"serverless(?: inference)?(?: endpoints?| option| mode)?",
}
_MODE_NAME = re.compile("|".join(rf"(?P<m{i}>\b(?:{p})\b)" for i, p in enumerate(MODE_NAMES.values())))
_TODAY = re.compile(
    r"\b(?:deployed|currently|uses?|using|used|existing|today|now|at present|until now|so far|runs? on|moved? from|"
    r"migrat\w+ from|replaces?|instead of|rather than|no longer|has|runs?|operates?|hosts?)\b[^.;,]*$"
)
_OPTION = re.compile(
    r"(?:(?:^|\n|(?<=[.?!:;] )|(?<=[.?!:;]))\s*[(*]{0,2}(?P<letter>[a-e])[.:]|(?<=\s)\(?(?P<bracketed>[a-e])\))[ *]"
)
_QUOTED = re.compile(
    r'"[^"\n]{1,40}"(?= (?!(?:and|or|but|in|on|at|by|for|with|when|if|as|to|of|from|because|while|during|after|is|are|'
    r"per) "
    r')[a-z])|(?<=\bon )"[^"\n]{1,40}"|(?<=\bsees )"[^"\n]{1,40}"'
)
"""A name: a "report a bug" button reports nothing. Words in quotes that end their clause are meant."""
_FRAGMENT = re.compile(r"(?:(?<=[.!?] )|(?<=\n)|^)\w+(?: \w+)?\?")
"""A word that is asked back."""
_ASKED = re.compile(
    r"\bshould (?:the|an?|they|we|i|it) (?:[\w']+ ){0,3}"
    r"(?:use|choose|select|recommend|suggest|propose|pick|deploy|take|implement)\b"
)
"""What an exam asks at the end: "which option should the engineer use"."""
_REST_OF_CLAUSE = r"(?:[^,;.]|[,.](?=\d))*"


def blank_options(text: str) -> str:
    """Blanks what a question offers: a list A., B., C. … after it, or lines that name two modes or more."""
    question = text.find("?") + 1
    hits = [(m["letter"] or m["bracketed"], m.start()) for m in _OPTION.finditer(text)]
    for (first, start), (second, _) in pairwise(hits):
        if (first, second) == ("a", "b") and (0 < question <= start or _modes(text[start:]) > 1):
            return _blank(text, start, len(text))
    last = text.rfind("?") + 1
    text = _blank(text, last, len(text)) if last and _modes(text[last:]) > 1 else text
    for pattern in (_QUOTED, _FRAGMENT, _ASKED):
        text = pattern.sub(lambda match: " " * len(match.group()), text)
    return text


def blank_asides(text: str, start: int, end: int) -> str:
    """Blanks the asides of one sentence of a lower-case text."""
    for blank in (_blank_mode_names, _blank_outdated, _blank_elsewhere):
        text = blank(text, start, end)
    return text


def _blank(text: str, start: int, end: int) -> str:
    return text[:start] + " " * (end - start) + text[end:]


def _modes(text: str) -> int:
    """How many different modes a text names."""
    return len({m.lastgroup for m in _MODE_NAME.finditer(text)})


def _blank_mode_names(text: str, start: int, end: int) -> str:
    """Blanks modes that stand side by side, and the one in use today."""
    hits = list(_MODE_NAME.finditer(text, start, end))
    offered = len({hit.lastgroup for hit in hits}) > 1
    for hit in hits:
        if offered or _TODAY.search(text, start, hit.start()):
            text = _blank(text, *hit.span())
    return text


def _blank_outdated(text: str, start: int, end: int) -> str:
    """Blanks how the model is served today where a sentence speaks of that, up to the turn to what is wanted."""
    outdated, turn, serving, *_ = _patterns()
    mark = outdated.search(text, start, end)
    if not mark:
        return text
    turns = [at for at in (text.find(";", mark.end(), end), _at(turn.search(text, mark.end(), end))) if at >= 0]
    for match in list(serving.finditer(text, start, min(turns, default=end))):
        text = _blank(text, *match.span())
    return text


def _at(match: re.Match[str] | None) -> int:
    return match.start() if match else -1


def _blank_elsewhere(text: str, start: int, end: int) -> str:
    """Blanks what is said of something else: "although the rest of the platform handles 5,000 requests a second, …", or
    of training."""
    *_, elsewhere, training, clause, sentence = _patterns()
    for match in (*elsewhere.finditer(text, start, end), *training.finditer(text, start, end)):
        text = _blank(text, *match.span())
    for match in list(clause.finditer(text, start, end)):
        text = _blank(text, max(start, *(text.rfind(stop, start, match.start()) + 1 for stop in ",;")), match.end())
    for match in list(sentence.finditer(text, start, end)):
        text = _blank(text, max(start, text.rfind(";", start, match.start()) + 1), match.end())
    return text


@cache
def _patterns() -> tuple[re.Pattern[str], ...]:
    """Outdated, turn, way of serving; elsewhere and training with the rest of the clause; clause and sentence aside."""
    table = {name: rf"(?<!\w)(?:{pattern})(?!\w)" for name, pattern in sections("asides.txt")}
    elsewhere = rf"{table['elsewhere']} {table['something else']}{_REST_OF_CLAUSE}"
    training = rf"{table['training']}{_REST_OF_CLAUSE}"
    plain = (table[name] for name in ("outdated", "turn", "way of serving"))
    return tuple(re.compile(p) for p in (*plain, elsewhere, training, table["clause aside"], table["sentence aside"]))
