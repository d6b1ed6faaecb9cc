"""InvokeEndpointAsync: from the headers of a request to a queued call.

Accepted is whatever the endpoint will be able to try, also while it is being updated or its workers come back after a
restart: nothing is lost by waiting.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from sqlalchemy.engine import Connection

from fourfold.clock import Clock
from fourfold.errors import FourfoldError, InternalFailure, ValidationError
from fourfold.modes.asynchronous.dispatch import Dispatcher
from fourfold.modes.asynchronous.ledger import Ledger, Waiter
from fourfold.modes.asynchronous.orders import JSON, Request, Topics, to_json
from fourfold.pool.routes import Routes
from fourfold.records import Partition
from fourfold.storage.objects import Objects, parse_location
from fourfold.store import Store, resources
from fourfold.store.queue import NewCall

log = logging.getLogger(__name__)

MOST_INLINE = 128_000
"""Largest inline body, bytes; InvokeEndpointAsync's own limit."""
TTL = (60, 21_600, 21_600)
"""RequestTTLSeconds: least, most, default."""
TIMEOUT = (1, 3_600, 900)
"""InvocationTimeoutSeconds: least, most, default."""
KEY = b"x-fourfold-idempotency-key"
MOST_KEY = 256

_PREFIX = b"x-amzn-sagemaker-"
_LONGEST = {
    b"content-type": 1024, b"accept": 1024, b"custom-attributes": 1024, b"inference-id": 64, b"inputlocation": 1024,
    b"s3outputpathextension": 512, b"filename": 32, b"requestttlseconds": 5, b"invocationtimeoutseconds": 4,
}  # fmt: skip
"""Headers after `X-Amzn-SageMaker-`, with the longest value that the API allows."""
_MEMBERS = {
    b"inference-id": "InferenceId", b"inputlocation": "InputLocation", b"filename": "Filename",
    b"s3outputpathextension": "S3OutputPathExtension", b"requestttlseconds": "RequestTTLSeconds",
    b"invocationtimeoutseconds": "InvocationTimeoutSeconds", b"content-type": "ContentType", b"accept": "Accept",
    b"custom-attributes": "CustomAttributes",
}  # fmt: skip
_EXTENSION = re.compile(r"(?!s3:|https:)[a-zA-Z0-9!_.*'()/-]+")
_FILENAME = re.compile(r"(?!.*\..*\.)[a-zA-Z0-9][a-zA-Z0-9\-_.]*")
_INFERENCE_ID = re.compile(r"\S[\x20-\x7e]*")


class Invocation(NamedTuple):
    """The headers of a request, by the API's members; empty where one was not sent."""

    content_type: str = ""
    accept: str = ""
    custom_attributes: str = ""
    inference_id: str = ""
    input_location: str = ""
    extension: str = ""
    filename: str = ""
    ttl: str = ""
    timeout: str = ""
    key: str = ""


_FIELDS = dict(zip(_LONGEST, Invocation._fields, strict=False))


