"""The OpenAI-compatible way in: chat completions for endpoints whose handler or server speaks them.

    POST /endpoints/{endpoint}/openai/v1/chat/completions      as SageMaker has it
    POST /openai/v1/chat/completions                           the endpoint is the body's `model`
    GET  …/openai/v1/models · …/openai/v1/models/{endpoint}     the endpoints in service, as models

The body goes to the model as it is, and its answer comes back as it is: JSON, or server-sent events where the body says
`"stream": true`. A server of one's own is asked at /v1/chat/completions, and at /invocations where it has no such path.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any
from urllib.parse import unquote

import msgspec
from starlette.responses import Response, StreamingResponse
from starlette.types import Scope

from fourfold.errors import FourfoldError, ModelError, ValidationError
from fourfold.modes.realtime import RequestHeaders, ResponseStream, ask, choose, find_route, request_headers
from fourfold.pool.routes import Route, Routes, Variant
from fourfold.records import PATH, Call

_PATH = re.compile(r"(?:/endpoints/(?P<name>[^/]+))?/openai(?P<path>/.*)")
_CHAT = "/v1/chat/completions"
_MODELS = "/v1/models"
_EVENTS = "text/event-stream"


class _Body(msgspec.Struct):
    """What has to be known of a request."""

    model: str = ""
    stream: bool | None = False


class NotFound(ValidationError):
    """There is no such endpoint or path."""

    status = 404


def takes(scope: Scope) -> bool:
    """Is it a request for this way in?"""
    return _PATH.fullmatch(scope["path"]) is not None


async def answer(routes: Routes, scope: Scope, body: bytes) -> Response:
    """Pass a chat completion on to its endpoint, or tell the endpoints."""
    try:
        match = _PATH.fullmatch(scope["path"])
        assert match is not None
        name, path = unquote(match["name"] or ""), match["path"]
        if scope["method"] == "POST" and path == _CHAT:
            return await _chat(routes, scope, name, body)
        if scope["method"] == "GET" and path == _MODELS:
            return _json({"object": "list", "data": [_model(one) for one in _names(routes) if name in ("", one)]})
        if scope["method"] == "GET" and path.startswith(f"{_MODELS}/"):
            return _json(_model(_find(routes, unquote(path.removeprefix(f"{_MODELS}/"))).name))
        raise NotFound(f"There is no {scope['method']} {scope['path']}: chat completions and models are what is here.")
    except FourfoldError as error:
        return refusal(error)


async def _chat(routes: Routes, scope: Scope, name: str, body: bytes) -> Response:
    asked = _decoded(body)
    request = request_headers(scope["headers"])
    variant = choose(_find(routes, name or asked.model), request)
    call = _call(request, body, stream=bool(asked.stream))
    return await (_stream(variant, call) if call.stream else _whole(variant, call))


def _find(routes: Routes, name: str) -> Route:
    if not routes.knows(name):
        raise NotFound(f"There is no endpoint {name!r} in service: `model` is an endpoint's name.")
    return find_route(routes, name.encode())


def _names(routes: Routes) -> list[str]:
    """The endpoints that can be asked and answered at once."""
    return sorted(route.name for route in routes.values() if route.kind != "asynchronous")


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "fourfold"}


def refusal(error: FourfoldError) -> Response:
    """An error as OpenAI's clients read it."""
    return Response(_error(error), _status(error), media_type="application/json")


def _decoded(body: bytes) -> _Body:
    try:
        return msgspec.json.decode(body, type=_Body)
    except msgspec.MsgspecError as error:
        raise ValidationError(f"The body is no chat completion: {error}.") from None


def _call(request: RequestHeaders, body: bytes, *, stream: bool) -> Call:
    headers = (request.to_model or {}) | {PATH: _CHAT}
    return Call(0, body, "application/json", _EVENTS if stream else "application/json", headers, stream)


async def _whole(variant: Variant, call: Call) -> Response:
    reply = await ask(variant, call)
    if reply.status != 200 and not reply.content_type.startswith("application/json"):
        said = str(reply.body, "utf-8", "replace")
        return refusal(ModelError(said, original_status=reply.status))
    return Response(reply.body, reply.status, media_type=reply.content_type)


async def _stream(variant: Variant, call: Call) -> Response:
    stream = ResponseStream(call, variant)
    try:
        first = await stream.first()
    except ModelError as error:
        if not _is_object(error.original_message):
            raise
        return Response(error.original_message, _status(error), media_type="application/json")
    return StreamingResponse(_events(stream, first), headers={"cache-control": "no-cache"}, media_type=_EVENTS)


def _is_object(text: str) -> bool:
    """Is it the model's own error, in JSON?"""
    try:
        return isinstance(msgspec.json.decode(text), dict)
    except msgspec.DecodeError:
        return False


async def _events(stream: ResponseStream, first: bytes | None) -> AsyncIterator[bytes]:
    try:
        async with aclosing(stream.parts(first)) as parts:
            async for part in parts:
                yield part
    except FourfoldError as error:
        yield b"data: " + _error(error) + b"\n\n"


def _json(value: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


def _status(error: FourfoldError) -> int:
    """The model's own status where it says that the client is to blame."""
    if isinstance(error, ModelError):
        return error.original_status if 400 <= error.original_status < 500 else 500
    return error.status


def _error(error: FourfoldError) -> bytes:
    kind = "invalid_request_error" if _status(error) < 500 else "server_error"
    return msgspec.json.encode({"error": {"message": error.message, "type": kind, "param": None, "code": error.code}})
