"""The batcher against workers that answer when the test says so."""

from __future__ import annotations

import asyncio
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.errors import FourfoldError, ModelError, ServiceUnavailable, ThrottlingException
from fourfold.pool import batcher as batcher_module
from fourfold.pool.batcher import Batcher, Batching
from fourfold.records import Call, Reply, WorkerSpec


class Caller:
    """A waiter that keeps what it got."""

    def __init__(self, id: int, body: bytes = b"x") -> None:
        self.call = Call(id, body)
        self.arrived = asyncio.get_running_loop().time()
        self.results: list[Reply | FourfoldError] = []

    def answer(self, reply: Reply) -> None:
        self.results.append(reply)

    def fail(self, error: FourfoldError) -> None:
        self.results.append(error)


class HandWorker:
    """A worker whose answers the test gives by hand."""

    def __init__(self, max_batch: int = 4, capacity: int = 1) -> None:
        self.max_batch = max_batch
        self.capacity = capacity
        self.outstanding = 0
        self.spec = WorkerSpec("m", "", "onnx")
        self.sent: deque[tuple[list[Caller], object]] = deque()
        self.batches: list[list[int]] = []
        self.killed: FourfoldError | None = None
        self.since: float | None = None

    def invoke(self, waiters, done) -> None:
        self.outstanding += 1
        self.batches.append([waiter.call.id for waiter in waiters])
        self.sent.append((list(waiters), done))

    def finish(self) -> None:
        waiters, done = self.sent.popleft()
        self.outstanding -= 1
        done(self)
        for waiter in waiters:
            waiter.answer(Reply(waiter.call.id, b""))

    def busy_since(self) -> float | None:
        return self.since

    def expire_streams(self, before: float, error: FourfoldError) -> None:
        self.streams_until = before

    def kill(self, reason: FourfoldError) -> None:
        self.killed = reason


async def turn() -> None:
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_a_lone_call_goes_at_once():
    batcher, worker = Batcher(Batching()), HandWorker()
    batcher.add(worker)
    batcher.submit(Caller(1))
    await turn()
    assert worker.batches == [[1]]


async def test_calls_gather_while_the_worker_is_busy_and_go_together():
    batcher, worker = Batcher(Batching()), HandWorker(max_batch=4)
    batcher.add(worker)
    for id in range(7):
        batcher.submit(Caller(id))
        await turn()
    worker.finish()
    worker.finish()
    assert worker.batches == [[0], [1, 2, 3, 4], [5, 6]]


async def test_a_model_that_cannot_batch_gets_one_at_a_time_whatever_the_setting():
    batcher, worker = Batcher(Batching(max_batch=16)), HandWorker(max_batch=1)
    batcher.add(worker)
    for id in range(3):
        batcher.submit(Caller(id))
    await turn()
    worker.finish()
    assert worker.batches == [[0], [1]]


async def test_calls_wait_for_the_first_worker():
    batcher, worker = Batcher(Batching()), HandWorker()
    batcher.submit(Caller(1))
    await turn()
    batcher.add(worker)
    assert worker.batches == [[1]]


async def test_the_least_busy_worker_is_taken():
    batcher, a, b = Batcher(Batching()), HandWorker(1, capacity=3), HandWorker(1, capacity=3)
    batcher.add(a)
    batcher.add(b)
    for id in range(4):
        batcher.submit(Caller(id))
    await turn()
    assert (a.outstanding, b.outstanding) == (2, 2)


async def test_a_full_queue_refuses_at_once():
    batcher = Batcher(Batching(queue_length=2))
    batcher.submit(Caller(1))
    batcher.submit(Caller(2))
    with pytest.raises(ThrottlingException, match="2 calls wait"):
        batcher.submit(Caller(3))
    assert batcher.rejected == 1


async def test_a_batch_is_closed_by_its_bytes(monkeypatch):
    monkeypatch.setattr(batcher_module, "BATCH_BYTES", 10)
    batcher, worker = Batcher(Batching()), HandWorker(max_batch=8)
    for id in range(4):
        batcher.submit(Caller(id, b"123456"))
    batcher.add(worker)
    assert worker.batches == [[0, 1]]


