"""Fleets of real workers, forked from a real zygote, with a format from a package of its own."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from fourfold.errors import FourfoldError, ModelError, ModelLoadError, ServiceUnavailable
from fourfold.pool.batcher import Batching
from fourfold.pool.fleet import Fleet
from fourfold.pool.link import WorkerLink
from fourfold.pool.local import LocalPlacer
from fourfold.pool.retired import Retired
from fourfold.records import Call, Reply, WorkerSpec
from tests.server import alive

PLUGIN = Path(__file__).parent / "plugin"


class Caller:
    """One call and a future of its outcome."""

    def __init__(self, body: bytes) -> None:
        loop = asyncio.get_running_loop()
        self.call = Call(0, body)
        self.arrived = loop.time()
        self.outcome: asyncio.Future[Reply] = loop.create_future()

    def answer(self, reply: Reply) -> None:
        self.outcome.set_result(reply)

    def fail(self, error: FourfoldError) -> None:
        self.outcome.set_exception(error)


class Listener:
    """One streamed call and what came of it."""

    def __init__(self, body: bytes) -> None:
        self.call = Call(0, body, stream=True)
        self.parts: list[bytes] = []
        self.failure: Reply | None = None
        self.ended = asyncio.Event()
        self.cancel = lambda: None

    def part(self, body: bytes) -> None:
        self.parts.append(body)
        if len(self.parts) == 5 and self.call.body == b"1000000":
            self.cancel()

    def end(self, failure: Reply | None) -> None:
        self.failure = failure
        self.ended.set()

    def fail(self, error: FourfoldError) -> None:
        raise error


@pytest.fixture
async def placer(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(PLUGIN))
    monkeypatch.setenv("ECHO_FOLDER", str(tmp_path))
    placer = LocalPlacer()
    yield placer
    await placer.close()


def make(placer: LocalPlacer, tmp_path: Path, *, timeout: float = 60.0, load_timeout: float = 60.0, load: str = ""):
    spec = WorkerSpec("m", str(tmp_path), "echo", {"ECHO_LOAD": load})
    return Fleet(spec, placer, Batching(timeout=timeout), load_timeout=load_timeout, log_folder=tmp_path / "logs")


async def ask(fleet: Fleet, body: bytes) -> bytes:
    caller = Caller(body)
    fleet.submit(caller)
    return (await caller.outcome).body


async def eventually(condition) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in other processes
            await asyncio.sleep(0.005)


async def test_workers_answer_and_end_with_their_fleet(placer, tmp_path):
    fleet = make(placer, tmp_path)
    await fleet.start(2)
    pids = [worker.pid for worker in fleet.ready]
    assert len(set(pids)) == 2
    assert await ask(fleet, b"hello") == b"hello"
    assert int(await ask(fleet, b"pid")) in pids
    await fleet.stop()
    await eventually(lambda: not any(map(alive, pids)))


async def test_calls_that_wait_together_go_as_one_batch(placer, tmp_path):
    fleet = make(placer, tmp_path)
    await fleet.start(1)
    answers = await asyncio.gather(*(ask(fleet, b"batch") for _ in range(8)))
    assert b"8" in answers


async def test_a_killed_worker_costs_its_calls_only_and_is_replaced(placer, tmp_path):
    fleet = make(placer, tmp_path)
    await fleet.start(1)
    pid = fleet.ready[0].pid
    lost = Caller(b"sleep:3600")
    fleet.submit(lost)
    await eventually(lambda: fleet.ready[0].outstanding)
    waiting = Caller(b"after")
    fleet.submit(waiting)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ModelError, match="ended while it was answering"):
        await lost.outcome
    assert (await waiting.outcome).body == b"after"
    assert fleet.ready[0].pid != pid
    assert fleet.restarts == 1


async def test_a_worker_that_hangs_is_replaced_after_its_deadline(placer, tmp_path):
    fleet = make(placer, tmp_path, timeout=0.05)
    await fleet.start(1)
    hanging = Caller(b"sleep:3600")
    fleet.submit(hanging)
    async with asyncio.timeout(20):
        while not hanging.outcome.done():
            fleet.batcher.expire()
            await asyncio.sleep(0.01)
    with pytest.raises(ModelError, match=r"did not answer within 0\.05 s"):
        await hanging.outcome
    fleet.batcher.batching = Batching()
    assert await ask(fleet, b"again") == b"again"


async def test_a_retired_fleet_answers_what_it_has_and_ends_what_hangs(placer, tmp_path):
    fleet = make(placer, tmp_path)
    fleet.batcher.batching = Batching(max_batch=1, timeout=1.0)
    await fleet.start(1)
    (pid,) = [worker.pid for worker in fleet.ready]
    callers = [Caller(body) for body in (b"sleep:0.1", b"late", b"sleep:3600")]
    for caller in callers:
        fleet.submit(caller)
    retired = Retired()
    retired.add(fleet)
    async with asyncio.timeout(20):
        while not callers[-1].outcome.done() or alive(pid):
            retired.tick()
            await asyncio.sleep(0.01)
    assert [(await caller.outcome).body for caller in callers[:2]] == [b"sleep:0.1", b"late"]
    with pytest.raises(ModelError, match="did not answer within 1 s"):
        await callers[-1].outcome
    await retired.end()
    assert not fleet.ready


async def test_an_exception_of_the_model_is_a_reply_and_the_worker_lives(placer, tmp_path):
    fleet = make(placer, tmp_path)
    await fleet.start(1)
    caller = Caller(b"raise")
    fleet.submit(caller)
    reply = await caller.outcome
    assert (reply.status, reply.body) == (500, b"ValueError: as asked")
    assert "Traceback" in reply.detail
    assert await ask(fleet, b"x") == b"x"
    assert fleet.restarts == 0


@pytest.mark.parametrize(
    ("load", "reason"),
    [("fail", "this artifact is no good"), ("die", "ended while it loaded"), ("sleep", "within 0.3 s")],
)
async def test_a_model_that_cannot_load_says_why(placer, tmp_path, load, reason):
    fleet = make(placer, tmp_path, load=load, load_timeout=0.3)
    with pytest.raises(ModelLoadError, match=reason):
        await fleet.start(3)
    assert fleet.last_log().startswith(f"loading {load}")
    await fleet.stop(0)
    await eventually(lambda: not any(zygote.workers for zygote in placer._zygotes.values()))


async def test_scaling_adds_workers_and_lets_surplus_ones_finish(placer, tmp_path):
    fleet = make(placer, tmp_path)
    await fleet.start(1)
    await fleet.reach(3)
    busy = [Caller(b"sleep:0.2") for _ in range(3)]
    for caller in busy:
        fleet.submit(caller)
        await eventually(lambda: not len(fleet.batcher))
    pids = [worker.pid for worker in fleet.ready]
    fleet.scale(1)
    for caller in busy:
        await caller.outcome
    await eventually(lambda: sum(map(alive, pids)) == 1)


async def test_when_the_zygote_dies_its_workers_go_and_a_new_one_serves(placer, tmp_path):
    fleet = make(placer, tmp_path)
    await fleet.start(2)
    pids = [worker.pid for worker in fleet.ready]
    os.kill(placer.warm().pid, signal.SIGKILL)
    await eventually(lambda: not any(map(alive, pids)))
    await eventually(lambda: len(fleet.ready) == 2 and fleet.ready[0].pid not in pids)
    assert await ask(fleet, b"x") == b"x"


async def test_a_stream_arrives_part_by_part(placer, tmp_path):
    fleet = make(placer, tmp_path)
    await fleet.start(1)
    listener = Listener(b"7")
    fleet.submit_stream(listener)
    await listener.ended.wait()
    assert listener.parts == [b"0", b"1", b"2", b"3", b"4", b"5", b"6"]
    assert listener.failure is None


async def test_a_stream_that_breaks_tells_the_models_error(placer, tmp_path):
    fleet = make(placer, tmp_path)
    await fleet.start(1)
    listener = Listener(b"20")
    fleet.submit_stream(listener)
    await listener.ended.wait()
    assert len(listener.parts) == 13
    assert listener.failure.body == b"ValueError: thirteen"


async def test_a_cancelled_stream_closes_the_generator_and_frees_the_worker(placer, tmp_path):
    fleet = make(placer, tmp_path)
    await fleet.start(1)
    listener = Listener(b"1000000")
    fleet.submit_stream(listener)
    await listener.ended.wait()
    assert len(listener.parts) < 1000
    assert (tmp_path / "stream-ended").exists()
    assert await ask(fleet, b"x") == b"x"


async def test_a_task_runs_beside_the_model(placer, tmp_path):
    fleet = make(placer, tmp_path)
    await fleet.start(1)
    worker: WorkerLink = fleet.ready[0]
    news: list[bytes] = []
    assert await worker.run_task("echo_format:square", b"12", news.append) == b"144"
    assert news == [b"half way"]
    with pytest.raises(ModelError, match="invalid literal"):
        await worker.run_task("echo_format:square", b"twelve")


async def test_without_any_worker_and_no_hope_calls_are_refused_at_once(placer, tmp_path):
    fleet = make(placer, tmp_path)
    await fleet.start(1)
    fleet.spec = WorkerSpec("m", str(tmp_path), "echo", {"ECHO_LOAD": "fail"})
    os.kill(fleet.ready[0].pid, signal.SIGKILL)
    await eventually(lambda: fleet.failure and not fleet.ready)
    with pytest.raises(ServiceUnavailable, match="this artifact is no good"):
        fleet.submit(Caller(b"x"))
    await fleet.stop(0)


async def test_a_zygote_has_no_thread_but_its_own_whatever_it_imports(placer):
    zygote = placer.warm(("joblib", "pandas", "pyarrow.parquet", "sklearn.ensemble"))
    assert not zygote.ready
    await zygote.settled.wait()
    assert zygote.missing == {}
    assert len(os.listdir(f"/proc/{zygote.pid}/task")) == 1


async def test_no_worker_comes_after_the_end(placer, tmp_path):
    fleet = make(placer, tmp_path)
    await fleet.start(1)
    call = asyncio.create_task(ask(fleet, b"burn:60"))
    await eventually(lambda: fleet.ready[0].outstanding == 1)
    await placer.close()
    with pytest.raises(ModelError, match="server stopped"):
        await call
    with pytest.raises(ServiceUnavailable):
        await placer.start(WorkerSpec("m", str(tmp_path), "echo"))
    assert placer._zygotes == {}
    await fleet.stop(0)
