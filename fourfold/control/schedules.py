"""Schedules: what people want to run when, and the loop that runs it.

A schedule's document holds the request's members, and

    cursor      times up to here are dealt with
    pending     the run that is under way: {"scheduled", "attempt", "next"}; None between runs
    last        what became of the last run, for people
    missed      how many scheduled times were passed over, because nobody ran them in time
    dead        the newest runs that were given up, where the target has a dead-letter queue: messages, each `kept`
                until it is `sent` to its queue, or `refused` by it

`decide` is all of the timing and is pure: from a document and the time to what is to be done. A run is written down
before it is tried, so that a crash between the two costs nothing: it is tried again, under the same execution id.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import msgspec
from sqlalchemy.engine import Connection

from fourfold.clock import Clock, iso, sleep_or_event
from fourfold.control import expressions
from fourfold.control.couriers import Refused, Undelivered
from fourfold.errors import FourfoldError, ResourceNotFound, ValidationException
from fourfold.records import Partition
from fourfold.store import Store, resources, tags
from fourfold.store.resources import Resource

log = logging.getLogger(__name__)

Document = dict[str, Any]

SCHEDULE = "schedule"
GROUP = "schedule-group"
DEFAULT_GROUP = "default"

DEFAULT_ATTEMPTS = 185
DEFAULT_AGE = 86400
"""EventBridge Scheduler's retry policy where the schedule states none: attempts, and seconds."""
FIRST_BACKOFF = 1.0
MOST_BACKOFF = 300.0
LONGEST_SLEEP = 3600.0
"""Seconds after which the loop looks at the clock in any case: clocks are set."""

LATE_SECONDS = 60.0
"""How late a run is before that is said."""
MOST_DEAD = 100
"""Dead letters that a schedule keeps, the newest."""
MOST_MISSED = 1000
"""Missed runs that are counted one by one; of more, those of the last day are."""

UNIVERSAL = "arn:aws:scheduler:::aws-sdk:"
"""Beginning of a target that is any operation of any service: `…aws-sdk:sagemaker:createTransformJob`."""

Send = Callable[[str, str, dict[str, str]], Awaitable[None]]
"""Sends to a queue: its ARN, a text, and attributes. `couriers.SqsCourier.send` is one, and names what it raises."""
Call = Callable[[str, str, Document], Awaitable[Document]]
"""Calls an operation, e.g. ("sagemaker", "CreateTransformJob", members). Raises FourfoldError."""


class ScheduleNotFound(ResourceNotFound):
    code = "ResourceNotFoundException"
    status = 404


class ScheduleConflict(FourfoldError):
    code = "ConflictException"
    status = 409


# Timing


@dataclass(frozen=True)
class Decision:
    """What is to be done about a schedule now.

    Attributes:
        cursor: times up to here are dealt with.
        run: the scheduled time of a run that is to begin; None: none.
        begin: when it is to be tried, the flexible window considered.
        missed: scheduled times that will not be run.
        next: when to look again; None: never.
    """

    cursor: float
    run: float | None = None
    begin: float = 0.0
    missed: int = 0
    next: float | None = None


def decide(document: Document, now: float) -> Decision:
    """The next thing to do. Of several times that have passed (the server was down), the latest alone is run."""
    cursor: float = document["cursor"]
    if document.get("State", "ENABLED") == "DISABLED":
        return Decision(now)
    run, passed = None, 0
    at = _after(document, cursor)
    while at is not None and at <= now:
        run, passed = at, passed + 1
        at = _after(document, at if passed < MOST_MISSED else max(at, now - DEFAULT_AGE))
    if run is None:
        return Decision(cursor, next=at)
    begin = run + _offset(document, run)
    if now > run + _allowance(document):
        return Decision(run, missed=passed, next=at)
    return Decision(run, run, begin, passed - 1, next=at)


def next_run(document: Document) -> float | None:
    """When it is tried next, as far as is known now; None: never, or not while it is disabled."""
    if document["State"] == "DISABLED":
        return None
    pending = document["pending"]
    return float(pending["next"]) if pending is not None else _after(document, document["cursor"])


