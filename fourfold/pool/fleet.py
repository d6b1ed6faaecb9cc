"""A fleet: the workers of one model, kept at the wanted count and replaced when they die."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from fourfold.errors import FourfoldError, ModelLoadError, ServiceUnavailable
from fourfold.pool.batcher import Batcher, Batching
from fourfold.pool.frames import Loaded
from fourfold.pool.link import StreamWaiter, Waiter, WorkerLink
from fourfold.pool.local import Starter
from fourfold.pool.logfiles import LogFiles
from fourfold.pool.sessions import SESSION, Sessions
from fourfold.records import WorkerSpec

log = logging.getLogger(__name__)

STEADY_SECONDS = 1.0
"""A worker that lived so long after loading is replaced at once; one that died sooner is waited for."""
HOPELESS = 3
"""After so many sudden ends in a row, calls are refused at once instead of queued for the next worker."""
FIRST_BACKOFF = 0.1
MOST_BACKOFF = 30.0


class Fleet:
    """Workers of one model behind one batcher.

    Args:
        spec: what each worker loads.
        starter: starts workers.
        batching: how calls are gathered.
        imports: modules that the format needs, for the zygote.
        load_timeout: seconds that a model may take to load.
        log_folder: each worker logs to `<log_folder>/<instance>.log`. None: to the server's own output.
        nice: CPU priority below normal, for background work.
    """

    addresses: frozenset[str] = frozenset()

    def __init__(
        self,
        spec: WorkerSpec,
        starter: Starter,
        batching: Batching,
        *,
        imports: Sequence[str] = (),
        load_timeout: float = 600.0,
        log_folder: Path | None = None,
        nice: int = 0,
    ) -> None:
        self.spec = spec
        self.batcher = Batcher(batching)
        self.restarts = 0
        self.sessions: Sessions | None = None
        """Sticky sessions; None until a call wants one."""
        self.failure: FourfoldError | None = None
        self.signature: Loaded | None = None
        """Why the newest start failed; None when it went well."""
        self.changed: Callable[[], None] = lambda: None
        """Called when a worker became ready or was lost."""
        self._starter = starter
        self._imports = tuple(imports)
        self._load_timeout = load_timeout
        self._logs = LogFiles(log_folder)
        self._nice = nice
        self._keepers: list[asyncio.Task[None]] = []
        self._starting: set[WorkerLink] = set()

    def submit(self, waiter: Waiter) -> None:
        """Take a call. Raises ThrottlingException, or ServiceUnavailable where no worker can be started."""
        if not self.ready and self.failure is not None:
            raise ServiceUnavailable(f"No worker of model {self.spec.model!r} runs: {self.failure.message}")
        headers = waiter.call.headers
        if headers is not None and SESSION in headers:
            self._in_session().submit(waiter)
        else:
            self.batcher.submit(waiter)

    def submit_stream(self, waiter: StreamWaiter) -> None:
        """Take a call that is answered in parts. Raises as `submit`."""
        if not self.ready and self.failure is not None:
            raise ServiceUnavailable(f"No worker of model {self.spec.model!r} runs: {self.failure.message}")
        headers = waiter.call.headers
        if headers is not None and SESSION in headers:
            self._in_session().submit_stream(waiter)
        else:
            self.batcher.submit_stream(waiter)

    def withdraw(self, waiter: Waiter | StreamWaiter) -> None:
        """Nobody waits for this call any more."""
        self.batcher.withdraw(waiter)
        if self.sessions is not None:
            self.sessions.withdraw(waiter)

    def holds(self, session: str) -> bool:
        """Is this session open on one of its workers?"""
        return self.sessions is not None and session in self.sessions

    def _in_session(self) -> Sessions:
        if self.sessions is None:
            self.sessions = Sessions(self.batcher)
        return self.sessions

    @property
    def wanted(self) -> int:
        """The count of workers that it is kept at."""
        return len(self._keepers)

    @property
    def ready(self) -> list[WorkerLink]:
        """Workers that take calls now."""
        return self.batcher.workers

    async def start(self, count: int) -> None:
        """Bring up `count` workers. Raises ModelLoadError where the model cannot be loaded."""
        if not count:
            return
        links = [await self._start_worker()]  # one alone first: a model that cannot load should fail once, not n times
        links += await asyncio.gather(*(self._start_worker() for _ in range(count - 1)))
        for link in links:
            self._join(link)
            self._keepers.append(asyncio.create_task(self._keep(link)))

    def scale(self, count: int) -> None:
        """Change the wanted count. New workers join when they have loaded; surplus ones finish what they have."""
        while len(self._keepers) < count:
            self._keepers.append(asyncio.create_task(self._keep(None)))
        while len(self._keepers) > count:
            self._keepers.pop().cancel()

    async def reach(self, count: int) -> None:
        """Scale, and wait until so many workers are ready. Raises ModelLoadError where they cannot be started."""
        self.scale(count)
        while len(self.ready) < count:
            if self.failure is not None:
                raise ModelLoadError(self.failure.message)
            await asyncio.sleep(0.005)

    def last_log(self) -> str:
        """What the newest worker printed; empty where workers do not log to files."""
        return self._logs.last()

    async def stop(self, grace: float = 30.0) -> None:
        """Take no more calls, finish those there are within `grace` seconds, end the workers."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                # Polled, because an event would have to be set on the hot path.
                while len(self.batcher) or self.sessions or any(worker.outstanding for worker in self.ready):  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
        for worker in self.ready:
            if worker.outstanding:
                worker.kill(ServiceUnavailable("The endpoint is being deleted."))
        keepers, self._keepers = self._keepers, []
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        self.batcher.fail_all(ServiceUnavailable("The endpoint is being deleted."))

    async def _keep(self, link: WorkerLink | None) -> None:
        """Keep one worker alive until cancelled; `link` is one that has joined already."""
        failures = 0
        born = asyncio.get_running_loop().time()
        try:
            while True:
                if link is None:
                    try:
                        link = await self._start_worker()
                    except FourfoldError as error:
                        failures += 1
                        await self._back_off(failures, error)
                        continue
                    born = asyncio.get_running_loop().time()
                    self._join(link)
                await link.gone.wait()
                self._lost(link)
                lived = asyncio.get_running_loop().time() - born
                link = None
                self.restarts += 1
                failures = 0 if lived >= STEADY_SECONDS else failures + 1
                if failures:
                    await self._back_off(failures, ServiceUnavailable("The model's workers keep ending."))
        finally:
            if link is not None:
                await self._retire(link)

    async def _start_worker(self) -> WorkerLink:
        link = await self._starter.start(self._next_spec(), imports=self._imports, nice=self._nice)
        self._starting.add(link)
        try:
            async with asyncio.timeout(self._load_timeout):
                await asyncio.shield(link.loaded)
        except TimeoutError:
            link.kill()
            raise ModelLoadError(
                f"Model {self.spec.model!r} did not load within {self._load_timeout:g} s "
                "(SAGEMAKER_STARTUP_TIMEOUT in its Environment changes the limit)."
            ) from None
        except BaseException:
            link.kill()
            raise
        finally:
            self._starting.discard(link)
        self.failure = None
        return link

    def _next_spec(self) -> WorkerSpec:
        in_use = (link.spec.log_path for link in (*self.ready, *self._starting))
        return msgspec.structs.replace(self.spec, log_path=self._logs.next(in_use))

    def tick(self) -> None:
        """Called regularly: calls and workers past their deadline."""
        self.batcher.expire()
        if self.sessions is not None:
            self.sessions.tick()

    async def _back_off(self, failures: int, error: FourfoldError) -> None:
        if failures >= HOPELESS or isinstance(error, ModelLoadError):
            self.failure = error
        seconds = min(MOST_BACKOFF, FIRST_BACKOFF * 2 ** (failures - 1))
        log.warning("worker failed", extra={"model": self.spec.model, "reason": error.message, "retry_in": seconds})
        self.changed()
        await asyncio.sleep(seconds)

    def _join(self, link: WorkerLink) -> None:
        self.signature = link.loaded.result()
        self.batcher.add(link)
        self.changed()

    def _lost(self, link: WorkerLink) -> None:
        self.batcher.remove(link)
        log.warning("worker lost", extra={"model": self.spec.model, "pid": link.pid})
        self.changed()

    async def _retire(self, link: WorkerLink) -> None:
        """Let a worker finish what it has, then end it."""
        self.batcher.remove(link)
        if self.sessions is not None:
            self.sessions.forget(link)
        if not link.gone.is_set():
            link.stop()
            batching = self.batcher.batching
            limit = batching.stream_timeout if link.streaming else batching.timeout
            try:
                async with asyncio.timeout(limit if link.outstanding else 1.0):
                    await link.gone.wait()
            except (TimeoutError, asyncio.CancelledError):
                link.kill()
