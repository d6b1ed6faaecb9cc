"""Brings a text into a form that patterns can be matched on, without moving a character.

Offsets in the prepared text are offsets in the original, so that evidence quotes the user's own words. What is not
evidence is blanked: the options that a question offers, the names of modes that stand side by side to choose from, and
the mode that is in use today.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

_PLAIN = str.maketrans(
    {"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "‑": "-", "−": "-", "\u00a0": " ", "\u2009": " ",
     "\u202f": " ", "≤": "<", "≥": ">", "\t": " ", "×": "x", "•": "*", "µ": "u"}
)  # fmt: skip

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
    r"migrat\w+ from|replaces?|instead of|rather than|no longer|has)\b[^.;,]*$"
)
_OUTDATED = re.compile(
    r"\b(?:currently|(?:finds?|found|discover\w*|notic\w+|observ\w+|sees) that|at present|until now|so far|up to now|to date|propos\w+|suggest(?:s|ed|ion)|recommended|advocat\w+|"
    r"complain\w*|dissatisf\w+|unhappy|report(?:ing|ed)? (?:delays|slow)|stands? in|used to|formerly|previously|"
    r"original(?:ly)?|once planned|planned at first|(?:would|will) be (?:pointless|useless|no (?:help|use|good)|wrong|"
    r"of no use|nonsense|too (?:late|slow))|(?:is|are) (?:pointless|useless|no (?:help|use)|out of the question))\b"
)
"""Marks a sentence that tells how it is done today or what somebody else wants; see `_blank_mechanisms`."""
_TURN = re.compile(r"\b(?:but|however|instead|should|must|wants?|needs? to|has to|have to|now|since|and the)\b|;")
"""From here on such a sentence tells what is wanted after all."""
_MECHANISM = re.compile(
    r"\b(?:notifications?|queue[sd]?|queu(?:e)?ing|(?:nightly |daily |weekly |hourly )?batch(?:es)?|(?:nightly|overnight|daily|weekly) "
    r"(?:runs?|jobs?|batch)|cron jobs?|(?:asynchronous|async|serverless|real[ -]?time)"
    r"(?: inference)?(?: endpoints?)?)\b"
)
"""Ways of serving a model; in an outdated sentence they are no wish."""
_QUOTED = re.compile(r'"[^"\n]{1,40}"')
"""A name or a saying: a "report a bug" button reports nothing."""
_FRAGMENT = re.compile(r"(?:(?<=[.!?] )|(?<=\n)|^)\w+(?: \w+)?\?")
"""A word that is asked back, as in: Batch? There is no batch."""
_ASKED = re.compile(
    r"\bshould (?:the|an?|they|we|i|it) (?:[\w']+ ){0,3}(?:use|choose|select|recommend|suggest|propose|pick|deploy|take|implement)\b"
)
"""What an exam asks at the end: "which option should the engineer use"."""
_ASIDE = re.compile(
    r"\b(?:(?:al)?though|even though|while|whereas|unlike|whatever|despite) (?:\w+ )?(?:(?:the )?rest|(?:our |the |all |my )?"
    r"other|everything else|(?:our|the|my) (?:main|core|big|large|old|neighbou?ring|remaining)|elsewhere|most (?:of )?"
    r"(?:our|the))\b(?:[^,;.]|[,.](?=\d))*(?:[,;]|$)"
    r"|[^,;.]*\b(?:aside|notwithstanding),|[^,;.]*\b(?:that's|that is|this is|which is) not (?:my|our) "
    r"(?:concern|business|problem|part|department)\b"
    r"|[^;.]*\b(?:that's|that is|this is|which is) (?:only |just )?(?:a side issue|beside the point|another (?:matter|story|team)|"
    r"a different (?:matter|story|topic)|irrelevant here|somebody else's)\b"
)
"""What is not about the workload; see `_blank_aside`."""
_OPTION = re.compile(
    r"(?:(?:^|\n|(?<=[.?!:;] )|(?<=[.?!:;]))\s*[(*]{0,2}(?P<letter>[a-e])[.:]|(?<=\s)\(?(?P<bracketed>[a-e])\))[ *]"
)
_SENTENCE = re.compile(r"(?:[^.?!;\n]|\.(?=\w))+[.?!;\n]*")
ENGLISH = (
    "the a an of to and in is are for with on at it that per by be no not we our from or must need every each all one"
)
OTHERS = (
    "der die das und nicht ein eine einen einem mit von wir ist sind werden le les des est une un pour avec dans nous "
    "que el los las una por para con del es il che di gli sono non het een van voor niet um uma os dos com não och att "
    "som det jest nie się"
)
"""Common words of English and of its neighbours."""


def prepare(text: str) -> str:
    """Lower case, plain quotes, dashes and spaces, offered options blanked; exactly as long as `text`."""
    lower = "".join(low if len(low := c.lower()) == 1 else c for c in text).translate(_PLAIN)
    lower = _blank_options(lower)
    for pattern in (_QUOTED, _FRAGMENT, _ASKED):
        lower = pattern.sub(lambda match: " " * len(match.group()), lower)
    for start, end in list(sentences(lower)):
        lower = _blank_aside(_blank_mechanisms(_blank_mode_names(lower, start, end), start, end), start, end)
    return lower


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Spans of the sentences; a full stop inside a number or a name ends none."""
    for match in _SENTENCE.finditer(text):
        if match.group().strip():
            yield match.span()


