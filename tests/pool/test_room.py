"""Room for serverless workers: turns to start, and which idle worker goes when there is too little of it."""

from __future__ import annotations

import asyncio

import pytest

from fourfold.errors import ServiceUnavailable
from fourfold.pool import room as module
from fourfold.pool.link import WorkerLink
from fourfold.pool.room import Room
from fourfold.records import WorkerSpec


class Owner:
    """A fleet whose workers have been idle since a given time, or are needed."""

    def __init__(self, since: float | None = None) -> None:
        self.since = since
        self.released: list[WorkerLink] = []

    def idle_since(self, worker: WorkerLink) -> float | None:
        return self.since

    def release(self, worker: WorkerLink) -> None:
        self.released.append(worker)


def fill(room: Room, *owners: Owner) -> None:
    for owner in owners:
        room.add(WorkerLink(WorkerSpec("m", "", "onnx")), owner)


async def test_the_longest_idle_worker_gives_way_at_the_bound():
    room, old, new, busy = Room(3), Owner(1.0), Owner(2.0), Owner()
    fill(room, new, busy, old)
    async with room.turn():
        assert (len(old.released), new.released, busy.released) == (1, [], [])
    async with room.turn():  # it has gone: there is room now
        assert new.released == []


async def test_busy_workers_may_be_more_than_the_bound():
    room, busy = Room(1), Owner()
    fill(room, busy, busy)
    async with room.turn():
        assert busy.released == []


async def test_short_memory_takes_an_idle_worker_and_then_refuses(monkeypatch):
    room, idle = Room(), Owner(1.0)
    fill(room, idle)
    monkeypatch.setattr(module, "available_bytes", lambda: 1024)
    async with room.turn():
        assert len(idle.released) == 1
    with pytest.raises(ServiceUnavailable, match="too little to start another worker"):
        async with room.turn():
            pass


async def start_three(monkeypatch, slot_seconds: float) -> list[int]:
    """Three starts at once on two cores; those that had begun before the first one ended."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr(module, "SLOT_SECONDS", slot_seconds)
    room, begun, finish, third = Room(), [], asyncio.Event(), asyncio.Event()

    async def start(number: int) -> None:
        async with room.turn():
            begun.append(number)
            if len(begun) == 3:
                third.set()
            await finish.wait()

    starts = [asyncio.create_task(start(number)) for number in range(3)]
    if slot_seconds < 1:
        await third.wait()
    else:
        await asyncio.sleep(0.01)
    finish.set()
    seen = list(begun)
    await asyncio.gather(*starts)
    assert begun == [0, 1, 2]
    return seen


async def test_a_burst_starts_few_at_once(monkeypatch):
    assert await start_three(monkeypatch, slot_seconds=60.0) == [0, 1]


async def test_a_slow_start_holds_up_nobody(monkeypatch):
    assert await start_three(monkeypatch, slot_seconds=0.001) == [0, 1, 2]
