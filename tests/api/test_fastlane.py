"""The fast lane against a reference: however bytes are cut, what is answered is what a plain parser would have read.

The reference is h11, another implementation of the same RFC: it reads what the lane answers to requests that we know.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import h11
import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from fourfold.api.fastlane import FastProtocol, Lane, Submission, protocol_class
from fourfold.api.heads import Known, Shape
from fourfold.config import Limits
from fourfold.errors import AuthenticationError, ThrottlingException
from fourfold.modes.asynchronous.accept import Invocation
from fourfold.pool.multimodel import TARGET_MODEL
from fourfold.pool.routes import Route, Routes, Variant
from fourfold.records import Reply
from fourfold.store.queue import Accepted

LIMIT = 4096
"""Largest body, bytes."""


class Echo:
    """A backend that answers each call with its body in capitals; later, if told so, and in any order."""

    def __init__(self, later: bool = False) -> None:
        self.later = later
        self.waiting: list[Any] = []
        self.bodies: list[bytes] = []

    def submit(self, waiter: Any) -> None:
        self.bodies.append(waiter.call.body)
        if waiter.call.body == b"throttle":
            raise ThrottlingException("too many")
        self.waiting.append(waiter)
        if not self.later:
            self.release()

    def accept(self, endpoint: str, asked: Invocation, body: bytes, waiter: Submission) -> None:
        """Accept asynchronous calls, with their body in hexadecimal as id."""
        self.bodies.append(body)
        if body == b"throttle":
            raise ThrottlingException("too many")
        assert (endpoint, asked.custom_attributes in ("", "a")) == ("fraud", True)
        self.waiting.append((waiter, Accepted(body.hex(), "s3://out/a", "s3://out/b")))
        if not self.later:
            self.release()

    def release(self) -> None:
        waiting, self.waiting = self.waiting, []
        for waiter in waiting:
            if isinstance(waiter, tuple):
                waiter[0].accepted(waiter[1])
            else:
                waiter.answer(Reply(waiter.call.id, waiter.call.body.upper(), waiter.call.content_type))

    def submit_stream(self, waiter: Any) -> None:
        raise NotImplementedError

    def withdraw(self, waiter: Any) -> None:
        if waiter in self.waiting:
            self.waiting.remove(waiter)


class Door:
    """Lets in who says so."""

    def admit(self, authorization: bytes, method: bytes, url: bytes, headers: Any, body: bytes) -> None:
        if authorization != b"Bearer me":
            raise AuthenticationError("UnrecognizedClientException", "who are you?")

    def known(self, method: bytes, url: bytes, headers: Any, holes: Any) -> Known | None:
        return Again(self, dict(headers)[b"authorization"])


@dataclass
class Again:
    door: Door
    authorization: bytes

    def admit(self, data: bytes, body: bytes) -> None:
        assert data.endswith(b"\r\n\r\n" + body)
        self.door.admit(self.authorization, b"", b"", [], body)


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False
        self.paused = False
        self.lax = False

    def write(self, data: Any) -> None:
        assert not self.closed or self.lax, "written after it was closed"
        if not self.closed:
            self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in ("peername", "sockname") else default

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.eof = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def set_protocol(self, protocol: Any) -> None:
        pass


async def elsewhere(scope: Any, receive: Any, send: Any) -> None:
    """What is not in the fast lane: tells method, path and body."""
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    told = json.dumps([scope["method"], scope["path"], body.decode("latin-1")]).encode()
    headers = [(b"content-length", str(len(told)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": told})


class Connection:
    """One connection to a fast lane, with the client's end in the test's hand."""

    def __init__(self, backend: Echo) -> None:
        routes = Routes()
        routes.publish(Route("fraud", [Variant("fraud", "AllTraffic", 1.0, backend)]))
        self.lane = Lane(routes, Door(), Limits(payload_bytes=LIMIT), backend.accept)
        config = uvicorn.Config(elsewhere, log_config=None, access_log=False, server_header=False, lifespan="off")
        config.load()
        self.protocol: FastProtocol = protocol_class(self.lane)(config, ServerState(), {})
        self.transport = Transport()
        self.protocol.connection_made(self.transport)

    async def feed(self, pieces: list[bytes]) -> None:
        """As a client that stops sending when it is told so, by flow control or by the end of the connection."""
        for piece in pieces:
            for _ in range(200):
                if not self.transport.paused:
                    break
                await asyncio.sleep(0)
            if self.transport.closed:
                return
            self.protocol.data_received(piece)
            await asyncio.sleep(0)

    async def settle(self) -> None:
        for _ in range(30):
            await asyncio.sleep(0)


@dataclass
class Request:
    """What a client means to ask."""

    path: str
    body: bytes
    chunks: tuple[int, ...] = ()
    authorization: str = "Bearer me"
    method: str = "POST"
    extra: bytes = b""

    def wire(self) -> bytes:
        head = (
            f"{self.method} {self.path} HTTP/1.1\r\nHost: x\r\nAuthorization: {self.authorization}\r\n"
            "Content-Type: text/plain\r\n"
        ).encode() + self.extra
        if not self.chunks:
            return head + b"Content-Length: %d\r\n\r\n" % len(self.body) + self.body
        framed, at = b"", 0
        for size in (*self.chunks, len(self.body)):
            part = self.body[at : at + size]
            at += size
            framed += b"%x\r\n%b\r\n" % (len(part), part) if part else b""
        return head + b"Transfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"

    @property
    def expected(self) -> tuple[int, bytes | None]:
        """Status and body of its answer."""
        if self.path == "/endpoints/fraud/invocations" and self.method == "POST":
            if self.authorization != "Bearer me":
                return 403, None
            return (429, None) if self.body == b"throttle" else (200, self.body.upper())
        if self.path == "/endpoints/fraud/async-invocations" and self.method == "POST":
            if self.authorization != "Bearer me":
                return 403, None
            accepted = json.dumps({"InferenceId": self.body.hex()}, separators=(",", ":")).encode()
            return (429, None) if self.body == b"throttle" else (202, accepted)
        if self.path.endswith("/invocations") and self.method == "POST":
            return (400 if self.authorization == "Bearer me" else 403), None
        return 200, json.dumps([self.method, self.path, self.body.decode("latin-1")]).encode()


requests = st.builds(
    Request,
    path=st.sampled_from(
        ["/endpoints/fraud/invocations"] * 4
        + ["/endpoints/fraud/async-invocations"] * 3
        + ["/endpoints/none/invocations", "/elsewhere", "/endpoints/fraud"]
    ),
    body=st.binary(max_size=60) | st.just(b"throttle") | st.just(b"x" * LIMIT),
    chunks=st.just(()) | st.lists(st.integers(1, 20), min_size=1, max_size=4).map(tuple),
    authorization=st.sampled_from(["Bearer me"] * 5 + ["Bearer you"]),
    method=st.sampled_from(["POST"] * 5 + ["PUT"]),
    extra=st.sampled_from([b"", b"", b"X-Amzn-SageMaker-Custom-Attributes: a\r\n", b"X-Odd: " + b"y" * 500 + b"\r\n"]),
)


@st.composite
def cut(draw: Any, wire: bytes) -> list[bytes]:
    """The same bytes in pieces."""
    places = sorted(draw(st.sets(st.integers(1, max(1, len(wire) - 1)), max_size=12)))
    return [wire[a:b] for a, b in zip([0, *places], [*places, len(wire)], strict=True) if wire[a:b]]


def answers(written: bytes, asked: list[Request]) -> list[tuple[int, bytes]]:
    """What an h11 client reads, as answers to its requests."""
    found = []
    rest = written
    for request in asked:
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method=request.method, target=request.path, headers=[("host", "x")]))
        client.send(h11.EndOfMessage())
        client.receive_data(rest)
        status, body = 0, b""
        while True:
            event = client.next_event()
            if event is h11.NEED_DATA or isinstance(event, h11.ConnectionClosed):
                return found
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
        found.append((status, body))
        rest = client.trailing_data[0]
    assert rest == b"", "bytes that belong to no answer"
    return found


def check(asked: list[Request], written: bytes) -> None:
    found = answers(written, asked)
    assert len(found) == len(asked)
    for request, (status, body) in zip(asked, found, strict=True):
        wanted, text = request.expected
        assert status == wanted
        if text is not None:
            assert body == text
        else:
            assert json.loads(body)["__type"]


@given(asked=st.lists(requests, min_size=1, max_size=6), data=st.data())
async def test_requests_are_answered_in_order_however_they_are_cut(asked, data):
    connection = Connection(Echo())
    await connection.feed(data.draw(cut(b"".join(request.wire() for request in asked))))
    await connection.settle()
    check(asked, connection.transport.written)


@given(asked=st.lists(requests, min_size=1, max_size=6), data=st.data())
async def test_answers_that_come_late_do_not_change_their_order(asked, data):
    backend = Echo(later=True)
    connection = Connection(backend)

    async def release() -> None:
        while True:
            await asyncio.sleep(0)
            backend.release()

    releasing = asyncio.create_task(release())
    await connection.feed(data.draw(cut(b"".join(request.wire() for request in asked))))
    await connection.settle()
    releasing.cancel()
    check(asked, connection.transport.written)


@given(request=requests, lengths=st.lists(st.integers(0, 120), min_size=2, max_size=8), data=st.data())
async def test_a_head_that_comes_again_is_read_the_same(request, lengths, data):
    """The lane keeps heads of a connection; the next body is another, and as long as it is."""
    connection = Connection(Echo())
    asked = []
    for number, length in enumerate(lengths):
        again = Request(**{**vars(request), "body": bytes([65 + number]) * length})
        asked.append(again)
        wire = again.wire()
        await connection.feed([wire] if data.draw(st.booleans()) else data.draw(cut(wire)))
        await connection.settle()
    check(asked, connection.transport.written)


@given(request=requests, at_once=st.lists(st.integers(1, 3), min_size=2, max_size=5))
async def test_the_same_request_many_times_in_one_piece_is_many_requests(request, at_once):
    connection = Connection(Echo())
    for count in at_once:
        await connection.feed([request.wire() * count])
        await connection.settle()
    check([request] * sum(at_once), connection.transport.written)


async def test_a_head_that_has_been_read_is_not_parsed_again():
    connection = Connection(Echo())
    first, second = (Request("/endpoints/fraud/invocations", body) for body in (b"abc", b"defghi"))
    await connection.feed([first.wire()])
    connection.protocol.parser = None  # type: ignore[assignment]
    await connection.feed([second.wire()])
    check([first, second], connection.transport.written)


async def test_of_a_head_that_has_been_read_the_model_is_read_again():
    models = []

    class Listening(Echo):
        addresses = frozenset([TARGET_MODEL])

        def submit(self, waiter):
            models.append(waiter.call.headers[TARGET_MODEL])
            super().submit(waiter)

    connection = Connection(Listening())
    for number, model in enumerate((b"a", b"b", b"sub/c", b"sub/d", b"a")):
        request = Request("/endpoints/fraud/invocations", b"x")
        request.extra = b"%b: %b\r\n" % (TARGET_MODEL.encode(), model)
        if number in (1, 3, 4):
            connection.protocol.parser, parser = None, connection.protocol.parser  # type: ignore[assignment]
        await connection.feed([request.wire()])
        await connection.settle()
        if number in (1, 3, 4):
            connection.protocol.parser = parser
    assert models == ["a", "b", "sub/c", "sub/d", "a"]


@pytest.mark.parametrize(
    ("header", "seen"),
    [
        (b"Content-Length: 3\r\nX: a", [(b"content-length", b"3"), (b"x", b"a")]),
        (b"Content-Length:3  ", [(b"content-length", b"3")]),
    ],
)
def test_a_shape_has_holes_for_what_changes(header, seen):
    raw = b"POST /endpoints/x/invocations HTTP/1.1\r\n" + header + b"\r\n\r\n"
    shape = Shape.of(raw, b"/endpoints/x/invocations", seen)
    assert shape is not None
    assert shape.fits(raw + b"abc", 3)
    other = raw.replace(b"3", b"7")
    assert shape.fits(other + b"abcdefg", 7)
    assert not shape.fits(other + b"abc", 3)
    assert not shape.fits(raw.replace(b"POST", b"PUT ") + b"abc", 3)


@pytest.mark.parametrize(
    ("raw", "seen"),
    [
        (b"POST /a HTTP/1.1\r\nA: b\r\n\r\nPOST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\n", [(b"content-length", b"3")]),
        (b"POST /a HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", [(b"content-length", b"3")] * 2),
        (b"POST /b HTTP/1.1\r\nContent-Length: 3\r\n\r\n", [(b"content-length", b"3")]),
        (b"POST /a HTTP/1.1\r\nContent-Length: 3\r\nX: y\r\n\r\n", [(b"content-length", b"3")]),
        (b"POST /a HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n",
         [(b"content-length", b"3"), (b"expect", b"100-continue")]),
        (b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", [(b"transfer-encoding", b"chunked")]),
    ],
)  # fmt: skip
def test_bytes_that_are_not_just_one_plain_head_have_no_shape(raw, seen):
    assert Shape.of(raw, b"/a", seen) is None


@given(request=requests, data=st.data(), times=st.integers(1, 3))
async def test_a_wish_for_another_protocol_is_ignored_and_the_body_is_read(request, data, times):
    """Java's client wishes for HTTP/2 with each call."""
    request.extra = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMA\r\n"
    connection = Connection(Echo())
    for _ in range(times):
        await connection.feed(data.draw(cut(request.wire())))
        await connection.settle()
    check([request] * times, connection.transport.written)


