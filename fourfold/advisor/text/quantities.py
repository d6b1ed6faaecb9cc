"""Numbers with a unit: durations, sizes, rates, counts of things, sums of money.

`quantities(text)` finds them and tells their kind; what role one plays (is `20 minutes` the time that the model takes
or the time until the answer is needed?) is read from the words around it in `roles.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from fourfold.advisor.text.numbers import MEASURED, NUMBER, value_of
from fourfold.advisor.text.rates import periods, rates
from fourfold.advisor.text.units import HOUR, Quantity, megabytes_in, seconds_in

_TIME = (
    r"(?P<unit>microseconds?|us|milli-?seconds?|msecs?|ms|seconds?|secs?|s|minutes?|mins?|hours?|hrs?|h|days?|weeks?|"
    r"fortnights?|months?|years?|yrs?|weekends?)"
)
_DURATION = re.compile(rf"(?!an? (?:s|h|hr|min|us|ms)\b)(?P<n>{MEASURED})[ -]{{0,2}}{_TIME}(?!\w)(?!-long)")
_PER = re.compile(
    r"(?<!\w)(?!takes|needs|lasts|requires|runs|has|was|is|gives|allows|leaves|spends|means|plus|perhaps|works|this)"
    r"[a-z]+s $"
)
_LONG = re.compile(r"(?<!\w)(?P<unit>second|minute|hour|day|week)s?-long(?!\w)")
_NO_DURATION = (
    "business working office opening peak shopping trading school odd irregular most few all night exam rush off "
    "holiday market"
)
_PLURAL = re.compile(
    r"(?<![\w-])"
    + "".join(f"(?<!{word} )" for word in _NO_DURATION.split())
    + r"(?:many |some |single-digit |double-digit |mere )?"
    + r"(?P<unit>milliseconds|seconds|minutes|hours|days|weeks|months)(?!\w)"
)
_HOURS_A_DAY = re.compile(
    rf"(?P<n>{MEASURED})[ -]?(?:hours?|hrs?|h) (?:a|per|each|every|of the|of each) "
    r"(?:working |business |week)?day(?!\w)"
)
_CLOCK = r"(?P<{0}>\d{{1,2}})(?::\d\d)? ?(?P<{1}>h|o'clock|a\.?m\.?|p\.?m\.?|noon)?"
_OPENING = re.compile(
    rf"(?:from|between|\() ?{_CLOCK.format('opens', 'unit1')} ?(?:to|till|until|and|-) ?"
    rf"{_CLOCK.format('closes', 'unit2')}"
    r"(?![\w:%]|\.\d| (?:mb|gb|kb|ms|s|sec\w*|min\w*|hours?|days?))"
)
_SIZE = re.compile(
    rf"(?P<n>{MEASURED})[ -]?"
    r"(?P<unit>[kmgtp]i?b|(?:kilo|mega|giga|tera|peta)bytes?|megs?|gigs?|bytes?|(?<= )b(?=[;,.)]|$))(?!\w)"
)
_VAGUE_SIZE = re.compile(r"(?<!\w)(?P<unit>(?:kilo|mega|giga|tera|peta)bytes)(?!\w)")
_DOLLARS = r"(?:dollars?|usd|bucks|euros?|eur)"
_MONEY = re.compile(
    rf"(?:(?:usd|us\$|\$|€|eur) ?(?P<n>{NUMBER})|(?P<n2>{NUMBER})(?: us)? {_DOLLARS})"
    r"(?: (?:per|a|each|/) ?(?P<per>day|week|month|year))?"
)
_PER_MONTH = {"day": 30.0, "week": 30 / 7, "month": 1.0, "year": 1 / 12, None: 1.0}
_COUNT = re.compile(
    rf"(?P<n>{NUMBER}) (?!(?:times?|o'clock|a\.?m|p\.?m|cents?|percent|gpus?|cpus?|cores?)\b)"
    r"(?P<what>[a-z][a-z'-]+(?: [a-z'-]+)?)"
)
_ARTICLES = ("a", "an", "single", "half a", "half an")


def quantities(text: str) -> list[Quantity]:
    """Every quantity of a prepared text, in order. Of two that overlap the first of this list is kept: money, hours a
    day, sizes, rates, periods, durations, counts."""
    found: list[Quantity] = []
    taken = bytearray(len(text))
    for finder in (_money, _hours_a_day, _sizes, rates, periods, _durations, _counts):
        for quantity in finder(_masked(text) if finder is rates else text):
            # A size may stand within a rate: "300 requests of 100 KB an hour".
            step = max(quantity.end - quantity.start - 1, 1) if finder is rates else 1
            if not any(taken[quantity.start : quantity.end : step]):
                taken[quantity.start : quantity.end] = b"\1" * (quantity.end - quantity.start)
                found.append(quantity)
    return sorted(found, key=lambda q: q.start)


def _masked(text: str) -> str:
    """The text with every size as a word of letters."""
    return _SIZE.sub(lambda size: "x" * len(size.group()), text)


def _money(text: str) -> Iterator[Quantity]:
    for m in _MONEY.finditer(text):
        yield Quantity("money", value_of(m["n"] or m["n2"]) * _PER_MONTH[m["per"]], *m.span())


def _hours_a_day(text: str) -> Iterator[Quantity]:
    for m in _HOURS_A_DAY.finditer(text):
        yield Quantity("hours a day", value_of(m["n"]) * HOUR, *m.span())
    for m in _OPENING.finditer(text):
        opens, closes = _hour(m["opens"], m["unit1"]), _hour(m["closes"], m["unit2"])
        if max(opens, closes) <= 24 and (m["unit1"] or m["unit2"] or ":" in m.group()):
            yield Quantity("hours a day", ((closes - opens) % 24 or 24) * HOUR, *m.span())


def _hour(digits: str, unit: str | None) -> int:
    """`_hour("6", "p.m.")` is 18."""
    return int(digits) % 12 + 12 if unit and unit.startswith("p") else int(digits)


def _sizes(text: str) -> Iterator[Quantity]:
    for m in _SIZE.finditer(text):
        yield Quantity("size", value_of(m["n"]) * megabytes_in(m["unit"]), *m.span())
    for m in _VAGUE_SIZE.finditer(text):
        yield Quantity("size", 3 * megabytes_in(m["unit"]), *m.span(), vague=True)


def _durations(text: str) -> Iterator[Quantity]:
    for m in _DURATION.finditer(text):
        if _PER.search(text, max(0, m.start() - 15), m.start()) and m["n"] in _ARTICLES:
            continue  # "a few days a month"
        yield Quantity("duration", value_of(m["n"]) * seconds_in(m["unit"]), *m.span())
    for m in _LONG.finditer(text):
        yield Quantity("duration", seconds_in(m["unit"]), *m.span())
    for m in _PLURAL.finditer(text):
        yield Quantity("duration", 3 * seconds_in(m["unit"]), *m.span(), vague=True)


def _counts(text: str) -> Iterator[Quantity]:
    for m in _COUNT.finditer(text):
        if m["n"] not in _ARTICLES:
            yield Quantity("count", value_of(m["n"]), m.start(), m.end("n"), what=m["what"])
