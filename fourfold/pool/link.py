"""The gateway's end of one worker: sends calls as frames, gives each its reply, and tells when the worker is gone."""

from __future__ import annotations

import asyncio
import math
import signal
from collections.abc import Callable, Sequence
from typing import Protocol, cast

from fourfold.errors import FourfoldError, ModelError, ModelLoadError
from fourfold.pool.frames import (
    Cancel,
    Chunk,
    End,
    FrameError,
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
    encode,
)
from fourfold.pool.memory import OUT_OF_MEMORY
from fourfold.pool.stats import ModelTimes
from fourfold.records import Call, Opening, Reply, WorkerSpec


class Waiter(Protocol):
    """Whoever waits for a call's reply. Called on the event loop, exactly one of the two, exactly once."""

    call: Call
    arrived: float
    """`loop.time()` when the call came in; its deadline counts from here."""

    def answer(self, reply: Reply) -> None: ...

    def fail(self, error: FourfoldError) -> None: ...


class StreamWaiter(Protocol):
    """Whoever waits for a stream: any number of parts, then one end or failure."""

    call: Call
    arrived: float
    cancel: Callable[[], None]
    """Set when the call is sent: tells the worker to stop."""

    def part(self, body: bytes) -> None:
        """The first may be an `Opening`."""

    def end(self, failure: Reply | None) -> None:
        """The model has said all; `failure` is its error, if it met one."""

    def fail(self, error: FourfoldError) -> None: ...


class _Batch:
    __slots__ = ("done", "since", "waiters")

    def __init__(self, waiters: Sequence[Waiter], since: float, done: Callable[[WorkerLink], None]) -> None:
        self.waiters = waiters
        self.since = since
        self.done = done


class _Nobody:
    """Waits for the rest of a stream that has been given up."""

    def __init__(self) -> None:
        self.call = Call(0, b"")
        self.arrived = 0.0
        self.cancel: Callable[[], None] = lambda: None

    def part(self, body: bytes) -> None: ...

    def end(self, failure: Reply | None) -> None: ...

    def fail(self, error: FourfoldError) -> None: ...