async def test_a_tunnel_is_refused():
    connection = Connection(Echo())
    await connection.feed([b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\nabc"])
    assert connection.transport.written.startswith(b"HTTP/1.1 400 ")
    assert connection.transport.closed


ODD = [
    b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Content-Length: +3\r\n", b"Content-Length: 3\r\n",
    b"Content-Length: 3, 3\r\n", b"Expect: 100-continue\r\n", b"Transfer-Encoding: chunked\r\n", b": a\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n", b"X : a\r\n", b"X: \x01\r\n", b"X: \xe9\r\n", b"X: a\n", b"X: a\r\n b\r\n",
    b"X:\r\n", b"Upgrade: h2c\r\nConnection: upgrade\r\n",
]  # fmt: skip
LENIENT = ("Host: header", "Transfer-Encoding", "line: bytearray(b'\\r", "no request line")
"""What h11 refuses and the lane reads: no host or two (it serves any), codings beside chunked (framed alike), and half
an empty line before a request."""

plain = st.builds(
    Request,
    path=st.just("/endpoints/fraud/invocations"),
    body=st.text("abcXYZ09", max_size=12).map(str.encode),
    chunks=st.just(()) | st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple),
    extra=st.just(b"") | st.sampled_from(ODD),
)


@st.composite
def damaged(draw: Any) -> bytes:
    """Requests of which some bytes were changed, added or lost."""
    wire = bytearray(b"".join(request.wire() for request in draw(st.lists(plain, min_size=1, max_size=3))))
    for _ in range(draw(st.integers(0, 3))):
        place, byte = draw(st.integers(0, len(wire) - 1)), draw(st.sampled_from(b"\r\n :;,\0\x80aZ03"))
        match draw(st.sampled_from("cal")):
            case "c":
                wire[place] = byte
            case "a":
                wire.insert(place, byte)
            case _:
                del wire[place]
    return bytes(wire)


def reference(wire: bytes) -> tuple[list[tuple[bytes, bytes, bytes]], str]:
    """What an h11 server reads: method, target and body of each request, and why it went no further."""
    server = h11.Connection(h11.SERVER)
    server.receive_data(wire)
    found: list[tuple[bytes, bytes, bytes]] = []
    body = b""
    while True:
        try:
            event = server.next_event()
        except h11.RemoteProtocolError as error:
            return found, f"refused: {error}"
        if isinstance(event, h11.Request):
            method, target, body = event.method, event.target, b""
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            found.append((method, target, body))
            server.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            server.send(h11.EndOfMessage())
            if server.our_state is h11.MUST_CLOSE:
                return found, "closed"
            server.start_next_cycle()
        else:
            return found, "more"


def statuses(written: bytes) -> list[tuple[int, bytes]]:
    """Status and body of each answer, those that only say to go on left out."""
    found = []
    while written:
        head, _, rest = written.partition(b"\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: ")]
        length = int(lengths[0].split()[1]) if lengths else 0
        if head.split()[1] != b"100":
            found.append((int(head.split()[1]), rest[:length]))
        written = rest[length:]
    return found


