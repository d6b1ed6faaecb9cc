"""Models that share a process, each answered by a thread of its own: the many models of one endpoint.

    SharedStarter ─┬─ SharedProcess ─┬─ thread ─ model
                  │                 └─ thread ─ model
                  └─ SharedProcess ─── thread ─ model

A call to one of fifty models in fifty processes takes twice as long as one to a single model: what a process needs to
answer at all has left the caches meanwhile. In one process it stays there, and loading needs no fork
(docs/decisions/0009-models-that-share-a-process.md). The price is that they end together. So only models that are data
and nothing else live together, and one that was at work when its process ended gets a process of its own from then on.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Sequence
from pathlib import Path

import msgspec

from fourfold.errors import FourfoldError
from fourfold.pool.forker import SharedProcess
from fourfold.pool.link import WorkerLink
from fourfold.pool.local import Placer
from fourfold.pool.logfiles import LogFiles
from fourfold.records import WorkerSpec

log = logging.getLogger(__name__)

MOST_SUSPECTS = 1024
"""Models that are known to have been at work when their process ended; when there are more, all are forgotten."""


class SharedStarter:
    """Starts workers as threads of a few processes: the `Starter` of the models of one endpoint.

    Args:
        placer: starts the processes, and the workers that get one to themselves.
        log_folder: each process logs to `<log_folder>/<instance>.log`. None: to the server's own output.

    Attributes:
        most: processes at once; a model goes to the one with the fewest.
    """

    def __init__(self, placer: Placer, log_folder: Path | None = None) -> None:
        self.most = 1
        self._placer = placer
        self._logs = LogFiles(log_folder)
        self._links: dict[SharedProcess, set[WorkerLink]] = {}
        self._suspects: set[str] = set()
        self._one_at_a_time = asyncio.Lock()

    @property
    def processes(self) -> list[SharedProcess]:
        """Those that live."""
        for process in [one for one in self._links if one.ended]:
            del self._links[process]
        return list(self._links)

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
        """Begin to load a model. Raises ServiceUnavailable where no process could be started."""
        if spec.model in self._suspects:
            return await self._placer.start(spec, imports=imports, nice=nice)
        async with self._one_at_a_time:
            process = await self._process(spec.model, imports)
            link = await self._placer.start_in(process, msgspec.structs.replace(spec, log_path=process.log_path))
            self._links.setdefault(process, set()).add(link)
        link.signal = lambda number: _signal(process, link, number)
        link.explain = lambda: self._left(process, link)
        return link

    async def _process(self, model: str, imports: Sequence[str]) -> SharedProcess:
        """The process for another worker of this model, a new one while there may be more."""
        processes = self.processes
        if len(processes) < self.most:
            log_path = self._logs.next(process.log_path for process in processes)
            process = await self._placer.share(imports, log_path)
            self._links[process] = set()
            return process

        def burden(process: SharedProcess) -> tuple[bool, int]:
            links = self._links[process]
            return any(link.spec.model == model for link in links), len(links)

        return min(processes[: self.most], key=burden)

    def _left(self, process: SharedProcess, link: WorkerLink) -> FourfoldError | None:
        """A model is there no more: unloaded, or its process has ended."""
        self._links.get(process, set()).discard(link)
        if link.outstanding or not link.loaded.done():
            if len(self._suspects) >= MOST_SUSPECTS:
                self._suspects.clear()
            self._suspects.add(link.spec.model)
            log.warning("a model was at work when a shared process ended", extra={"model": link.spec.model})
        return None

    def surplus(self) -> set[WorkerLink]:
        """Workers in processes beyond `most`."""
        return {link for process in self.processes[self.most :] for link in self._links[process]}

    def close_empty(self, *, surplus: bool) -> None:
        """End processes that hold no model: those beyond `most`, or all of them."""
        processes = self.processes
        for process in processes[self.most :] if surplus else processes:
            if not self._links[process]:
                process.close()

    def last_log(self) -> str:
        """The end of what the newest process printed."""
        return self._logs.last()

    async def close(self) -> None:
        """End every process."""
        for process in self.processes:
            process.close()


def _signal(process: SharedProcess, link: WorkerLink, number: signal.Signals) -> None:
    """A thread cannot be signalled. An idle one ends when it is let go of; a stuck one, only with its process."""
    if number == signal.SIGKILL and link.loaded.done() and not link.outstanding:
        link.disconnect()
    else:
        process.signal(process.pid, number)
