"""The Open Inference Protocol v2 over HTTP (KServe, Triton): `/v2/…` for the endpoints of SageMaker's API.

    GET  /v2/health/live · /v2/health/ready                 the server; without credentials, as probes want it
    GET  /v2                                                its name, version and extensions
    GET  /v2/models/{endpoint}                              metadata: inputs and outputs
    GET  /v2/models/{endpoint}/ready · /config
    POST /v2/models/{endpoint}/infer                        JSON, or JSON with binary tensors behind it

A model's name is its endpoint's; its one version is "1" (`/v2/models/{endpoint}/versions/1/…`). Every answer that is
no success is `{"error": "…"}`. The worker reads and writes the tensors (`formats.codecs.oip`); here are the paths.
Protocol: github.com/kserve/open-inference-protocol, github.com/triton-inference-server/server/tree/main/docs/protocol.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any
from urllib.parse import unquote

import msgspec
from starlette.responses import Response
from starlette.types import Scope

from fourfold.api.compression import unpack
from fourfold.api.fastlane import Lane
from fourfold.errors import FourfoldError, ServiceUnavailable, ValidationError
from fourfold.modes.realtime import RequestHeaders, ask, choose, find_route, request_headers
from fourfold.pool.frames import Loaded
from fourfold.pool.routes import Route, Variant
from fourfold.records import Call

PREFIX = "/v2/"
ROOT = "/v2"
HEALTH = "/v2/health/"
VERSION = "1"
TYPE = "application/vnd.oip.v2+json"
HEADER_LENGTH = "inference-header-content-length"

_MODEL = re.compile(r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?(?:/(?P<what>ready|config|infer))?")
_DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}

_Shapes = list[tuple[str, str, list[int | None]]]


class NotFound(ValidationError):
    """There is no such path, model or version."""

    status = 404


class OpenInference:
    """Answers the protocol's requests.

    Args:
        lane: routes that the fast lane shares.
        ready: is every endpoint in service that should be?
    """

    def __init__(self, lane: Lane, ready: Callable[[], bool]) -> None:
        self._lane = lane
        self._ready = ready

    def health(self, path: str) -> Response:
        """`/v2/health/live` and `/v2/health/ready`."""
        if path == f"{HEALTH}live":
            return _json({"live": True})
        if path == f"{HEALTH}ready":
            ready = self._ready()
            return _json({"ready": ready}, 200 if ready else 503)
        return refusal(NotFound(f"There is no {path}: ask {HEALTH}live or {HEALTH}ready."))

    async def answer(self, scope: Scope, body: bytes) -> Response:
        """Any other path, its credentials checked."""
        try:
            return await self._answer(scope, body)
        except FourfoldError as error:
            return refusal(error)

    async def _answer(self, scope: Scope, body: bytes) -> Response:
        method, path = scope["method"], scope["raw_path"].decode("latin-1")
        if path.rstrip("/") == ROOT and method == "GET":
            extensions = ["binary_tensor_data", "model_configuration"]
            return _json({"name": "fourfold", "version": version("fourfold"), "extensions": extensions})
        match = _MODEL.fullmatch(path)
        if match is None or method != ("POST" if match["what"] == "infer" else "GET"):
            raise NotFound(f"The Open Inference Protocol has no {method} {path}.")
        route = self._find(unquote(match["name"]), match["version"])
        answers: dict[str | None, Callable[[], Awaitable[Response]]] = {
            None: lambda: _metadata(route),
            "ready": lambda: _is_ready(route),
            "config": lambda: _config(route),
            "infer": lambda: self._infer(route, scope, body),
        }
        return await answers[match["what"]]()

    async def _infer(self, route: Route, scope: Scope, body: bytes) -> Response:
        encoding = dict(scope["headers"]).get(b"content-encoding", b"").decode("latin-1")
        if encoding:
            body = await asyncio.to_thread(unpack, body, encoding, self._lane.limits.payload_bytes)
        return await _infer(route, scope, body)

    def _find(self, name: str, version: str | None) -> Route:
        if not self._lane.routes.knows(name):
            raise NotFound(f"There is no model {name!r}: models are the endpoints that are in service.")
        if version not in (None, VERSION):
            raise NotFound(f"Model {name!r} has the version {VERSION!r} alone, not {version!r}.")
        return find_route(self._lane.routes, name.encode())


def refusal(error: FourfoldError) -> Response:
    """An error as the protocol has it."""
    return _json({"error": error.message}, error.status)


async def _is_ready(route: Route) -> Response:
    return _json({"name": route.name, "ready": True})


async def _metadata(route: Route) -> Response:
    loaded = _signature(route.variants[0])
    return _json(
        {
            "name": route.name,
            "versions": [VERSION],
            "platform": "fourfold",
            "inputs": [_tensor(*shape) for shape in loaded.inputs],
            "outputs": [_tensor(*shape) for shape in loaded.outputs],
        }
    )


async def _config(route: Route) -> Response:
    """Triton's model configuration, as far as perf-analyzer asks for it: dims are those of one record."""
    loaded = _signature(route.variants[0])
    batches = bool(loaded.inputs) and all(shape[:1] == [None] for _, _, shape in loaded.inputs)
    return _json(
        {
            "name": route.name,
            "platform": "fourfold",
            "backend": "fourfold",
            "max_batch_size": max(1, loaded.max_batch) if batches else 0,
            "input": _configured(loaded.inputs, batches),
            "output": _configured(loaded.outputs, batches),
        }
    )


