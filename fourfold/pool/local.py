"""Starts workers on this machine: keeps the zygotes, asks them for forks, connects the sockets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Sequence
from typing import Protocol
from weakref import WeakSet

import msgspec

from fourfold.errors import FourfoldError, ModelError, ServiceUnavailable
from fourfold.pool.background import Background
from fourfold.pool.cgroups import Cgroups
from fourfold.pool.forker import Forker, SharedProcess, Zygote
from fourfold.pool.link import WorkerLink
from fourfold.pool.memory import over
from fourfold.pool.templates import Templates
from fourfold.pool.zygote import BACKGROUND
from fourfold.records import WorkerSpec

log = logging.getLogger(__name__)

BASE_IMPORTS = ("fourfold.pool.worker", "numpy", "onnxruntime", "fourfold.formats.codecs", "fourfold.formats.primed")
"""What every zygote imports before it forks."""

MOST_ZYGOTES = 8
"""Zygotes at once, where none of them has a worker; each holds the memory of its imports."""
GROUP_SECONDS = 1.0
"""Until the control group of a worker that ended is removed: its process may need a moment to be gone."""
STOPPING = "The server stopped before the model had answered. Send the call again when it is back."
"""What calls are told that are in flight when the server's grace is over."""
_CLOSE_SECONDS = 5.0
"""How long `close` waits for sockets of killed workers to end."""


class Starter(Protocol):
    """Starts workers and connects to them."""

    async def start(
        self,
        spec: WorkerSpec,
        *,
        imports: Sequence[str] = (),
        more: Sequence[str] = (),
        nice: int = 0,
        template: bool = False,
        hurry: bool = False,
    ) -> WorkerLink:
        """Start a worker and begin to load its model; the link's `loaded` tells the rest.

        Args:
            imports: modules that the model's format needs, for the zygote.
            more: modules that its tasks need. A zygote that has them is used once it is ready, and not waited for.
            nice: how much lower than normal its CPU priority is. BACKGROUND: it takes only what the others leave.
            template: fork a process that has loaded the model, where there is one, and think of making one.
            hurry: a call waits for the worker; it is the first call itself, so there is none before it.

        Raises:
            ServiceUnavailable: no process could be started.
        """


class Placer(Starter, Protocol):
    """Puts processes somewhere."""

    async def share(self, imports: Sequence[str] = (), log_path: str = "") -> SharedProcess:
        """Start a process for many models. Raises ServiceUnavailable."""

    async def start_in(self, process: SharedProcess, spec: WorkerSpec) -> WorkerLink:
        """Begin to load a model in a thread of a shared process. Raises ServiceUnavailable where it has ended."""

    def forget(self, spec: WorkerSpec) -> None:
        """The model will not be started any more: drop what was kept for it."""

    async def close(self) -> None:
        """End every worker."""


