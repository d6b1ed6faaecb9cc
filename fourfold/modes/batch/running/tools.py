"""What every job works with."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fourfold.clock import Clock
from fourfold.config import Settings
from fourfold.pool.local import Placer
from fourfold.records import WorkerSpec
from fourfold.store import Store

Document = dict[str, Any]


class Ready(Protocol):
    """A model that workers can load; `control.models.Prepared` is one."""

    @property
    def spec(self) -> WorkerSpec: ...

    @property
    def imports(self) -> tuple[str, ...]: ...

    @property
    def load_timeout(self) -> float: ...


Prepare = Callable[[str, Document], Awaitable[Ready]]
"""From a model's name and document to what a worker loads. Raises ModelLoadError."""


class Slots:
    """How many shards run at once, over all jobs. `wanted` is how many lanes wait for a slot."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.wanted = 0
        self._semaphore = asyncio.Semaphore(count)

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        self.wanted += 1
        try:
            await self._semaphore.acquire()
        finally:
            self.wanted -= 1
        try:
            yield
        finally:
            self._semaphore.release()


@dataclass(frozen=True)
class Tools:
    """What every job works with."""

    store: Store
    placer: Placer
    prepare: Prepare
    settings: Settings
    clock: Clock
    slots: Slots
    owner: str
    shard_bytes: int

    def logs(self, job: str) -> Path:
        """The folder of a job's logs."""
        return self.settings.logs / "transform-jobs" / job


class JobFailed(Exception):
    """The job cannot go on; the message is its FailureReason."""
