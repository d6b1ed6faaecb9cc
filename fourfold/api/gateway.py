"""The one port: what is not in the fast lane.

/healthz · /readyz · /v2/health/…                       anyone
links in the messages of topics                         anyone who has them; sns.py
everything else                                         signed (SigV4) or with a bearer token
    /endpoints/{name}/invocations-response-stream       this file
    /v2 · /v2/…                                         oip.py
    …/openai/v1/…                                       openai.py
    /metrics · /fourfold/…                              this file and the parts that bring native routes
    signing service or path says S3                     s3.py
    sagemaker, sts, iam, …                              aws.py
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fourfold.api import eventstream, oip, openai
from fourfold.api.aws import CONTROL_BODY
from fourfold.api.fastlane import Lane, error_body, header_value, request_id
from fourfold.api.heads import PREFIX, endpoint_name
from fourfold.errors import FourfoldError, ModelError, PayloadTooLarge
from fourfold.modes.realtime import ResponseStream, choose, find_route, request_headers
from fourfold.records import Call, Opening

ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"
STREAM_SUFFIX = b"/invocations-response-stream"
NATIVE = "/fourfold/"
"""Largest body of a control-plane call, bytes."""


class Authenticator(Protocol):
    """Checks a request's credentials (`signatures` and `keys`)."""

    def verify(self, method: bytes, url: bytes, headers: list[tuple[bytes, bytes]], body: bytes) -> object:
        """The identity behind a request. Raises AuthenticationError."""


class AwsServices(Protocol):
    """The AWS services of JSON, query and REST protocols (`aws`)."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    def refusal(self, scope: Scope, error: FourfoldError) -> Response:
        """An error before the call was read, in the form of the service that it seems to be for."""


class OpenDoor(Protocol):
    """Takes requests that need no credentials, because what they hold is secret itself."""

    def matches(self, scope: Scope) -> bool: ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class Gateway:
    """The ASGI application behind the fast lane.

    Args:
        lane: routes and limits that the fast lane shares.
        authenticator: checks credentials.
        aws: the AWS services.
        s3: ASGI application for S3; checks the body against the signature itself, as it streams.
        open_inference: the Open Inference Protocol.
        links: requests that need no credentials.
        native: further native routes: `(method, path below /fourfold/)` to a handler of a Starlette request.
        metrics: renders Prometheus text.
        ready: is every endpoint in service that should be?
    """

    def __init__(
        self,
        lane: Lane,
        authenticator: Authenticator,
        aws: AwsServices,
        s3: ASGIApp,
        open_inference: oip.OpenInference,
        links: OpenDoor,
        native: Mapping[str, Callable[[Request], Awaitable[Response]]],
        metrics: Callable[[], bytes],
        ready: Callable[[], bool],
    ) -> None:
        self._lane = lane
        self._authenticator = authenticator
        self._aws = aws
        self._s3 = s3
        self._open_inference = open_inference
        self._links = links
        self._native = native
        self._metrics = metrics
        self._ready = ready

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (b"expect", b"100-continue") in scope["headers"]:
            receive, send = _closed_unless_read(receive, send)
        path: str = scope["path"]
        if path == "/healthz":
            await PlainTextResponse("ok\n")(scope, receive, send)
        elif path == "/readyz":
            ready = self._ready()
            answer = PlainTextResponse("ready\n" if ready else "not ready\n", 200 if ready else 503)
            await answer(scope, receive, send)
        elif path.startswith(oip.HEALTH):
            await self._open_inference.health(path)(scope, receive, send)
        elif self._links.matches(scope):
            await self._links(scope, receive, send)
        elif _is_s3(scope):
            await self._s3(scope, receive, send)
        else:
            await self._signed(scope, receive, send)

    async def _signed(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Everything whose body is read before its signature is checked."""
        path = scope["raw_path"]
        runtime = path.startswith(PREFIX) or path.startswith(b"/openai/") or path.startswith(b"/v2/")
        limit = self._lane.limits.payload_bytes if runtime else CONTROL_BODY
        try:
            body = await _read(receive, limit)
            url = path + (b"?" + scope["query_string"] if scope["query_string"] else b"")
            identity = self._authenticator.verify(scope["method"].encode(), url, scope["headers"], body)
        except ClientDisconnect:
            return
        except FourfoldError as error:
            if _is_oip(scope["path"]):
                answer = oip.refusal(error)
            elif openai.takes(scope):
                answer = openai.refusal(error)
            else:
                answer = _error(error) if runtime else self._aws.refusal(scope, error)
            await answer(scope, receive, send)
            return
        scope.setdefault("state", {})["identity"] = identity
        await self._dispatch(scope, _replay(body, receive), send, body)

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
        path: str = scope["path"]
        if scope["method"] == "POST" and scope["raw_path"].endswith(STREAM_SUFFIX):
            answer = await self._stream(scope, body)
        elif openai.takes(scope):
            answer = await openai.answer(self._lane.routes, scope, body)
        elif _is_oip(path):
            answer = await self._open_inference.answer(scope, body)
        elif path == "/metrics":
            answer = Response(self._metrics(), media_type="text/plain; version=0.0.4")
        elif path.startswith(NATIVE):
            answer = await self._call_native(Request(scope, receive))
        else:
            await self._aws(scope, receive, send)
            return
        await answer(scope, receive, send)

    async def _call_native(self, request: Request) -> Response:
        parts = request.url.path.removeprefix(NATIVE).strip("/").split("/")
        handler = self._native.get(f"{request.method} {parts[0]}")
        if handler is None:
            return JSONResponse({"message": f"Unknown native route {request.method} {request.url.path}."}, 404)
        try:
            return await handler(request)
        except FourfoldError as error:
            return _error(error)

    async def _stream(self, scope: Scope, body: bytes) -> Response:
        """InvokeEndpointWithResponseStream."""
        try:
            route = find_route(self._lane.routes, endpoint_name(scope["raw_path"], STREAM_SUFFIX))
            request = request_headers(scope["headers"], b"x-amzn-sagemaker-accept")
            variant = choose(route, request)
            call = Call(0, body, request.content_type, request.accept, request.to_model, stream=True)
            stream = ResponseStream(call, variant)
            first = await stream.first()
        except FourfoldError as error:
            return _error(error)
        headers = {"x-amzn-requestid": request_id().decode(), "x-amzn-invoked-production-variant": variant.name}
        return StreamingResponse(
            _events(stream, first), headers=headers | _head(first), media_type=eventstream.CONTENT_TYPE
        )


