"""Heads of invocations that come again: what was read once need not be parsed again.

From call to call a client repeats its head, but for the length of the body, the model of a multi-model endpoint that it
calls and, where it signs, the time and the signature. A `Shape` is the bytes of a head with holes for these; a request
whose bytes fit has been read, and only who sends it is left to check.
"""

from __future__ import annotations

import re
from typing import Protocol
from urllib.parse import unquote_to_bytes

from fourfold.api.canonical import Headers
from fourfold.api.signatures.claims import ALGORITHM
from fourfold.modes.asynchronous.accept import Invocation
from fourfold.modes.realtime import RequestHeaders, request_headers
from fourfold.pool.multimodel import TARGET_MODEL

PREFIX = b"/endpoints/"
SUFFIX = b"/invocations"
ASYNC_SUFFIX = b"/async-invocations"
SIGNATURE = b"Signature="
SIGNATURE_LENGTH = 64
STAMP = b"x-amz-date"
LENGTH = b"content-length"
INVOCATION = b"amz-sdk-invocation-id"
"""Header of the AWS SDKs: another UUID with every call, signed by some of them."""
TARGET = TARGET_MODEL.encode()
ODD = frozenset((b"transfer-encoding", b"expect", b"upgrade"))
"""Headers that change how a request is read."""


_plain = re.compile(rb"[\w./-]+").fullmatch
"""Of what a model's name has to consist in order to stand in a hole."""


class Known(Protocol):
    """The check of a request whose head fits the shape of one that came in before."""

    def admit(self, data: bytes, body: bytes) -> None:
        """Raises AuthenticationError. `data` is the whole request."""


class Shape:
    """The bytes of a head, with holes for what a client changes from call to call.

    Attributes:
        size: bytes of the head; all that fit have the same.
        holes: where what changes stands, by the header's name; of `authorization` it is the signature alone.
    """

    __slots__ = ("_begin", "_invocation", "_length", "_rest", "_target", "holes", "size")

    def __init__(self, raw: bytes, holes: dict[bytes, slice]) -> None:
        self.size = len(raw)
        self.holes = holes
        self._length = holes[LENGTH]
        self._invocation = holes.get(INVOCATION)
        self._target = holes.get(TARGET)
        edges = [0, *sorted(edge for hole in holes.values() for edge in (hole.start, hole.stop)), len(raw)]
        fixed = [(raw[begin:end], begin) for begin, end in zip(edges[::2], edges[1::2], strict=True)]
        self._begin = fixed[0][0]
        self._rest = fixed[1:]

    @classmethod
    def of(cls, raw: bytes, url: bytes, headers: Headers) -> Shape | None:
        """The shape of a head that was parsed; None where its bytes are not just this request line and these headers,
        each once."""
        lines = raw.split(b"\r\n")
        if lines[0] != b"POST %b HTTP/1.1" % url or len(lines) != len(headers) + 3 or lines[-2:] != [b"", b""]:
            return None
        signed = False
        holes: dict[bytes, slice] = {}
        names = set()
        at = len(lines[0]) + 2
        for (name, value), line in zip(headers, lines[1:-2], strict=True):
            begin, end = at + len(name) + 1, at + len(line.rstrip())
            if line[: len(name) + 1].lower() != name + b":" or not raw.endswith(value, begin, end):
                return None
            if name in names or name in ODD:
                return None
            names.add(name)
            if name in (LENGTH, STAMP, INVOCATION) or (name == TARGET and _plain(value)):
                holes[name] = slice(end - len(value), end)
            elif name == b"authorization" and value.startswith(ALGORITHM):
                signed = True
                if value[:-SIGNATURE_LENGTH].endswith(SIGNATURE):
                    holes[name] = slice(end - SIGNATURE_LENGTH, end)
            at += len(line) + 2
        if signed != (b"authorization" in holes) or LENGTH not in holes:
            return None
        if not signed:
            holes.pop(STAMP, None)  # nobody would check what stands there
        return cls(raw, holes)

    def fits(self, data: bytes, length: int) -> bool:
        """Is `data` a head of this shape and a body of `length` bytes? `data` is as long as both together."""
        if data[self._length] != b"%d" % length or not data.startswith(self._begin):
            return False
        for text, at in self._rest:
            if not data.startswith(text, at):
                return False
        if self._target is not None and not _plain(data[self._target]):
            return False
        return self._invocation is None or data[self._invocation].replace(b"-", b"").isalnum()

    def target(self, data: bytes) -> str | None:
        """The model that a request of this shape names. None: none of them does."""
        return None if self._target is None else data[self._target].decode()


class Head:
    """The head of an invocation: request line and headers, read once.

    Attributes:
        suffix: what follows the endpoint's name: which kind of call it is.
        asked: what the headers say of an asynchronous call, once it has been read.
        shape, known: for the next one like this. None: there is none, or it has not come in yet.
    """

    __slots__ = (
        "_request", "asked", "authorization", "headers", "keep_alive", "known", "name", "shape", "suffix", "url",
    )  # fmt: skip

    def __init__(self, url: bytes, headers: Headers, keep_alive: bool, suffix: bytes) -> None:
        self.url = url
        self.suffix = suffix
        self.headers = headers
        self.keep_alive = keep_alive
        self.name = endpoint_name(url, suffix)
        self.authorization = next((value for name, value in headers if name == b"authorization"), b"")
        self._request: RequestHeaders | None = None
        self.asked: Invocation | None = None
        self.shape: Shape | None = None
        self.known: Known | None = None

    def request(self, data: bytes = b"") -> RequestHeaders:
        """What the headers say of a call; `data` is the whole request where it fits the shape of this head.

        Raises:
            ValidationError: values that the API does not allow.
        """
        request = self._request
        if request is None:
            request = self._request = request_headers(self.headers)
        if data and self.shape is not None and (target := self.shape.target(data)) is not None:
            return request._replace(to_model={**(request.to_model or {}), TARGET_MODEL: target})
        return request


def endpoint_name(url: bytes, suffix: bytes) -> bytes:
    """The endpoint's name in `/endpoints/{name}{suffix}`."""
    name = path_of(url)[len(PREFIX) : -len(suffix)]
    return unquote_to_bytes(name) if b"%" in name else name


def path_of(url: bytes) -> bytes:
    return url.partition(b"?")[0] if b"?" in url else url
