"""When a schedule is due: EventBridge Scheduler's `at(…)`, `rate(…)` and `cron(…)`, evaluated in a time zone.

    at(2026-12-24T18:00:00)        once
    rate(5 minutes)                every period, counted from the schedule's start
    cron(0 2 ? * MON-FRI *)        minutes hours day-of-month month day-of-week year

As AWS does it: a local time that daylight saving skips does not happen, and one that comes twice happens once, the
first time. https://docs.aws.amazon.com/scheduler/latest/UserGuide/schedule-types.html
"""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fourfold.errors import ValidationException

_UNITS = {"minute": 60, "hour": 3600, "day": 86400}
_RATE = re.compile(r"(\d+)\s+(minute|hour|day)s?")
_MONTHS = {name.upper(): number for number, name in enumerate(calendar.month_abbr) if name}
_DAYS = {name: number for number, name in enumerate(("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"), 1)}
_LAST_YEAR = 2199


class Expression(Protocol):
    """When something is due. Moments are seconds since the epoch."""

    def after(self, moment: float, anchor: float) -> float | None:
        """The first time later than `moment`; None where there is none.

        Args:
            moment: exclusive.
            anchor: the schedule's start; a rate counts from it, its first time being the anchor itself.
        """


def parse(expression: str, timezone: str = "UTC") -> Expression:
    """An expression from its text. Raises ValidationException saying what is wrong."""
    kind, _, rest = expression.strip().partition("(")
    if not rest.endswith(")"):
        raise _invalid(expression, "it must be at(…), rate(…) or cron(…)")
    zone = _zone(timezone)
    inner = rest[:-1].strip()
    try:
        match kind:
            case "at":
                return At(_seconds(_moment(inner), zone) or 0.0)
            case "rate":
                return _rate(inner)
            case "cron":
                return _cron(inner, zone)
    except ValueError as error:
        raise _invalid(expression, str(error)) from None
    raise _invalid(expression, "it must be at(…), rate(…) or cron(…)")


def _invalid(expression: str, reason: str) -> ValidationException:
    return ValidationException(f"Invalid Schedule Expression {expression}: {reason}.")


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValidationException(
            f"Invalid ScheduleExpressionTimezone {name!r}: give a name such as Europe/Rome."
        ) from None


@dataclass(frozen=True)
class At:
    """Once."""

    moment: float

    def after(self, moment: float, anchor: float) -> float | None:
        return self.moment if self.moment > moment else None


