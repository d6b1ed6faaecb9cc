"""at, rate and cron: AWS's documented examples, daylight saving, and what is no expression."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from hypothesis import given
from hypothesis import strategies as st

from fourfold.control.expressions import parse
from fourfold.errors import ValidationException


def times(expression: str, start: str, timezone: str = "UTC", count: int = 3) -> list[str]:
    """The next times after `start`, as local times of the zone."""
    zone = ZoneInfo(timezone)
    parsed = parse(expression, timezone)
    moment = datetime.fromisoformat(start).replace(tzinfo=zone).timestamp()
    anchor = moment

    def walk():
        nonlocal moment
        while (next_ := parsed.after(moment, anchor)) is not None:
            moment = next_
            yield datetime.fromtimestamp(next_, zone).strftime("%Y-%m-%d %H:%M")

    return list(islice(walk(), count))


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        # Amazon EventBridge User Guide, "Cron expressions reference", examples
        ("cron(0 10 * * ? *)", ["2026-01-01 10:00", "2026-01-02 10:00", "2026-01-03 10:00"]),
        ("cron(15 12 * * ? *)", ["2026-01-01 12:15", "2026-01-02 12:15", "2026-01-03 12:15"]),
        ("cron(0 18 ? * MON-FRI *)", ["2026-01-01 18:00", "2026-01-02 18:00", "2026-01-05 18:00"]),
        ("cron(0 8 1 * ? *)", ["2026-01-01 08:00", "2026-02-01 08:00", "2026-03-01 08:00"]),
        ("cron(0/15 * * * ? *)", ["2026-01-01 00:15", "2026-01-01 00:30", "2026-01-01 00:45"]),
        ("cron(0/10 * ? * MON-FRI *)", ["2026-01-01 00:10", "2026-01-01 00:20", "2026-01-01 00:30"]),
        ("cron(0/5 8-17 ? * MON-FRI *)", ["2026-01-01 08:00", "2026-01-01 08:05", "2026-01-01 08:10"]),
        # EventBridge Scheduler User Guide, "Schedule types": 10:15 on the last Friday of each month, 2022 to 2023
        ("cron(15 10 ? * 6L 2022-2023)", []),
        ("cron(15 10 ? * 6L 2026-2027)", ["2026-01-30 10:15", "2026-02-27 10:15", "2026-03-27 10:15"]),
        ("cron(0 9 ? * 3#2 *)", ["2026-01-13 09:00", "2026-02-10 09:00", "2026-03-10 09:00"]),
        ("cron(0 0 3W * ? *)", ["2026-01-02 00:00", "2026-02-03 00:00", "2026-03-03 00:00"]),
        ("cron(0 0 1W * ? 2026)", ["2026-02-02 00:00", "2026-03-02 00:00", "2026-04-01 00:00"]),
        ("cron(0 0 L * ? *)", ["2026-01-31 00:00", "2026-02-28 00:00", "2026-03-31 00:00"]),
        ("cron(0 0 LW * ? *)", ["2026-01-30 00:00", "2026-02-27 00:00", "2026-03-31 00:00"]),
        ("cron(0 0 L-2 * ? *)", ["2026-01-29 00:00", "2026-02-26 00:00", "2026-03-29 00:00"]),
        ("cron(0 0 ? * L *)", ["2026-01-03 00:00", "2026-01-10 00:00", "2026-01-17 00:00"]),
        ("cron(0 0 29 FEB ? *)", ["2028-02-29 00:00", "2032-02-29 00:00", "2036-02-29 00:00"]),
        ("cron(0 0 31 2 ? *)", []),
        ("cron(0 22 ? NOV-FEB FRI-SUN *)", ["2026-01-02 22:00", "2026-01-03 22:00", "2026-01-04 22:00"]),
        ("rate(5 minutes)", ["2026-01-01 00:05", "2026-01-01 00:10", "2026-01-01 00:15"]),
        ("rate(1 hour)", ["2026-01-01 01:00", "2026-01-01 02:00", "2026-01-01 03:00"]),
        ("rate(7 days)", ["2026-01-08 00:00", "2026-01-15 00:00", "2026-01-22 00:00"]),
        ("at(2026-11-20T13:00:00)", ["2026-11-20 13:00"]),
        ("at(2025-11-20T13:00:00)", []),
    ],
)
def test_the_documented_examples(expression, expected):
    assert times(expression, "2026-01-01") == expected


def test_a_rate_begins_with_its_anchor():
    assert parse("rate(1 hour)").after(99.0, 100.0) == 100.0
    assert parse("rate(1 hour)").after(100.0, 100.0) == 3700.0


def test_times_are_the_zone_s():
    [moment] = [parse("at(2026-07-01T12:00:00)", "America/New_York").after(0, 0)]
    assert moment == datetime(2026, 7, 1, 16, tzinfo=UTC).timestamp()


def test_an_hour_that_is_skipped_does_not_happen():
    assert times("cron(30 2 * * ? *)", "2026-03-28", "Europe/Rome") == [
        "2026-03-28 02:30", "2026-03-30 02:30", "2026-03-31 02:30",
    ]  # fmt: skip


def test_an_hour_that_comes_twice_happens_once():
    assert times("cron(30 2 * * ? *)", "2026-10-24", "Europe/Rome") == [
        "2026-10-24 02:30", "2026-10-25 02:30", "2026-10-26 02:30",
    ]  # fmt: skip
    first = parse("cron(30 2 25 10 ? 2026)", "Europe/Rome").after(0, 0)
    assert first == datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    "expression",
    [
        "", "5 minutes", "rate(0 minutes)", "rate(5 weeks)", "rate(5minutes)", "at(tomorrow)",
        "at(2026-13-01T00:00:00)",
        "cron(0 0 * * *)", "cron(0 0 * * * *)", "cron(0 0 ? * ? *)", "cron(60 0 * * ? *)", "cron(0 0 32 * ? *)",
        "cron(0 0 ? * 8 *)", "cron(0 0 ? * 3#6 *)", "cron(0 0 ? * 3#1,6#3 *)", "cron(0 0 * * ? 1969)",
        "cron(0 0 * * ? *",
    ],
)  # fmt: skip
def test_what_is_no_expression_is_refused(expression):
    with pytest.raises(ValidationException, match="Invalid Schedule Expression"):
        parse(expression)


def test_what_a_moment_looks_like_is_told():
    with pytest.raises(ValidationException, match=r"such as at\(2026-12-24T18:00:00\)"):
        parse("at(tomorrow)")


def test_an_unknown_zone_is_refused():
    with pytest.raises(ValidationException, match="Mars/Olympus"):
        parse("rate(1 day)", "Mars/Olympus")


fields = st.tuples(
    st.sampled_from(["0", "*/7", "5,50", "10-20/3"]),
    st.sampled_from(["*", "3", "8-17", "*/5"]),
    st.sampled_from(["*", "13", "1,31", "10-20"]),
    st.sampled_from(["*", "2", "1-6/2", "11,12"]),
)


@given(fields, st.integers(1_600_000_000, 1_900_000_000))
def test_plain_cron_agrees_with_croniter(chosen, start):
    minute, hour, day, month = chosen
    ours = parse(f"cron({minute} {hour} {day} {month} ? *)").after(start, start)
    assert ours == croniter(f"{minute} {hour} {day} {month} *", start).get_next(float)
