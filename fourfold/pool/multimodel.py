"""Many models behind one variant: each is loaded when a call first names it, and unloaded when memory is needed.

    call ─► TargetModel ─┬─ loaded ─► its batcher ─► its worker                   a hit
                         └─ not ────► download, room, load; calls wait meanwhile    a miss

Models that are data and nothing else share processes, as many as there are instances (`shared`). One that brings code
has a process to itself: unloading ends it, which gives back all that the code held, and it can end no other. What has
not been called for the longest time goes first.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path

from fourfold.datapoints import Statistics
from fourfold.errors import (
    FourfoldError,
    InternalFailure,
    ModelError,
    ModelNotReadyException,
    ServiceUnavailable,
    ThrottlingException,
    ValidationError,
)
from fourfold.pool.batcher import Batcher, Batching
from fourfold.pool.fleet import Fleet
from fourfold.pool.link import StreamWaiter, Waiter, WorkerLink
from fourfold.pool.local import Placer
from fourfold.pool.processes import private_bytes, yield_to_others
from fourfold.pool.sessions import SESSION
from fourfold.pool.several import Several
from fourfold.pool.shared import SharedStarter
from fourfold.pool.weights import Weights
from fourfold.records import Call, WorkerSpec

log = logging.getLogger(__name__)

TARGET_MODEL = "x-amzn-sagemaker-target-model"
DOWNLOADS_AT_ONCE = 4
LOADS_AT_ONCE = max(1, (os.cpu_count() or 1) // 2)
"""Models that are loaded side by side: half of the cores, so that calls to loaded ones have the other half."""
FIRST_BACKOFF = 0.1
MOST_BACKOFF = 5.0
"""Seconds until a model that could not be loaded is tried again: the first time, and at most."""
MOST_LOADING = 512
"""Models that may wait to be loaded before calls to further ones are refused."""


@dataclass(frozen=True)
class Loadable:
    """A model that is on this machine.

    Attributes:
        spec: what its worker loads.
        imports: modules that its format needs, for the zygote.
        load_timeout: seconds that it may take to load.
        sociable: may it live in one process with others? Only what brings no code.
    """

    spec: WorkerSpec
    imports: Sequence[str]
    load_timeout: float
    sociable: bool = False


Fetch = Callable[[str], Awaitable[Loadable]]
"""From a TargetModel to the model on this machine. Raises FourfoldError: what the calls that wait for it are told."""


@dataclass(frozen=True)
class Room:
    """How much may be loaded.

    Attributes:
        memory_bytes: of all processes together, shared pages not counted.
        models: how many. None: memory alone decides.
        keep: False unloads a model as soon as nobody waits for it (ModelCacheSetting Disabled).
    """

    memory_bytes: int
    models: int | None = None
    keep: bool = True


@dataclass(frozen=True)
class Broken:
    """A model that could not be loaded.

    Attributes:
        error: why.
        pause: seconds during which it is not tried again.
        until: `loop.time()` at their end.
    """

    error: FourfoldError
    pause: float
    until: float


@dataclass
class CacheFigures:
    """For SageMaker's metrics of multi-model endpoints: times since somebody last asked, in microseconds."""

    downloading: Statistics = field(default_factory=Statistics)
    loading: Statistics = field(default_factory=Statistics)
    waiting: Statistics = field(default_factory=Statistics)
    """From a call's coming to its model's being loaded."""
    unloading: Statistics = field(default_factory=Statistics)


class Model:
    """One model that is loaded, or being loaded."""

    __slots__ = ("batcher", "called", "fleet", "name", "needs_room", "task")

    def __init__(self, name: str, batcher: Batcher) -> None:
        self.name = name
        self.batcher = batcher
        self.called = 0.0
        self.needs_room = False
        self.fleet: Fleet | None = None
        self.task: asyncio.Task[None]

    @property
    def loaded(self) -> bool:
        return self.fleet is not None and bool(self.fleet.ready)

    @property
    def idle(self) -> bool:
        """Loaded, and nobody waits for it."""
        return self.loaded and not len(self.batcher) and not any(w.outstanding for w in self.batcher.workers)


