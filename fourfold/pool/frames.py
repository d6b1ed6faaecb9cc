"""The bytes between the gateway and a worker.

    frame   = length (4 bytes, big endian, of what follows) + message
    message = MessagePack array: tag, then the members of one of the classes below, in order

A connection starts with `Load`; the worker answers `Loaded` or `LoadFailed` and ends. After that

    gateway                          worker
    Invoke(batch, calls)         →   Replies(batch, replies), one reply per call, in order
    Stream(call)                 →   Chunk(id, body)*, End(id)
    Cancel(id)                   →   the stream's End, soon
    Task(id, function, payload)  →   Progress(id, payload)*, TaskDone(id)
    Stop()                       →   the worker finishes what it has and ends

The same bytes travel over a Unix socket on one machine and over TCP between machines.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import msgspec

from fourfold.records import Call, Reply, WorkerSpec

MAX_FRAME = 512 * 1024 * 1024
"""Longest frame that is believed, in bytes; more means that the stream is broken."""

_LENGTH = struct.Struct(">I")


class FrameError(Exception):
    """The stream holds something that is not a frame; the connection cannot be used further."""


class Load(msgspec.Struct, tag="load", array_like=True):
    spec: WorkerSpec


class Invoke(msgspec.Struct, tag="invoke", array_like=True, gc=False):
    batch: int
    calls: list[Call]


class Stream(msgspec.Struct, tag="stream", array_like=True):
    call: Call


class Cancel(msgspec.Struct, tag="cancel", array_like=True):
    id: int


class Task(msgspec.Struct, tag="task", array_like=True):
    """Run `function` ("package.module:name") as `function(model, payload, report)` beside the loaded model."""

    id: int
    function: str
    payload: bytes


class Stop(msgspec.Struct, tag="stop", array_like=True):
    pass


class Loaded(msgspec.Struct, tag="loaded", array_like=True):
    max_batch: int
    """Most calls per Invoke; 1 where the model cannot batch."""
    concurrency: int
    """Most Invokes, Streams and Tasks at once; 1 unless the model is asynchronous."""
    inputs: list[tuple[str, str, list[int | None]]] = []
    """Name, dtype and shape of each input; empty where the model does not tell."""
    outputs: list[tuple[str, str, list[int | None]]] = []


class LoadFailed(msgspec.Struct, tag="load-failed", array_like=True):
    reason: str
    detail: str = ""


class Replies(msgspec.Struct, tag="replies", array_like=True, gc=False):
    batch: int
    replies: list[Reply]


class Chunk(msgspec.Struct, tag="chunk", array_like=True):
    """A part of a stream; the first may say of what type the answer is, and its headers."""

    id: int
    body: bytes
    content_type: str = ""
    headers: dict[str, str] | None = None


class End(msgspec.Struct, tag="end", array_like=True):
    """A stream's end. `error` is empty where it went well; `status` is the model's own."""

    id: int
    error: str = ""
    detail: str = ""
    status: int = 500


class Progress(msgspec.Struct, tag="progress", array_like=True):
    id: int
    payload: bytes


class TaskDone(msgspec.Struct, tag="task-done", array_like=True):
    id: int
    payload: bytes = b""
    error: str = ""
    detail: str = ""


ToWorker = Load | Invoke | Stream | Cancel | Task | Stop
FromWorker = Loaded | LoadFailed | Replies | Chunk | End | Progress | TaskDone

M = TypeVar("M")

_encoder = msgspec.msgpack.Encoder()


def encode(message: ToWorker | FromWorker) -> bytearray:
    """One frame. Raises FrameError where it would be longer than MAX_FRAME."""
    frame = bytearray(_LENGTH.size)
    _encoder.encode_into(message, frame, _LENGTH.size)
    length = len(frame) - _LENGTH.size
    if length > MAX_FRAME:
        raise FrameError(f"a frame of {length:,} bytes is over the bound of {MAX_FRAME:,}")
    _LENGTH.pack_into(frame, 0, length)
    return frame


class FrameReader(Generic[M]):
    """Bytes in, in whatever pieces they come; messages out.

    Args:
        messages: the union of classes that may come, `ToWorker` or `FromWorker`.
    """

    def __init__(self, messages: Any) -> None:
        self._decode = msgspec.msgpack.Decoder(messages).decode
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[M]:
        """Yield each message that is now whole. Raises FrameError on anything else."""
        rest = self._rest
        if rest:
            rest += data
            if len(rest) < _LENGTH.size or len(rest) < _LENGTH.size + self._length(rest, 0):
                return
            data = bytes(rest)
            rest.clear()
        start, end = 0, len(data)
        view = memoryview(data)
        while end - start >= _LENGTH.size:
            stop = start + _LENGTH.size + self._length(data, start)
            if stop > end:
                break
            try:
                message = self._decode(view[start + _LENGTH.size : stop])
            except msgspec.MsgspecError as error:
                raise FrameError(f"a frame does not hold a known message: {error}") from error
            start = stop
            yield message
        rest += view[start:]

    @staticmethod
    def _length(data: bytes | bytearray, start: int) -> int:
        length: int = _LENGTH.unpack_from(data, start)[0]
        if length > MAX_FRAME:
            raise FrameError(f"a frame claims {length:,} bytes; the bound is {MAX_FRAME:,}")
        return length
