"""An elastic fleet: no workers while nobody calls, one a call up to a bound, each for one call at a time.

A call that finds no free worker starts one and waits for it; past `max_concurrency` calls at once it is refused. A
worker that has been idle for long enough, or whose place another endpoint needs, ends, and its memory with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from fourfold.errors import FourfoldError, ModelError, ModelLoadError, PayloadTooLarge, ThrottlingException
from fourfold.pool.batcher import Batcher, Batching
from fourfold.pool.coldstarts import REMEMBERED, ColdStart, ColdStarts
from fourfold.pool.frames import Loaded
from fourfold.pool.link import StreamWaiter, Waiter, WorkerLink
from fourfold.pool.local import Placer
from fourfold.pool.logfiles import LogFiles
from fourfold.pool.memory import over
from fourfold.pool.processes import family_bytes
from fourfold.pool.room import Room
from fourfold.pool.starts import Starts
from fourfold.pool.tally import Tally
from fourfold.records import WorkerSpec
from fourfold.scaling import serverless_starts, serverless_surplus
from fourfold.store.usage import Counts, Total

log = logging.getLogger(__name__)

PAYLOAD_BYTES = 4 * 1024 * 1024
"""Largest request and response, as SageMaker's serverless endpoints have it."""
CALL_SECONDS = 60.0
"""Longest call, as SageMaker's serverless endpoints have it."""
LOAD_SECONDS = 180.0
"""Longest load, as SageMaker's serverless endpoints have it."""
IDLE_TICKS = 20
"""An idle worker's memory is looked at every so many ticks."""
MOST_BACKOFF = 30.0
COLD = {"x-fourfold-cold-start": "1"}


@dataclass(frozen=True)
class Elasticity:
    """Bounds of an elastic fleet.

    Attributes:
        max_concurrency: most calls at once, hence most workers. 1 to 200 on SageMaker.
        provisioned: workers kept warm.
        memory_mb: a worker that holds more is ended.
        idle_seconds: how long a worker may be idle; 0 ends it right after its call.
        template: may a process with the loaded model be kept, for cold starts that need not load?
    """

    max_concurrency: int
    provisioned: int = 0
    memory_mb: int = 2048
    idle_seconds: float = 60.0
    template: bool = True


