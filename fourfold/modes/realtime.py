"""Real-time: what a synchronous call means, whichever way its bytes came.

The HTTP side (`api`) hands in headers and body; here they become a `Call` to a variant, and a model's failure becomes
the error that SageMaker's runtime gives.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import NamedTuple

from fourfold.errors import FourfoldError, ModelError, ServiceUnavailable, ValidationError
from fourfold.pool.components import COMPONENT
from fourfold.pool.containers import TARGET_CONTAINER
from fourfold.pool.multimodel import TARGET_MODEL
from fourfold.pool.routes import Kind, Route, Routes, Variant
from fourfold.pool.sessions import SESSION
from fourfold.records import Call, Reply

TO_MODEL = frozenset(
    (
        b"x-amzn-sagemaker-custom-attributes",
        b"x-amzn-sagemaker-inference-id",
        b"x-amzn-sagemaker-target-model",
        b"x-amzn-sagemaker-target-container-hostname",
        b"x-amzn-sagemaker-inference-component",
        b"x-amzn-sagemaker-session-id",
        b"x-amzn-sagemaker-enable-explanations",
        b"x-amzn-sagemaker-prefix-aware-id",
    )
)
"""Request headers that the model may see. SageMaker strips all others."""

_NAME = "^[a-zA-Z0-9](-*[a-zA-Z0-9])*"
_PRINTABLE = r"\A\S[\p{Print}]*\z"


class _Rule(NamedTuple):
    """What the service model of sagemaker-runtime says of a header's value."""

    member: str
    most: int
    pattern: str = r"\p{ASCII}*"

    def broken_by(self, value: bytes) -> str | None:
        """The constraint that a value breaks."""
        if len(value) > self.most:
            return f"Member must have length less than or equal to {self.most}"
        if _CHECKS[self.pattern](value) is None:
            return f"Member must satisfy regular expression pattern: {self.pattern}"
        return None


_CHECKS = {
    r"\p{ASCII}*": re.compile(rb"[\0-\x7f]*").fullmatch,
    _PRINTABLE: re.compile(rb"[!-~][ -~]*").fullmatch,
    _NAME: re.compile(rb"[a-zA-Z0-9](-*[a-zA-Z0-9])*").fullmatch,
}
"""Java's patterns as Python's."""

_RULES = {
    b"content-type": _Rule("contentType", 1024),
    b"accept": _Rule("accept", 1024),
    b"x-amzn-sagemaker-accept": _Rule("accept", 1024),
    b"x-amzn-sagemaker-custom-attributes": _Rule("customAttributes", 1024),
    b"x-amzn-sagemaker-target-model": _Rule("targetModel", 1024, _PRINTABLE),
    b"x-amzn-sagemaker-target-variant": _Rule("targetVariant", 63, _NAME),
    b"x-amzn-sagemaker-target-container-hostname": _Rule("targetContainerHostname", 63, _NAME),
    b"x-amzn-sagemaker-inference-component": _Rule("inferenceComponentName", 63, _NAME),
    b"x-amzn-sagemaker-inference-id": _Rule("inferenceId", 64, _PRINTABLE),
    b"x-amzn-sagemaker-enable-explanations": _Rule("enableExplanations", 64, _PRINTABLE),
    b"x-amzn-sagemaker-session-id": _Rule("sessionId", 256),
    b"x-amzn-sagemaker-prefix-aware-id": _Rule("prefixAwareId", 64, _PRINTABLE),
}


_ADDRESSES = {
    TARGET_MODEL: "is not a multi-model endpoint and does not support target model header",
    TARGET_CONTAINER: "does not call containers directly and does not support target container hostname header",
    COMPONENT: "has no inference components: Inference Component Name header is not allowed",
}
"""What an endpoint says that cannot do what a call's header asks."""