def finished(document: Document) -> bool:
    """Will it never be due again?"""
    return document["pending"] is None and _after(document, document["cursor"]) is None


_parsed = lru_cache(1024)(expressions.parse)


def _after(document: Document, moment: float) -> float | None:
    start, end = document.get("StartDate"), document.get("EndDate")
    expression = _parsed(document["ScheduleExpression"], document.get("ScheduleExpressionTimezone", "UTC"))
    if start is not None and moment < start:
        moment = start - 1e-6  # the start itself counts
    at = expression.after(moment, start if start is not None else document["CreationDate"])
    return None if at is None or (end is not None and at > end) else at


def _window(document: Document) -> float:
    window = document["FlexibleTimeWindow"]
    return 60.0 * window.get("MaximumWindowInMinutes", 0) if window["Mode"] == "FLEXIBLE" else 0.0


def _offset(document: Document, scheduled: float) -> float:
    """Where in its flexible window a run begins: anywhere, but at the same place however often it is asked."""
    seed = hashlib.sha256(f"{document['Name']}@{scheduled}".encode()).digest()
    return _window(document) * int.from_bytes(seed[:4], "big") / 2**32


def _allowance(document: Document) -> float:
    """How late a run may begin: its flexible window, or without one the retry policy's age."""
    return _window(document) or _retry_policy(document)[1]


def _retry_policy(document: Document) -> tuple[int, float]:
    policy = document["Target"].get("RetryPolicy", {})
    return policy.get("MaximumRetryAttempts", DEFAULT_ATTEMPTS), policy.get("MaximumEventAgeInSeconds", DEFAULT_AGE)


def backoff(attempt: int) -> float:
    """Seconds between one attempt and the next."""
    return min(MOST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(attempt - 1, 20))


# Targets


def operation_of(arn: str) -> tuple[str, str] | None:
    """The service and operation of a universal target; None for any other target."""
    service, _, operation = arn.removeprefix(UNIVERSAL).partition(":")
    if not arn.startswith(UNIVERSAL) or not operation:
        return None
    return service, operation[:1].upper() + operation[1:]


def filled(text: str, arn: str, scheduled: float, attempt: int) -> tuple[Document, dict[str, str]]:
    """A target's input with EventBridge's placeholders replaced.

    Where a placeholder puts into a name what a name may not hold (the colons of a time), hyphens take its place.

    Returns:
        the members, and the names that were changed, as they were to as they are.

    Raises:
        ValidationException: it is no JSON object.
    """
    values = {
        "<aws.scheduler.schedule-arn>": arn,
        "<aws.scheduler.scheduled-time>": iso(scheduled),
        "<aws.scheduler.execution-id>": execution_id(arn, scheduled),
        "<aws.scheduler.attempt-number>": str(attempt),
    }
    pattern = re.compile("|".join(map(re.escape, values)))
    try:
        template = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise ValidationException(f"The target's Input is no JSON: {error}") from None
    if not isinstance(template, dict):
        raise ValidationException("The target's Input must be a JSON object: the members of the operation.")
    changed: dict[str, str] = {}

    def fill(value: Any, member: str) -> Any:
        if isinstance(value, dict):
            return {key: fill(inner, key) for key, inner in value.items()}
        if isinstance(value, list):
            return [fill(inner, "") for inner in value]
        if not isinstance(value, str) or not pattern.search(value):
            return value
        text = pattern.sub(lambda match: values[match[0]], value)
        if member.endswith("Name") and text != (name := _as_name(text)):
            changed[text] = name
            return name
        return text

    return fill(template, ""), changed


def _as_name(text: str) -> str:
    """Letters, digits and single hyphens, at most 63 characters; what is cut off leaves a trace, so that it differs."""
    name = re.sub(r"[^a-zA-Z0-9]+", "-", text).strip("-")
    if len(name) > 63:
        name = f"{name[:54].rstrip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return name


