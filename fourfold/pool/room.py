"""Room on the machine for serverless workers: how many start at once, and which idle ones go when it is short."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from fourfold.errors import ServiceUnavailable
from fourfold.pool.link import WorkerLink
from fourfold.pool.processes import available_bytes, total_bytes

RESERVED = 0.08
"""Share of the machine's memory that idle workers leave free: under it, the longest idle ones go."""
LEAST = 0.03
"""Share under which no further worker is started."""
SLOT_SECONDS = 1.0
"""A start that takes longer gives its turn to the next: it waits for something, or there is no hurry left."""


class Owner(Protocol):
    """A fleet, as far as it concerns the room."""

    def idle_since(self, worker: WorkerLink) -> float | None:
        """`loop.time()` since when the worker has been idle and may go. None: it is needed."""

    def release(self, worker: WorkerLink) -> None:
        """End the idle worker."""


class Room:
    """What all elastic fleets of one server share.

    Args:
        most_warm: workers that may be there at once before the longest idle one goes. None: memory decides alone.
    """

    def __init__(self, most_warm: int | None = None) -> None:
        self._most_warm = most_warm
        self._turns = asyncio.Semaphore(max(2, os.cpu_count() or 1))  # starts of a burst would slow one another
        self._workers: dict[WorkerLink, Owner] = {}
        self._total = total_bytes()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn to start a worker.

        Raises:
            ServiceUnavailable: there is no memory for another one.
        """
        await self._turns.acquire()
        given_back = False

        def give_back() -> None:
            nonlocal given_back
            if not given_back:
                given_back = True
                self._turns.release()

        timer = asyncio.get_running_loop().call_later(SLOT_SECONDS, give_back)
        try:
            self._make_room()
            yield
        finally:
            timer.cancel()
            give_back()

    def add(self, worker: WorkerLink, owner: Owner) -> None:
        """A worker has joined its fleet."""
        self._workers[worker] = owner

    def remove(self, worker: WorkerLink) -> None:
        """It has left."""
        self._workers.pop(worker, None)

    def _make_room(self) -> None:
        if self._most_warm is not None and len(self._workers) >= self._most_warm:
            self._evict()
        free = available_bytes()
        if free < RESERVED * self._total and not self._evict() and free < LEAST * self._total:
            raise ServiceUnavailable(
                f"The machine has {free // 2**20:,} MB of memory left, too little to start another worker. Try again "
                "later, or give fewer endpoints provisioned workers."
            )

    def _evict(self) -> bool:
        """End the worker that has been idle for the longest time. False: every worker is needed."""
        idle = [
            (since, worker, owner)
            for worker, owner in self._workers.items()
            if (since := owner.idle_since(worker)) is not None
        ]
        if not idle:
            return False
        _, worker, owner = min(idle, key=lambda one: one[0])
        self.remove(worker)
        owner.release(worker)
        return True
