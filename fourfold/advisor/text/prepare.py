"""Brings a text into a form that patterns can be matched on, without moving a character.

Offsets in the prepared text are offsets in the original, so that evidence quotes the user's own words. What is no
evidence is blanked (`asides`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from fourfold.advisor.text.asides import blank_asides, blank_options

_PLAIN = str.maketrans(
    {"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "‑": "-", "−": "-", "\u00a0": " ", "\u2009": " ",
     "\u202f": " ", "≤": "<", "≥": ">", "\t": " ", "×": "x", "•": "*", "µ": "u"}
)  # fmt: skip

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
    """Lower case, plain quotes, dashes and spaces, all that is no evidence blanked; exactly as long as `text`."""
    lower = blank_options("".join(low if len(low := c.lower()) == 1 else c for c in text).translate(_PLAIN))
    for start, end in list(sentences(lower)):
        lower = blank_asides(lower, start, end)
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
