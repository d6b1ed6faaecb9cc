"""Real-time: what a synchronous call means, whichever way its bytes came.

The HTTP side (`api`) hands in headers and body; here they become a `Call` to a variant, and a model's failure becomes
the error that SageMaker's runtime gives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

from fourfold.errors import FourfoldError, ModelError, ValidationError
from fourfold.pool.routes import Kind, Route, Routes, Variant
from fourfold.records import Call, Reply

TO_MODEL = frozenset(
    (
        b"x-amzn-sagemaker-custom-attributes",
        b"x-amzn-sagemaker-inference-id",
        b"x-amzn-sagemaker-target-model",
        b"x-amzn-sagemaker-target-container-hostname",
        b"x-amzn-sagemaker-session-id",
        b"x-amzn-sagemaker-enable-explanations",
        b"x-amzn-sagemaker-prefix-aware-id",
    )
)
"""Request headers that the model may see. SageMaker strips all others."""

_LENGTHS = {"x-amzn-sagemaker-custom-attributes": 1024, "x-amzn-sagemaker-inference-id": 64}
"""Longest values, from the service model of sagemaker-runtime."""


class RequestHeaders(NamedTuple):
    """What the headers of an invocation say."""

    content_type: str
    accept: str
    target_variant: str | None
    to_model: dict[str, str] | None


def request_headers(headers: Iterable[tuple[bytes, bytes]], accept_name: bytes = b"accept") -> RequestHeaders:
    """Read an invocation's headers (names in lower case).

    Args:
        headers: as they came.
        accept_name: the header with the wanted content type; InvokeEndpointWithResponseStream has its own.

    Raises:
        ValidationError: a value is longer than the API allows.
    """
    content_type = accept = ""
    target = to_model = None
    for name, value in headers:
        if name == b"content-type":
            content_type = value.decode("latin-1")
        elif name == accept_name:
            accept = value.decode("latin-1")
        elif name.startswith(b"x-amzn-sagemaker-"):
            if name in TO_MODEL:
                to_model = to_model or {}
                to_model[name.decode()] = value.decode("latin-1")
            elif name == b"x-amzn-sagemaker-target-variant":
                target = value.decode("latin-1")
    if to_model is not None:
        _check_lengths(to_model)
    return RequestHeaders(content_type or "application/json", accept, target, to_model)


def find_route(routes: Routes, name: bytes, kinds: tuple[Kind, ...] = ("realtime", "serverless")) -> Route:
    """The route of an endpoint. Raises ValidationError where it does not exist or takes another kind of call."""
    route = routes.get(name)
    if route is None:
        raise ValidationError(
            f"Endpoint {name.decode('utf-8', 'replace')} not found, or not in service. "
            "`fourfold list` shows the endpoints and their status."
        )
    if route.kind not in kinds:
        operation = "InvokeEndpointAsync" if route.kind == "asynchronous" else "InvokeEndpoint"
        raise ValidationError(f"Endpoint {route.name} is {route.kind}: call it with {operation}.")
    return route


async def ask(variant: Variant, call: Call) -> Reply:
    """One call, awaited, for the ways in that are not the fast lane. Counted in the variant's statistics.

    Raises:
        FourfoldError: what the call fails with before the model answers; the model's own error is in the reply.
    """
    waiter = _Awaited(call)
    status = 499  # whoever asked is gone
    try:
        variant.submit(waiter)
        reply = await waiter.reply
        status = 424 if reply.status != 200 else 200
    except FourfoldError as error:
        status = error.status
        raise
    finally:
        if status == 499:
            variant.backend.withdraw(waiter)
        variant.stats.record(asyncio.get_running_loop().time() - waiter.arrived, status)
    return reply


class _Awaited:
    """A waiter with a future."""

    def __init__(self, call: Call) -> None:
        loop = asyncio.get_running_loop()
        self.call = call
        self.arrived = loop.time()
        self.reply: asyncio.Future[Reply] = loop.create_future()

    def answer(self, reply: Reply) -> None:
        if not self.reply.done():
            self.reply.set_result(reply)

    def fail(self, error: FourfoldError) -> None:
        if not self.reply.done():
            self.reply.set_exception(error)


def model_error(reply: Reply, variant: Variant) -> ModelError:
    """A reply that is not an answer, as SageMaker words it."""
    text = bytes(reply.body).decode("utf-8", "replace")
    fault = "client" if reply.status < 500 else "server"
    return ModelError(
        f'Received {fault} error ({reply.status}) from {variant.name} with message "{text}". '
        f"`fourfold logs {variant.endpoint}` shows the model's output.",
        original_status=reply.status,
        original_message=f"{text}\n{reply.detail}" if reply.detail else text,
        log_stream=variant.log_group,
    )


def _check_lengths(headers: dict[str, str]) -> None:
    for name, most in _LENGTHS.items():
        if len(headers.get(name, "")) > most:
            raise ValidationError(f"{name} must have length less than or equal to {most}.")