class Acceptance:
    """Accepts calls.

    Args:
        store: for endpoints that are not in `routes`.
        routes: endpoints that can be called.
        ledger: writes the call.
        dispatcher: is told of endpoints that have calls.
        objects: buckets.
        partition: for the default bucket.
        clock: stamps.
        most_backlog: calls of one endpoint that may be queued.
    """

    def __init__(
        self,
        store: Store,
        routes: Routes,
        ledger: Ledger,
        dispatcher: Dispatcher,
        objects: Objects,
        partition: Partition,
        clock: Clock,
        most_backlog: int,
    ) -> None:
        self._store = store
        self._routes = routes
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._objects = objects
        self._default = f"s3://fourfold-{partition.region}-{partition.account}/async"
        self._clock = clock
        self._most_backlog = most_backlog
        self._destinations: dict[str, _Destination] = {}
        self._looking: set[asyncio.Task[None]] = set()

    def accept(self, endpoint: str, asked: Invocation, body: bytes, waiter: Waiter) -> None:
        """Check a request and queue its call; the waiter is told when it is on disk.

        Raises:
            ValidationError: the endpoint takes no such calls, or the request breaks a rule. The waiter may also be told
                so, or BacklogFull or DiskFull: the call was not accepted then, and may be sent again.
        """
        _check_input(asked, body)
        route = self._routes.get(endpoint.encode())
        if route is None:
            task = asyncio.create_task(self._accept_later(endpoint, asked, body, waiter))
            self._looking.add(task)
            task.add_done_callback(self._looking.discard)
        elif route.kind == "asynchronous":
            self._queue(endpoint, route.config, asked, body, waiter)
        else:
            raise ValidationError(
                f"Endpoint {endpoint} is {route.kind}: call it with InvokeEndpoint, or create an endpoint whose config "
                "has AsyncInferenceConfig."
            )

    async def _accept_later(self, endpoint: str, asked: Invocation, body: bytes, waiter: Waiter) -> None:
        """Accept a call for an endpoint that cannot be called now, but may be soon."""
        try:
            config = await self._store.run(lambda db: _config(db, endpoint))
            self._queue(endpoint, config, asked, body, waiter)
        except FourfoldError as error:
            waiter.fail(error)
        except Exception as error:
            log.exception("a call could not be accepted")
            waiter.fail(InternalFailure(f"{type(error).__name__} inside the server; see its log."))

    def _queue(
        self, endpoint: str, config: Mapping[str, Any], asked: Invocation, body: bytes, waiter: Waiter
    ) -> None:  # fmt: skip
        call = self._call(endpoint, config, asked, body)
        self._dispatcher.lane(endpoint)
        self._ledger.accept(endpoint, call, self._most_backlog, waiter)

    def _call(self, endpoint: str, config: Mapping[str, Any], asked: Invocation, body: bytes) -> NewCall:
        ttl = _whole(asked.ttl, TTL, "RequestTTLSeconds")
        made = _time_ordered_id()
        destination = self._destination(endpoint, config)
        output, failure = destination.locations(asked.extension, asked.filename or f"{made}.out")
        if asked.extension:  # it may lead out of the bucket; a file's name cannot
            for url in (output, failure):
                self._check(url)
        request = Request(
            ttl=ttl,
            timeout=_whole(asked.timeout, TIMEOUT, "InvocationTimeoutSeconds"),
            input=asked.input_location,
            content_type=asked.content_type or ("" if asked.input_location else JSON),
            accept=asked.accept,
            custom_attributes=asked.custom_attributes,
            topics=destination.topics,
        )
        return NewCall(
            inference_id=asked.inference_id or made,
            output=output,
            failure=failure,
            request=to_json(request).decode(),
            expires_at=self._clock.now() + ttl,
            body=None if asked.input_location else body,
            key=asked.key or None,
        )

    def _destination(self, endpoint: str, config: Mapping[str, Any]) -> _Destination:
        """Where answers go, by the endpoint's config; the buckets exist. Raises ValidationError."""
        found = self._destinations.get(endpoint)
        if found is None or found.config is not config:
            found = self._destinations[endpoint] = self._new_destination(endpoint, config)
        for folder in found.folders:
            if not os.path.isdir(folder):
                del self._destinations[endpoint]
                found = self._new_destination(endpoint, config)
        return found

    def _new_destination(self, endpoint: str, config: Mapping[str, Any]) -> _Destination:
        output = config.get("OutputConfig", {})
        outputs = output.get("S3OutputPath")
        if outputs is None:
            outputs = f"{self._default}/{endpoint}"
            self._objects.make_bucket(parse_location(outputs).bucket)
        failures = output.get("S3FailurePath") or outputs
        folders = {self._check(f"{base.rstrip('/')}/x") for base in (outputs, failures)}
        return _Destination(
            config, _base(outputs), _base(failures), tuple(folders), _topics(output.get("NotificationConfig"))
        )

    def _check(self, url: str) -> str:
        """The folder of a bucket in which this may become an object. Raises ValidationError."""
        try:
            location = parse_location(url)
            self._objects.path(location)
            return str(self._objects.folder(location.bucket))
        except FourfoldError as error:
            raise ValidationError(f"The answer cannot be put at {url}: {error.message}") from None


class _Destination(NamedTuple):
    """Where the answers of an endpoint go."""

    config: Mapping[str, Any]
    """What it was made from."""
    outputs: str
    """`s3://bucket/` or `s3://bucket/prefix/`."""
    failures: str
    folders: tuple[str, ...]
    """The buckets' folders."""
    topics: Topics

    def locations(self, extension: str, filename: str) -> tuple[str, str]:
        """OutputLocation and FailureLocation."""
        between = f"{extension}/" if (extension := extension.strip("/")) else ""
        stem = filename.partition(".")[0]
        return f"{self.outputs}{between}{filename}", f"{self.failures}{between}{stem}-error.out"


