"""The process that holds one loaded model.

It reads frames from its socket, one after the other, and answers them; a blocking loop, because nothing is faster for
one model on one core. An `AsyncModel` gets an event loop instead, on which its calls overlap. It ends when the socket
does, so that it cannot outlive the gateway's interest in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import select
import socket
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

from fourfold.errors import ModelLoadError
from fourfold.formats import pipeline, registry
from fourfold.formats.base import Artifact, AsyncModel, Model, Tensor, Unanswered, status_of
from fourfold.formats.warmup import warm_up
from fourfold.pool import memory
from fourfold.pool.frames import (
    Cancel,
    Chunk,
    End,
    FrameReader,
    FromWorker,
    Invoke,
    Load,
    Loaded,
    LoadFailed,
    Progress,
    Replies,
    Stop,
    Stream,
    Task,
    TaskDone,
    ToWorker,
    encode,
)
from fourfold.pool.processes import THREAD_VARIABLES
from fourfold.records import Call, Opening, Reply, WorkerSpec

_READ = 256 * 1024


class Connection:
    """The worker's end of its socket, blocking."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._reader: FrameReader[ToWorker] = FrameReader(ToWorker)
        self._messages: deque[ToWorker] = deque()
        self._writing = threading.Lock()

    def __iter__(self) -> Iterator[ToWorker]:
        while True:
            while self._messages:
                yield self._messages.popleft()
            if not self._read():
                return

    def received(self) -> list[ToWorker] | None:
        """What has come since the last time; waits where nothing has. None: the socket has ended."""
        if not self._messages and not self._read():
            return None
        messages = list(self._messages)
        self._messages.clear()
        return messages

    def send(self, message: FromWorker) -> None:
        frame = encode(message)
        with self._writing:
            self._socket.sendall(frame)

    def cancelled(self, id: int) -> bool:
        """Has a Cancel for this stream come (or has the gateway gone) while it was being answered?"""
        while select.select([self._socket], [], [], 0)[0]:
            if not self._read():
                return True
        for message in self._messages:
            if isinstance(message, Cancel) and message.id == id:
                self._messages.remove(message)
                return True
        return False

    def _read(self) -> bool:
        data = self._socket.recv(_READ)
        self._messages.extend(self._reader.feed(data))
        return bool(data)


def run(sock: socket.socket, model: Model | None = None) -> None:
    """Load the model that the first frame names, then answer until the socket ends.

    Args:
        sock: to the gateway.
        model: the model, where this process was forked from one that had loaded it.
    """
    connection = Connection(sock)
    first = next(iter(connection), None)
    if not isinstance(first, Load):
        return
    memory_mb = first.spec.memory_mb
    with contextlib.closing(asyncio.Runner()) as runner:  # makes its event loop when it is first used
        if model is None:
            model = load_or_tell(connection, first.spec, runner)
        else:
            _reseed()
            tell_loaded(connection, model)
        try:
            if isinstance(model, AsyncModel):
                runner.run(AsyncWorker(sock, model, memory_mb).serve())
            else:
                for message in connection:
                    if not answer(connection, model, message, memory_mb):
                        return
        finally:
            model.close()


def load(spec: WorkerSpec, runner: asyncio.Runner | None = None) -> Model:
    """Load and warm up the model, within its memory. Raises ModelLoadError, or whatever the model's code raises."""
    if spec.memory_mb is not None:
        memory.confine(spec.memory_mb)
    if spec.stages:
        return pipeline.join(
            [_load_one(stage, {**stage.environment, **spec.environment}, runner) for stage in spec.stages]
        )
    return _load_one(spec, spec.environment, runner)


def _load_one(spec: WorkerSpec, environment: dict[str, str], runner: asyncio.Runner | None) -> Model:
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(spec.threads)) | environment)
    model = registry.get(spec.format).load(Artifact(Path(spec.path), environment, spec.threads))
    warm_up(model, environment, asyncio.run if runner is None else runner.run)
    return model


def load_or_tell(connection: Connection, spec: WorkerSpec, runner: asyncio.Runner | None = None) -> Model:
    """Load the model and tell the gateway so; where that fails, tell it why and raise SystemExit."""
    try:
        model = load(spec, runner)
    except BaseException as error:  # the model's own code may raise anything, SystemExit included
        detail = _what_matters(error)
        reason = error.message if isinstance(error, ModelLoadError) else f"{type(error).__name__}: {error}"
        if spec.memory_mb is not None and memory.is_exhaustion(f"{reason}\n{detail}"):
            reason = memory.refused(spec.memory_mb)
        _tell(detail)
        connection.send(LoadFailed(reason, detail))
        raise SystemExit(1) from None
    tell_loaded(connection, model)
    return model


def tell_loaded(connection: Connection, model: Model) -> None:
    """Tell the gateway that the model can be called, and how."""
    concurrency = model.concurrency if isinstance(model, AsyncModel) else 1
    connection.send(Loaded(model.max_batch, concurrency, _shapes(model.inputs), _shapes(model.outputs)))


def _what_matters(error: BaseException) -> str:
    """The traceback of what went wrong, and not of how a format told it; that alone where nothing was raised."""
    if not isinstance(error, ModelLoadError):
        return traceback.format_exc()
    if error.__cause__ is None:
        return f"{error.message}\n"
    return "".join(traceback.format_exception(error.__cause__))


def _reseed() -> None:
    """Workers of one template must not draw the same random numbers; Python's own generator sees to itself."""
    random = sys.modules.get("numpy.random")
    if random is not None:
        random.seed()


