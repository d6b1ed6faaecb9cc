"""Numbers with a unit: durations, sizes, rates, counts of things, sums of money.

`quantities(text)` finds them and tells their kind; what role one plays (is `20 minutes` the time that the model takes or
the time until the answer is needed?) is read from the words around it in `roles.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from fourfold.advisor.text.numbers import NUMBER, value_of

Kind = Literal["duration", "size", "rate", "period", "count", "money", "hours a day"]

MINUTE, HOUR, DAY, YEAR = 60.0, 3600.0, 86400.0, 31536000.0
SECONDS = {
    "us": 1e-6, "microsecond": 1e-6, "ms": 1e-3, "msec": 1e-3, "millisecond": 1e-3, "milli": 1e-3, "s": 1, "sec": 1,
    "second": 1, "min": 60, "minute": 60, "h": 3600, "hr": 3600, "hour": 3600, "day": 86400, "night": 86400,
    "week": 604800, "fortnight": 1209600, "month": 2592000, "quarter": 7776000, "year": 31536000, "weekend": 172800,
    "workday": 86400, "evening": 86400, "morning": 86400, "afternoon": 86400, "season": 7776000,
}  # fmt: skip
"""Seconds in one unit; a month has 30 days."""
MEGABYTES = {
    "b": 1e-6, "byte": 1e-6, "kb": 1e-3, "kib": 1.024e-3, "kilobyte": 1e-3, "mb": 1, "mib": 1.048576, "megabyte": 1,
    "meg": 1, "gb": 1e3, "gib": 1073.741824, "gigabyte": 1e3, "gig": 1e3, "tb": 1e6, "tib": 1099511.627776,
    "terabyte": 1e6, "pb": 1e9, "petabyte": 1e9,
}  # fmt: skip
"""Megabytes (10^6 bytes) in one unit."""

_COUNTABLE = rf"(?!(?:half |quarter of )?an? (?!few|couple|handful|dozen|hundred|thousand|million|billion)){NUMBER}"
"""A number that can count things: "a dozen", but not the article alone."""
_TIME = r"(?P<time>microseconds?|us|milli-?seconds?|msecs?|ms|seconds?|secs?|s|minutes?|mins?|hours?|hrs?|h|days?|weeks?|fortnights?|months?|years?|weekends?)"
_PER = r"(?:working |business |busy |week|work|single |school )?(?P<per>second|sec|s|minute|min|hour|hr|h|day|night|week|month|quarter|year|weekend|afternoon|evening|morning|season)s?"
_HOURS_A_DAY = re.compile(
    rf"(?P<n>{NUMBER})[ -]hours? (?:a|per|each|every|of the|of each) (?:working |business |week)?day(?!\w)"
)
_CLOCK = r"(?P<{0}>\d{{1,2}})(?::\d\d)? ?(?P<{1}>h|o'clock|a\.?m\.?|p\.?m\.?|noon)?"
_OPENING = re.compile(
    rf"(?:from|between|\() ?{_CLOCK.format('h1', 'u1')} ?(?:to|till|until|and|-) ?{_CLOCK.format('h2', 'u2')}(?![\w:%]|\.\d| (?:mb|gb|kb|ms|s|sec\w*|min\w*|hours?|days?))"
)
_DURATION = re.compile(rf"(?!an? (?:s|h|hr|min|us|ms)\b)(?P<n>{NUMBER})[ -]{{0,2}}{_TIME}(?![\w])(?!-long)")
_LONG = re.compile(r"(?<!\w)(?P<unit>second|minute|hour|day|week)s?-long(?!\w)")
_PLURAL = re.compile(
    r"(?<![\w-])(?<!business )(?<!working )(?<!office )(?<!opening )(?<!peak )(?<!shopping )(?<!trading )(?<!school )"
    r"(?<!odd )(?<!irregular )(?<!all )(?<!night )(?<!exam )(?<!rush )(?<!off )(?<!all )(?<!holiday )(?<!market )"
    r"(?:many |some |single-digit |double-digit |mere )?(?P<unit>milliseconds|seconds|minutes|hours|days|weeks|months)(?!\w)"
)
_SIZE = re.compile(
    rf"(?P<n>{NUMBER})[ -]?(?P<unit>[kmgtp]i?b|kilobytes?|megabytes?|gigabytes?|terabytes?|petabytes?|megs?|gigs?|bytes?)(?![\w])"
)
_VAGUE_SIZE = re.compile(r"(?<!\w)(?P<unit>kilobytes|megabytes|gigabytes|terabytes|petabytes)(?!\w)")
_WORDS = r"(?:(?!(?:and|or|but|per|in|which|that|who|an?|each|every|once|twice|takes?|needs?) )[a-z'*-]+,? ){0,5}?"
_RATE = re.compile(
    rf"(?P<n>(?:once|twice|thrice|{_COUNTABLE}))(?: (?:or|to) {NUMBER})? ?(?P<what>{_WORDS}(?:[a-z]+(?= ?/))?)"
    rf"(?:(?:per|(?<!of )an?|(?:each|every)(?= (?:second|minute|hour))|(?:in|on) an?(?: [a-z]+)?|in one) | ?/ ?){_PER}(?![\w-])"
)
_IN_A_WEEK = re.compile(
    rf"(?:in|on) (?:a|an) (?:\w+ ){{0,2}}(?P<per>day|week|month|year),? (?:about |some |maybe |perhaps )?(?P<n>{_COUNTABLE}) (?P<what>[a-z]+)"
)
_DAYS_WITH = re.compile(
    rf"(?P<per>day|week|month)s? with (?:about |some |maybe |perhaps )?(?P<n>{_COUNTABLE}) (?P<what>[a-z]+)"
)
_ON_DAYS = re.compile(
    rf"(?P<n>{_COUNTABLE})(?: (?:or|to) {NUMBER})? (?P<what>{_WORDS})?(?:on|in) (?:some|busy|busier|peak|good|many|a busy|a good|a working|working|weekdays?) ?(?P<per>day|night|week|weekend|evening)?s?(?!\w)"
)
_DAILY = re.compile(rf"(?P<n>{_COUNTABLE}) (?:[a-z-]+ )?(?P<per>hourly|daily|weekly|monthly|yearly)(?!\w)")
_ABBREVIATED = re.compile(
    rf"(?P<n>{NUMBER}) ?(?:rps|qps|tps|hz|fps|(?:req\w*|queries|transactions|calls)? ?/ ?s(?:ec(?:ond)?)?)(?!\w)"
)
_PERIOD = re.compile(
    rf"(?<!\w)(?:(?:once |one )?(?:every|each)) (?:(?P<n>(?:few|couple of|several|other|{NUMBER})) )?(?:or \w+ )?(?P<unit>microseconds?|ms|milliseconds?|seconds?|minutes?|hours?|days?|weeks?|months?|quarters?|years?)(?! of the day)(?!\w)"
)
_MONEY = re.compile(
    rf"(?:(?:usd|us\$|\$|€|eur) ?(?P<n>{NUMBER})|(?P<n2>{NUMBER})(?: us)? (?:dollars?|usd|bucks|euros?|eur))(?: (?:per|a|each|/) ?(?P<per>day|week|month|year))?"
)
_COUNT = re.compile(
    rf"(?P<n>{NUMBER})(?: (?!(?:times?|o'clock|a\.?m|p\.?m|cents?|percent|gpus?|cpus?|cores?)\b)(?P<what>[a-z][a-z'-]+(?: [a-z'-]+)?))"
)
_PERIODS = {"hourly": 3600, "daily": 86400, "weekly": 604800, "monthly": 2592000, "yearly": 31536000}
_TIMES = {"once": 1.0, "twice": 2.0, "thrice": 3.0}
_VAGUE_NUMBERS = {"few": 3.0, "couple of": 2.0, "several": 4.0, "other": 2.0}


@dataclass(frozen=True)
class Quantity:
    """A number with a unit. `value` is in seconds (duration, period), MB (size), per second (rate), US dollars a month
    (money) or plain (count); `what` is what is counted, `per` the length of a rate's unit in seconds."""

    kind: Kind
    value: float
    start: int
    end: int
    what: str = ""
    per: float = 0.0
    vague: bool = False
    """No number was given: "minutes", "hundreds of megabytes"; `value` then only tells the order of magnitude."""