class WorkerLink(asyncio.Protocol):
    """One worker as the gateway sees it.

    Attributes:
        pid: the worker's process id; 0 until the placer knows it.
        signal: sends the process a signal; the placer sets it, because only it knows the machine.
        explain: tells why the process ended, where its end says nothing; the placer sets it as well.
        loaded: a future with the worker's `Loaded`; fails with ModelLoadError.
        gone: an event, set when the worker can answer no more.
        last_seconds: how long the newest answered batch took, from sending to reply.
        times: where such times are counted; the batcher sets its own.
        first_headers: headers that the replies of the first batch get, to tell that they waited for a start.
        from_template: was it forked from a process that had loaded the model?
        reply_limit: largest body of a reply in bytes; a larger one becomes an error.
        cut_short: when it is gone, how long each Invoke and Stream took that it will not answer.
        outstanding: Invokes, Streams and Tasks it has not finished.
        held: it stands still (`hold`).
        capacity: how many of these it takes at once.
        max_batch: most calls per Invoke.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self.pid = 0
        self.signal: Callable[[signal.Signals], None] = lambda number: None
        self.explain: Callable[[], FourfoldError | None] = lambda: None
        self.outstanding = 0
        self.last_seconds = 0.0
        self.cut_short: list[float] = []
        self.times = ModelTimes()
        self.first_headers: dict[str, str] | None = None
        self.from_template = False
        self.reply_limit: int | None = None
        self.capacity = 1
        self.max_batch = 1
        self._loop = asyncio.get_running_loop()
        self.loaded: asyncio.Future[Loaded] = self._loop.create_future()
        self.gone = asyncio.Event()
        self._transport: asyncio.Transport
        self._reader: FrameReader[FromWorker] = FrameReader(FromWorker)
        self._next = 0
        self._batches: dict[int, _Batch] = {}
        self._streams: dict[int, tuple[StreamWaiter, Callable[[WorkerLink], None], float]] = {}
        self._tasks: dict[int, tuple[asyncio.Future[bytes], Callable[[bytes], None] | None]] = {}
        self._doom: FourfoldError | None = None
        self.held = False
        self._went_on = 0.0

    # What the pool asks of it

    def invoke(self, waiters: Sequence[Waiter], done: Callable[[WorkerLink], None]) -> None:
        """Send calls as one batch. `done` is called when the worker has answered (not when it dies)."""
        self._next += 1
        self._batches[self._next] = _Batch(waiters, self._loop.time(), done)
        self.outstanding += 1
        self._transport.write(encode(Invoke(self._next, [waiter.call for waiter in waiters])))

    def stream(self, waiter: StreamWaiter, done: Callable[[WorkerLink], None]) -> None:
        """Send a call whose answer comes in parts. `done` is called when the worker has ended it."""
        self._next += 1
        id = waiter.call.id = self._next
        self._streams[id] = (waiter, done, self._loop.time())
        self.outstanding += 1
        waiter.cancel = lambda: self._cancel(id)
        self._transport.write(encode(Stream(waiter.call)))

    def _cancel(self, stream: int) -> None:
        if stream in self._streams:
            self._transport.write(encode(Cancel(stream)))

    def expire_streams(self, before: float, error: FourfoldError) -> None:
        """End the streams that were sent before then. A worker that does nothing else meanwhile is ended with them."""
        late = [id for id, (_, _, since) in self._streams.items() if since < before]
        if late and self.capacity == 1:
            self.kill(error)
            return
        for id in late:
            waiter, done, _ = self._streams[id]
            self._streams[id] = (_Nobody(), done, math.inf)
            self._cancel(id)
            waiter.fail(error)

    async def run_task(self, function: str, payload: bytes, progress: Callable[[bytes], None] | None = None) -> bytes:
        """Run "package.module:function" beside the model. Raises ModelError with the worker's traceback."""
        self._next += 1
        done: asyncio.Future[bytes] = self._loop.create_future()
        self._tasks[self._next] = (done, progress)
        self.outstanding += 1
        self._transport.write(encode(Task(self._next, function, payload)))
        return await done

    def stop(self) -> None:
        """Ask it to end when it has finished what it has."""
        if not self._transport.is_closing():
            self._transport.write(encode(Stop()))

    def disconnect(self) -> None:
        """Let go of it: it ends as soon as it looks for another call."""
        self._transport.abort()

    def kill(self, reason: FourfoldError | None = None) -> None:
        """End it now; what it had in flight fails with `reason`."""
        self._doom = self._doom or reason
        self.signal(signal.SIGKILL)

    def hold(self, still: bool) -> None:
        """Make the process stand still, or go on. What it has in flight waits."""
        if still == self.held:
            return
        self.held = still
        self._went_on = self._loop.time()
        self.signal(signal.SIGSTOP if still else signal.SIGCONT)

    def held_since(self, moment: float) -> bool:
        """Has it stood still at any time since then (`loop.time()`)?"""
        return self.held or self._went_on > moment

    def calls(self) -> int:
        """Calls that it works on."""
        return sum(len(batch.waiters) for batch in self._batches.values()) + len(self._streams)

    @property
    def streaming(self) -> bool:
        """Does it answer a call in parts?"""
        return bool(self._streams)

    def busy_since(self) -> float | None:
        """`loop.time()` when its oldest unfinished batch was sent. None: it has none."""
        return next(iter(self._batches.values())).since if self._batches else None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's has the methods but not the base class
        self._transport.write(encode(Load(self.spec)))

    def data_received(self, data: bytes) -> None:
        try:
            for message in self._reader.feed(data):
                self._received(message)
        except FrameError as error:
            self.kill(ModelError(f"The worker of model {self.spec.model!r} broke the protocol: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()
        explained = self.explain()
        reason = self._doom or explained
        error = reason or ModelError(
            f"The worker process {self.pid} of model {self.spec.model!r} ended while it was answering. "
            "A new one is being started; the call can be sent again.",
            log_stream=self.spec.log_path,
        )
        if not self.loaded.done():
            self.loaded.set_exception(
                ModelLoadError(reason.message)
                if reason
                else ModelLoadError(f"The worker process {self.pid} ended while it loaded model {self.spec.model!r}.")
            )
            self.loaded.exception()  # whoever started it reads this; if nobody does, that is no news
        now = self._loop.time()
        self.cut_short = [now - batch.since for batch in self._batches.values()]
        self.cut_short += [now - since for _, _, since in self._streams.values()]
        batches, self._batches = self._batches, {}
        for batch in batches.values():
            for waiter in batch.waiters:
                waiter.fail(error)
        streams, self._streams = self._streams, {}
        for stream, _, _ in streams.values():
            stream.fail(error)
        tasks, self._tasks = self._tasks, {}
        for future, _ in tasks.values():
            if not future.done():
                future.set_exception(error)

    def _marked(self, reply: Reply, limit: int) -> Reply:
        """A reply as a worker with limits gives it."""
        if reply.status == OUT_OF_MEMORY:
            self.capacity = 0  # it ends: it gets no further call
        if len(reply.body) > limit:
            text = f"The model's answer has {len(reply.body):,} bytes; a serverless endpoint answers {limit:,} at most."
            reply = Reply(reply.id, text.encode(), "text/plain", 413)
        if self.first_headers:
            reply.headers = {**(reply.headers or {}), **self.first_headers}
        return reply

    def _received(self, message: FromWorker) -> None:
        match message:
            case Replies(id, replies):
                batch = self._batches.pop(id)
                self.outstanding -= 1
                self.last_seconds = self._loop.time() - batch.since
                self.times.record(self.last_seconds, len(replies))
                if self.reply_limit is not None:
                    replies = [self._marked(reply, self.reply_limit) for reply in replies]
                batch.done(self)  # first, so that the worker has its next batch before these replies are written
                for waiter, reply in zip(batch.waiters, replies, strict=True):
                    waiter.answer(reply)
            case Chunk(id, body, content_type, headers):
                self._streams[id][0].part(Opening(body, content_type, headers) if content_type else body)
            case End(id, error, detail, status):
                stream, done, since = self._streams.pop(id)
                self.outstanding -= 1
                self.last_seconds = self._loop.time() - since
                self.times.record(self.last_seconds, 1)
                stream.end(Reply(id, error.encode(), "text/plain", status, detail=detail) if error else None)
                done(self)
            case Progress(id, payload):
                progress = self._tasks[id][1]
                if progress is not None:
                    progress(payload)
            case TaskDone(id, payload, error, detail):
                future, _ = self._tasks.pop(id)
                self.outstanding -= 1
                if future.done():
                    return
                if error:
                    future.set_exception(ModelError(error, original_message=detail or error))
                else:
                    future.set_result(payload)
            case Loaded(max_batch, concurrency):
                self.max_batch, self.capacity = max_batch, concurrency
                self.loaded.set_result(message)
            case LoadFailed(reason, detail):
                error_ = ModelLoadError(reason)
                error_.add_note(detail)
                self.loaded.set_exception(error_)
                self.loaded.exception()
