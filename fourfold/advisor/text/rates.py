"""How often something happens: `450 queries per second`, `twice an hour`, `every 500 ms`, `six on a busy day`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fourfold.advisor.text.numbers import MEASURED, NUMBER, value_of
from fourfold.advisor.text.units import SECONDS, Quantity, seconds_in

COUNTABLE = rf"(?!(?:half |quarter of )?an? (?!few|couple|handful|dozen|hundred|thousand|million|billion)){NUMBER}"
"""A number that can count things: "a dozen", but not the article alone."""
_UP_TO = rf"(?P<n>once|twice|thrice|{COUNTABLE})(?: (?:or|to) {NUMBER})?"
_ABOUT = rf"(?:about |around |some |maybe |perhaps |only )?(?P<n>{COUNTABLE}) (?P<what>[a-z]+)"
_STOP = (
    r"(?:and|or|but|per|in|which|that|who|an?|each|every|once|twice|takes?|needs?|m?s|mins?|hrs?|(?:milli)?seconds?|"
    r"minutes?|hours?|days?|weeks?)"
)
_WHAT = rf"(?P<what>(?:(?!{_STOP} )[a-z'\"*-]+,? ){{0,5}}?(?:[a-z]+(?= ?/))?)"
_UNIT = (
    r"(?:working |business |busy |week|work|single |school )?"
    r"(?P<per>second|sec|s|minute|min|hour|hr|h|day|d(?=[,;.) ]|$)|wk|mo(?=[,;.) ]|$)|night|weekend|week|month|quarter|"
    r"year|afternoon|evening|morning|season)s?"
)
_EACH = (
    r"(?:(?:per|(?<!of )(?:an?|last|this)|(?:each|every)(?= (?:second|minute|hour))|(?:in|on) an?(?: [a-z]+)?|in one|"
    r"in(?= (?:day|week|month|hour)(?!\w))) "
    r"| ?/ ?)"
)
_BUSY = r"(?:on|in) (?:some|busy|busier|peak|good|many|a busy|a good|a working|working|weekdays?)"

_RATES = (
    re.compile(rf"{_UP_TO} ?{_WHAT}{_EACH}{_UNIT}(?![\w-])"),
    re.compile(rf"{_UP_TO} {_WHAT}{_BUSY} ?(?P<per>day|night|week|weekend|evening)?s?(?!\w)"),
    re.compile(
        rf"(?P<n>once|twice|{COUNTABLE}) (?P<what>(?:[a-z]+ )?)(?:in|over|during) (?:the )?(?:(?:last|past|previous) )?"
        rf"(?P<k>{NUMBER}) (?P<per>day|week|month|hour|minute)s(?!\w)"
    ),
    re.compile(
        rf"(?P<n>{COUNTABLE}) (?P<what>(?:[a-z]+ ){{1,2}})(?:in|over|during) (?:the )?"
        r"(?:last|past|previous|whole|entire) (?P<per>day|week|month|year|hour|quarter)(?!\w)"
    ),
    re.compile(
        rf"(?:in|over|during|within) the (?:last|past|previous) (?P<k>{NUMBER}) (?P<per>day|week|month|hour)s,? "
        rf"(?:[a-z']+ ){{0,4}}?(?P<n>{COUNTABLE}) (?P<what>[a-z]+)"
    ),
    re.compile(rf"(?P<n>{COUNTABLE}) (?P<what>[a-z]+ )(?P<per>yesterday|today)(?!\w)"),
    re.compile(rf"(?:in|on) an? (?:\w+ ){{0,2}}(?P<per>day|week|month|year),? {_ABOUT}"),
    re.compile(rf"(?P<per>day|week|month)s? with {_ABOUT}"),
    re.compile(rf"(?P<n>{COUNTABLE}) (?P<what>(?:[a-z-]+ )?)(?P<per>hourly|daily|weekly|monthly|yearly)(?!\w)"),
    re.compile(
        rf"(?P<n>{MEASURED}) ?(?P<what>)(?:(?:req\w*|queries|calls)? ?/ ?s(?:ec)?|rps|qps|tps|hz|fps)(?P<per>)(?!\w)"
    ),
)
_PERIOD = re.compile(
    rf"(?<!\w)(?:once |one )?(?:every|each) (?:~|about |roughly |some |around )?"
    rf"(?:(?P<n>few|couple of|several|other|{MEASURED}) ?)?(?:or \w+ )?"
    r"(?P<unit>microseconds?|ms|milliseconds?|seconds?|minutes?|hours?|days?|weeks?|months?|quarters?|years?|h|hrs?|mins?|s|secs?|d)"
    r"(?! of the day)(?!\w)"
)
_SPEEDS = ("km", "m", "miles", "kilometres", "kilometers", "metres", "meters", "knots", "feet", "mb", "gb", "kb")
"""What is no count of requests: "15 km/h", "30 MB per second"."""
_WITHIN = ("within", "from", "since", "of", "for", "after", "until", "by", "during")
"""What makes a time limit of what would be a rate: "one pass, with results within a month"."""
_TIMES = {"once": 1.0, "twice": 2.0, "thrice": 3.0}
_VAGUE = {"few": 3.0, "couple of": 2.0, "several": 4.0, "other": 2.0}
_ADVERBS = {"hourly": "hour", "daily": "day", "weekly": "week", "monthly": "month", "yearly": "year",
            "yesterday": "day", "today": "day"}  # fmt: skip


def rates(text: str) -> Iterator[Quantity]:
    """Rates in a prepared text; `value` is per second."""
    for number, pattern in enumerate(_RATES):
        for m in pattern.finditer(text):
            if any(word.removesuffix("s") in SECONDS for word in re.split(r"[ -]", m["what"])):
                continue  # "an hour each night" is a duration
            what = m["what"].split()
            if m["what"].strip() in _SPEEDS or (what and what[-1] in _WITHIN and what[0] != "times"):
                continue
            default = "second" if number == len(_RATES) - 1 else "day"
            per = seconds_in(_ADVERBS.get(m["per"], m["per"]) or default) * value_of(m.groupdict().get("k") or "one")
            what = m["what"].strip() or ("times" if m["n"] in _TIMES else "")
            yield Quantity("rate", (_TIMES.get(m["n"]) or value_of(m["n"])) / per, *m.span(), what=what, per=per)


def periods(text: str) -> Iterator[Quantity]:
    """Times between two events ("every 500 ms") in a prepared text; `value` is in seconds."""
    for m in _PERIOD.finditer(text):
        unit = seconds_in(m["unit"])
        yield Quantity("period", (_VAGUE.get(m["n"]) or value_of(m["n"] or "one")) * unit, *m.span(), per=unit)