def _head(first: bytes | None) -> dict[str, str]:
    """What the model says of its streamed answer."""
    if not isinstance(first, Opening):
        return {"x-amzn-sagemaker-content-type": "application/octet-stream"}
    told = {"x-amzn-sagemaker-content-type": first.content_type}
    attributes = (first.headers or {}).get(ATTRIBUTES)
    if attributes is not None:
        told[ATTRIBUTES] = attributes
    return {name: header_value(value).decode("latin-1") for name, value in told.items()}


async def _events(stream: ResponseStream, first: bytes | None) -> AsyncIterator[bytes]:
    """The stream as AWS's event stream; what ends it early is its last event."""
    try:
        async with aclosing(stream.parts(first)) as parts:
            async for part in parts:
                yield eventstream.payload_part(part)
    except FourfoldError as error:
        yield eventstream.model_stream_error(error.message, _stream_error_code(error))


def _stream_error_code(error: FourfoldError) -> str:
    late = isinstance(error, ModelError) and error.original_message == "ModelInvocationTimeExceeded"
    return "ModelInvocationTimeExceeded" if late else "StreamBroken"


def _is_oip(path: str) -> bool:
    return path.startswith(oip.PREFIX) or path == oip.ROOT


def _is_s3(scope: Scope) -> bool:
    """Told as AWS does it: by the service that the request is signed for; unsigned ones by their path."""
    for name, value in scope["headers"]:
        if name == b"authorization" and value.startswith(b"AWS4-HMAC-SHA256"):
            return b"/s3/aws4_request" in value
    query = scope["query_string"]
    if b"X-Amz-Credential=" in query:
        return b"%2Fs3%2Faws4_request" in query or b"/s3/aws4_request" in query
    path: str = scope["path"]
    if path == "/":
        return scope["method"] in ("GET", "HEAD")
    ours = (NATIVE, "/endpoints/", "/metrics", "/schedule", "/tags", "/openai/")
    return not (path.startswith(ours) or _is_oip(path))


async def _read(receive: Receive, limit: int) -> bytes:
    parts = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise PayloadTooLarge(f"The request body is over the limit of {limit:,} bytes.")
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


def _closed_unless_read(receive: Receive, send: Send) -> tuple[Receive, Send]:
    """For a request with `Expect: 100-continue`: answered before its body was asked for, it may come or not.

    Nobody can tell what follows on such a connection, so it is closed.
    """
    asked = False

    async def received() -> Message:
        nonlocal asked
        asked = True
        return await receive()

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start" and not asked:
            message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        await send(message)

    return received, sent


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body that was read, once more, for the application behind."""
    sent = False

    async def replayed() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


def _error(error: FourfoldError) -> Response:
    headers = {"x-amzn-errortype": error.code, "x-amzn-requestid": request_id().decode()}
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    return Response(error_body(error), error.status, headers, "application/json")
