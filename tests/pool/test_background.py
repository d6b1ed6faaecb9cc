"""Background workers beside real ones that have something to do."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from fourfold.pool.background import spare
from fourfold.pool.zygote import BACKGROUND
from fourfold.records import WorkerSpec
from tests.pool.test_fleet import ask, eventually, make, placer

__all__ = ["placer"]


@pytest.mark.parametrize(
    ("need", "cores", "room"),
    [
        (0.0, 2, 2),  # nobody calls
        (0.06, 2, 1),  # a call now and then leaves a core
        (0.06, 1, 1),  # and is not disturbed on the only one
        (0.7, 2, 0),
        (0.7, 1, 0),
        (6.5, 16, 9),
        (40.0, 16, 0),
    ],
)
def test_what_calls_leave_to_background_workers(need, cores, room):
    assert spare(need, cores) == room


async def test_background_workers_stand_still_while_calls_need_the_cores(placer, tmp_path):
    busy = BusyWorkers()
    placer.background.cores, placer.background.cpu_seconds = 2, busy.cpu_seconds
    fleet = make(placer, tmp_path)
    await fleet.start(1)
    spec = WorkerSpec("m", str(tmp_path), "echo")
    links = [await placer.start(spec, nice=BACKGROUND) for _ in range(2)]
    await asyncio.gather(*(link.loaded for link in links))
    assert [os.sched_getscheduler(link.pid) for link in links] == [os.SCHED_IDLE] * 2
    assert os.sched_getscheduler(fleet.ready[0].pid) == os.SCHED_OTHER

    busy.begin()
    await eventually(lambda: [state(link.pid) for link in links] == ["T", "T"])
    assert all(link.held_since(asyncio.get_running_loop().time()) for link in links)
    busy.end()
    await eventually(lambda: "T" not in [state(link.pid) for link in links])
    assert await links[0].run_task("echo_format:square", b"7") == b"49"
    await fleet.stop()


async def test_what_a_worker_burns_is_seen(placer, tmp_path):
    fleet = make(placer, tmp_path)
    await fleet.start(1)
    pid = fleet.ready[0].pid
    before = placer.background.cpu_seconds(pid)
    await ask(fleet, b"burn:0.2")
    assert placer.background.cpu_seconds(pid) > before
    await fleet.stop()


async def test_a_worker_that_stands_still_can_be_ended(placer, tmp_path):
    placer.background.cores = 0
    link = await placer.start(WorkerSpec("m", str(tmp_path), "echo"), nice=BACKGROUND)
    await link.loaded
    await eventually(lambda: state(link.pid) == "T")
    link.kill()
    async with asyncio.timeout(20):
        await link.gone.wait()


class BusyWorkers:
    """CPU time of workers that use a core each between `begin` and `end`, however busy the machine is otherwise."""

    def __init__(self) -> None:
        self.used = 0.0
        self.since: float | None = None

    def cpu_seconds(self, pid: int) -> float:
        return self.used + (0.0 if self.since is None else time.monotonic() - self.since)

    def begin(self) -> None:
        self.since = time.monotonic()

    def end(self) -> None:
        self.used, self.since = self.cpu_seconds(0), None


def state(pid: int) -> str:
    """R, S, T (stopped) and so on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
