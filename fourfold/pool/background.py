"""Background workers: they take what the others leave, and stand still while those need their cores.

The kernel runs them only where a core has nothing else to do (SCHED_IDLE), which is enough beside a few calls. Beside
many it is not: a core that runs one of them does not fetch the waiting work of another core, and where a hypervisor or
a container's quota bounds the whole machine, their time is taken from everybody's. So the CPU time that the normal
workers use is looked at, and a background worker for which it leaves no core is stopped (SIGSTOP), until it does.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from fourfold.pool.link import WorkerLink

LOOK_SECONDS = 0.02
"""How often the normal workers' CPU time is read while there are background workers."""
RISE, FALL = 0.3, 0.02
"""By which part of the difference the need follows a look: within 0.1 s when calls come, about 1 s when they end."""
RESERVE = 0.5
"""Cores beyond the need that stay free for the next call, as soon as there are calls."""
NO_NEED = 0.005
"""Cores; below that there are no calls."""


class Background:
    """Stops and continues the background workers of this machine.

    Args:
        workers: all workers of the machine, these among them.
        cpu_seconds: what a process has used so far, by its id; as the kernel says where none is given.

    Attributes:
        cores: of the machine.
    """

    def __init__(self, workers: Iterable[WorkerLink], cpu_seconds: Callable[[int], float] | None = None) -> None:
        self.cores = len(os.sched_getaffinity(0))
        self.cpu_seconds = cpu_seconds or _cpu_seconds
        self._workers = workers
        self._links: list[WorkerLink] = []
        self._used: dict[WorkerLink, float] = {}
        self._looked = self._gateway = self._recent = self._need = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, link: WorkerLink) -> None:
        """A worker that was started at the lowest priority."""
        self._links.append(link)
        if self._timer is None:
            self._recent = self._need = 0.0
            self._read()
            self._later()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._links = [link for link in self._links if not link.gone.is_set()]
        if not self._links:
            self._timer = None
            self._used.clear()
            return
        need = self._read()
        self._recent += RISE * (need - self._recent)
        self._need = max(self._recent, self._need + FALL * (self._recent - self._need))
        room = spare(self._need, self.cores)
        for place, link in enumerate(link for link in self._links if link.loaded.done()):
            link.hold(place >= room)
        self._later()

    def _read(self) -> float:
        """Cores that calls have taken since the last look: the workers' time, and as much of the gateway's at most."""
        before, self._used = self._used, {link: self.cpu_seconds(link.pid) for link in self._normal()}
        workers = sum(used - before.get(link, used) for link, used in self._used.items())
        then, self._looked = self._looked, time.monotonic()
        gateway, self._gateway = self._gateway, time.thread_time()
        return (workers + min(workers, self._gateway - gateway)) / (self._looked - then)

    def _normal(self) -> list[WorkerLink]:
        return [link for link in self._workers if link not in self._links and link.pid and not link.gone.is_set()]


def spare(need: float, cores: int) -> int:
    """How many background workers may run beside calls that take `need` cores.

    Where a single call now and then would leave none, one may: the kernel sees to it that it does not disturb.
    """
    if need < NO_NEED:
        return cores
    return max(cores - math.ceil(need + RESERVE), int(need < RESERVE))


def _cpu_seconds(pid: int) -> float:
    """What a process has used; 0 where it has ended."""
    with suppress(OSError):
        return time.clock_gettime(~pid << 3 | 2)  # the kernel's number for the CPU clock of that process
    return 0.0
