"""CloudWatch Logs on the wire: what workers of endpoints and transform jobs printed."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from binascii import crc32
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import msgspec

from fourfold.api.protocol import ApiCall, operation
from fourfold.errors import FourfoldError
from fourfold.monitor.output import PAGE_BYTES, Event, Output, Stream
from fourfold.monitor.patterns import pattern
from fourfold.records import Partition

Document = dict[str, Any]

PAGE = 50
"""Groups or streams in an answer."""
EVENTS = 10_000
"""Events in an answer."""

_TOKEN = re.compile(r"(?P<way>[fb])/(?P<place>\d{1,18})")


class ResourceNotFoundException(FourfoldError):
    code = "ResourceNotFoundException"
    status = 400


class InvalidParameterException(FourfoldError):
    code = "InvalidParameterException"
    status = 400


class Logs:
    """The operations of the `logs` service that read."""

    service: ClassVar[str] = "logs"

    def __init__(self, output: Output, partition: Partition) -> None:
        self._output = output
        self._partition = partition

    @operation("DescribeLogGroups")
    async def describe_log_groups(self, call: ApiCall) -> Document:
        params = call.params
        prefix, part = params.get("logGroupNamePrefix", ""), params.get("logGroupNamePattern", "")
        if prefix and part:
            raise InvalidParameterException("Give either logGroupNamePrefix or logGroupNamePattern.")
        groups = await asyncio.to_thread(self._output.groups)
        names = [name for name in groups if name.startswith(prefix) and part.lower() in name.lower()]
        shown, token = _page(names, params)
        found = [await asyncio.to_thread(self._group, name) for name in shown]
        return {"logGroups": found, "nextToken": token}

    @operation("DescribeLogStreams")
    async def describe_log_streams(self, call: ApiCall) -> Document:
        params = call.params
        group, streams = await self._streams(params)
        by_time = params.get("orderBy") == "LastEventTime"
        if by_time and "logStreamNamePrefix" in params:
            raise InvalidParameterException("Cannot order by LastEventTime with a logStreamNamePrefix.")
        names = sorted(name for name in streams if name.startswith(params.get("logStreamNamePrefix", "")))
        if by_time:
            names.sort(key=lambda name: streams[name].last)
        if params.get("descending"):
            names.reverse()
        shown, token = _page(names, params)
        return {"logStreams": [self._stream(group, streams[name]) for name in shown], "nextToken": token}

    @operation("GetLogEvents")
    async def get_log_events(self, call: ApiCall) -> Document:
        params = call.params
        _, streams = await self._streams(params)
        stream = streams.get(params["logStreamName"])
        if stream is None:
            raise ResourceNotFoundException("The specified log stream does not exist.")
        way, place = _place(params, stream)
        read = self._output.forward if way == "f" else self._output.backward
        if way == "f" and "startTime" in params:
            place = max(place, self._output.place(stream, params["startTime"]))
        events = await asyncio.to_thread(read, stream, place, params.get("limit", EVENTS))
        first, last = (events[0].start, events[-1].end) if events else (place, place)
        return {
            "events": [_event(event) for event in events if _within(event, params)],
            "nextForwardToken": f"f/{last}",
            "nextBackwardToken": f"b/{first}",
        }

    @operation("FilterLogEvents")
    async def filter_log_events(self, call: ApiCall) -> Document:
        params = call.params
        _, streams = await self._streams(params)
        wanted, prefix = params.get("logStreamNames"), params.get("logStreamNamePrefix")
        if wanted and prefix:
            raise InvalidParameterException("Give either logStreamNames or logStreamNamePrefix.")
        missing = [name for name in wanted or () if name not in streams]
        if missing:
            raise ResourceNotFoundException("The specified log stream does not exist.")
        names = sorted(name for name in wanted or streams if name.startswith(prefix or ""))
        try:
            fits = pattern(params.get("filterPattern", ""))
        except ValueError as error:
            raise InvalidParameterException(str(error)) from None
        chosen = [streams[name] for name in names]
        events, token = await asyncio.to_thread(self._search, chosen, params, fits)
        found = [_event(event) | {"logStreamName": event.stream, "eventId": _id(event)} for event in events]
        return {"events": found, "searchedLogStreams": [], "nextToken": token}

    def _search(
        self, streams: list[Stream], params: Document, fits: Callable[[str], bool]
    ) -> tuple[list[Event], str | None]:
        """One page of what fits, oldest first; stream after stream, so that a token is a stream and a place in it."""
        name, place = _search_token(params.get("nextToken"))
        limit, bytes_left = params.get("limit", EVENTS), PAGE_BYTES
        found: list[Event] = []
        for stream in streams:
            if stream.name < name:
                continue
            at = place if stream.name == name else self._output.place(stream, params.get("startTime", 0))
            while events := self._output.forward(stream, at, EVENTS):
                for event in events:
                    if _within(event, params) and fits(event.message):
                        found.append(event)
                        bytes_left -= len(event.message)
                    at = event.end
                    if len(found) >= limit or bytes_left <= 0:
                        return _in_order(found), _token([stream.name, at])
        return _in_order(found), None

    async def _streams(self, params: Document) -> tuple[str, dict[str, Stream]]:
        name = params.get("logGroupName") or params.get("logGroupIdentifier", "").rpartition(":log-group:")[2]
        name = name.removesuffix(":*")
        streams = await asyncio.to_thread(self._output.streams, name)
        if not streams:
            raise ResourceNotFoundException("The specified log group does not exist.")
        return name, streams

    def _group(self, name: str) -> Document:
        streams = self._output.streams(name).values()
        arn = self._partition.arn(f"log-group:{name}", "logs")
        return {
            "logGroupName": name,
            "creationTime": min((stream.first for stream in streams), default=0),
            "metricFilterCount": 0,
            "arn": f"{arn}:*",
            "logGroupArn": arn,
            "logGroupClass": "STANDARD",
            "storedBytes": sum(stream.size for stream in streams),
        }

    def _stream(self, group: str, stream: Stream) -> Document:
        return {
            "logStreamName": stream.name,
            "creationTime": stream.first,
            "firstEventTimestamp": stream.first,
            "lastEventTimestamp": stream.last,
            "lastIngestionTime": stream.last,
            "uploadSequenceToken": str(stream.size),
            "arn": self._partition.arn(f"log-group:{group}:log-stream:{stream.name}", "logs"),
            "storedBytes": 0,  # as AWS answers since 2019
        }


def _place(params: Document, stream: Stream) -> tuple[str, int]:
    """Which way to read, and from where."""
    token = params.get("nextToken")
    if token is None:
        return ("f", 0) if params.get("startFromHead") else ("b", stream.size)
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise InvalidParameterException("The specified nextToken is invalid.")
    return match["way"], min(int(match["place"]), stream.size)


def _page(names: Sequence[str], params: Document) -> tuple[list[str], str | None]:
    """A page of sorted names; the token is the last name of the page before."""
    start = 0
    if "nextToken" in params:
        last = _untoken(params["nextToken"], str)
        if last not in names:
            raise InvalidParameterException("The specified nextToken is invalid.")
        start = names.index(last) + 1
    stop = start + params.get("limit", PAGE)
    return list(names[start:stop]), _token(names[stop - 1]) if stop < len(names) else None


def _search_token(token: str | None) -> tuple[str, int]:
    return ("", 0) if token is None else _untoken(token, tuple[str, int])


def _token(value: Any) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(value)).decode()


def _untoken(token: str, kind: Any) -> Any:
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(token), type=kind)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        raise InvalidParameterException("The specified nextToken is invalid.") from None


def _within(event: Event, params: Document) -> bool:
    """`endTime` is exclusive in GetLogEvents and hence here."""
    return bool(params.get("startTime", 0) <= event.time < params.get("endTime", event.time + 1))


def _in_order(events: list[Event]) -> list[Event]:
    return sorted(events, key=lambda event: (event.time, event.stream, event.start))


def _id(event: Event) -> str:
    """The same for the same line, and increasing with time, as AWS's are."""
    return f"{event.time:020d}{crc32(event.stream.encode()):010d}{event.start:012d}"


def _event(event: Event) -> Document:
    return {"timestamp": event.time, "message": event.message, "ingestionTime": event.time}