@settings(max_examples=300)
@given(wire=damaged(), data=st.data())
async def test_whatever_comes_is_read_as_another_parser_reads_it(wire, data):
    """The lane may refuse more than the reference, but never sees a request where that sees none, or another body."""
    asked, end = reference(wire)
    if any(words in end for words in LENIENT):
        return
    backend = Echo()
    connection = Connection(backend)
    connection.transport.lax = True  # uvicorn answers what it had begun before bytes that it cannot read
    await connection.feed(data.draw(cut(wire)))
    await connection.settle()
    connection.protocol.connection_lost(None)
    await connection.settle()
    answered = statuses(connection.transport.written)
    refused = bool(answered) and answered[-1][1] == b"Invalid HTTP request received."
    answered = answered[: len(answered) - refused]
    assert len(answered) <= len(asked)
    for (method, target, body), (status, text) in zip(asked, answered, strict=False):
        if (method, target, status) == (b"POST", b"/endpoints/fraud/invocations", 200):
            assert text == body.upper()
    if end.startswith("refused"):
        assert refused or connection.transport.closed
    elif not refused:
        assert len(answered) == len(asked)


@given(garbage=st.binary(min_size=1, max_size=300), data=st.data())
async def test_garbage_ends_the_connection_or_waits_for_more_and_never_raises(garbage, data):
    backend = Echo()
    connection = Connection(backend)
    await connection.feed(data.draw(cut(garbage)))
    await connection.settle()
    written = connection.transport.written
    assert written == b"" or written.startswith(b"HTTP/1.1 4") or connection.transport.closed


