"""Numbers as people write them: `1,100`, `2.2 million`, `10k`, `forty-five`, `a couple of`, `half a`, `from 5 to 30`.

What a number counts or measures is read in `quantities.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

ONES = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19, "single": 1,
}  # fmt: skip
TENS = {
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
SCALES = {
    "tens": 30, "dozen": 12, "dozens": 24, "hundred": 100, "hundreds": 300, "thousand": 1e3, "thousands": 3e3,
    "million": 1e6, "millions": 3e6, "billion": 1e9, "billions": 3e9, "k": 1e3, "mio": 1e6, "mil": 1e6, "bn": 1e9,
}  # fmt: skip
SHORT_SCALES = {"m": 1e6, "b": 1e9}
"""Scales only where they touch the digits and a plural follows: "5m rows"."""
VAGUE = {"a": 1, "an": 1, "couple": 2, "few": 3, "several": 4, "handful": 5, "half": 0.5, "quarter": 0.25, "tenth": 0.1}
"""What the vague words are taken for; "several" is four."""


def _any(words: Mapping[str, float]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


_DIGITS = (
    r"\d{1,3}(?:[,\u202f]\d{3})+(?:\.\d+)?|\d{1,3}(?: \d{3})+(?!\d)|\d+(?:\.\d+)?(?:e[+-]?\d+)?(?!\w*\d)|\d+(?:\.\d+)?"
    r"|\.\d+"
)
_SCALE = rf"(?:{_any(SCALES)})"
_SHORT = r"[mb](?= [a-z-]+s(?!\w))"
_WORD = (
    rf"(?:half an?|quarter of an?|(?:an? )?(?:couple|handful|tenth)(?: of(?: an?)?)?|(?:an? )?few|several|single|"
    rf"(?:{_any(TENS)})(?:[ -](?:{_any(ONES)}))?|{_any(ONES)}|an?)"
)
_NUMBER = (
    rf"(?:(?:{_DIGITS})(?:[ -]?{_SCALE}(?!\w)|{_SHORT})?|{_WORD}(?:[ -]{_SCALE})*|{_SCALE}(?: of {_SCALE})?)(?: of)?"
)
NUMBER = rf"(?<![\w.,])(?:{_NUMBER})(?![\w])"
"""Pattern of one number in lower-case text, without a group of its own."""
MEASURED = rf"(?:(?<![\w.,])(?!\d{{3,4}}s\b|(?<=the )\d0s\b)(?:{_DIGITS})(?=[a-z])|{NUMBER})"
"""A number before its unit, which may touch it: "200kb"; "the 1990s" are no seconds."""

_FIND = re.compile(NUMBER)
_TOKEN = re.compile(rf"{_DIGITS}|[a-z]+")


@dataclass(frozen=True)
class Number:
    """A number and where it stands."""

    start: int
    end: int
    value: float


def value_of(words: str) -> float:
    """`value_of("2.2 million")` is 2200000.0, `value_of("forty-five")` 45.0, `value_of("a quarter of an")` 0.25."""
    total, current = 0.0, None
    for token in _TOKEN.findall(words.lower()):
        if token[-1].isdigit():
            current = float(re.sub(r"[,\s\u202f]", "", token))
        elif token in SCALES:
            scale = SCALES[token if current is None else token.removesuffix("s")]
            current = (1.0 if current is None else current) * scale
            if scale >= 1000:
                total, current = total + current, None
        elif token in SHORT_SCALES and current is not None:
            total, current = total + current * SHORT_SCALES[token], None
        elif token in TENS or token in ONES:
            current = (current or 0.0) + (TENS.get(token) or ONES.get(token) or 0)
        elif token in VAGUE and (current is None or current == 1):
            current = VAGUE[token]
    return total + (current or 0.0)


def numbers(text: str) -> list[Number]:
    """All numbers of a lower-case text, from left to right."""
    return [Number(m.start(), m.end(), value_of(m.group())) for m in _FIND.finditer(text)]
