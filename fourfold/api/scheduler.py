"""EventBridge Scheduler on the wire: 12 operations on schedules, their groups, and the groups' tags; one native route.

GET /fourfold/schedules/{group}/{name}    its next and last run, missed ones, and dead letters
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import unquote

import msgspec
from sqlalchemy.engine import Connection
from starlette.requests import Request
from starlette.responses import Response

from fourfold.api.aws import Service
from fourfold.api.native import Handler, parts
from fourfold.api.protocol import ApiCall, operation
from fourfold.api.validation import validated
from fourfold.clock import iso
from fourfold.control.schedules.desired import DEFAULT_GROUP, GROUP, ScheduleNotFound, Schedules
from fourfold.control.schedules.timing import next_run
from fourfold.errors import UnknownOperationException
from fourfold.store import Store, resources, tags
from fourfold.store.resources import Resource

Document = dict[str, Any]

JSON = "application/json"
MOST_LISTED = 100
"""Entries of a page where MaxResults is not given; also the most it can be."""


class Scheduler:
    """The operations of the `scheduler` service."""

    service: ClassVar = "scheduler"

    def __init__(self, store: Store, schedules: Schedules) -> None:
        self._store = store
        self._schedules = schedules

    # Schedules

    @operation("CreateSchedule", kept=("Target.RoleArn",))
    async def create(self, call: ApiCall) -> Document:
        return {"ScheduleArn": await self._schedules.create(call.params)}

    @operation("UpdateSchedule", kept=("Target.RoleArn",))
    async def update(self, call: ApiCall) -> Document:
        return {"ScheduleArn": await self._schedules.update(call.params)}

    @operation("GetSchedule")
    async def get(self, call: ApiCall) -> Document:
        schedule = await self._schedules.get(call.params.get("GroupName"), call.params["Name"])
        return schedule.document | {
            "Arn": schedule.arn,
            "GroupName": schedule.name.partition("/")[0],
            "CreationDate": schedule.created_at,
            "LastModificationDate": schedule.modified_at,
        }

    @operation("DeleteSchedule")
    async def delete(self, call: ApiCall) -> Document:
        await self._schedules.delete(call.params.get("GroupName"), call.params["Name"])
        return {}

    @operation("ListSchedules")
    async def list(self, call: ApiCall) -> Document:
        wanted = call.params
        found = [
            _summary(schedule)
            for schedule in await self._schedules.find(wanted.get("GroupName"))
            if wanted.get("State") in (None, schedule.document["State"])
        ]
        page, token = _page([one for one in found if one["Name"].startswith(wanted.get("NamePrefix", ""))], wanted)
        return {"Schedules": page, "NextToken": token}

    # Groups

    @operation("CreateScheduleGroup")
    async def create_group(self, call: ApiCall) -> Document:
        return {"ScheduleGroupArn": await self._schedules.create_group(call.params)}

    @operation("GetScheduleGroup")
    async def get_group(self, call: ApiCall) -> Document:
        return _group(await self._schedules.get_group(call.params["Name"]))

    @operation("DeleteScheduleGroup")
    async def delete_group(self, call: ApiCall) -> Document:
        await self._schedules.delete_group(call.params["Name"])
        return {}

    @operation("ListScheduleGroups")
    async def list_groups(self, call: ApiCall) -> Document:
        prefix = call.params.get("NamePrefix", "")
        found = [_group(group) for group in await self._schedules.list_groups() if group.name.startswith(prefix)]
        page, token = _page(found, call.params)
        return {"ScheduleGroups": page, "NextToken": token}

    # Tags

    @operation("TagResource")
    async def tag(self, call: ApiCall) -> Document:
        pairs = {tag["Key"]: tag["Value"] for tag in call.params["Tags"]}
        await self._on_group(call, lambda db, arn: tags.put(db, arn, pairs))
        return {}

    @operation("UntagResource")
    async def untag(self, call: ApiCall) -> Document:
        await self._on_group(call, lambda db, arn: tags.remove(db, arn, call.params["TagKeys"]))
        return {}

    @operation("ListTagsForResource")
    async def list_tags(self, call: ApiCall) -> Document:
        found: dict[str, str] = {}
        await self._on_group(call, lambda db, arn: found.update(tags.of(db, arn)))
        return {"Tags": [{"Key": key, "Value": value} for key, value in found.items()]}

    async def _on_group(self, call: ApiCall, query: Callable[[Connection, str], None]) -> None:
        arn = unquote(call.params["ResourceArn"])
        name = arn.rpartition("schedule-group/")[2]

        def run(db: Connection) -> None:
            if name != DEFAULT_GROUP and resources.get(db, GROUP, name) is None:
                raise ScheduleNotFound(f"Schedule group {name} does not exist.")
            query(db, arn)

        await self._store.run(run)


def _summary(schedule: Resource) -> Document:
    group, _, name = schedule.name.partition("/")
    return {
        "Arn": schedule.arn,
        "Name": name,
        "GroupName": group,
        "State": schedule.document["State"],
        "CreationDate": schedule.created_at,
        "LastModificationDate": schedule.modified_at,
        "Target": {"Arn": schedule.document["Target"]["Arn"]},
    }


def _group(group: Resource) -> Document:
    return {
        "Arn": group.arn,
        "Name": group.name,
        "State": "ACTIVE",
        "CreationDate": group.created_at,
        "LastModificationDate": group.modified_at,
    }


def _page(found: Sequence[Document], wanted: Mapping[str, Any]) -> tuple[list[Document], str | None]:
    """One page of a sorted list; a token is the ARN of the page's last entry."""
    arns = [entry["Arn"] for entry in found]
    token = wanted.get("NextToken")
    start = 0 if token is None else next((i for i, arn in enumerate(arns) if arn > token), len(arns))
    stop = start + wanted.get("MaxResults", MOST_LISTED)
    return list(found[start:stop]), arns[stop - 1] if stop < len(arns) else None


def schedule_routes(schedules: Schedules) -> dict[str, Handler]:
    """The native route, for the gateway."""

    async def look(request: Request) -> Response:
        group, name = (*parts(request), "", "")[:2]
        return Response(msgspec.json.encode(_runs((await schedules.get(group, name)).document)), media_type=JSON)

    return {"GET schedules": look}


def _runs(document: Document) -> Document:
    last, upcoming = document["last"], next_run(document)
    return {
        "NextRun": None if upcoming is None else iso(upcoming),
        "LastRun": last
        and {
            "ScheduledTime": iso(last["scheduled"]),
            "Time": iso(last["at"]),
            "Attempts": last["attempt"],
            "Error": last["error"],
            "Answer": last.get("answer", {}),
            "Renamed": last.get("renamed", {}),
        },
        "MissedRuns": document["missed"],
        "DeadLetters": [
            {
                "QueueArn": letter["queue"],
                "Body": letter["body"],
                "Attributes": letter["attributes"],
                "State": letter.get("state", "kept"),
            }
            for letter in document["dead"]
        ],
    }


def caller(services: Mapping[str, Service]) -> Callable[[str, str, Document], Awaitable[Document]]:
    """What calls a schedule's target: an operation of one of this server's services, checked as a request would be."""

    async def call(service: str, operation: str, params: Document) -> Document:
        found = services.get(service)
        method = found.operations.get(operation) if found is not None else None
        if found is None or method is None:
            raise UnknownOperationException(
                f"This server has no operation {service}:{operation} for a schedule to call."
            )
        checked = validated(found.contract.operation(operation), params)
        return await method(ApiCall(service, operation, checked))

    return call