def _shapes(tensors: tuple[Tensor, ...]) -> list[tuple[str, str, list[int | None]]]:
    return [(tensor.name, tensor.dtype, list(tensor.shape)) for tensor in tensors]


def answer(connection: Connection, model: Model, message: ToWorker, memory_mb: int | None = None) -> bool:
    """Do what the gateway asks. False: the worker is to end."""
    match message:
        case Invoke(batch, calls):
            replies = _invoke(model, calls)
            if memory_mb is not None:
                replies = [memory.checked(reply, memory_mb) for reply in replies]
            connection.send(Replies(batch, replies))
            return memory_mb is None or all(reply.status != memory.OUT_OF_MEMORY for reply in replies)
        case Stream(call):
            _stream(connection, model, call)
        case Task():
            _run_task(connection, model, message)
        case Stop():
            return False
    return True


def _invoke(model: Model, calls: list[Call]) -> list[Reply]:
    try:
        return model.invoke(calls)
    except Exception as error:  # a format should answer with replies; a bug in one must not end the worker
        _tell(traceback.format_exc())
        return [_failure(call, error) for call in calls]


def _failure(call: Call, error: BaseException) -> Reply:
    return Reply(call.id, f"{type(error).__name__}: {error}".encode(), "text/plain", 500, detail=traceback.format_exc())


def _stream(connection: Connection, model: Model, call: Call) -> None:
    end = End(call.id)
    parts = model.stream(call)
    try:
        for part in parts:
            if connection.cancelled(call.id):
                break
            connection.send(_chunk(call, part))
        close = getattr(parts, "close", None)  # a generator's finally blocks run now, not when it is collected
        if close is not None:
            close()
    except Exception as error:
        end = _broken(call, error)
    connection.send(end)


def _chunk(call: Call, part: bytes) -> Chunk:
    if isinstance(part, Opening):
        return Chunk(call.id, bytes(part), part.content_type, part.headers)
    return Chunk(call.id, part)


def _broken(call: Call, error: Exception) -> End:
    """The end of a stream that failed. What the model itself answered needs no traceback."""
    if isinstance(error, Unanswered):
        return End(call.id, str(error), status=error.status_code)
    _tell(traceback.format_exc())
    return End(call.id, f"{type(error).__name__}: {error}", traceback.format_exc(), status_of(error))


def _run_task(connection: Connection, model: Model, task: Task) -> None:
    def report(payload: bytes) -> None:
        connection.send(Progress(task.id, payload))

    try:
        done = TaskDone(task.id, _function(task.function)(model, task.payload, report))
    except Exception as error:
        _tell(traceback.format_exc())
        done = TaskDone(task.id, b"", f"{type(error).__name__}: {error}", traceback.format_exc())
    connection.send(done)


def _function(name: str) -> Callable[[Model, bytes, Callable[[bytes], None]], bytes]:
    module, _, attribute = name.partition(":")
    function: Callable[[Model, bytes, Callable[[bytes], None]], bytes] = getattr(
        importlib.import_module(module), attribute
    )
    return function


def _tell(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)


class AsyncWorker:
    """Answers the calls of an AsyncModel, each in a task of its own."""

    def __init__(self, sock: socket.socket, model: AsyncModel, memory_mb: int | None) -> None:
        self._socket = sock
        self._model = model
        self._memory_mb = memory_mb
        self._streams: dict[int, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._writer: asyncio.StreamWriter

    async def serve(self) -> None:
        reader, self._writer = await asyncio.open_unix_connection(sock=self._socket)
        frames: FrameReader[ToWorker] = FrameReader(ToWorker)
        while data := await reader.read(_READ):
            for message in frames.feed(data):
                match message:
                    case Invoke(batch, calls):
                        self._start(self._invoke(batch, calls))
                    case Stream(call):
                        self._streams[call.id] = self._start(self._stream(call))
                    case Cancel(id) if id in self._streams:
                        self._streams[id].cancel()
                    case Task():
                        self._start(self._run_task(message))
                    case Stop():
                        await asyncio.gather(*self._tasks, return_exceptions=True)
                        await self._writer.drain()
                        return

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _write(self, message: FromWorker) -> None:
        self._writer.write(encode(message))

    async def _invoke(self, batch: int, calls: list[Call]) -> None:
        self._write(Replies(batch, list(await asyncio.gather(*map(self._answer, calls)))))

    async def _answer(self, call: Call) -> Reply:
        try:
            return memory.checked(await self._model.ainvoke(call), self._memory_mb)
        except Exception as error:
            _tell(traceback.format_exc())
            return memory.checked(_failure(call, error), self._memory_mb)

    async def _run_task(self, task: Task) -> None:
        """Like the blocking worker's, but what is run is a coroutine function: `module:run` has `arun` beside it."""
        module, _, attribute = task.function.partition(":")
        try:
            function = getattr(importlib.import_module(module), f"a{attribute}", None)
            if function is None:
                raise TypeError(f"{task.function} has no form for models that answer several calls at once")
            payload = await function(self._model, task.payload, lambda part: self._write(Progress(task.id, part)))
            self._write(TaskDone(task.id, payload))
        except Exception as error:
            _tell(traceback.format_exc())
            self._write(TaskDone(task.id, b"", f"{type(error).__name__}: {error}", traceback.format_exc()))

    async def _stream(self, call: Call) -> None:
        end = End(call.id)
        try:
            async for part in self._model.astream(call):
                self._write(_chunk(call, part))
                await self._writer.drain()
        except asyncio.CancelledError:
            end = End(call.id, "cancelled")
        except Exception as error:
            end = _broken(call, error)
        finally:
            self._streams.pop(call.id, None)
        self._write(end)