def execution_id(arn: str, scheduled: float) -> str:
    """The id of a run: the same for every attempt, so that a target that knows it can tell a repetition."""
    return hashlib.sha256(f"{arn}@{scheduled}".encode()).hexdigest()[:16]


class _Post:
    """The sending of a schedule's dead letters, and when to try again after it has failed."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.failed = 0
        self.next = 0.0


def _settled(letters: list[Document], *, letter: Document, state: str) -> list[Document]:
    run = letter["attributes"]["EXECUTION_ID"]
    return [one | {"state": state} if one["attributes"]["EXECUTION_ID"] == run else one for one in letters]


# Wishes


class Schedules:
    """Schedules and their groups: what people want of them, and the loop that runs them.

    Args:
        store: where they are kept.
        partition: for ARNs.
        clock: when.
        call: calls a target's operation.
        send: sends dead letters. None: they are kept with their schedules only.
    """

    def __init__(self, store: Store, partition: Partition, clock: Clock, call: Call, send: Send | None = None) -> None:
        self._store = store
        self._partition = partition
        self._clock = clock
        self._call = call
        self._send = send
        self._wake = asyncio.Event()
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._posts: dict[str, _Post] = {}

    async def create(self, request: Document) -> str:
        """CreateSchedule; returns the ARN.

        Raises:
            ValidationException: the expression, the zone, the window or the dates are wrong.
            ScheduleNotFound: there is no such group.
            ScheduleConflict: the name is taken.
        """
        now = self._clock.now()
        group, name = request.get("GroupName", DEFAULT_GROUP), request["Name"]
        document = self._document(request, now, now)
        arn = self._arn(group, name)

        def write(db: Connection) -> None:
            self._check_group(db, group)
            known = resources.get(db, SCHEDULE, f"{group}/{name}")
            if known is not None:
                token = request.get("ClientToken")
                if token is None or known.document.get("ClientToken") != token:
                    raise ScheduleConflict(f"Schedule {name} already exists.")
                return
            resources.insert(db, Resource(SCHEDULE, f"{group}/{name}", arn, now, now, document=document))

        await self._store.run(write)
        self._wake.set()
        return arn

    async def update(self, request: Document) -> str:
        """UpdateSchedule: the whole schedule is replaced; returns the ARN. Raises as `create`, and ScheduleNotFound."""
        now = self._clock.now()
        group, name = request.get("GroupName", DEFAULT_GROUP), request["Name"]

        def write(db: Connection) -> str:
            schedule = self._find(db, group, name)
            schedule.document = self._document(request, schedule.created_at, now)
            schedule.modified_at = now
            resources.save(db, schedule)
            return schedule.arn

        arn = await self._store.run(write)
        self._wake.set()
        return arn

    async def get(self, group: str | None, name: str) -> Resource:
        """Raises ScheduleNotFound."""
        return await self._store.run(lambda db: self._find(db, group or DEFAULT_GROUP, name))

    async def delete(self, group: str | None, name: str) -> None:
        """Raises ScheduleNotFound."""

        def write(db: Connection) -> None:
            self._find(db, group or DEFAULT_GROUP, name)
            resources.delete(db, SCHEDULE, f"{group or DEFAULT_GROUP}/{name}")

        await self._store.run(write)

    async def find(self, group: str | None = None) -> list[Resource]:
        """Every schedule, or those of a group, by group and name. Raises ScheduleNotFound for an unknown group."""

        def read(db: Connection) -> list[Resource]:
            if group is not None:
                self._check_group(db, group)
            found = resources.every(db, SCHEDULE)
            return [one for one in found if group is None or one.name.partition("/")[0] == group]

        return sorted(await self._store.run(read), key=lambda schedule: schedule.name)

    async def create_group(self, request: Document) -> str:
        """CreateScheduleGroup; returns the ARN. Raises ScheduleConflict where the name is taken."""
        name, now = request["Name"], self._clock.now()
        arn = self._partition.arn(f"schedule-group/{name}", "scheduler")
        token = request.get("ClientToken")

        def write(db: Connection) -> None:
            known = resources.get(db, GROUP, name)
            if name == DEFAULT_GROUP or known is not None:
                if known is None or token is None or known.document.get("ClientToken") != token:
                    raise ScheduleConflict(f"Schedule group {name} already exists.")
                return
            document = {"ClientToken": token} if token else {}
            resources.insert(db, Resource(GROUP, name, arn, now, now, "ACTIVE", document))
            tags.put(db, arn, {tag["Key"]: tag["Value"] for tag in request.get("Tags", [])})

        await self._store.run(write)
        return arn

    async def get_group(self, name: str) -> Resource:
        """Raises ScheduleNotFound."""
        return await self._store.run(lambda db: self._group(db, name))

    async def delete_group(self, name: str) -> None:
        """Delete a group with its schedules. Raises ScheduleNotFound, or ValidationException for the default group."""
        if name == DEFAULT_GROUP:
            raise ValidationException("The default schedule group cannot be deleted.")

        def write(db: Connection) -> None:
            group = self._group(db, name)
            for schedule in resources.every(db, SCHEDULE):
                if schedule.name.partition("/")[0] == name:
                    resources.delete(db, SCHEDULE, schedule.name)
            tags.remove(db, group.arn)
            resources.delete(db, GROUP, name)

        await self._store.run(write)

    async def list_groups(self) -> list[Resource]:
        """Every group, the default one included, by name."""
        found = await self._store.run(lambda db: resources.every(db, GROUP))
        return sorted([self._default_group(), *found], key=lambda group: group.name)

    def _document(self, request: Document, created: float, now: float) -> Document:
        document = {"State": "ENABLED", "ScheduleExpressionTimezone": "UTC", "ActionAfterCompletion": "NONE", **request}
        expressions.parse(document["ScheduleExpression"], document["ScheduleExpressionTimezone"])
        window = document["FlexibleTimeWindow"]
        if (window["Mode"] == "FLEXIBLE") != ("MaximumWindowInMinutes" in window):
            raise ValidationException("MaximumWindowInMinutes goes with Mode FLEXIBLE, and is needed there.")
        start, end = document.get("StartDate"), document.get("EndDate")
        if end is not None and (end <= now or (start is not None and end <= start)):
            raise ValidationException("The EndDate must be in the future and after the StartDate.")
        # Just before now: a rate without a start begins at once.
        state: Document = {"cursor": now - 1e-3, "pending": None, "last": None, "missed": 0, "dead": []}
        return document | {"CreationDate": created} | state

    def _arn(self, group: str, name: str) -> str:
        return self._partition.arn(f"schedule/{group}/{name}", "scheduler")

    def _find(self, db: Connection, group: str, name: str) -> Resource:
        schedule = resources.get(db, SCHEDULE, f"{group}/{name}")
        if schedule is None:
            raise ScheduleNotFound(f"Schedule {name} does not exist.")
        return schedule

    def _group(self, db: Connection, name: str) -> Resource:
        group = self._default_group() if name == DEFAULT_GROUP else resources.get(db, GROUP, name)
        if group is None:
            raise ScheduleNotFound(f"Schedule group {name} does not exist.")
        return group

    def _check_group(self, db: Connection, name: str) -> None:
        self._group(db, name)

    def _default_group(self) -> Resource:
        arn = self._partition.arn(f"schedule-group/{DEFAULT_GROUP}", "scheduler")
        return Resource(GROUP, DEFAULT_GROUP, arn, 0.0, 0.0, "ACTIVE")

    # The loop

    async def run(self) -> None:
        """Run what is due, for ever."""
        try:
            while True:
                self._wake.clear()
                now = self._clock.now()
                wait = LONGEST_SLEEP
                for schedule in await self._store.run(lambda db: resources.every(db, SCHEDULE)):
                    for next_ in (await self._look_at(schedule, now), self._look_at_letters(schedule, now)):
                        if next_ is not None:
                            wait = min(wait, max(next_ - now, 0.0))
                await sleep_or_event(self._clock, wait, self._wake)
        finally:
            for task in [*self._busy.values(), *(post.task for post in self._posts.values())]:
                if task is not None:
                    task.cancel()

    async def _look_at(self, schedule: Resource, now: float) -> float | None:
        """Begin what is due; returns when to look again."""
        if schedule.name in self._busy:
            return None  # its end wakes the loop
        document = schedule.document
        pending = document["pending"]
        if pending is not None:
            if pending["next"] > now:
                return float(pending["next"])
            self._busy[schedule.name] = asyncio.create_task(self._attempt(schedule))
            return None
        decision = decide(document, now)
        missed = document["missed"] + decision.missed
        if decision.missed:
            log.warning("scheduled runs missed", extra={"schedule": schedule.arn, "runs": decision.missed})
        if decision.run is not None:
            if now > decision.begin + LATE_SECONDS:
                log.warning("scheduled run is late", extra={"schedule": schedule.arn, "scheduled": iso(decision.run)})
            pending = {"scheduled": decision.run, "attempt": 1, "next": decision.begin}
            await self._write(schedule, cursor=decision.cursor, pending=pending, missed=missed)
            return decision.begin
        if decision.missed:
            await self._write(schedule, cursor=decision.cursor, missed=missed)
        await self._delete_if_finished(schedule)
        return decision.next

    async def _attempt(self, schedule: Resource) -> None:
        document = schedule.document
        pending = document["pending"]
        scheduled, attempt = pending["scheduled"], pending["attempt"]
        try:
            outcome = await self._deliver(schedule, scheduled, attempt)
            await self._write(schedule, pending=None, last=outcome)
            await self._delete_if_finished(schedule)
        except FourfoldError as error:
            await self._failed(schedule, pending, error)
        finally:
            self._busy.pop(schedule.name, None)
            self._wake.set()

    async def _deliver(self, schedule: Resource, scheduled: float, attempt: int) -> Document:
        target = schedule.document["Target"]
        found = operation_of(target["Arn"])
        if found is None:
            raise ValidationException(
                f"The target {target['Arn']} is none that this server can call: use {UNIVERSAL}<service>:<operation>."
            )
        params, changed = filled(target.get("Input", "{}"), schedule.arn, scheduled, attempt)
        for before, after in changed.items():
            log.info("name changed", extra={"schedule": schedule.arn, "before": before, "after": after})
        answer = await self._call(*found, params)
        log.info("schedule ran", extra={"schedule": schedule.arn, "scheduled": iso(scheduled), "answer": answer})
        outcome = {"scheduled": scheduled, "at": self._clock.now(), "attempt": attempt, "error": ""}
        told = {member: value for member, value in answer.items() if isinstance(value, str)}  # ARNs above all
        return outcome | {"answer": told, "renamed": changed}

    async def _failed(self, schedule: Resource, pending: Document, error: FourfoldError) -> None:
        """Try again later where that may help, else give the run up."""
        now = self._clock.now()
        scheduled, attempt = pending["scheduled"], pending["attempt"]
        attempts, age = _retry_policy(schedule.document)
        later = now + backoff(attempt)
        may_help = error.status >= 500 or error.status == 429
        if may_help and attempt <= attempts and later <= scheduled + age:
            await self._write(schedule, pending={"scheduled": scheduled, "attempt": attempt + 1, "next": later})
            return
        log.error("scheduled run failed", extra={"schedule": schedule.arn, "attempt": attempt, "reason": error.message})
        exhausted = "" if not may_help else "MaximumRetryAttempts" if attempt > attempts else "MaximumEventAgeInSeconds"
        outcome = {"scheduled": scheduled, "at": now, "attempt": attempt, "error": f"{error.code}: {error.message}"}
        letters = self._dead_letter(schedule, scheduled, attempt, error, exhausted)
        await self._write(schedule, pending=None, last=outcome)
        await self._write_letters(schedule, lambda dead: [*dead, *letters][-MOST_DEAD:])
        await self._delete_if_finished(schedule)

    def _dead_letter(
        self, schedule: Resource, scheduled: float, attempt: int, error: FourfoldError, exhausted: str
    ) -> list[Document]:
        """The run as a message for its dead-letter queue, with the attributes that EventBridge Scheduler gives."""
        target = schedule.document["Target"]
        queue = target.get("DeadLetterConfig", {}).get("Arn")
        if queue is None:
            return []
        attributes = {
            "ERROR_CODE": error.code,
            "ERROR_MESSAGE": error.message,
            "EXECUTION_ID": execution_id(schedule.arn, scheduled),
            "IS_PAYLOAD_TRUNCATED": "false",
            "RETRY_ATTEMPTS": str(attempt - 1),
            "SCHEDULED_TIME": iso(scheduled),
            "SCHEDULE_ARN": schedule.arn,
            "TARGET_ARN": target["Arn"],
        }
        if exhausted:
            attributes["EXHAUSTED_RETRY_CONDITION"] = exhausted
        return [{"queue": queue, "body": target.get("Input", "{}"), "attributes": attributes, "state": "kept"}]

    # Dead letters

    def _look_at_letters(self, schedule: Resource, now: float) -> float | None:
        """Begin to send what is to be sent; returns when to look again. Apart from runs: a queue that is down delays
        none of them."""
        if not self._letters_to_send(schedule.document):
            self._posts.pop(schedule.name, None)
            return None
        post = self._posts.setdefault(schedule.name, _Post())
        if post.task is not None and not post.task.done():
            return None  # its end wakes the loop
        if post.next > now:
            return post.next
        post.task = asyncio.create_task(self._post(schedule, post))
        return None

    def _letters_to_send(self, document: Document) -> list[Document]:
        if self._send is None:
            return []
        return [letter for letter in document["dead"] if letter.get("state", "kept") == "kept"]

    async def _post(self, schedule: Resource, post: _Post) -> None:
        """Send a schedule's dead letters, the oldest first, until its queue cannot be reached."""
        assert self._send is not None
        try:
            for letter in self._letters_to_send(schedule.document):
                state = "sent"
                try:
                    await self._send(letter["queue"], letter["body"], letter["attributes"])
                except Refused as error:
                    state = "refused"
                    log.error("dead letter refused", extra={"schedule": schedule.arn, "reason": error.message})
                await self._write_letters(schedule, partial(_settled, letter=letter, state=state))
                post.failed = 0
            await self._delete_if_finished(schedule)
        except Undelivered as error:
            post.failed += 1
            post.next = self._clock.now() + backoff(post.failed)
            log.warning("dead letter not sent", extra={"schedule": schedule.arn, "reason": error.message})
        finally:
            self._wake.set()

    async def _write_letters(self, schedule: Resource, edit: Callable[[list[Document]], list[Document]]) -> None:
        """Change a schedule's dead letters, unless it was deleted meanwhile."""

        def write(db: Connection) -> list[Document]:
            found = resources.get(db, SCHEDULE, schedule.name)
            if found is None:
                return []
            found.document = found.document | {"dead": edit(found.document["dead"])}
            resources.save(db, found)
            return list(found.document["dead"])

        schedule.document = schedule.document | {"dead": await self._store.run(write)}

    async def _write(self, schedule: Resource, **changes: Any) -> None:
        """Note what was done, unless the schedule was changed or deleted meanwhile."""

        def write(db: Connection) -> None:
            found = resources.get(db, SCHEDULE, schedule.name)
            if found is not None and found.modified_at == schedule.modified_at:
                found.document = found.document | changes
                resources.save(db, found)

        schedule.document = schedule.document | changes
        await self._store.run(write)

    async def _delete_if_finished(self, schedule: Resource) -> None:
        document = schedule.document
        ended = document["State"] == "ENABLED" and finished(document) and not self._letters_to_send(document)
        if document["ActionAfterCompletion"] == "DELETE" and ended:
            await self._store.run(lambda db: resources.delete(db, SCHEDULE, schedule.name))
            log.info("schedule completed and deleted", extra={"schedule": schedule.arn})