class ElasticFleet:
    """Workers of one model that come and go with the calls.

    Args:
        spec: what each worker loads.
        placer: starts workers.
        batching: queue and time limits; its batch size is not used, a worker has one call at a time.
        elasticity: bounds.
        room: what it shares with the other elastic fleets of the server.
        bill: counts what is used. None: it is not counted.
        used: what its endpoint has used before.
        imports: modules that the format needs, for the zygote.
        load_timeout: seconds that a model may take to load.
        log_folder: each worker logs to `<log_folder>/<instance>.log`. None: to the server's own output.
    """

    addresses: frozenset[str] = frozenset()

    def __init__(
        self,
        spec: WorkerSpec,
        placer: Placer,
        batching: Batching,
        elasticity: Elasticity,
        *,
        room: Room,
        bill: Callable[[Counts], None] | None = None,
        used: Total | None = None,
        imports: Sequence[str] = (),
        load_timeout: float = LOAD_SECONDS,
        log_folder: Path | None = None,
    ) -> None:
        self.spec = msgspec.structs.replace(spec, memory_mb=elasticity.memory_mb)
        self.elasticity = elasticity
        timeout = min(batching.timeout, CALL_SECONDS)
        self.batcher = Batcher(replace(batching, max_batch=1, queue_length=elasticity.max_concurrency, timeout=timeout))
        self.batcher.answered = self._answered
        self.cold_starts = ColdStarts()
        self.warm_seconds: deque[float] = deque(maxlen=REMEMBERED)
        """How long the newest calls to warm workers took them."""
        self.restarts = 0
        self.failure: FourfoldError | None = None
        self.signature: Loaded | None = None
        self.changed: Callable[[], None] = lambda: None
        self.asleep = False
        """Nothing is there and nothing is to be done until a call comes: it need not be ticked."""
        self.woken: Callable[[], None] = lambda: None
        """Called when it sleeps no more."""
        self._placer = placer
        self._room = room
        self._tally = Tally(elasticity.memory_mb, bill, used or Total())
        self._starts = Starts(placer, room, imports, min(load_timeout, LOAD_SECONDS))
        self._logs = LogFiles(log_folder)
        self._loop = asyncio.get_running_loop()
        self._starting: set[asyncio.Task[None]] = set()
        self._watching: set[asyncio.Task[None]] = set()
        self._idle_since: dict[WorkerLink, float] = {}
        self._first: dict[WorkerLink, tuple[ColdStart, float]] = {}
        self._failures = 0
        self._closed_until = 0.0
        self._ticks = 0
        self._stopped = False

    @property
    def used(self) -> Total:
        """What its endpoint has used."""
        return self._tally.total

    @property
    def ready(self) -> list[WorkerLink]:
        """Workers that are there now."""
        return self.batcher.workers

    @property
    def wanted(self) -> int:
        """Workers that are there even when nobody calls."""
        return self.elasticity.provisioned

    @property
    def starting(self) -> int:
        """Workers that are on their way."""
        return len(self._starting)

    @property
    def busy(self) -> int:
        """Workers that have a call."""
        return sum(bool(worker.outstanding) for worker in self.ready)

    def idle_seconds_left(self) -> float | None:
        """Seconds until the last idle worker goes. None: there is none, or it stays."""
        if not self._idle_since or len(self.ready) <= self.elasticity.provisioned:
            return None
        newest = max(self._idle_since.values())
        return max(0.0, newest + self.elasticity.idle_seconds - self._loop.time())

    async def start(self, count: int = 0) -> None:
        """Start one worker, so that a model that cannot load fails now. Raises ModelLoadError."""
        link, _ = await self._start_worker(lambda: True)
        assert link is not None
        self._join(link)
        self._keep_provisioned()

    def resize(self, *, max_concurrency: int, provisioned: int) -> None:
        """Change the bounds; they hold at once. Calls that run above a lower bound finish."""
        self._tally.keep(self.wanted)
        self._wake()
        self.elasticity = replace(self.elasticity, max_concurrency=max_concurrency, provisioned=provisioned)
        self.batcher.batching = replace(self.batcher.batching, queue_length=max_concurrency)
        self._keep_provisioned()

    def submit(self, waiter: Waiter) -> None:
        """Take a call. Raises ThrottlingException, PayloadTooLarge, or ModelError while the model cannot be loaded."""
        self._admit(len(waiter.call.body))
        self._wake()
        self.batcher.submit(waiter)
        self._start_for_waiting()

    def submit_stream(self, waiter: StreamWaiter) -> None:
        """Take a call that is answered in parts. Raises as `submit`."""
        self._admit(len(waiter.call.body))
        self._wake()
        self.batcher.submit_stream(waiter)
        self._start_for_waiting()

    def withdraw(self, waiter: Waiter | StreamWaiter) -> None:
        """Nobody waits for this call any more."""
        self.batcher.withdraw(waiter)

    def holds(self, session: str) -> bool:
        """Workers that come and go keep no sessions."""
        return False

    def tick(self) -> None:
        """Called regularly: deadlines, memory, idle workers, provisioned ones."""
        if self._stopped or not (self.ready or self._starting or len(self.batcher) or self.wanted):
            self.asleep = True
            return
        self.batcher.expire()
        self._watch_memory()
        self._end_idle()
        self._keep_provisioned()
        if self._tally.kept_seconds >= 1.0:
            self._tally.keep(self.wanted)

    def _wake(self) -> None:
        if self.asleep:
            self.asleep = False
            self.woken()

    async def stop(self, grace: float = 30.0) -> None:
        """Take no more calls, finish those there are within `grace` seconds, end the workers."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                # Polled, because an event would have to be set on the hot path.
                while len(self.batcher) or self.busy:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
        self._stopped = True
        self._tally.keep(self.wanted)
        tasks = (*self._starting, *self._watching)
        for worker in (*self.ready, *self._starts.loading):
            self._room.remove(worker)
            worker.kill()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.batcher.workers.clear()
        self._placer.forget(self.spec)

    def last_log(self) -> str:
        """What the newest worker printed; empty where workers do not log to files."""
        return self._logs.last()

    # What the room asks

    def idle_since(self, worker: WorkerLink) -> float | None:
        """`loop.time()` since when the worker has been idle and may go. None: it is needed."""
        if worker.outstanding or len(self.ready) <= self.elasticity.provisioned:
            return None
        return self._idle_since.get(worker)

    def release(self, worker: WorkerLink) -> None:
        """End an idle worker in good order."""
        self.batcher.remove(worker)
        self._room.remove(worker)
        worker.stop()
        self._loop.call_later(1.0, worker.kill)  # if it does not go by itself

    # Starting

    def _admit(self, size: int) -> None:
        if size > PAYLOAD_BYTES:
            raise PayloadTooLarge(
                f"The request has {size:,} bytes; a serverless endpoint takes {PAYLOAD_BYTES:,} at most. "
                "A real-time endpoint takes more, an asynchronous one much more."
            )
        at_once = len(self.batcher) + sum(worker.outstanding for worker in self.ready)
        if at_once >= self.elasticity.max_concurrency:
            self.batcher.rejected += 1
            raise ThrottlingException(
                f"{at_once} calls run at once already, as many as MaxConcurrency allows. Try again, or raise it."
            )
        if self.failure is not None and not self.ready and self._loop.time() < self._closed_until:
            raise self._cannot_load(self.failure)

    def _start_for_waiting(self) -> None:
        waiting = len(self.batcher)
        if not waiting:
            return
        free = sum(worker.outstanding < worker.capacity for worker in self.ready)
        count = serverless_starts(
            waiting=waiting - free,
            starting=len(self._starting),
            workers=len(self.ready),
            max_concurrency=self.elasticity.max_concurrency,
        )
        for _ in range(count):
            self._spawn(self._start_cold())

    def _keep_provisioned(self) -> None:
        if self._loop.time() >= self._closed_until:
            for _ in range(self._provisioned_missing()):
                self._spawn(self._start_provisioned())

    def _provisioned_missing(self) -> int:
        return self.elasticity.provisioned - len(self.ready) - len(self._starting)

    def _spawn(self, start: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(start)
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def _start_cold(self) -> None:
        """Start a worker for a call that waits, and tell how long each part took when it has answered."""
        try:
            link, parts = await self._start_worker(lambda: bool(len(self.batcher)), cold=True)
        except FourfoldError as error:
            self._cannot_start(error)
            return
        if link is None:
            return  # the call that wanted it found another worker while this one waited for its turn
        link.first_headers = COLD
        self._first[link] = parts, time.monotonic()
        self._join(link)

    async def _start_provisioned(self) -> None:
        try:
            link, _ = await self._start_worker(lambda: True)
        except FourfoldError as error:
            self._cannot_start(error)
            return
        assert link is not None
        self._join(link)

    def _cannot_start(self, error: FourfoldError) -> None:
        """The calls that wait get the reason; the next start is not tried at once."""
        self._failures += 1
        self.failure = error
        self._closed_until = self._loop.time() + min(MOST_BACKOFF, 0.1 * 2**self._failures)
        log.warning("cold start failed", extra={"model": self.spec.model, "reason": error.message})
        if not self.ready:
            self.batcher.fail_all(self._cannot_load(error))
        self.changed()

    def _cannot_load(self, error: FourfoldError) -> FourfoldError:
        if not isinstance(error, ModelLoadError):
            return error
        return ModelError(
            f"The model cannot be loaded: {error.message}",
            original_message="\n".join([error.message, *getattr(error, "__notes__", ())]),
            log_stream=self.spec.log_path,
        )

    async def _start_worker(
        self, still_wanted: Callable[[], bool], *, cold: bool = False
    ) -> tuple[WorkerLink | None, ColdStart]:
        """A worker that has loaded; None where it was not wanted any more when its turn came."""
        link, parts = await self._starts.start(
            self._next_spec, still_wanted, template=cold and self.elasticity.template, hurry=cold
        )
        if link is None:
            return None, parts
        link.capacity, link.max_batch, link.reply_limit = 1, 1, PAYLOAD_BYTES
        self.failure, self._failures = None, 0
        return link, parts

    def _next_spec(self) -> WorkerSpec:
        in_use = (link.spec.log_path for link in (*self.ready, *self._starts.loading))
        return msgspec.structs.replace(self.spec, log_path=self._logs.next(in_use))

    def _join(self, link: WorkerLink) -> None:
        self.signature = link.loaded.result()
        self._room.add(link, self)
        self.batcher.add(link)
        if not link.outstanding:
            self._idle_since[link] = self._loop.time()
        task = asyncio.create_task(self._watch(link))
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)
        self.changed()

    async def _watch(self, link: WorkerLink) -> None:
        await link.gone.wait()
        self._idle_since.pop(link, None)
        self._first.pop(link, None)
        self._room.remove(link)
        for seconds in link.cut_short:  # a call that its worker did not survive has used the machine, too
            self._tally.add(Counts(1, max(1, round(seconds * 1000))))
        if link in self.ready:  # it was not asked to go
            self.restarts += 1
            self.batcher.remove(link)
            self._start_for_waiting()
            self.changed()

    # Answers

    def _answered(self, worker: WorkerLink) -> None:
        if worker.first_headers is None:
            self.warm_seconds.append(worker.last_seconds)
        else:
            self._first_answer(worker)
        milliseconds = max(1, round(worker.last_seconds * 1000))
        provisioned = self.elasticity.provisioned and self.busy < self.elasticity.provisioned  # it is not busy any more
        self._tally.add(Counts(1, 0, milliseconds) if provisioned else Counts(1, milliseconds))
        self._idle_since[worker] = self._loop.time()
        if not self.elasticity.idle_seconds and not len(self.batcher):
            self._loop.call_soon(self._end_idle)  # after the reply has been written

    def _first_answer(self, worker: WorkerLink) -> None:
        worker.first_headers = None
        parts, loaded = self._first.pop(worker)
        parts.first_call = time.monotonic() - loaded
        self.cold_starts.add(parts)
        shown = {f"{part}_ms": round(seconds * 1000, 3) for part, seconds in parts.parts().items()}
        log.info("cold start", extra={"model": self.spec.model, "template": parts.template} | shown)

    def _end_idle(self) -> None:
        now = self._loop.time()
        idle = [worker for worker in self.ready if not worker.outstanding and worker in self._idle_since]
        idle.sort(key=lambda worker: self._idle_since[worker])
        surplus = serverless_surplus(
            idle_seconds=[now - self._idle_since[worker] for worker in idle],
            limit=self.elasticity.idle_seconds,
            workers=len(self.ready),
            provisioned=self.elasticity.provisioned,
        )
        for worker in idle[:surplus]:
            self.release(worker)

    def _watch_memory(self) -> None:
        """Look at workers that work at each tick; an idle one seldom grows, and there may be many of them."""
        self._ticks += 1
        for worker in (*self.ready, *self._starts.loading):
            if worker.outstanding or worker in self._starts.loading or self._ticks % IDLE_TICKS == 0:
                self._check_memory(worker)

    def _check_memory(self, worker: WorkerLink) -> None:
        used = family_bytes(worker.pid)
        limit = self.elasticity.memory_mb
        if used > limit * 1024 * 1024:
            message = over(limit, used)
            worker.kill(ModelError(message, original_message="OutOfMemory", log_stream=worker.spec.log_path))
