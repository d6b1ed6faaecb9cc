"""Schedules and their groups, as people want them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy.engine import Connection

from fourfold.clock import Clock
from fourfold.control import expressions
from fourfold.errors import FourfoldError, ResourceNotFound, ValidationException
from fourfold.records import Partition
from fourfold.store import Store, resources, tags
from fourfold.store.resources import Resource

Document = dict[str, Any]

SCHEDULE = "schedule"
GROUP = "schedule-group"
DEFAULT_GROUP = "default"


class ScheduleNotFound(ResourceNotFound):
    code = "ResourceNotFoundException"
    status = 404


class ScheduleConflict(FourfoldError):
    code = "ConflictException"
    status = 409


class Schedules:
    """Keeps what people want.

    Args:
        store: where it is kept.
        partition: for ARNs.
        clock: when.
        wake: tells the loop that there is something to do.
    """

    def __init__(self, store: Store, partition: Partition, clock: Clock, wake: Callable[[], None]) -> None:
        self._store = store
        self._partition = partition
        self._clock = clock
        self._wake = wake

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
            self._group(db, group)  # must be there
            known = resources.get(db, SCHEDULE, f"{group}/{name}")
            if known is not None:
                token = request.get("ClientToken")
                if token is None or known.document.get("ClientToken") != token:
                    raise ScheduleConflict(f"Schedule {name} already exists.")
                return
            resources.insert(db, Resource(SCHEDULE, f"{group}/{name}", arn, now, now, document=document))

        await self._store.run(write)
        self._wake()
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
        self._wake()
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
                self._group(db, group)  # must be there
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

    def _default_group(self) -> Resource:
        arn = self._partition.arn(f"schedule-group/{DEFAULT_GROUP}", "scheduler")
        return Resource(GROUP, DEFAULT_GROUP, arn, 0.0, 0.0, "ACTIVE")