@given(request=requests, place=st.integers(0, 200), byte=st.integers(0, 255), data=st.data())
async def test_a_byte_that_was_changed_does_no_harm_to_the_next_connection(request, place, byte, data):
    wire = bytearray(request.wire())
    wire[place % len(wire)] = byte
    backend = Echo()
    connection = Connection(backend)
    await connection.feed(data.draw(cut(bytes(wire))))
    await connection.settle()
    connection.protocol.connection_lost(None)
    assert connection.protocol not in connection.lane.connections
    assert backend.waiting == []


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_over_the_limit_is_refused_before_it_has_all_come(announced):
    connection = Connection(Echo())
    request = Request("/endpoints/fraud/invocations", b"x" * (LIMIT + 1), () if announced else (1000,))
    wire = request.wire()
    await connection.feed([wire[n : n + 500] for n in range(0, len(wire), 500)])
    assert connection.transport.written.count(b"HTTP/1.1 413 ") == 1
    assert b"connection: close" in connection.transport.written
    connection.protocol.check(connection.protocol.loop.time() + 60)
    assert connection.transport.closed


async def test_expect_gets_100_once_and_then_its_answer():
    connection = Connection(Echo())
    request = Request("/endpoints/fraud/invocations", b"abc", extra=b"Expect: 100-continue\r\n")
    wire = request.wire()
    await connection.feed([wire[:-3]])
    assert connection.transport.written == b"HTTP/1.1 100 Continue\r\n\r\n"
    await connection.feed([wire[-3:]])
    await connection.settle()
    assert connection.transport.written.endswith(b"ABC")
    assert connection.transport.written.count(b"100 Continue") == 1