class MultiModel(Several):
    """The models under one prefix, as many loaded as there is room for.

    Args:
        fetch: brings a model here.
        placer: starts workers.
        batching: how each model's calls are gathered.
        room: how much may be loaded.
        log_folder: processes of one model log to `<log_folder>/<model>/<instance>.log`, those of many to
            `<log_folder>/<instance>.log`. None: to the server's own output.
    """

    addresses = frozenset((TARGET_MODEL,))

    def __init__(
        self, fetch: Fetch, placer: Placer, batching: Batching, room: Room, log_folder: Path | None = None
    ) -> None:
        super().__init__()
        self.room = room
        self._figures = CacheFigures()
        self.hits = self.misses = self.loads = self.unloads = 0
        self._fetch = fetch
        self._placer = placer
        self._shared = SharedStarter(placer, log_folder)
        self._batching = batching
        self._log_folder = log_folder
        self._loop = asyncio.get_running_loop()
        self._models: dict[str, Model] = {}
        self._downloads = asyncio.Semaphore(DOWNLOADS_AT_ONCE)
        self._loads = asyncio.Semaphore(LOADS_AT_ONCE)
        self._making_room = asyncio.Lock()
        self._loading = 0
        self._broken: dict[str, Broken] = {}
        self._weights = Weights()
        self._weighing: asyncio.Task[None] | None = None
        self._unloading: set[asyncio.Task[None]] = set()
        self._stopped = False

    def fleets(self) -> Iterator[Fleet]:
        return (model.fleet for model in self._models.values() if model.fleet is not None)

    def take_figures(self) -> CacheFigures:
        """What was measured since this was called the last time."""
        taken, self._figures = self._figures, CacheFigures()
        return taken

    @property
    def loaded(self) -> int:
        """Models that are loaded."""
        return sum(model.loaded for model in self._models.values())

    @property
    def ready(self) -> list[WorkerLink]:
        return [worker for fleet in self.fleets() for worker in fleet.ready]

    @property
    def wanted(self) -> int:
        """None has to be there: what is called is loaded."""
        return 0

    @property
    def instances(self) -> int:
        return self._shared.most

    @property
    def failure(self) -> FourfoldError | None:
        """A model that does not load is its callers' affair, not the endpoint's."""
        return None

    async def start(self, count: int) -> None:
        """Be ready to load models, each with at most `count` workers where one is not enough."""
        self._shared.most = max(1, count)

    async def reach(self, count: int) -> None:
        self._shared.most = max(1, count)

    # Calls

    def submit(self, waiter: Waiter) -> None:
        """Take a call.

        Raises:
            ValidationError: it names no TargetModel, or a session.
            ThrottlingException: too many wait for this model, or for models that are not loaded.
        """
        self._named(waiter.call).batcher.submit(waiter)

    def submit_stream(self, waiter: StreamWaiter) -> None:
        """Take a call that is answered in parts. Raises as `submit`."""
        self._named(waiter.call).batcher.submit_stream(waiter)

    def withdraw(self, waiter: Waiter | StreamWaiter) -> None:
        """Nobody waits for this call any more."""
        model = self._models.get((waiter.call.headers or {}).get(TARGET_MODEL, ""))
        if model is not None:
            model.batcher.withdraw(waiter)

    def _named(self, call: Call) -> Model:
        headers = call.headers or {}
        name = headers.get(TARGET_MODEL)
        if not name:
            raise ValidationError(
                "TargetModel is needed: this is a multi-model endpoint. Name a model by its path below the model's "
                "ModelDataUrl, as in model-a.tar.gz."
            )
        if SESSION in headers:
            raise ValidationError(
                "A multi-model endpoint keeps no sessions: a model that nobody calls is unloaded, and their state with "
                "it. Leave SessionId out, or give the model an endpoint of its own."
            )
        model = self._models.get(name)
        if model is None:
            model = self._load(name)
        if model.fleet is None:
            self.misses += 1
        else:
            self.hits += 1
        model.called = self._loop.time()
        return model

    # Loading

    def _load(self, name: str) -> Model:
        if self._stopped:
            raise ServiceUnavailable("The endpoint is being deleted.")
        broken = self._broken.get(name)
        if broken is not None and self._loop.time() < broken.until:
            raise copy(broken.error)  # one that is raised again and again would keep a traceback of each time
        if self._loading >= MOST_LOADING:
            raise ThrottlingException(f"{self._loading} models wait to be loaded already. Try again later.")
        batcher = Batcher(self._batching)
        batcher.times = self.batcher.times
        if not self.room.keep:
            batcher.answered = lambda _: self._answered(name)
        model = self._models[name] = Model(name, batcher)
        self._loading += 1
        model.task = asyncio.create_task(self._bring(model))
        return model

    async def _bring(self, model: Model) -> None:
        """Download, make room, load. The calls that wait are answered, or told why not."""
        asked = self._loop.time()
        try:
            async with self._downloads:
                begun = self._loop.time()
                found = await self._fetch(model.name)
                downloaded = self._loop.time()
            async with self._loads:
                await self._make_room(model)
                fleet = self._fleet(model, found)
                started = self._loop.time()
                await fleet.start(1)
                loaded = self._loop.time()
        except Exception as error:
            if not isinstance(error, FourfoldError):
                log.exception("loading failed inside the server", extra={"model": model.name})
            self._drop(model)
            self._failed(model, _not_loaded(model.name, error))
            return
        finally:
            self._loading -= 1
            model.needs_room = False
        model.fleet = fleet
        self._broken.pop(model.name, None)
        self.loads += 1
        figures = self._figures
        figures.downloading.add((downloaded - begun) * 1e6)
        figures.loading.add((loaded - started) * 1e6)
        figures.waiting.add((loaded - asked) * 1e6)

    def _failed(self, model: Model, error: FourfoldError) -> None:
        """The calls that wait get the reason, and so do those that come before it is worth another try."""
        model.batcher.fail_all(error)
        if isinstance(error, ValidationError):
            return  # there is no such model: to look again costs little, and it may be uploaded now
        if len(self._broken) >= MOST_LOADING:
            self._broken.clear()
        before = self._broken.get(model.name)
        pause = FIRST_BACKOFF if before is None else min(MOST_BACKOFF, before.pause * 2)
        self._broken[model.name] = Broken(error, pause, self._loop.time() + pause)

    def _fleet(self, model: Model, found: Loadable) -> Fleet:
        folder = None if self._log_folder is None else self._log_folder / _folder(model.name)
        fleet = Fleet(
            found.spec,
            self._shared if found.sociable else self._placer,
            self._batching,
            imports=found.imports,
            load_timeout=found.load_timeout,
            log_folder=None if found.sociable else folder,
        )
        fleet.batcher = model.batcher  # with the calls that wait in it
        return fleet

    # Unloading

    async def _make_room(self, model: Model) -> None:
        """Unload until one more fits; where every model is busy, wait for one that is not."""
        async with self._making_room:
            while self._is_full():
                if not self._unload_oldest(besides=model):
                    await asyncio.sleep(0.005)
            model.needs_room = True

    def _is_full(self) -> bool:
        """Would one more be too many?"""
        coming = sum(model.needs_room for model in self._models.values())
        present = coming + sum(model.fleet is not None for model in self._models.values())
        if not present:
            return False
        if self.room.models is not None and present >= self.room.models:
            return True
        return self._weights.with_workers(len(self.ready) + coming + 1) > self.room.memory_bytes

    def _unload_oldest(self, besides: Model | None = None) -> bool:
        """Unload the model that has not been called for the longest time. False: all are in use."""
        idle = [model for model in self._models.values() if model.idle and model is not besides]
        if not idle:
            return False
        self._unload(min(idle, key=lambda model: model.called))
        return True

    def _answered(self, name: str) -> None:
        """Without a cache a model goes when its last call is answered: in the next turn, when the reply is written."""
        self._loop.call_soon(self._unload_idle, name)

    def _unload_idle(self, name: str) -> None:
        model = self._models.get(name)
        if model is not None and model.idle:
            self._unload(model)

    def _unload(self, model: Model) -> None:
        self._drop(model)
        self.unloads += 1
        task = asyncio.create_task(self._end(model))
        self._unloading.add(task)
        task.add_done_callback(self._unloading.discard)

    async def _end(self, model: Model) -> None:
        assert model.fleet is not None
        begun = self._loop.time()
        shared = {process.pid for process in self._shared.processes}
        for worker in model.fleet.ready:
            if worker.pid not in shared:
                yield_to_others(worker.pid)
        await model.fleet.stop(0)
        self._figures.unloading.add((self._loop.time() - begun) * 1e6)
        log.info("model unloaded", extra={"model": model.name})

    def _drop(self, model: Model) -> None:
        """No call finds it any more."""
        if self._models.get(model.name) is model:
            del self._models[model.name]
            self.batcher.forget(model.batcher)
        self._weights.left(worker.pid for worker in model.batcher.workers)

    # Watching

    def tick(self) -> None:
        """Called regularly: deadlines, models that broke, more workers for models that need them, memory."""
        now = self._loop.time()
        for model in list(self._models.values()):
            if model.fleet is None:
                self._expire_loading(model, now)
                continue
            model.fleet.tick()
            if model.fleet.failure is not None and not model.fleet.ready:
                model.batcher.fail_all(_not_loaded(model.name, model.fleet.failure))
                self._unload(model)
            elif len(model.batcher) and 0 < model.fleet.wanted < self._shared.most and not self._is_full():
                model.fleet.scale(model.fleet.wanted + 1)
        self._leave_surplus()
        if self._weighing is None or self._weighing.done():
            self._weighing = asyncio.create_task(self._weigh(now))

    def _leave_surplus(self) -> None:
        """After a scale-in: models leave the processes that are too many, as soon as nobody waits for them."""
        surplus = self._shared.surplus()
        if surplus:
            for model in list(self._models.values()):
                if model.idle and not surplus.isdisjoint(model.batcher.workers):
                    self._unload(model)
        self._shared.close_empty(surplus=True)

    def _expire_loading(self, model: Model, now: float) -> None:
        waited = model.batcher.oldest()
        if waited is not None and now - waited > self._batching.timeout:
            model.batcher.fail_all(
                ModelNotReadyException(f"The model {model.name} is still being loaded. Wait and try again.")
            )

    async def _weigh(self, now: float) -> None:
        """Weigh what has changed, and now and then all; unload while it is too much together. About 1 ms a process."""
        models = Counter(worker.pid for worker in self.ready)
        for process in self._shared.processes:
            models.setdefault(process.pid, 0)
            if process.private_bytes:
                self._weights.began(process.pid, process.private_bytes)
        due = self._weights.due(models, now)
        if not due:
            return
        self._weights.record(await asyncio.to_thread(lambda: {pid: private_bytes(pid) for pid in due}), models)
        while self._weights.total > self.room.memory_bytes:
            if not self._unload_oldest():
                self._shared.close_empty(surplus=False)  # what they still hold was not given back
                return

    async def stop(self, grace: float = 30.0) -> None:
        """Load nothing more, finish the calls there are within `grace` seconds, end the workers."""
        self._stopped = True
        loading = [model.task for model in self._models.values() if model.fleet is None]
        if loading:
            await asyncio.wait(loading, timeout=grace)
        for task in loading:
            task.cancel()
        for model in self._models.values():
            if model.fleet is None:
                model.batcher.fail_all(ServiceUnavailable("The endpoint is being deleted."))
        await asyncio.gather(*loading, *(fleet.stop(grace) for fleet in self.fleets()), return_exceptions=True)
        for model in list(self._models.values()):
            self._drop(model)
        await asyncio.gather(*self._unloading, return_exceptions=True)
        await self._shared.close()

    def last_log(self) -> str:
        return self._shared.last_log()


def multi_model_of(backend: object) -> MultiModel | None:
    """The multi-model part of a variant's backend: the whole of it, or one stage of a pipeline."""
    if isinstance(backend, MultiModel):
        return backend
    parts = backend.parts if isinstance(backend, Several) else ()
    return next((part for part in parts if isinstance(part, MultiModel)), None)


def _folder(name: str) -> str:
    """A model's name as that of one folder."""
    return name.replace("/", "_")[-120:]


def _not_loaded(name: str, error: Exception) -> FourfoldError:
    """What the callers of a model hear that cannot be loaded."""
    if isinstance(error, ValidationError):
        return error
    if not isinstance(error, FourfoldError):
        return InternalFailure(f"{type(error).__name__} while the model {name} was loaded; see the server's log.")
    return ModelError(f"The model {name} cannot be loaded: {error.message}", original_message=error.message)
