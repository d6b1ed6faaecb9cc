"""The HTTP protocol of the one port: a fast lane for calls, uvicorn's own way for everything else.

    bytes ─► httptools ─┬─ POST /endpoints/{name}/invocations ───────► Exchange ───► batcher ─► worker ─► bytes
                        ├─ POST /endpoints/{name}/async-invocations ─► Submission ─► ledger ─► bytes
                        └─ anything else ─► ASGI (`gateway.py`)

`Exchange` is one fast call, `Submission` an asynchronous one. They stand where uvicorn keeps its
`RequestResponseCycle`, so that all kinds may follow one another on a connection, pipelined ones in order. No task,
future or ASGI message is made for them.
"""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections import deque
from collections.abc import Iterable, Mapping
from email.utils import formatdate
from typing import Any, ClassVar, Protocol

import httptools
import msgspec
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from fourfold.api.canonical import Headers
from fourfold.api.heads import ASYNC_SUFFIX, PREFIX, SUFFIX, Head, Known, Shape, path_of
from fourfold.config import Limits
from fourfold.errors import (
    FourfoldError,
    InternalFailure,
    ModelError,
    PayloadTooLarge,
)
from fourfold.modes.asynchronous.accept import Invocation, read_headers
from fourfold.modes.realtime import choose, find_route, model_error
from fourfold.pool.routes import Routes, Variant
from fourfold.records import Call, Reply
from fourfold.store.queue import Accepted

FEW_HEADS = 8
"""Heads of different sizes that a connection keeps."""
PATIENCE = 16
"""Heads that a connection keeps in vain before it keeps no more."""
VERSIONS = ("1.1", "1.0")
DISCARD_SECONDS = 5.0
"""After an early refusal: how long the rest of a body is read away, so that the client gets to read the answer."""

_request_ids = itertools.count(1)
_REQUEST_ID = uuid.uuid4().hex
_REQUEST_ID_START = f"{_REQUEST_ID[:8]}-{_REQUEST_ID[8:12]}-4{_REQUEST_ID[13:16]}-a{_REQUEST_ID[17:20]}-".encode()

FROM_MODEL = {
    "x-amzn-sagemaker-custom-attributes": b"x-amzn-sagemaker-custom-attributes",
    "x-amzn-sagemaker-session-id": b"x-amzn-sagemaker-new-session-id",
    "x-amzn-sagemaker-closed-session-id": b"x-amzn-sagemaker-closed-session-id",
    "x-fourfold-cold-start": b"x-fourfold-cold-start",
}
"""Headers of a model's reply that reach the client, and their names on the wire."""


def request_id() -> bytes:
    """A request id in the form of a UUID, unique per process start and call."""
    return _REQUEST_ID_START + b"%012x" % next(_request_ids)


class Door(Protocol):
    """Decides whether a request may come in."""

    def admit(self, authorization: bytes, method: bytes, url: bytes, headers: Headers, body: bytes) -> None:
        """Raises AuthenticationError. `authorization` is that header's value, empty where there is none."""

    def known(self, method: bytes, url: bytes, headers: Headers, holes: Mapping[bytes, slice]) -> Known | None:
        """The check of further requests with the head of one that came in, but for what stands in the holes."""


class Accept(Protocol):
    """Takes an asynchronous call and tells the waiter what comes of it. Raises FourfoldError."""

    def __call__(self, endpoint: str, asked: Invocation, body: bytes, waiter: Submission, /) -> None: ...


