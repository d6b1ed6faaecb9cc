"""An object whose parts are done: a worker puts them together, and the parts go."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import msgspec
from sqlalchemy.engine import Connection

from fourfold.errors import ModelError
from fourfold.modes.batch.addresses import errors_url
from fourfold.modes.batch.options import PARQUET
from fourfold.modes.batch.orders import ASSEMBLE, Assembly, Done
from fourfold.modes.batch.running.record import Record
from fourfold.modes.batch.running.tools import Tools
from fourfold.modes.batch.running.workers import Worker
from fourfold.storage.objects import Objects, parse_location
from fourfold.store import shards
from fourfold.store.shards import Outcome


async def assemble(record: Record, tools: Tools, worker: Worker, number: int) -> None:
    """Put an object together, and settle it. Nothing where that was done before."""

    def read(db: Connection) -> tuple[Any, list[Any] | None]:
        return shards.get_object(db, record.name, number), shards.results(db, record.name, number)

    row, results = await tools.store.run(read)
    if results is None or row.state != "pending":
        return
    parts = tuple(msgspec.convert(result, Done) for result in results)
    errors = errors_url(record.destination, row.output)
    is_table = record.options.answer in PARQUET or record.options.columnar
    order = msgspec.msgpack.encode(Assembly(record.root, row.output, errors, parts, is_table))
    reason = ""
    try:
        await worker.insist(lambda link: link.run_task(ASSEMBLE, order))
    except ModelError as error:
        reason = f"the output could not be put together: {error.message}"
    outcome = Outcome(number, reason, sum(part.records for part in parts), sum(part.errors for part in parts))
    await tools.store.run(lambda db: shards.settle(db, record.name, outcome))
    if not reason:
        await asyncio.to_thread(_discard, Objects(tools.settings.buckets), parts)


def _discard(objects: Objects, parts: Iterable[Done]) -> None:
    for part in parts:
        for url in (part.part, part.error_part):
            if url:
                objects.delete(parse_location(url))