class LocalPlacer:
    """Workers as processes of this machine, forked from one zygote per interpreter and set of imports.

    Args:
        cgroups: for workers with a memory limit. None: they are watched.
        region: AWS's name of the one that model code finds in its environment. Empty: what the server found in its own.
    """

    def __init__(self, cgroups: Cgroups | None = None, region: str = "") -> None:
        self._cgroups = cgroups
        self._region = region
        self._zygotes: dict[tuple[str, tuple[str, ...]], Zygote] = {}
        self._links: WeakSet[WorkerLink] = WeakSet()
        self._templates = Templates()
        self._closing = False
        self.background = Background(self._links)

    def warm(self, imports: Sequence[str] = (), python: str = "") -> Zygote:
        """The zygote for these imports; started now where there is none, or where it has died.

        Where there are `MOST_ZYGOTES`, the longest unused one without workers gives way.
        """
        key = (python or sys.executable, tuple(sorted(set(imports) - set(BASE_IMPORTS))))
        zygote = self._zygotes.pop(key, None)
        if zygote is None or zygote.ended:
            self._make_room()
            zygote = Zygote(key[0], (*BASE_IMPORTS, *key[1]), self._region)
        self._zygotes[key] = zygote  # at the end: it was used last
        return zygote

    def _make_room(self) -> None:
        if len(self._zygotes) >= MOST_ZYGOTES:
            for key, zygote in list(self._zygotes.items()):
                if zygote.idle and key[1]:  # without further imports it is everybody's
                    del self._zygotes[key]
                    zygote.close()
                    return

    async def start(
        self,
        spec: WorkerSpec,
        *,
        imports: Sequence[str] = (),
        more: Sequence[str] = (),
        nice: int = 0,
        template: bool = False,
        hurry: bool = False,
    ) -> WorkerLink:
        if self._closing:
            raise ServiceUnavailable("The server is stopping.")
        zygote = self.warm(imports, spec.python)
        if more and (fuller := self.warm((*imports, *more), spec.python)).ready:
            zygote = fuller
        if template and (loaded := self._templates.find(spec)) is not None:
            with contextlib.suppress(ServiceUnavailable):  # it has just ended: load the model then
                link = await self._fork(loaded, spec, nice)
                link.from_template = True
                return link
        link = await self._fork(zygote, _without_warm_up(spec) if hurry else spec, nice)
        if template:
            link.loaded.add_done_callback(lambda _: self._templates.consider(spec, zygote))
        return link

    async def share(self, imports: Sequence[str] = (), log_path: str = "") -> SharedProcess:
        if self._closing:
            raise ServiceUnavailable("The server is stopping.")
        process = SharedProcess(self.warm(imports), log_path)
        await process.begin()
        return process

    async def start_in(self, process: SharedProcess, spec: WorkerSpec) -> WorkerLink:
        return await self._fork(process, spec, 0)

    def forget(self, spec: WorkerSpec) -> None:
        self._templates.forget(spec)

    async def _fork(self, source: Forker, spec: WorkerSpec, nice: int) -> WorkerLink:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        link = WorkerLink(spec)
        cgroup = self._confine(link)
        with theirs:
            # Connected before the fork, so that what to load is there when the worker looks.
            transport, _ = await asyncio.get_running_loop().create_unix_connection(lambda: link, sock=ours)
            try:
                link.pid = await source.fork(theirs, spec.log_path, nice, cgroup=cgroup)
            except BaseException:
                transport.abort()
                raise
        link.signal = lambda number: source.signal(link.pid, number)
        self._links.add(link)
        if nice == BACKGROUND:
            self.background.add(link)
        return link

    def _confine(self, link: WorkerLink) -> str:
        """The folder of a control group for a worker with a memory limit; empty where there is none."""
        memory_mb = link.spec.memory_mb
        if self._cgroups is None or memory_mb is None:
            return ""
        try:
            group = self._cgroups.make(memory_mb)
        except OSError as error:
            log.warning("a worker gets no control group", extra={"reason": str(error)})
            return ""
        loop = asyncio.get_running_loop()

        def remove() -> None:
            if not group.remove():
                loop.call_later(GROUP_SECONDS, remove)

        def explain() -> FourfoldError | None:
            full = group.was_full()
            loop.call_later(GROUP_SECONDS, remove)
            if not full:
                return None
            message = over(memory_mb, group.peak())
            return ModelError(message, original_message="OutOfMemory", log_stream=link.spec.log_path)

        link.explain = explain
        return str(group.folder)

    async def close(self) -> None:
        self._closing = True  # a worker that ends now is not replaced
        self.background.close()
        for link in self._links:
            link.kill(ModelError(STOPPING, log_stream=link.spec.log_path))
        await self._templates.close()
        for zygote in self._zygotes.values():
            zygote.close()
        self._zygotes.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await asyncio.gather(*(link.gone.wait() for link in self._links))


def _without_warm_up(spec: WorkerSpec) -> WorkerSpec:
    """The spec for a worker that warms up only where its model's Environment asks for it."""
    return msgspec.structs.replace(spec, environment={"FOURFOLD_WARMUP": "off"} | spec.environment)