class Lane:
    """What all connections of one server share.

    Args:
        routes: endpoints that can be called.
        door: checks credentials.
        limits: bounds of one server.
        accept: takes asynchronous calls.
    """

    def __init__(self, routes: Routes, door: Door, limits: Limits, accept: Accept) -> None:
        self.routes = routes
        self.door = door
        self.limits = limits
        self.accept = accept
        self.date = b""
        self.stamp = b""
        self.connections: set[FastProtocol] = set()
        self.refused: dict[str, int] = {}
        self._tick()

    def _tick(self) -> None:
        self.date = b"date: " + formatdate(time.time(), usegmt=True).encode() + b"\r\n"
        self.stamp = self.date + b"x-amzn-requestid: " + _REQUEST_ID_START

    async def sweep(self) -> None:
        """Once a second: refresh the date, close what is idle or too slow. Runs as long as the server."""
        loop = asyncio.get_running_loop()
        while True:
            self._tick()
            now = loop.time()
            for connection in list(self.connections):
                connection.check(now)
            await asyncio.sleep(1.0)


class Exchange:
    """One call in the fast lane, from its headers to its answer. A `Waiter` of the batcher."""

    __slots__ = (
        "active", "arrived", "call", "complete", "disconnected", "head", "keep_alive", "parts", "protocol",
        "response_complete", "size", "too_large", "variant",
    )  # fmt: skip
    instead: ClassVar = (
        "Send it asynchronously (InvokeEndpointAsync takes an S3 object), or start the server with a larger "
        "--max-payload (up to 25 MiB)."
    )
    """What to do where a body is too large."""

    def __init__(self, protocol: FastProtocol, head: Head) -> None:
        self.protocol = protocol
        self.head = head
        self.keep_alive = head.keep_alive
        self.parts: list[bytes] = []
        self.size = 0
        self.active = False
        self.complete = False
        self.response_complete = False
        self.disconnected = False
        self.too_large = False
        self.arrived = 0.0
        self.call: Call
        self.variant: Variant | None = None

    def start(self) -> None:
        """The request has been parsed and it is its turn."""
        if self.too_large:
            self.protocol.refuse(self)
            return
        parts = self.parts
        self.submit(parts[0] if len(parts) == 1 else b"".join(parts))

    def submit(self, body: bytes, data: bytes = b"") -> None:
        """Check who asks, and hand the call on. `data` is the whole request where its head is known."""
        protocol = self.protocol
        self.arrived = protocol.heard
        head = self.head
        try:
            if head.known is not None and data:
                head.known.admit(data, body)
            else:
                protocol.lane.door.admit(head.authorization, b"POST", head.url, head.headers, body)
            self.hand_on(head, protocol.lane, body, data)
        except FourfoldError as error:
            self.fail(error)
        except Exception as error:
            protocol.logger.exception("invocation failed inside the server")
            self.fail(InternalFailure(f"{type(error).__name__} inside the server; see its log."))

    def hand_on(self, head: Head, lane: Lane, body: bytes, data: bytes) -> None:
        """Give the call to its variant."""
        request = head.request(data)
        variant = choose(find_route(lane.routes, head.name), request)
        self.call = Call(0, body, request.content_type, request.accept, request.to_model)
        self.variant = variant
        variant.submit(self)

    def answer(self, reply: Reply) -> None:
        variant = self.variant
        assert variant is not None
        if reply.status != 200:
            self.fail(model_error(reply, variant))
            return
        protocol = self.protocol
        head = variant.heads.get(reply.content_type) or _response_head(variant, reply.content_type)
        self._write(head if reply.headers is None else head + response_headers(reply.headers), reply.body)
        variant.stats.record(protocol.loop.time() - self.arrived, 200)
        protocol.on_response_complete()

    def fail(self, error: FourfoldError) -> None:
        protocol = self.protocol
        if self.variant is not None:
            self.variant.stats.failed(protocol.loop.time() - self.arrived, error)
        else:
            refused = protocol.lane.refused
            refused[error.code] = refused.get(error.code, 0) + 1
        code = error.code.encode()
        head = STATUS_LINE[error.status] + b"content-type: application/json\r\nx-amzn-errortype: " + code + b"\r\n"
        if error.retry_after is not None:
            head += b"retry-after: %d\r\n" % error.retry_after
        self._write(head, error_body(error))
        protocol.on_response_complete()

    def _write(self, head: bytes, body: bytes) -> None:
        self.response_complete = True
        if self.disconnected:
            return
        protocol = self.protocol
        if not self.keep_alive:
            head += b"connection: close\r\n"
        stamp = protocol.lane.stamp
        tail = b"%012x\r\ncontent-length: %d\r\n\r\n" % (next(_request_ids), len(body))
        protocol.transport.write(b"".join((head, stamp, tail, body)))
        if not self.keep_alive:
            protocol.transport.close()


