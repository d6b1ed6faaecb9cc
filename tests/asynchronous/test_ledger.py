"""The ledger: many changes to one transaction, refusals that lose nothing."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress

import pytest

from fourfold.clock import ManualClock
from fourfold.modes.asynchronous.ledger import BacklogFull, DiskFull, Ledger
from fourfold.store import Store, queue
from fourfold.store.migrate import upgrade
from fourfold.store.queue import Accepted, Claim, NewCall, Settlement


@asynccontextmanager
async def ledger(tmp_path, **options):
    store = Store(f"sqlite:///{tmp_path}/queue.db")
    upgrade(store)
    made = Ledger(store, ManualClock(), "one", **options)
    running = asyncio.create_task(made.run())
    try:
        yield made, store
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await made.close()
        store.close()


class Future(asyncio.Future):
    accepted = asyncio.Future.set_result
    fail = asyncio.Future.set_exception


async def accept(made: Ledger, call: NewCall, most: int) -> Accepted:
    future = Future()
    made.accept("a", call, most, future)
    return await future


def call(name: str) -> NewCall:
    return NewCall(name, f"s3://b/{name}.out", f"s3://b/{name}-error.out", "{}", 2e9)


async def test_a_call_is_claimed_by_the_transaction_that_accepts_it(tmp_path):
    async with ledger(tmp_path) as (made, store):
        claims: list[Claim] = []
        made.want("a", 2, claims.extend)
        await asyncio.gather(*(accept(made, call(str(i)), 100) for i in range(3)))
        assert [each.inference_id for each in claims] == ["0", "1"]
        third = asyncio.Event()

        def deliver(more: list[Claim]) -> None:
            claims.extend(more)
            third.set()

        made.want("a", 2, deliver)
        await third.wait()
        won = await made.settle([Settlement(each.token, "{}") for each in claims])
        assert len(won) == 3
        assert await made.settle([Settlement(claims[0].token, "{}")]) == set()
        done = asyncio.Event()
        made.finish([(each.token, "completed") for each in claims], done.set)
        await done.wait()
        assert await store.run(lambda db: queue.count(db, "a")) == queue.Counts(completed=3)


async def test_clients_that_send_call_after_call_share_transactions_and_nobody_waits_for_those_that_stay_away(
    tmp_path, monkeypatch
):
    async with ledger(tmp_path) as (made, _):
        written = []
        apply = made._apply
        monkeypatch.setattr(made, "_apply", lambda db, work: written.append(len(work.acceptances)) or apply(db, work))

        async def client(number: int, calls: int) -> None:
            for i in range(calls):
                await accept(made, call(f"{number}-{i}"), 1000)
                for _ in range(number):  # some come back later than others
                    await asyncio.sleep(0)

        with monkeypatch.context() as patient:
            patient.setattr("fourfold.modes.asynchronous.ledger.GATHER", 3600.0)
            await client(1, 3)
            await asyncio.gather(*(client(number, 5) for number in range(8)))
        assert written == [1, 1, 1, 8, 8, 8, 8, 8]
        made._expect(8)
        await client(1, 2)
        assert written[8:] == [1, 1]


async def test_past_the_backlog_calls_are_refused_with_a_time_to_come_back(tmp_path):
    async with ledger(tmp_path) as (made, store):
        answers = await asyncio.gather(
            *(accept(made, call(str(i)), 2) for i in range(3)), return_exceptions=True
        )  # fmt: skip
        refused = [each for each in answers if isinstance(each, BacklogFull)]
        assert len(refused) == 1
        assert (refused[0].status, refused[0].retry_after) == (429, 5)
        assert (await store.run(lambda db: queue.count(db, "a"))).queued == 2


async def test_on_a_full_disk_calls_are_refused_and_outcomes_are_written_later(tmp_path):
    free = True
    async with ledger(tmp_path, room=lambda _size: free) as (made, store):
        claims: list[Claim] = []
        made.want("a", 1, claims.extend)
        await accept(made, call("1"), 100)
        free = False
        with pytest.raises(DiskFull) as refusal:
            await accept(made, call("2"), 100)
        assert refusal.value.retry_after
        await store.run(
            lambda db: db.exec_driver_sql("PRAGMA max_page_count=1")
        )  # not one page more, as on a full disk
        settling = asyncio.create_task(made.settle([Settlement(claims[0].token, "x" * 1_000_000)]))
        await asyncio.sleep(0.05)
        assert not settling.done()
        free = True
        with pytest.raises(DiskFull):
            await accept(made, call("y" * 1_000_000), 100)
        await store.run(lambda db: db.exec_driver_sql("PRAGMA max_page_count=1000000"))
        assert await settling == {claims[0].token}
        await accept(made, call("3"), 100)