def unit_seconds(unit: str) -> float:
    unit = unit.replace("-", "")
    return SECONDS.get(unit) or SECONDS[unit.rstrip("s")]


def quantities(text: str) -> list[Quantity]:
    """Every quantity of a prepared text, in order; no two overlap, rates and money come before what is inside them."""
    found: list[Quantity] = []
    taken = bytearray(len(text))

    def keep(quantity: Quantity) -> None:
        if not any(taken[quantity.start : quantity.end]):
            taken[quantity.start : quantity.end] = b"\1" * (quantity.end - quantity.start)
            found.append(quantity)

    for finder in (_money, _hours_a_day, _sizes, _rates, _periods, _durations, _counts):
        for quantity in finder(text):
            keep(quantity)
    return sorted(found, key=lambda q: q.start)


def _money(text: str) -> list[Quantity]:
    months = {"day": 30.0, "week": 30 / 7, "month": 1.0, "year": 1 / 12, None: 1.0}
    return [Quantity("money", value_of(m["n"] or m["n2"]) * months[m["per"]], *m.span()) for m in _MONEY.finditer(text)]


def _hours_a_day(text: str) -> list[Quantity]:
    found = [Quantity("hours a day", value_of(m["n"]) * 3600, *m.span()) for m in _HOURS_A_DAY.finditer(text)]
    for m in _OPENING.finditer(text):
        first, last = (
            int(m[h]) % 12 + 12 if (m[u] or "").startswith("p") else int(m[h]) for h, u in (("h1", "u1"), ("h2", "u2"))
        )
        if max(first, last) <= 24 and (m["u1"] or m["u2"] or ":" in m.group()):
            found.append(Quantity("hours a day", ((last - first) % 24 or 24) * 3600.0, *m.span()))
    return found


