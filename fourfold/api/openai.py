"""The OpenAI-compatible way in: chat completions for endpoints whose handler or server speaks them.

    POST /endpoints/{endpoint}/openai/v1/chat/completions      as SageMaker has it
    POST /openai/v1/chat/completions                           the endpoint is the body's `model`

The body goes to the model as it is, and its answer comes back as it is: JSON, or server-sent events where the body says
`"stream": true`. A server of one's own is asked at /v1/chat/completions, and at /invocations where it has no such path.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from urllib.parse import unquote

import msgspec
from starlette.responses import Response, StreamingResponse
from starlette.types import Scope

from fourfold.errors import FourfoldError, ModelError, ValidationError
from fourfold.modes.realtime import RequestHeaders, ResponseStream, ask, choose, find_route, request_headers
from fourfold.pool.routes import Routes, Variant
from fourfold.records import PATH, Call

_PATH = re.compile(r"(?:/endpoints/(?P<name>[^/]+))?/openai(?P<path>/v1/chat/completions)")
_EVENTS = "text/event-stream"


class _Body(msgspec.Struct):
    """What has to be known of a request."""

    model: str = ""
    stream: bool | None = False


class NoSuchModel(ValidationError):
    """The body's `model` names no endpoint."""

    status = 404


def takes(scope: Scope) -> bool:
    """Is it a request for this way in?"""
    return scope["method"] == "POST" and _PATH.fullmatch(scope["path"]) is not None


async def chat(routes: Routes, scope: Scope, body: bytes) -> Response:
    """Pass a chat completion on to its endpoint."""
    try:
        match = _PATH.fullmatch(scope["path"])
        assert match is not None
        asked = _decoded(body)
        name = unquote(match["name"] or asked.model).encode()
        if name not in routes:
            raise NoSuchModel(
                f"There is no endpoint {name.decode('utf-8', 'replace')!r} in service: `model` is an endpoint's name."
            )
        request = request_headers(scope["headers"])
        variant = choose(find_route(routes, name), request)
        call = _call(request, match["path"], body, stream=bool(asked.stream))
        return await (_stream(variant, call) if call.stream else _whole(variant, call))
    except FourfoldError as error:
        return refusal(error)


def refusal(error: FourfoldError) -> Response:
    """An error as OpenAI's clients read it."""
    status = error.status
    if isinstance(error, ModelError):
        status = error.original_status if 400 <= error.original_status < 500 else 500
    return Response(_error(error), status, media_type="application/json")


def _decoded(body: bytes) -> _Body:
    try:
        return msgspec.json.decode(body, type=_Body)
    except msgspec.MsgspecError as error:
        raise ValidationError(f"The body is no chat completion: {error}.") from None


def _call(request: RequestHeaders, path: str, body: bytes, *, stream: bool) -> Call:
    headers = (request.to_model or {}) | {PATH: path}
    return Call(0, body, "application/json", _EVENTS if stream else "application/json", headers, stream)


async def _whole(variant: Variant, call: Call) -> Response:
    reply = await ask(variant, call)
    if reply.status != 200 and not reply.content_type.startswith("application/json"):
        said = str(reply.body, "utf-8", "replace")
        return refusal(ModelError(said, original_status=reply.status))
    return Response(reply.body, reply.status, media_type=reply.content_type)


async def _stream(variant: Variant, call: Call) -> Response:
    stream = ResponseStream(call, variant)
    first = await stream.first()
    return StreamingResponse(_events(stream, first), headers={"cache-control": "no-cache"}, media_type=_EVENTS)


async def _events(stream: ResponseStream, first: bytes | None) -> AsyncIterator[bytes]:
    try:
        async with aclosing(stream.parts(first)) as parts:
            async for part in parts:
                yield part
    except FourfoldError as error:
        yield b"data: " + _error(error) + b"\n\n"


def _error(error: FourfoldError) -> bytes:
    kind = "invalid_request_error" if error.status in (400, 404, 413) else "server_error"
    return msgspec.json.encode({"error": {"message": error.message, "type": kind, "param": None, "code": error.code}})