async def test_a_client_that_leaves_takes_its_waiting_calls_along():
    backend = Echo(later=True)
    connection = Connection(backend)
    await connection.feed([Request("/endpoints/fraud/invocations", b"abc").wire() * 2])
    assert len(backend.waiting) == 1
    connection.protocol.connection_lost(None)
    assert backend.waiting == []
    backend.release()


async def test_a_slow_client_is_closed_and_a_busy_one_is_not():
    connection = Connection(Echo())
    now = connection.protocol.loop.time()
    limits = connection.lane.limits
    connection.protocol.check(now + limits.keep_alive_seconds - 1)
    assert not connection.transport.closed
    connection.protocol.data_received(b"POST /endpoints/fraud/invocations HTTP/1.1\r\nHost:")
    connection.protocol.check(now + limits.request_seconds - 1)
    assert not connection.transport.closed
    connection.protocol.check(now + limits.request_seconds + 1)
    assert connection.transport.written.startswith(b"HTTP/1.1 408 ")
    assert connection.transport.closed


async def test_an_idle_connection_is_closed_but_not_while_its_call_is_answered():
    backend = Echo(later=True)
    connection = Connection(backend)
    await connection.feed([Request("/endpoints/fraud/invocations", b"abc").wire()])
    later = connection.protocol.loop.time() + connection.lane.limits.keep_alive_seconds + 1
    connection.protocol.check(later)
    assert not connection.transport.closed
    backend.release()
    connection.protocol.check(later)
    assert connection.transport.closed


async def test_what_a_model_says_cannot_add_headers():
    class Rude(Echo):
        def submit(self, waiter: Any) -> None:
            headers = {"x-amzn-sagemaker-custom-attributes": "a\r\nset-cookie: b", "x-other": "c"}
            waiter.answer(Reply(waiter.call.id, b"", "text/plain\r\nx-evil: 1", headers=headers))

    connection = Connection(Rude())
    await connection.feed([Request("/endpoints/fraud/invocations", b"abc").wire()])
    head = connection.transport.written.partition(b"\r\n\r\n")[0].lower()
    names = [line.partition(b":")[0] for line in head.split(b"\r\n")[1:]]
    assert b"set-cookie" not in names
    assert b"x-evil" not in names
    assert b"x-other" not in names