class Submission(Exchange):
    """One asynchronous call in the fast lane, from its headers until it is on disk. A `Waiter` of the ledger."""

    __slots__ = ()
    instead: ClassVar = "Put the input into a bucket and send its address as InputLocation."

    def hand_on(self, head: Head, lane: Lane, body: bytes, data: bytes) -> None:
        """Have the call accepted. Its headers name no model."""
        asked = head.asked
        if asked is None:
            asked = head.asked = read_headers(head.headers)
        lane.accept(head.name.decode("utf-8", "replace"), asked, body, self)

    def accepted(self, accepted: Accepted) -> None:
        self._write(
            b"%bcontent-type: application/json\r\nx-amzn-sagemaker-outputlocation: %b\r\n"
            b"x-amzn-sagemaker-failurelocation: %b\r\n"
            % (STATUS_LINE[202], header_value(accepted.output), header_value(accepted.failure)),
            msgspec.json.encode({"InferenceId": accepted.inference_id}),
        )
        self.protocol.on_response_complete()


KINDS = {SUFFIX: Exchange, ASYNC_SUFFIX: Submission}
"""By what follows the endpoint's name."""


class FastProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a fast lane. Made by `protocol_class`, which binds the `Lane`."""

    lane: Lane
    cycle: Any
    pipeline: deque[tuple[Any, Any]]  # Exchanges stand where uvicorn has its cycles

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heard = self.loop.time()
        self._began = 0.0  # when the first byte of the request that is being read came; 0 between requests
        self._in_body = False
        self._discarding = 0.0
        self._data = b""  # what the parser is being fed
        self._heads: dict[int, Head] = {}
        """Heads that may come again, by their sizes."""
        self._patience = PATIENCE
        self._upgrading = False
        self._first: Any = None  # what is being answered while others wait in the pipeline; `cycle` is the newest

    # Connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn
        super().connection_made(transport)
        self.lane.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lane.connections.discard(self)
        waiting: Iterable[Any] = [self._first, self.cycle, *(cycle for cycle, _ in self.pipeline)]
        for exchange in waiting:
            if isinstance(exchange, Exchange) and not exchange.response_complete:
                exchange.disconnected = True
                if exchange.variant is not None:
                    exchange.variant.withdraw(exchange)
        self.pipeline.clear()
        self._first = None
        if isinstance(self.cycle, Exchange):
            self.cycle = None
        super().connection_lost(exc)

    def eof_received(self) -> bool | None:  # type: ignore[override]  # uvicorn's is None
        """The client sends no more but may still read: what was asked is answered, then the connection closes."""
        if self._began or self.cycle is None or self.cycle.response_complete:
            return None
        last = self.pipeline[0][0] if self.pipeline else self.cycle
        last.keep_alive = False
        return True

    def data_received(self, data: bytes) -> None:
        self.heard = self.loop.time()
        cycle = self.cycle
        if self._discarding or (
            not self._began and (cycle is None or cycle.response_complete) and self._recognize(data)
        ):
            return
        self._data = data
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._stay(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        self._data = b""

    def _stay(self, rest: bytes) -> None:
        """Read a request that asks for another protocol as one that does not: Java's client asks with each call.

        The parser takes nothing after its head for HTTP, so it gets the head again without the wish.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            self.send_400_response("This server is no proxy.")
            return
        lines = [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        head = b"%b %b HTTP/%b" % (method, self.url, self.parser.get_http_version().encode())
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self._upgrading = False
        self.data_received(b"\r\n".join([head, *lines, b"", rest]))

    def _recognize(self, data: bytes) -> bool:
        """Start a call whose head has been read before; False where none has that is like it."""
        size = data.find(b"\r\n\r\n") + 4
        head = self._heads.get(size)
        if head is None:
            return False
        length = len(data) - size
        if length > self.lane.limits.payload_bytes or head.shape is None or not head.shape.fits(data, length):
            return False
        self._patience = PATIENCE
        exchange = self.cycle = KINDS[head.suffix](self, head)
        exchange.active = exchange.complete = True
        exchange.submit(data[size:], data)
        return True

    def _remember(self, head: Head, body: bytes) -> None:
        """Keep a head that may come again, where what was just fed to the parser is that head and its body."""
        lane = self.lane
        raw = self._data[: len(self._data) - len(body)]
        head.shape = shape = Shape.of(raw, head.url, head.headers)
        if shape is not None:
            head.known = lane.door.known(b"POST", head.url, head.headers, shape.holes)
        self._patience -= 1
        if head.known is not None:
            if len(self._heads) >= FEW_HEADS:
                self._heads.clear()
            self._heads[len(raw)] = head

    def _at_rest(self) -> bool:
        """No request is being read or answered."""
        return not self._began and (self.cycle is None or self.cycle.response_complete)

    def check(self, now: float) -> None:
        """Close the connection where it is idle, or sends its request too slowly."""
        limits = self.lane.limits
        if self.transport.is_closing():
            return
        if self._discarding:
            if now > self._discarding:
                self.transport.close()
        elif self._began:
            exchange = self.cycle if isinstance(self.cycle, Exchange) else None
            if not self._in_body:
                late = now - self._began > limits.request_seconds
            elif exchange is not None:
                late = now - self._began > limits.request_seconds + exchange.size / 65536
            else:
                late = not self.flow.read_paused and now - self.heard > limits.request_seconds
            if late:
                self.transport.write(
                    STATUS_LINE[408] + self.lane.date + b"connection: close\r\ncontent-length: 0\r\n\r\n"
                )
                self.transport.close()
        elif self._at_rest() and now - self.heard > limits.keep_alive_seconds:
            self.transport.close()

    # Parser

    def on_message_begin(self) -> None:
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self._began = self.heard
        self._in_body = False

    def on_headers_complete(self) -> None:
        self._upgrading = self.parser.should_upgrade()
        if self._upgrading:
            return
        version = self.parser.get_http_version()
        if version not in VERSIONS:
            raise ValueError(f"HTTP/{version} is not spoken here")  # the parser makes it an error of its own
        self._in_body = True
        url = self.url
        parser = self.parser
        suffix = _suffix(url) if parser.get_method() == b"POST" else None
        if suffix is None:
            self._slow_headers_complete()
            return
        keep_alive = parser.should_keep_alive() and version == "1.1"
        exchange = KINDS[suffix](self, Head(url, self.headers, keep_alive, suffix))
        previous = self.cycle
        self.cycle = exchange
        if previous is None or previous.response_complete:
            exchange.active = True
        else:
            self.flow.pause_reading()
            if not self.pipeline:
                self._first = previous
            self.pipeline.appendleft((exchange, self.app))
        for name, value in self.headers:
            if name == b"content-length" and int(value) > self.lane.limits.payload_bytes:
                self.refuse(exchange)
                return
        if self.expect_100_continue and exchange.active:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _slow_headers_complete(self) -> None:
        headers, expect = self.headers, self.expect_100_continue
        url = self.url
        super().on_message_begin()  # builds the ASGI scope, which the fast lane does without
        self.url, self.expect_100_continue, self.headers = url, expect, headers
        self.scope["headers"] = headers
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        exchange = self.cycle
        if not isinstance(exchange, Exchange):
            super().on_body(body)
            return
        if exchange.response_complete or exchange.too_large:
            return
        exchange.parts.append(body)
        exchange.size += len(body)
        if exchange.size > self.lane.limits.payload_bytes:
            self.refuse(exchange)
        elif not exchange.active and exchange.size > HIGH_WATER_LIMIT:
            self.flow.pause_reading()

    def on_message_complete(self) -> None:
        if self._upgrading:
            return
        self._began = 0.0
        exchange = self.cycle
        if not isinstance(exchange, Exchange):
            super().on_message_complete()
            return
        exchange.complete = True
        if exchange.active and not exchange.response_complete:
            head = exchange.head
            if len(exchange.parts) == 1 and head.keep_alive and self._patience:
                self._remember(head, exchange.parts[0])
            exchange.start()

    def refuse(self, exchange: Exchange) -> None:
        """The body is over the limit: say so before it has all come, read the rest away, close."""
        exchange.parts.clear()
        if not exchange.active:  # answers go out in order: it is refused when its turn comes
            exchange.too_large = True
            return
        exchange.keep_alive = False
        limit = self.lane.limits.payload_bytes
        error = PayloadTooLarge(f"The request body is over the limit of {limit:,} bytes. {exchange.instead}")
        head = b"x-amzn-errortype: " + error.code.encode() + b"\r\nconnection: close\r\n"
        body = error_body(error)
        exchange.response_complete = True
        self._discarding = self.loop.time() + DISCARD_SECONDS
        self.transport.write(
            b"%b%bx-amzn-requestid: %b\r\n%bcontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (STATUS_LINE[error.status], self.lane.date, request_id(), head, len(body), body)
        )
        if self.transport.can_write_eof():
            self.transport.write_eof()

    # Responses

    def on_response_complete(self) -> None:
        """The current call or request has been answered: start the next one of the pipeline."""
        self.server_state.total_requests += 1
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.pipeline and not self.transport.is_closing():
            cycle, app = self.pipeline.pop()
            self._first = cycle
            if isinstance(cycle, Exchange):
                cycle.active = True
                if cycle.complete:
                    self.loop.call_soon(cycle.start)  # not at once: a long pipeline must not become a deep recursion
            else:
                self._start_asgi_task(cycle, app)


def _suffix(url: bytes) -> bytes | None:
    """What follows the endpoint's name; None: a POST there is no call of the fast lane."""
    if not url.startswith(PREFIX):
        return None
    path = path_of(url)
    return next((suffix for suffix in KINDS if path.endswith(suffix)), None)


def protocol_class(lane: Lane) -> type[FastProtocol]:
    """The class to give to uvicorn as `http`."""
    return type("BoundFastProtocol", (FastProtocol,), {"lane": lane})


def _response_head(variant: Variant, content_type: str) -> bytes:
    """Status line and headers of an answer of one content type; kept, because a model has few."""
    head = STATUS_LINE[200] + variant.header + b"content-type: " + header_value(content_type) + b"\r\n"
    if len(variant.heads) < 64:
        variant.heads[content_type] = head
    return head


def response_headers(headers: dict[str, str]) -> bytes:
    """Header lines for what a model's reply may tell the client."""
    return b"".join(
        wire + b": " + header_value(headers[name]) + b"\r\n" for name, wire in FROM_MODEL.items() if name in headers
    )


def error_body(error: FourfoldError) -> bytes:
    """An error of the runtime API as JSON."""
    body: dict[str, Any] = {"Message": error.message, "message": error.message, "__type": error.code}
    if isinstance(error, ModelError):
        body |= {
            "OriginalStatusCode": error.original_status,
            "OriginalMessage": error.original_message,
            "LogStreamArn": error.log_stream,
        }
    return msgspec.json.encode(body)


def header_value(text: str) -> bytes:
    """A header value on one line: what a model says cannot add headers of its own."""
    return text.encode("latin-1", "replace").replace(b"\r", b" ").replace(b"\n", b" ")