async def _infer(route: Route, scope: Scope, body: bytes) -> Response:
    headers = dict(scope["headers"])
    request = request_headers(scope["headers"])
    variant = choose(route, request)
    reply = await ask(variant, _call(route, variant, headers, request, body))
    if reply.status != 200:
        said = str(reply.body, "utf-8", "replace")
        return _json({"error": said}, reply.status if reply.status < 500 else 500)
    length = (reply.headers or {}).get(HEADER_LENGTH)
    if length is None:
        return Response(reply.body, 200, media_type="application/json")
    return Response(reply.body, 200, {HEADER_LENGTH: length}, "application/octet-stream")


def _call(route: Route, variant: Variant, headers: dict[bytes, bytes], request: RequestHeaders, body: bytes) -> Call:
    """What the worker gets. A handler or server without named inputs gets the body as plain JSON."""
    length = headers.get(HEADER_LENGTH.encode(), b"").decode("latin-1")
    loaded = variant.backend.signature
    if loaded is not None and not loaded.inputs:
        if length:
            raise ValidationError(
                f"Model {route.name!r} names no inputs, so that it takes no binary tensors: send JSON."
            )
        return Call(0, body, "application/json", "application/json", request.to_model)
    content_type = f"{TYPE}; model={route.name}" + (f"; header-length={length}" if length else "")
    return Call(0, body, content_type, TYPE, request.to_model)


def _signature(variant: Variant) -> Loaded:
    """What the variant's model takes and gives. Raises ServiceUnavailable where no worker has loaded it yet."""
    loaded = variant.backend.signature
    if loaded is None:
        raise ServiceUnavailable(f"Variant {variant.name} has had no worker since the server's start: call it once.")
    return loaded


def _tensor(name: str, dtype: str, shape: list[int | None]) -> dict[str, Any]:
    return {"name": name, "datatype": _DATATYPES.get(dtype, "BYTES"), "shape": _lengths(shape)}


def _configured(shapes: _Shapes, batches: bool) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "data_type": "TYPE_" + _DATATYPES.get(dtype, "STRING"),
            "dims": _lengths(shape[1:] if batches else shape) or [1],
        }
        for name, dtype, shape in shapes
    ]


def _lengths(shape: list[int | None]) -> list[int]:
    return [-1 if length is None else length for length in shape]


def _json(value: dict[str, Any], status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
