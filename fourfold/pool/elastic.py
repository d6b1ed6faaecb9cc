"""An elastic fleet: no workers while nobody calls, one a call up to a bound, each for one call at a time.

A call that finds no free worker starts one and waits for it; past `max_concurrency` calls at once it is refused. A
worker that has been idle for long enough ends, and its memory with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from fourfold.errors import FourfoldError, ModelError, ModelLoadError, PayloadTooLarge, ThrottlingException
from fourfold.pool.batcher import Batcher, Batching
from fourfold.pool.fleet import log_file, read_log
from fourfold.pool.link import StreamWaiter, Waiter, WorkerLink
from fourfold.pool.local import Placer
from fourfold.pool.processes import resident_bytes
from fourfold.records import WorkerSpec
from fourfold.scaling import serverless_starts, serverless_surplus

log = logging.getLogger(__name__)

PAYLOAD_BYTES = 4 * 1024 * 1024
"""Largest request and response, as SageMaker's serverless endpoints have it."""
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
    """

    max_concurrency: int
    provisioned: int = 0
    memory_mb: int = 2048
    idle_seconds: float = 60.0


@dataclass
class ColdStarts:
    """How starting workers went, in seconds; sums, to be divided by `count`."""

    count: int = 0
    fork: float = 0.0
    load: float = 0.0
    slowest: float = 0.0


class ElasticFleet:
    """Workers of one model that come and go with the calls.

    Args:
        spec: what each worker loads.
        placer: starts workers.
        batching: queue and time limits; its batch size is not used, a worker has one call at a time.
        elasticity: bounds.
        imports: modules that the format needs, for the zygote.
        load_timeout: seconds that a model may take to load.
        log_folder: each worker logs to `<log_folder>/<instance>.log`. None: to the server's own output.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        placer: Placer,
        batching: Batching,
        elasticity: Elasticity,
        *,
        imports: Sequence[str] = (),
        load_timeout: float = 180.0,
        log_folder: Path | None = None,
    ) -> None:
        self.spec = spec
        self.elasticity = elasticity
        self.batcher = Batcher(replace(batching, max_batch=1, queue_length=elasticity.max_concurrency))
        self.batcher.answered = self._answered
        self.cold_starts = ColdStarts()
        self.billed_seconds = 0.0
        self.billed_calls = 0
        self.restarts = 0
        self.failure: FourfoldError | None = None
        self.changed: Callable[[], None] = lambda: None
        self._placer = placer
        self._imports = tuple(imports)
        self._load_timeout = load_timeout
        self._log_folder = log_folder
        self._loop = asyncio.get_running_loop()
        self._at_once = asyncio.Semaphore(max(2, os.cpu_count() or 1))  # starts of a burst would slow one another
        self._starting: set[asyncio.Task[None]] = set()
        self._loading: set[WorkerLink] = set()
        self._watching: set[asyncio.Task[None]] = set()
        self._idle_since: dict[WorkerLink, float] = {}
        self._instances = 0
        self._failures = 0
        self._closed_until = 0.0
        self._stopped = False

    @property
    def ready(self) -> list[WorkerLink]:
        """Workers that are there now."""
        return self.batcher.workers

    @property
    def wanted(self) -> int:
        """Workers that are there even when nobody calls."""
        return self.elasticity.provisioned

    def idle_seconds_left(self) -> float | None:
        """Seconds until the last idle worker goes. None: there is none, or it stays."""
        if not self._idle_since or len(self.ready) <= self.elasticity.provisioned:
            return None
        newest = max(self._idle_since.values())
        return max(0.0, newest + self.elasticity.idle_seconds - self._loop.time())

    async def start(self, count: int = 0) -> None:
        """Start one worker, so that a model that cannot load fails now. Raises ModelLoadError."""
        link = await self._start_worker()
        self._join(link)
        self._idle_since[link] = self._loop.time()
        self._keep_provisioned()

    def submit(self, waiter: Waiter) -> None:
        """Take a call. Raises ThrottlingException, PayloadTooLarge, or ModelError while the model cannot be loaded."""
        self._admit(len(waiter.call.body))
        self.batcher.submit(waiter)
        self._start_for_waiting()

    def submit_stream(self, waiter: StreamWaiter) -> None:
        """Take a call that is answered in parts. Raises as `submit`."""
        self._admit(len(waiter.call.body))
        self.batcher.submit_stream(waiter)
        self._start_for_waiting()

    def withdraw(self, waiter: Waiter | StreamWaiter) -> None:
        """Nobody waits for this call any more."""
        self.batcher.withdraw(waiter)

    def tick(self) -> None:
        """Called regularly: deadlines, memory, idle workers, provisioned ones."""
        if self._stopped or not (self.ready or self._starting or len(self.batcher) or self.wanted):
            return
        self.batcher.expire()
        for worker in (*self.ready, *self._loading):
            self._check_memory(worker)
        self._end_idle()
        self._keep_provisioned()

    async def stop(self, grace: float = 30.0) -> None:
        """Take no more calls, finish those there are within `grace` seconds, end the workers."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                # Polled, because an event would have to be set on the hot path.
                while len(self.batcher) or any(worker.outstanding for worker in self.ready):  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
        self._stopped = True
        tasks = (*self._starting, *self._watching)
        for worker in (*self.ready, *self._loading):
            worker.kill()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.batcher.workers.clear()

    def last_log(self) -> str:
        """What the newest worker printed; empty where workers do not log to files."""
        return read_log(self._log_folder, self._instances)

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
            raise ModelError(f"The model cannot be loaded: {self.failure.message}")

    def _start_for_waiting(self) -> None:
        free = sum(worker.outstanding < worker.capacity for worker in self.ready)
        self._start(
            serverless_starts(
                waiting=len(self.batcher) - free,
                starting=len(self._starting),
                workers=len(self.ready),
                max_concurrency=self.elasticity.max_concurrency,
            )
        )

    def _keep_provisioned(self) -> None:
        if self._loop.time() >= self._closed_until:
            self._start(self.elasticity.provisioned - len(self.ready) - len(self._starting))

    def _start(self, count: int) -> None:
        for _ in range(count):
            task = asyncio.create_task(self._start_and_join())
            self._starting.add(task)
            task.add_done_callback(self._starting.discard)

    async def _start_and_join(self) -> None:
        try:
            link = await self._start_worker()
        except FourfoldError as error:
            self._cannot_start(error)
            return
        link.first_headers = COLD
        self._join(link)

    def _cannot_start(self, error: FourfoldError) -> None:
        """The calls that wait get the reason; the next start is not tried at once."""
        self._failures += 1
        self.failure = error
        self._closed_until = self._loop.time() + min(MOST_BACKOFF, 0.1 * 2**self._failures)
        log.warning("cold start failed", extra={"model": self.spec.model, "reason": error.message})
        if not self.ready and len(self._starting) <= 1:  # this one is still among them
            self.batcher.fail_all(ModelError(f"The model cannot be loaded: {error.message}"))
        self.changed()

    async def _start_worker(self) -> WorkerLink:
        asked = self._loop.time()
        async with self._at_once:
            begun = self._loop.time()
            link = await self._placer.start(self._next_spec(), imports=self._imports)
            forked = self._loop.time()
            self._loading.add(link)
            try:
                async with asyncio.timeout(self._load_timeout):
                    await asyncio.shield(link.loaded)
            except TimeoutError:
                link.kill()
                raise ModelLoadError(
                    f"Model {self.spec.model!r} did not load within {self._load_timeout:g} s."
                ) from None
            except BaseException:
                link.kill()
                raise
            finally:
                self._loading.discard(link)
        loaded = self._loop.time()
        self._count(begun - asked, forked - begun, loaded - forked)
        link.capacity, link.max_batch, link.reply_limit = 1, 1, PAYLOAD_BYTES
        self.failure, self._failures = None, 0
        return link

    def _count(self, queue: float, fork: float, load: float) -> None:
        starts = self.cold_starts
        starts.count += 1
        starts.fork += fork
        starts.load += load
        starts.slowest = max(starts.slowest, queue + fork + load)
        parts = {"queue_ms": queue * 1e3, "fork_ms": fork * 1e3, "load_ms": load * 1e3}
        log.info("cold start", extra={"model": self.spec.model} | {k: round(v, 3) for k, v in parts.items()})

    def _next_spec(self) -> WorkerSpec:
        if self._log_folder is None:
            return self.spec
        self._instances += 1
        self._log_folder.mkdir(parents=True, exist_ok=True)
        return msgspec.structs.replace(self.spec, log_path=str(log_file(self._log_folder, self._instances)))

    def _join(self, link: WorkerLink) -> None:
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
        if link in self.ready:  # it was not asked to go
            self.restarts += 1
            self.batcher.remove(link)
            self._start_for_waiting()
            self.changed()

    def _answered(self, worker: WorkerLink) -> None:
        worker.first_headers = None
        self.billed_calls += 1
        self.billed_seconds += worker.last_seconds
        self._idle_since[worker] = self._loop.time()
        if not self.elasticity.idle_seconds and not len(self.batcher):
            self._loop.call_soon(self._end_idle)  # after the reply has been written

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
            self.batcher.remove(worker)
            worker.stop()
            self._loop.call_later(1.0, worker.kill)  # if it does not go by itself

    def _check_memory(self, worker: WorkerLink) -> None:
        used = resident_bytes(worker.pid) // (1024 * 1024)
        limit = self.elasticity.memory_mb
        if used > limit:
            worker.kill(
                ModelError(
                    f"The model used {used:,} MB of memory; MemorySizeInMB of the endpoint is {limit:,}. Its worker "
                    "was ended. Raise MemorySizeInMB (up to 6144), or send less at once.",
                    original_message="OutOfMemory",
                    log_stream=worker.spec.log_path,
                )
            )