@dataclass(frozen=True)
class Rate:
    """Every `period` seconds from the anchor on."""

    period: int

    def after(self, moment: float, anchor: float) -> float | None:
        if moment < anchor:
            return anchor
        return anchor + ((moment - anchor) // self.period + 1) * self.period


@dataclass(frozen=True)
class Cron:
    """At the minutes of the days that fit."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: Days
    months: frozenset[int]
    years: frozenset[int]
    zone: ZoneInfo

    def after(self, moment: float, anchor: float) -> float | None:
        day = datetime.fromtimestamp(moment, self.zone).date() - timedelta(days=1)  # zones shift at most a day
        while day.year <= min(max(self.years), _LAST_YEAR):
            if day.year not in self.years:
                day = date(day.year + 1, 1, 1)
                continue
            if day.month in self.months and self.days.fits(day):
                for time in self._times(day):
                    if time > moment:
                        return time
            day += timedelta(days=1)
        return None

    def _times(self, day: date) -> list[float]:
        """In order: where clocks are put back, a later local time may be an earlier moment."""
        local = (datetime(day.year, day.month, day.day, hour, minute) for hour in self.hours for minute in self.minutes)
        return sorted(time for moment in local if (time := _seconds(moment, self.zone)) is not None)


def _seconds(local: datetime, zone: ZoneInfo) -> float | None:
    """A local time as seconds since the epoch; None where daylight saving skips it."""
    moment = local.replace(tzinfo=zone).astimezone(UTC)
    return moment.timestamp() if moment.astimezone(zone).replace(tzinfo=None) == local else None


class Days(Protocol):
    def fits(self, day: date) -> bool: ...


@dataclass(frozen=True)
class DaysOfMonth:
    """Days by number, counted from the end (`L` is -1), or the weekday nearest to one (`15W`)."""

    numbers: frozenset[int]
    from_end: frozenset[int] = frozenset()
    nearest: frozenset[int] = frozenset()
    last_weekday: bool = False

    def fits(self, day: date) -> bool:
        length = calendar.monthrange(day.year, day.month)[1]
        return (
            day.day in self.numbers
            or day.day - length - 1 in self.from_end
            or any(day.day == _nearest_weekday(day.year, day.month, number, length) for number in self.nearest)
            or (self.last_weekday and day.day == _nearest_weekday(day.year, day.month, length, length))
        )


@dataclass(frozen=True)
class DaysOfWeek:
    """Days of the week, 1 is Sunday; the last one of the month (`6L`), or the nth (`3#2`)."""

    numbers: frozenset[int]
    last: frozenset[int] = frozenset()
    nth: frozenset[tuple[int, int]] = frozenset()

    def fits(self, day: date) -> bool:
        number = day.isoweekday() % 7 + 1
        length = calendar.monthrange(day.year, day.month)[1]
        return (
            number in self.numbers
            or (number in self.last and day.day + 7 > length)
            or (number, (day.day - 1) // 7 + 1) in self.nth
        )


def _nearest_weekday(year: int, month: int, number: int, length: int) -> int:
    """The weekday nearest to a day, in the same month."""
    if number > length:
        return 0
    weekday = date(year, month, number).isoweekday()
    if weekday == 6:
        return number - 1 if number > 1 else number + 2
    if weekday == 7:
        return number + 1 if number < length else number - 2
    return number


def _moment(text: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S")
    except ValueError:
        raise ValueError("a moment is a date and a time, such as at(2026-12-24T18:00:00)") from None


def _rate(text: str) -> Rate:
    match = _RATE.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise ValueError("a rate is a positive number and minutes, hours or days, such as rate(5 minutes)")
    return Rate(int(match[1]) * _UNITS[match[2]])


def _cron(text: str, zone: ZoneInfo) -> Cron:
    fields = text.upper().split()
    if len(fields) != 6:
        raise ValueError(f"cron has 6 fields (minutes hours day-of-month month day-of-week year), not {len(fields)}")
    minutes, hours, day_of_month, month, day_of_week, year = fields
    if (day_of_month == "?") == (day_of_week == "?"):
        raise ValueError("exactly one of day-of-month and day-of-week must be ?")
    return Cron(
        tuple(sorted(_numbers(minutes, "minutes", 0, 59))),
        tuple(sorted(_numbers(hours, "hours", 0, 23))),
        _days_of_week(day_of_week) if day_of_month == "?" else _days_of_month(day_of_month),
        _numbers(month, "month", 1, 12, _MONTHS),
        _numbers(year, "year", 1970, _LAST_YEAR),
        zone,
    )


def _days_of_month(field: str) -> DaysOfMonth:
    numbers: set[int] = set()
    from_end: set[int] = set()
    nearest: set[int] = set()
    last_weekday = False
    for part in field.split(","):
        if part == "LW":
            last_weekday = True
        elif match := re.fullmatch(r"L(?:-(\d{1,2}))?", part):
            from_end.add(-1 - int(match[1] or 0))
        elif match := re.fullmatch(r"(\d{1,2})W", part):
            nearest.add(_within(match[1], "day-of-month", 1, 31))
        else:
            numbers |= _numbers(part, "day-of-month", 1, 31)
    return DaysOfMonth(frozenset(numbers), frozenset(from_end), frozenset(nearest), last_weekday)


def _days_of_week(field: str) -> DaysOfWeek:
    numbers: set[int] = set()
    last: set[int] = set()
    nth: set[tuple[int, int]] = set()
    if "#" in field and "," in field:
        raise ValueError("with # there is one expression only in day-of-week")
    for part in field.split(","):
        if part == "L":
            numbers.add(7)  # the last day of the week
        elif match := re.fullmatch(r"(\w+)L", part):
            last.add(_within(match[1], "day-of-week", 1, 7, _DAYS))
        elif match := re.fullmatch(r"(\w+)#([1-5])", part):
            nth.add((_within(match[1], "day-of-week", 1, 7, _DAYS), int(match[2])))
        else:
            numbers |= _numbers(part, "day-of-week", 1, 7, _DAYS)
    return DaysOfWeek(frozenset(numbers), frozenset(last), frozenset(nth))


def _numbers(field: str, name: str, least: int, most: int, names: dict[str, int] | None = None) -> frozenset[int]:
    """`*`, `5`, `1-5`, `*/15`, `0/15` (from 0 on), `1-30/2`, and lists of these."""
    found: set[int] = set()
    for part in field.split(","):
        span, slash, step = part.partition("/")
        start, dash, stop = span.partition("-")
        if span == "*":
            low, high = least, most
        else:
            low = _within(start, name, least, most, names)
            high = _within(stop, name, least, most, names) if dash else most if slash else low
        every = _within(step, f"step of {name}", 1, most) if slash else 1
        values = range(low, high + 1) if low <= high else (*range(low, most + 1), *range(least, high + 1))
        found.update(values[::every])
    return frozenset(found)


def _within(text: str, name: str, least: int, most: int, names: dict[str, int] | None = None) -> int:
    number = (names or {}).get(text, -1)
    if number < 0 and text.isascii() and text.isdigit():
        number = int(text)
    if not least <= number <= most:
        raise ValueError(f"{text!r} is no {name}: it goes from {least} to {most}")
    return number