async def test_calls_past_their_deadline_fail_and_a_hanging_worker_is_killed():
    batcher, worker = Batcher(Batching(timeout=5)), HandWorker()
    now = asyncio.get_running_loop().time()
    late, fresh = Caller(1), Caller(2)
    late.arrived = now - 6
    batcher.submit(late)
    batcher.submit(fresh)
    batcher.workers.append(worker)
    worker.since = now - 6
    batcher.expire()
    assert isinstance(late.results[0], ServiceUnavailable)
    assert not fresh.results
    assert isinstance(worker.killed, ModelError)
    assert "5 s" in worker.killed.message


async def test_streams_have_a_deadline_while_they_wait_and_while_they_run():
    batcher, worker = Batcher(Batching(timeout=5, stream_timeout=60)), HandWorker()
    now = asyncio.get_running_loop().time()
    late = Caller(1)
    late.arrived = now - 6
    batcher.submit_stream(late)
    batcher.workers.append(worker)
    batcher.expire()
    assert isinstance(late.results[0], ServiceUnavailable)
    assert now - 60 <= worker.streams_until < now - 50


async def test_a_withdrawn_call_is_never_sent():
    batcher, worker = Batcher(Batching()), HandWorker()
    gone, stays = Caller(1), Caller(2)
    batcher.submit(gone)
    batcher.submit(stays)
    batcher.withdraw(gone)
    batcher.add(worker)
    await turn()
    assert worker.batches == [[2]]


async def test_max_delay_holds_a_batch_back_until_it_is_full():
    batcher, worker = Batcher(Batching(max_delay=3600)), HandWorker(max_batch=3)
    batcher.add(worker)
    batcher.submit(Caller(1))
    batcher.submit(Caller(2))
    await turn()
    assert worker.batches == []
    batcher.submit(Caller(3))
    await turn()
    assert worker.batches == [[1, 2, 3]]


async def test_max_delay_sends_an_unfilled_batch_when_its_time_has_come():
    batcher, worker = Batcher(Batching(max_delay=3600)), HandWorker(max_batch=3)
    batcher.add(worker)
    old = Caller(1)
    old.arrived -= 3601
    batcher.submit(old)
    await turn()
    assert worker.batches == [[1]]


steps = st.lists(st.sampled_from(["call", "call", "call", "finish", "turn", "leave", "join"]), max_size=60)


@given(steps, st.integers(1, 5), st.integers(1, 20))
@settings(deadline=None)
def test_every_call_is_sent_exactly_once_in_order_or_refused(steps, max_batch, queue_length):
    async def story() -> None:
        batcher = Batcher(Batching(queue_length=queue_length))
        workers = [HandWorker(max_batch)]
        batcher.add(workers[0])
        accepted: list[Caller] = []
        for number, step in enumerate(steps):
            busy = [worker for worker in workers if worker.sent]
            if step == "call":
                caller = Caller(number)
                try:
                    batcher.submit(caller)
                    accepted.append(caller)
                except ThrottlingException:
                    assert len(batcher) == queue_length
            elif step == "finish" and busy:
                busy[number % len(busy)].finish()
            elif step == "turn":
                await turn()
            elif step == "leave" and batcher.workers:
                batcher.remove(batcher.workers[0])
            elif step == "join":
                workers.append(HandWorker(max_batch))
                batcher.add(workers[-1])
            assert len(batcher) <= queue_length
        workers.append(HandWorker(max_batch))
        batcher.add(workers[-1])
        await turn()
        while any(worker.sent for worker in workers):
            next(worker for worker in workers if worker.sent).finish()
            await turn()
        assert all(len(caller.results) == 1 for caller in accepted)
        batches = [batch for worker in workers for batch in worker.batches]
        assert sorted(id for batch in batches for id in batch) == [caller.call.id for caller in accepted]
        assert all(0 < len(batch) <= max_batch and batch == sorted(batch) for batch in batches)

    asyncio.run(story())