def _base(url: str) -> str:
    location = parse_location(url)
    key = location.key.rstrip("/")
    return f"s3://{location.bucket}/{key}/" if key else f"s3://{location.bucket}/"


def _config(db: Connection, endpoint: str) -> Mapping[str, Any]:
    """AsyncInferenceConfig of an endpoint that is not in service. Raises ValidationError."""
    found = resources.get(db, "endpoint", endpoint)
    config: Mapping[str, Any] | None = None
    if found is not None and found.status not in ("Creating", "Failed", "Deleting"):
        config = found.document["wanted"]["config"].get("AsyncInferenceConfig")
    if config is None:
        raise ValidationError(
            f"Endpoint {endpoint} not found, or it does not take asynchronous calls now. `fourfold list` shows the "
            "endpoints and their status."
        )
    return config


def read_headers(headers: Iterable[tuple[bytes, bytes]]) -> Invocation:
    """What headers ask for; their names are in lower case. Raises ValidationError."""
    found: dict[str, str] = {}
    for name, value in headers:
        if name.startswith(_PREFIX):
            member = name[len(_PREFIX) :]
            longest = _LONGEST.get(member)
            if longest is None:
                continue
            if len(value) > longest:
                raise ValidationError(f"{_MEMBERS[member]} must have length less than or equal to {longest}.")
            found[_FIELDS[member]] = value.decode("latin-1")
        elif name == KEY:
            if not 0 < len(value) <= MOST_KEY:
                raise ValidationError(f"X-Fourfold-Idempotency-Key must have 1 to {MOST_KEY} characters.")
            found["key"] = value.decode("latin-1")
    invocation = Invocation(**found)
    for text, pattern, called in (
        (invocation.extension, _EXTENSION, "S3OutputPathExtension"),
        (invocation.filename, _FILENAME, "Filename"),
        (invocation.inference_id, _INFERENCE_ID, "InferenceId"),
    ):
        if text and not pattern.fullmatch(text):
            raise ValidationError(
                f"Value '{text}' at '{called}' failed to satisfy constraint: Member must satisfy regular expression "
                f"pattern: {pattern.pattern}"
            )
    return invocation


def _check_input(asked: Invocation, body: bytes) -> None:
    """Exactly one of InputLocation and an inline body. Raises ValidationError."""
    if asked.input_location:
        if body:
            raise ValidationError("Body and InputLocation are mutually exclusive: send one of them.")
        try:
            location = parse_location(asked.input_location)
        except FourfoldError as error:
            raise ValidationError(f"InputLocation: {error.message}") from None
        if not location.key or location.key.endswith("/"):
            raise ValidationError(f"InputLocation {asked.input_location} names no object: write s3://bucket/key.")
    elif not body:
        raise ValidationError("Send the input: an object as InputLocation, or up to 128,000 bytes as Body.")
    elif len(body) > MOST_INLINE:
        raise ValidationError(
            f"The inline Body has {len(body):,} bytes; the limit is {MOST_INLINE:,}. Put it into a bucket and send its "
            "address as InputLocation."
        )


def _whole(text: str, bounds: tuple[int, int, int], member: str) -> int:
    least, most, default = bounds
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise ValidationError(
            f"Value '{text}' at '{member}' failed to satisfy constraint: Member must be a whole number between {least} "
            f"and {most}"
        )
    return int(text)


def _topics(config: Mapping[str, Any] | None) -> Topics:
    if not config:
        return _NO_TOPICS
    included = config.get("IncludeInferenceResponseIn", ())
    return Topics(
        config.get("SuccessTopic", ""),
        config.get("ErrorTopic", ""),
        "SUCCESS_NOTIFICATION_TOPIC" in included,
        "ERROR_NOTIFICATION_TOPIC" in included,
    )


_NO_TOPICS = Topics()


def _time_ordered_id() -> str:
    """A UUID of version 7: ids made one after the other are neighbours in the index, however long the queue."""
    value = (time.time_ns() // 1_000_000 << 80) | int.from_bytes(os.urandom(10))
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-7{text[13:16]}-a{text[17:20]}-{text[20:]}"
