"""Units of time and size, and what a quantity is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MINUTE, HOUR, DAY, YEAR = 60.0, 3600.0, 86400.0, 31536000.0
SECONDS = {
    "us": 1e-6, "microsecond": 1e-6, "ms": 1e-3, "msec": 1e-3, "millisecond": 1e-3, "s": 1, "sec": 1, "second": 1,
    "min": 60, "minute": 60, "h": 3600, "hr": 3600, "hour": 3600, "day": 86400, "d": 86400, "night": 86400,
    "morning": 86400, "afternoon": 86400, "evening": 86400, "weekend": 172800, "week": 604800, "wk": 604800,
    "fortnight": 1209600, "month": 2592000, "mo": 2592000,
    "quarter": 7776000, "season": 7776000, "year": 31536000, "yr": 31536000,
}  # fmt: skip
"""Seconds in one unit; a month has 30 days. A night or an evening counts as a day: "40 calls per night"."""
MEGABYTES = {
    "byte": 1e-6, "b": 1e-6, "kb": 1e-3, "kib": 1.024e-3, "kilobyte": 1e-3, "mb": 1, "mib": 1.048576,
    "megabyte": 1, "meg": 1,
    "gb": 1e3, "gib": 1073.741824, "gigabyte": 1e3, "gig": 1e3, "tb": 1e6, "tib": 1099511.627776, "terabyte": 1e6,
    "pb": 1e9, "pib": 1125899906.842624, "petabyte": 1e9,
}  # fmt: skip
"""Megabytes (10^6 bytes) in one unit."""

Kind = Literal["duration", "size", "rate", "period", "count", "money", "hours a day"]


@dataclass(frozen=True)
class Quantity:
    """A number with a unit, and where it stands.

    `value` is in seconds (duration, period, hours a day), MB (size), 1/s (rate), US dollars a month (money) or plain
    (count).
    """

    kind: Kind
    value: float
    start: int
    end: int
    what: str = ""
    """What is counted, where it is said."""
    per: float = 0.0
    """Seconds in the unit that a rate or period was given in."""
    vague: bool = False
    """No number was given ("minutes", "gigabytes"): `value` tells the order of magnitude only."""


def seconds_in(unit: str) -> float:
    """`seconds_in("milli-seconds")` is 0.001. Raises KeyError."""
    unit = unit.replace("-", "")
    return SECONDS[unit] if unit in SECONDS else SECONDS[unit.removesuffix("s")]


def megabytes_in(unit: str) -> float:
    """`megabytes_in("gigabytes")` is 1000. Raises KeyError."""
    return MEGABYTES[unit] if unit in MEGABYTES else MEGABYTES[unit.removesuffix("s")]
