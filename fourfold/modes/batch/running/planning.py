"""A job's plan: made by a worker, written to the store piece by piece as it comes."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import msgspec

from fourfold.errors import ModelError
from fourfold.modes.batch.orders import SURVEY, Piece, Planned, Survey
from fourfold.modes.batch.running.record import Record
from fourfold.modes.batch.running.tools import JobFailed, Tools
from fourfold.modes.batch.running.workers import Worker
from fourfold.pool.link import WorkerLink
from fourfold.storage.objects import parse_location
from fourfold.store import Store, shards

PLAN_SECONDS = 3600.0
"""Time for planning: it lists, and reads big CSV objects once."""

_Pieces = asyncio.Queue[bytes | None]


async def make_plan(record: Record, tools: Tools, worker: Worker) -> None:
    """Have the plan made and written. Raises JobFailed."""

    async def survey(link: WorkerLink) -> bytes:
        await tools.store.run(lambda db: shards.drop(db, record.name))  # half a plan of a former attempt
        return await _survey(link, record, tools.store)

    try:
        answer = await worker.insist(survey)
    except ModelError as error:
        raise JobFailed(f"InternalServerError: the job could not be planned: {error.message}") from None
    planned = msgspec.msgpack.decode(answer, type=Planned)
    if planned.problem:
        raise JobFailed(planned.problem)
    await record.note(planned=True)


async def _survey(link: WorkerLink, record: Record, store: Store) -> bytes:
    source = record.document["TransformInput"]["DataSource"]["S3DataSource"]
    prefix = str(parse_location(source["S3Uri"]))
    order = msgspec.msgpack.encode(
        Survey(record.options, record.root, source["S3DataType"], prefix, record.destination)
    )
    pieces: _Pieces = asyncio.Queue()
    writing = asyncio.create_task(_write(pieces, record.name, store))
    try:
        async with asyncio.timeout(PLAN_SECONDS):
            answer = await link.run_task(SURVEY, order, pieces.put_nowait)
        pieces.put_nowait(None)
        await writing
    finally:
        writing.cancel()
        await asyncio.wait({writing})  # what it writes now must not come after the next attempt's drop
    return answer


async def _write(pieces: _Pieces, job: str, store: Store) -> None:
    number = 0
    while (content := await pieces.get()) is not None:
        piece = msgspec.msgpack.decode(content, type=Piece)
        rows: list[dict[str, Any]] = [
            {"job": job, "number": number + i, "object": shard.object, "work": msgspec.to_builtins(shard)}
            for i, shard in enumerate(piece.shards)
        ]
        new = [
            {"job": job, "number": item.object, "url": item.url, "output": item.output, "size": item.size}
            for item in piece.objects
        ]
        await store.run(partial(shards.add, new_objects=new, new_shards=rows))
        number += len(rows)