def _sizes(text: str) -> list[Quantity]:
    found = []
    for m in _SIZE.finditer(text):
        unit = m["unit"] if m["unit"] in MEGABYTES else m["unit"].rstrip("s")
        found.append(Quantity("size", value_of(m["n"]) * MEGABYTES[unit], *m.span()))
    for m in _VAGUE_SIZE.finditer(text):
        found.append(Quantity("size", 3 * MEGABYTES[m["unit"].rstrip("s")], *m.span(), vague=True))
    return found


def _rates(text: str) -> list[Quantity]:
    found = [Quantity("rate", value_of(m["n"]), *m.span(), per=1.0) for m in _ABBREVIATED.finditer(text)]
    for m in _RATE.finditer(text):
        n = _TIMES.get(m["n"]) or value_of(m["n"])
        if any(
            unit.rstrip("s") in SECONDS for unit in re.split(r"[ -]", m["what"]) if unit
        ):  # "an hour each night" is a duration
            continue
        what = m["what"].strip() or ("times" if m["n"] in _TIMES else "")
        found.append(Quantity("rate", n / unit_seconds(m["per"]), *m.span(), what=what, per=unit_seconds(m["per"])))
    for m in _ON_DAYS.finditer(text):
        per = unit_seconds(m["per"] or "day")
        found.append(Quantity("rate", value_of(m["n"]) / per, *m.span(), what=(m["what"] or "").strip(), per=per))
    for pattern in (_IN_A_WEEK, _DAYS_WITH):
        for m in pattern.finditer(text):
            per = unit_seconds(m["per"])
            found.append(Quantity("rate", value_of(m["n"]) / per, *m.span(), what=m["what"], per=per))
    for m in _DAILY.finditer(text):
        per = _PERIODS[m["per"]]
        found.append(Quantity("rate", value_of(m["n"]) / per, *m.span(), per=per))
    return found


def _periods(text: str) -> list[Quantity]:
    return [
        Quantity(
            "period",
            (_VAGUE_NUMBERS.get(m["n"]) or value_of(m["n"] or "one")) * unit_seconds(m["unit"]),
            *m.span(),
            per=unit_seconds(m["unit"]),
        )
        for m in _PERIOD.finditer(text)
    ]


def _durations(text: str) -> list[Quantity]:
    found = [
        Quantity("duration", value_of(m["n"]) * unit_seconds(m["time"]), *m.span()) for m in _DURATION.finditer(text)
    ]
    found += [Quantity("duration", unit_seconds(m["unit"]), *m.span()) for m in _LONG.finditer(text)]
    found += [Quantity("duration", 3 * unit_seconds(m["unit"]), *m.span(), vague=True) for m in _PLURAL.finditer(text)]
    return found


def _counts(text: str) -> list[Quantity]:
    return [
        Quantity("count", value_of(m["n"]), m.start(), m.end("n"), what=m["what"])
        for m in _COUNT.finditer(text)
        if m["n"] not in ("a", "an", "single", "half a", "half an")
    ]
