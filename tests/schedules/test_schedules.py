"""Schedules on a clock that the tests move: what runs when, what is tried again, what is given up."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.clock import ManualClock, iso
from fourfold.control.couriers import Refused, Undelivered
from fourfold.control.schedules.desired import ScheduleConflict, ScheduleNotFound, Schedules
from fourfold.control.schedules.runner import ScheduleRunner
from fourfold.control.schedules.targets import filled, operation_of
from fourfold.control.schedules.timing import decide, next_run
from fourfold.errors import FourfoldError, ServiceUnavailable, ValidationException
from fourfold.records import Partition
from fourfold.store import Store
from fourfold.store.schema import metadata

START = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
TARGET = {
    "Arn": "arn:aws:scheduler:::aws-sdk:sagemaker:createTransformJob",
    "RoleArn": "arn:aws:iam::123456789012:role/r",
    "Input": json.dumps({"TransformJobName": "night-<aws.scheduler.scheduled-time>", "ModelName": "m"}),
}
DEAD = "arn:aws:sqs:us-east-1:123456789012:dead"
DAILY = {
    "Name": "nightly",
    "ScheduleExpression": "cron(0 2 * * ? *)",
    "FlexibleTimeWindow": {"Mode": "OFF"},
    "Target": TARGET,
}


class Office:
    """A store, a clock, a target that notes what it is called with, and a queue that notes what it is sent."""

    def __init__(self, folder):
        self.store = Store(f"sqlite:///{folder}/s.db")
        metadata.create_all(self.store.engine)
        self.clock = ManualClock(START)
        self.calls = []
        self.errors: list[FourfoldError] = []
        self.sent = []
        self.troubles: list[FourfoldError] = []
        self.has_queues = False
        self.schedules: Schedules

    @asynccontextmanager
    async def open(self):
        """The loop at work; leaving ends it as a crash would."""
        send = self.send if self.has_queues else None
        runner = ScheduleRunner(self.store, self.clock, self.call, send)
        self.schedules = Schedules(self.store, Partition(), self.clock, runner.wake)
        loop = asyncio.create_task(runner.run())
        try:
            await self.settle()
            yield self.schedules
        finally:
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)

    async def call(self, service, operation, params):
        self.calls.append((iso(self.clock.now()), service, operation, params))
        if self.errors:
            raise self.errors.pop(0)
        return {}

    async def send(self, queue, body, attributes):
        if self.troubles:
            raise self.troubles.pop(0)
        self.sent.append((queue, body, attributes["ERROR_MESSAGE"]))

    async def settle(self):
        """Let the loop write what it has to: the store has a thread of its own."""
        for _ in range(6):
            await self.store.run(lambda db: None)
            await self.clock.advance(0)

    async def pass_(self, seconds, step=600.0):
        while seconds > 0:
            await self.clock.advance(min(step, seconds))
            await self.settle()
            seconds -= step

    @property
    def times(self):
        return [call[0] for call in self.calls]


@pytest.fixture
def office(tmp_path):
    office = Office(tmp_path)
    yield office
    office.store.close()


HOUR = 3600.0
DAY = 24 * HOUR


async def test_runs_at_its_times_with_its_placeholders_filled(office):
    async with office.open() as schedules:
        await schedules.create(DAILY)
        await office.pass_(2 * DAY)
    assert office.times == ["2026-01-01T02:00:00Z", "2026-01-02T02:00:00Z"]
    assert office.calls[0][1:] == (
        "sagemaker",
        "CreateTransformJob",
        {"TransformJobName": "night-2026-01-01T02-00-00Z", "ModelName": "m"},
    )


async def test_a_rate_begins_at_once_and_a_start_date_puts_it_off(office):
    async with office.open() as schedules:
        await schedules.create({**DAILY, "ScheduleExpression": "rate(6 hours)"})
        await schedules.create(
            {**DAILY, "Name": "later", "ScheduleExpression": "rate(12 hours)", "StartDate": START + 3 * HOUR}
        )
        await office.settle()
        await office.pass_(16 * HOUR)
    assert sorted(office.times) == [
        "2026-01-01T00:00:00Z", "2026-01-01T03:00:00Z", "2026-01-01T06:00:00Z", "2026-01-01T12:00:00Z",
        "2026-01-01T15:00:00Z",
    ]  # fmt: skip


async def test_nothing_runs_after_the_end_date_or_while_disabled(office):
    async with office.open() as schedules:
        await schedules.create({**DAILY, "EndDate": START + 1.5 * DAY})
        await schedules.create({**DAILY, "Name": "off", "State": "DISABLED"})
        await office.pass_(4 * DAY, step=4 * HOUR)
        assert len(office.calls) == 2
        await schedules.update({**DAILY, "Name": "off"})
        await office.pass_(DAY, step=4 * HOUR)
    assert len(office.calls) == 3


async def test_a_run_that_was_missed_is_run_once_at_start(office):
    async with office.open() as schedules:
        await schedules.create(DAILY)
    await office.clock.advance(3 * DAY + 5 * HOUR)
    async with office.open():
        await office.pass_(60)
        document = (await office.schedules.get(None, "nightly")).document
    assert len(office.calls) == 1
    assert office.calls[0][3]["TransformJobName"] == "night-2026-01-04T02-00-00Z"
    assert document["missed"] == 3
    assert iso(next_run(document) or 0) == "2026-01-05T02:00:00Z"


async def test_a_missed_run_whose_window_is_over_is_not_run(office):
    async with office.open() as schedules:
        window = {"Mode": "FLEXIBLE", "MaximumWindowInMinutes": 15}
        await schedules.create({**DAILY, "FlexibleTimeWindow": window})
    await office.clock.advance(3 * HOUR)
    async with office.open():
        await office.pass_(20 * HOUR, step=HOUR)
    assert office.calls == []


async def test_a_run_begins_within_its_flexible_window(office):
    async with office.open() as schedules:
        window = {"Mode": "FLEXIBLE", "MaximumWindowInMinutes": 60}
        await schedules.create({**DAILY, "FlexibleTimeWindow": window})
        await office.pass_(4 * HOUR, step=60)
    [time] = office.times
    assert "2026-01-01T02:00:00Z" <= time <= "2026-01-01T03:01:00Z"
    assert office.calls[0][3]["TransformJobName"] == "night-2026-01-01T02-00-00Z"


async def test_what_may_help_is_tried_again(office):
    office.errors = [ServiceUnavailable("busy"), ServiceUnavailable("busy")]
    async with office.open() as schedules:
        await schedules.create({**DAILY, "ScheduleExpression": "at(2026-01-01T00:10:00)"})
        await office.pass_(700, step=1)
        document = (await schedules.get(None, "nightly")).document
    assert len(office.calls) == 3
    assert document["last"]["attempt"] == 3
    assert document["dead"] == []


async def test_what_cannot_succeed_goes_to_the_dead_letter_queue_at_once(office):
    office.errors = [ValidationException("no such model")]
    async with office.open() as schedules:
        arn = await schedules.create({**DAILY, "Target": {**TARGET, "DeadLetterConfig": {"Arn": DEAD}}})
        await office.pass_(3 * HOUR)
        document = (await schedules.get(None, "nightly")).document
    assert len(office.calls) == 1
    [letter] = document["dead"]
    assert (letter["queue"], letter["body"]) == (DEAD, TARGET["Input"])
    attributes = letter["attributes"]
    assert attributes["ERROR_MESSAGE"] == "no such model"
    assert attributes["SCHEDULE_ARN"] == arn
    assert attributes["SCHEDULED_TIME"] == "2026-01-01T02:00:00Z"


async def test_dead_letters_reach_their_queue_once_it_can_be_reached(office):
    target = {**TARGET, "DeadLetterConfig": {"Arn": DEAD}}
    office.errors = [ValidationException(f"no such model {number}") for number in range(2)]
    async with office.open() as schedules:  # a server without an SQS endpoint keeps them
        await schedules.create({**DAILY, "Target": target})
        await office.pass_(27 * HOUR)
        assert states(await schedules.get(None, "nightly")) == ["kept", "kept"]
    office.has_queues = True
    office.troubles = [Undelivered("down"), Undelivered("down")]
    async with office.open() as schedules:
        assert office.sent == []
        await office.pass_(10, step=1)
        assert states(await schedules.get(None, "nightly")) == ["sent", "sent"]
        await office.pass_(2 * HOUR)
    assert office.sent == [(DEAD, TARGET["Input"], f"no such model {number}") for number in range(2)]


async def test_a_queue_that_is_down_delays_no_run_and_keeps_a_finished_schedule(office):
    office.has_queues = True
    office.errors = [ValidationException("no such model")]
    office.troubles = [Undelivered("down")] * 5
    once = {**DAILY, "ScheduleExpression": "at(2026-01-01T00:01:00)", "ActionAfterCompletion": "DELETE"}
    async with office.open() as schedules:
        await schedules.create({**once, "Target": {**TARGET, "DeadLetterConfig": {"Arn": DEAD}}})
        await office.pass_(70, step=1)
        assert states(await schedules.get(None, "nightly")) == ["kept"]
        await schedules.create({**DAILY, "Name": "other", "ScheduleExpression": "at(2026-01-01T00:01:15)"})
        await office.pass_(10, step=1)
        assert len(office.calls) == 2
        await office.pass_(60, step=1)
        assert len(office.sent) == 1
        with pytest.raises(ScheduleNotFound):
            await schedules.get(None, "nightly")


async def test_a_letter_that_its_queue_refuses_is_sent_once(office):
    office.has_queues = True
    office.errors = [ValidationException("no such model")]
    office.troubles = [Refused("no such queue")]
    async with office.open() as schedules:
        await schedules.create({**DAILY, "Target": {**TARGET, "DeadLetterConfig": {"Arn": DEAD}}})
        await office.pass_(3 * HOUR)
        assert states(await schedules.get(None, "nightly")) == ["refused"]
    assert office.sent == []


def states(schedule):
    return [letter["state"] for letter in schedule.document["dead"]]


async def test_attempts_end_with_the_retry_policy(office):
    office.errors = [ServiceUnavailable("busy")] * 10
    target = {**TARGET, "RetryPolicy": {"MaximumRetryAttempts": 2}}
    target["DeadLetterConfig"] = {"Arn": DEAD}
    async with office.open() as schedules:
        await schedules.create({**DAILY, "ScheduleExpression": "at(2026-01-01T00:01:00)", "Target": target})
        await office.pass_(120, step=1)
        document = (await schedules.get(None, "nightly")).document
    assert len(office.calls) == 3
    assert document["dead"][0]["attributes"]["EXHAUSTED_RETRY_CONDITION"] == "MaximumRetryAttempts"


async def test_a_run_survives_a_crash_between_two_attempts(office):
    office.errors = [ServiceUnavailable("busy")]
    async with office.open() as schedules:
        await schedules.create({**DAILY, "ScheduleExpression": "at(2026-01-01T00:01:00)"})
        await office.pass_(60, step=1)
    assert len(office.calls) == 1
    async with office.open():
        await office.pass_(5, step=1)
    assert len(office.calls) == 2


async def test_a_completed_schedule_deletes_itself_where_that_is_wished(office):
    async with office.open() as schedules:
        once = {**DAILY, "ScheduleExpression": "at(2026-01-01T00:10:00)"}
        await schedules.create({**once, "ActionAfterCompletion": "DELETE"})
        await schedules.create({**once, "Name": "kept"})
        await office.pass_(1200)
        assert [schedule.name for schedule in await schedules.find()] == ["default/kept"]
    assert len(office.calls) == 2


async def test_names_groups_and_tokens(office):
    async with office.open() as schedules:
        with pytest.raises(ScheduleNotFound, match="group"):
            await schedules.create({**DAILY, "GroupName": "g"})
        await schedules.create_group({"Name": "g"})
        arn = await schedules.create({**DAILY, "GroupName": "g", "ClientToken": "t"})
        assert arn == "arn:aws:scheduler:us-east-1:123456789012:schedule/g/nightly"
        assert await schedules.create({**DAILY, "GroupName": "g", "ClientToken": "t"}) == arn
        with pytest.raises(ScheduleConflict):
            await schedules.create({**DAILY, "GroupName": "g", "ClientToken": "u"})
        with pytest.raises(ScheduleConflict):
            await schedules.create_group({"Name": "default"})
        await schedules.delete_group("g")
        with pytest.raises(ScheduleNotFound):
            await schedules.get("g", "nightly")
        with pytest.raises(ValidationException, match="default"):
            await schedules.delete_group("default")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ScheduleExpression": "cron(1 2 3)"}, "Invalid Schedule Expression"),
        ({"ScheduleExpressionTimezone": "Nowhere"}, "Nowhere"),
        ({"FlexibleTimeWindow": {"Mode": "FLEXIBLE"}}, "MaximumWindowInMinutes"),
        ({"EndDate": START - 1}, "EndDate"),
    ],
)
async def test_what_makes_no_sense_is_refused(office, changes, message):
    async with office.open() as schedules:
        with pytest.raises(ValidationException, match=message):
            await schedules.create({**DAILY, **changes})


def test_targets_are_operations_of_services():
    assert operation_of(TARGET["Arn"]) == ("sagemaker", "CreateTransformJob")
    assert operation_of("arn:aws:sqs:us-east-1:123456789012:q") is None


def test_placeholders_are_filled_everywhere_but_names_keep_to_their_letters():
    text = json.dumps({
        "TransformJobName": "j-<aws.scheduler.execution-id>-<aws.scheduler.scheduled-time>",
        "TransformOutput": {"S3OutputPath": "s3://b/<aws.scheduler.scheduled-time>/"},
        "Tags": [{"Key": "try", "Value": "<aws.scheduler.attempt-number>"}],
    })  # fmt: skip
    params, changed = filled(text, "arn:s", START, 2)
    assert params["TransformOutput"]["S3OutputPath"] == "s3://b/2026-01-01T00:00:00Z/"
    assert params["Tags"] == [{"Key": "try", "Value": "2"}]
    assert params["TransformJobName"].endswith("-2026-01-01T00-00-00Z")
    assert list(changed.values()) == [params["TransformJobName"]]
    assert filled(text, "arn:s", START, 3)[0]["TransformJobName"] == params["TransformJobName"]


def test_long_names_stay_different():
    text = json.dumps({"TransformJobName": "x" * 60 + "-<aws.scheduler.scheduled-time>"})
    names = {filled(text, "arn:s", START + i * 60, 1)[0]["TransformJobName"] for i in range(100)}
    assert len(names) == 100
    assert max(map(len, names)) <= 63


@given(st.floats(0, 10 * DAY), st.lists(st.floats(1, 2 * DAY), max_size=8), st.sampled_from(["OFF", "FLEXIBLE"]))
def test_every_time_is_dealt_with_once(first, pauses, mode):
    """However the looks at the clock fall, each day is run or missed, never both, never twice."""
    window = {"Mode": mode} | ({"MaximumWindowInMinutes": 60} if mode == "FLEXIBLE" else {})
    document = {**DAILY, "FlexibleTimeWindow": window, "CreationDate": START, "cursor": START, "pending": None}
    now, dealt = START + first, 0
    for pause in [0.0, *pauses]:
        now += pause
        decision = decide(document, now)
        dealt += decision.missed + (decision.run is not None)
        if decision.run is not None:
            assert decision.begin - decision.run <= HOUR
        document["cursor"] = decision.cursor
    assert dealt == sum(START + 2 * HOUR + day * DAY <= now for day in range(30))