def looks_english(text: str) -> bool:
    """Whether Latin letters prevail and common words of English outnumber those of its neighbours."""
    letters = [c for c in text if c.isalpha()]
    latin = sum(c < "\u0250" for c in letters)
    words = re.findall(r"[^\W\d_]+", text.lower())
    return 2 * latin >= len(letters) and sum(w in OTHERS.split() for w in words) <= sum(
        w in ENGLISH.split() for w in words
    )


def _blank(text: str, start: int, end: int) -> str:
    return text[:start] + " " * (end - start) + text[end:]


def _blank_options(text: str) -> str:
    """Blanks what a question offers: a list A., B., C. … after it, or lines that name two modes or more."""
    question = text.find("?") + 1
    hits = [(m["letter"] or m["bracketed"], m.start()) for m in _OPTION.finditer(text)]
    for (first, start), (second, _) in pairwise(hits):
        if (first, second) == ("a", "b") and (0 < question <= start or _modes(text[start:]) > 1):
            return _blank(text, start, len(text))
    last = text.rfind("?") + 1
    return _blank(text, last, len(text)) if last and _modes(text[last:]) > 1 else text


def _modes(text: str) -> int:
    """How many different modes a text names."""
    return len({m.lastgroup for m in _MODE_NAME.finditer(text)})


def _blank_mechanisms(text: str, start: int, end: int) -> str:
    """Blanks how the model is served today where a sentence speaks of that, up to the turn to what is wanted."""
    mark = _OUTDATED.search(text, start, end)
    if not mark:
        return text
    turn = _TURN.search(text, mark.end(), end)
    for match in list(_MECHANISM.finditer(text, start, turn.start() if turn else end)):
        text = _blank(text, *match.span())
    return text


def _blank_aside(text: str, start: int, end: int) -> str:
    """Blanks what is said of something else: "although the rest of the platform handles 5,000 requests a second, …"."""
    for match in list(_ASIDE.finditer(text, start, end)):
        text = _blank(text, *match.span())
    return text


def _blank_mode_names(text: str, start: int, end: int) -> str:
    hits = list(_MODE_NAME.finditer(text, start, end))
    offered = len({hit.lastgroup for hit in hits}) > 1
    for hit in hits:
        if offered or _TODAY.search(text, start, hit.start()):
            text = _blank(text, *hit.span())
    return text
