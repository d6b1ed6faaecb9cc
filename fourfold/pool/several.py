"""What backends that are made of several fleets have in common: one variant, more than one model."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from fourfold.errors import FourfoldError
from fourfold.pool.batcher import Batcher
from fourfold.pool.fleet import Fleet
from fourfold.pool.frames import Loaded
from fourfold.pool.link import StreamWaiter, Waiter, WorkerLink
from fourfold.pool.stats import ModelTimes


class Workers(Protocol):
    """The workers of one variant, as the control loop keeps them; also a `Backend` of routes."""

    changed: Callable[[], None]
    """Called when a worker became ready or was lost."""

    @property
    def ready(self) -> list[WorkerLink]:
        """Workers that take calls now."""

    @property
    def wanted(self) -> int:
        """How many there should be; with 0 it is well without any."""

    @property
    def failure(self) -> FourfoldError | None:
        """Why the newest start failed; None when it went well."""

    signature: Loaded | None
    addresses: frozenset[str]
    """As in `Backend`."""

    def submit(self, waiter: Waiter) -> None: ...

    def submit_stream(self, waiter: StreamWaiter) -> None: ...

    def withdraw(self, waiter: Waiter | StreamWaiter) -> None: ...

    def holds(self, session: str) -> bool: ...

    async def start(self, count: int) -> None: ...

    async def stop(self, grace: float = 30.0) -> None: ...

    def tick(self) -> None: ...

    def last_log(self) -> str: ...


class Batchers:
    """Several batchers seen as one, by those who count. What one had counted before it went stays counted."""

    def __init__(self, batchers: Callable[[], Iterable[Batcher]]) -> None:
        self._batchers = batchers
        self.times = ModelTimes()
        self._rejected = self._batches = self._batched_calls = 0

    def __len__(self) -> int:
        return sum(map(len, self._batchers()))

    @property
    def rejected(self) -> int:
        return self._rejected + sum(one.rejected for one in self._batchers())

    @property
    def batches(self) -> int:
        return self._batches + sum(one.batches for one in self._batchers())

    @property
    def batched_calls(self) -> int:
        return self._batched_calls + sum(one.batched_calls for one in self._batchers())

    def in_flight(self) -> int:
        """Calls that wait or are being worked on."""
        return sum(one.in_flight() for one in self._batchers())

    def forget(self, batcher: Batcher) -> None:
        """It goes now."""
        self._rejected += batcher.rejected
        self._batches += batcher.batches
        self._batched_calls += batcher.batched_calls


class Several(ABC):
    """Base of backends that are made of fleets, or of backends that are.

    Attributes:
        parts: what it is made of.
        batcher: all its batchers, for those who count.
        signature: it has that of no one model.
        addresses: headers of calls that say which part is meant.
    """

    signature: Loaded | None = None
    addresses: frozenset[str] = frozenset()

    def __init__(self, parts: Sequence[Fleet | Several] = ()) -> None:
        self.parts = parts
        self.batcher = Batchers(lambda: (fleet.batcher for fleet in self.fleets()))
        self._changed: Callable[[], None] = lambda: None

    @abstractmethod
    def submit(self, waiter: Waiter) -> None: ...

    @abstractmethod
    def submit_stream(self, waiter: StreamWaiter) -> None: ...

    @abstractmethod
    def withdraw(self, waiter: Waiter | StreamWaiter) -> None: ...

    def holds(self, session: str) -> bool:
        """Is this session open with one of its parts?"""
        return any(part.holds(session) for part in self.parts)

    def fleets(self) -> Iterator[Fleet]:
        """Every fleet there is now."""
        for part in self.parts:
            if isinstance(part, Fleet):
                yield part
            else:
                yield from part.fleets()

    @property
    def changed(self) -> Callable[[], None]:
        return self._changed

    @changed.setter
    def changed(self, call: Callable[[], None]) -> None:
        self._changed = call
        for part in self.parts:
            part.changed = call

    @property
    def ready(self) -> list[WorkerLink]:
        """Workers that take calls now; none while a part that needs some has none."""
        if any(part.wanted and not part.ready for part in self.parts):
            return []
        return [worker for fleet in self.fleets() for worker in fleet.ready]

    @property
    def wanted(self) -> int:
        return sum(part.wanted for part in self.parts)

    @property
    def instances(self) -> int:
        """Instances that it stands for: the workers of the part that has the fewest."""
        if not self.parts:
            return len(self.ready)
        return min(len(part.ready) if isinstance(part, Fleet) else part.instances for part in self.parts)

    @property
    def failure(self) -> FourfoldError | None:
        return next((part.failure for part in self.parts if part.failure is not None), None)

    @property
    def restarts(self) -> int:
        return sum(fleet.restarts for fleet in self.fleets())

    async def start(self, count: int) -> None:
        """Bring up `count` workers of each part. Raises ModelLoadError where one cannot be loaded."""
        await asyncio.gather(*(part.start(count) for part in self.parts))

    async def reach(self, count: int) -> None:
        """Bring each part to so many workers. Raises ModelLoadError where they cannot be started."""
        await asyncio.gather(*(part.reach(count) for part in self.parts))

    async def stop(self, grace: float = 30.0) -> None:
        """Take no more calls, finish those there are within `grace` seconds, end the workers."""
        await asyncio.gather(*(part.stop(grace) for part in self.parts))

    def tick(self) -> None:
        """Called regularly: calls and workers past their deadline."""
        for part in self.parts:
            part.tick()

    def last_log(self) -> str:
        """What the newest worker printed of the part that has no worker."""
        return next((part.last_log() for part in self.parts if not part.ready), "")
