"""What serverless endpoints use: counted in memory, in the store within half a second, summed by the minute."""

from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa

from fourfold.clock import ManualClock
from fourfold.pool.metering import PERIOD, Meter
from fourfold.store import Store, resources, usage
from fourfold.store.migrate import upgrade
from fourfold.store.resources import Resource
from fourfold.store.usage import Counts, Key, Total

KEY = Key("shop", "v", 2048)


@pytest.fixture
def store(tmp_path):
    store = Store(f"sqlite:///{tmp_path}/store.db")
    upgrade(store)
    yield store
    store.close()


def rows(store: Store) -> list[tuple[int, ...]]:
    table = usage.usage.c
    query = sa.select(table.minute, table.calls, table.billed_ms).order_by(table.minute)
    return [tuple(row) for row in store.run_now(lambda db: db.execute(query).all())]


async def test_a_minute_is_one_row_however_often_it_is_written(store):
    clock = ManualClock(start=600.0)
    meter = Meter(store, clock)
    for _ in range(3):
        meter.add(KEY, Counts(calls=2, billed_ms=30))
        await meter.flush()
    await clock.advance(60)
    meter.add(KEY, Counts(calls=1, billed_ms=7))
    await meter.flush()
    assert rows(store) == [(10, 6, 90), (11, 1, 7)]


async def test_it_is_written_by_itself_and_only_when_there_is_something(store):
    clock = ManualClock(start=600.0)
    meter = Meter(store, clock)
    running = asyncio.create_task(meter.run())
    await asyncio.sleep(0)
    meter.add(KEY, Counts(calls=1, billed_ms=5))
    await clock.advance(PERIOD)
    for _ in range(200):
        if rows(store):
            break
        await asyncio.sleep(0.01)
    assert rows(store) == [(10, 1, 5)]
    running.cancel()


async def test_what_could_not_be_written_is_written_later(store):
    meter = Meter(store, ManualClock(start=600.0))
    store.run_now(lambda db: db.execute(sa.text("ALTER TABLE serverless_usage RENAME TO away")))
    meter.add(KEY, Counts(calls=1, billed_ms=5))
    await meter.flush()
    store.run_now(lambda db: db.execute(sa.text("ALTER TABLE away RENAME TO serverless_usage")))
    meter.add(KEY, Counts(calls=1, billed_ms=6))
    await meter.flush()
    assert rows(store) == [(10, 2, 11)]


async def test_the_total_is_of_this_endpoint_and_of_every_memory_size(store):
    clock = ManualClock(start=600.0)
    meter = Meter(store, clock)
    meter.add(KEY, Counts(calls=9, billed_ms=1000))  # an earlier endpoint of the name
    await meter.flush()
    await clock.advance(120)
    endpoint = Resource("endpoint", "shop", "arn:shop", clock.now(), clock.now())
    store.run_now(lambda db: resources.insert(db, endpoint))
    meter.add(KEY, Counts(calls=1, billed_ms=500))
    meter.add(Key("shop", "v", 1024), Counts(calls=1, billed_ms=1000, kept_ms=2000))
    total = await meter.total("shop", "v")
    assert total.calls == 2
    assert total.gb_seconds == {"processing": 2.0, "provisioned": 0.0, "kept": 2.0}
    assert await meter.total("other", "v") == Total()


async def test_old_rows_are_removed(store):
    now = (usage.KEPT_MINUTES + 100) * 60.0
    for minute in (50, 100, 150):
        store.run_now(lambda db, minute=minute: usage.add(db, minute, [(KEY, Counts(calls=1))]))
    store.run_now(lambda db: usage.prune(db, now))
    assert [minute for minute, *_ in rows(store)] == [100, 150]