CLIENT_LEFT = 499
"""Status under which a call is counted that its client did not wait for."""
STREAM_AHEAD = 16 * 1024 * 1024
"""Bytes of a stream that may wait for a slow client before the model is told to stop."""


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
        ValidationError: values that the API does not allow; the message names each.
    """
    content_type = accept = ""
    target = to_model = None
    problems = []
    for name, value in headers:
        rule = _RULES.get(name)
        if rule is not None and (broken := rule.broken_by(value)):
            shown = value[:200].decode("latin-1")
            problems.append(f"Value '{shown}' at '{rule.member}' failed to satisfy constraint: {broken}")
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
    if problems:
        count = f"{len(problems)} validation error{'s' if len(problems) > 1 else ''}"
        raise ValidationError(f"{count} detected: {'; '.join(problems)}")
    return RequestHeaders(content_type or "application/json", accept, target, to_model)


def find_route(routes: Routes, name: bytes, kinds: tuple[Kind, ...] = ("realtime", "serverless")) -> Route:
    """The route of an endpoint.

    Raises:
        ServiceUnavailable: it is not back yet after a restart. SDKs try such a call again.
        ValidationError: it does not exist, or takes another kind of call.
    """
    route = routes.get(name)
    if route is None:
        shown = name[:100].decode("utf-8", "replace")
        if name in routes.expected:
            raise ServiceUnavailable(
                f"Endpoint {shown} is not back yet after a restart of the server. Try again; "
                f"`fourfold describe {shown}` tells how it stands."
            )
        raise ValidationError(
            f"Endpoint {shown} not found, or not in service. `fourfold list` shows the endpoints and their status."
        )
    if route.kind not in kinds:
        operation = "InvokeEndpointAsync" if route.kind == "asynchronous" else "InvokeEndpoint"
        raise ValidationError(f"Endpoint {route.name} is {route.kind}: call it with {operation}.")
    return route


def choose(route: Route, request: RequestHeaders) -> Variant:
    """The variant that answers a call.

    Raises:
        ValidationError: there is no such variant, or it has no models, containers or components to choose from, and
            the call names one.
    """
    headers = request.to_model
    if headers is None:
        return route.choose(request.target_variant)
    variant = route.choose(request.target_variant, headers.get(SESSION))
    for header, refusal in _ADDRESSES.items():
        if header in headers and header not in variant.backend.addresses:
            raise ValidationError(f"Endpoint {route.name} {refusal}.")
    return variant


async def ask(variant: Variant, call: Call) -> Reply:
    """One call, awaited, for the ways in that are not the fast lane. Counted in the variant's statistics.

    Raises:
        FourfoldError: what the call fails with before the model answers; the model's own error is in the reply.
    """
    waiter = _Awaited(call)
    loop = asyncio.get_running_loop()
    try:
        variant.submit(waiter)
        reply = await waiter.reply
    except FourfoldError as error:
        variant.stats.failed(loop.time() - waiter.arrived, error)
        raise
    except asyncio.CancelledError:
        variant.withdraw(waiter)
        variant.stats.record(loop.time() - waiter.arrived, CLIENT_LEFT)
        raise
    if reply.status == 200:
        variant.stats.record(loop.time() - waiter.arrived, 200)
    else:
        variant.stats.failed(loop.time() - waiter.arrived, model_error(reply, variant))
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


class ResponseStream:
    """One call whose answer goes out part by part. A `StreamWaiter` of the batcher."""

    def __init__(self, call: Call, variant: Variant) -> None:
        self.call = call
        self.variant = variant
        self._loop = asyncio.get_running_loop()
        self.arrived = self._loop.time()
        self._parts: deque[bytes | FourfoldError | None] = deque()
        self._news = asyncio.Event()
        self._ahead = 0
        self.cancel: Callable[[], None] = lambda: self.variant.withdraw(self)

    def part(self, body: bytes) -> None:
        self._ahead += len(body)
        if self._ahead <= STREAM_AHEAD:
            self._put(body)
        elif self._ahead - len(body) <= STREAM_AHEAD:
            self.cancel()
            self._put(ModelError(f"The client reads too slowly: {STREAM_AHEAD:,} bytes wait for it."))

    def end(self, failure: Reply | None) -> None:
        self._put(None if failure is None else model_error(failure, self.variant))

    def fail(self, error: FourfoldError) -> None:
        self._put(error)

    async def first(self) -> bytes | None:
        """Send the call; the first part, or None where the model gives none.

        Raises:
            FourfoldError: what went wrong before any part, so that it can still be an ordinary error answer.
        """
        try:
            self.variant.submit_stream(self)
            item = await self._next()
            if isinstance(item, FourfoldError):
                raise item
        except FourfoldError as error:
            self.variant.stats.failed(self._loop.time() - self.arrived, error)
            raise
        except asyncio.CancelledError:
            self.cancel()
            raise
        return item

    async def parts(self, first: bytes | None) -> AsyncGenerator[bytes, None]:
        """All parts, `first` included. Closed early, it tells the model to stop. Raises the error that ends it."""
        item: bytes | FourfoldError | None = first
        left = True
        try:
            while isinstance(item, bytes):
                yield item
                item = await self._next()
            left = False
        finally:
            seconds = self._loop.time() - self.arrived
            if left:
                self.cancel()
                self.variant.stats.record(seconds, CLIENT_LEFT)
            elif isinstance(item, FourfoldError):
                self.variant.stats.failed(seconds, item)
            else:
                self.variant.stats.record(seconds, 200)
        if item is not None:
            raise item

    def _put(self, item: bytes | FourfoldError | None) -> None:
        self._parts.append(item)
        self._news.set()

    async def _next(self) -> bytes | FourfoldError | None:
        while not self._parts:
            self._news.clear()
            await self._news.wait()
        item = self._parts.popleft()
        if isinstance(item, bytes):
            self._ahead -= len(item)
        return item


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
