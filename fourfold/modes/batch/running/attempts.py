"""One attempt at a shard: a worker runs it, and its outcome is written. A worker that dies costs the shard one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec
from sqlalchemy.engine import Connection

from fourfold.clock import iso
from fourfold.errors import ModelError
from fourfold.modes.batch.orders import RUN, SCRATCH, Beat, Done, Order, Report
from fourfold.modes.batch.plan import Shard
from fourfold.modes.batch.running.record import Record
from fourfold.modes.batch.running.tools import Tools
from fourfold.modes.batch.running.workers import Worker
from fourfold.pool.link import WorkerLink
from fourfold.store import shards
from fourfold.store.shards import Claim, Outcome

log = logging.getLogger(__name__)


class Attempts:
    """The attempts at a job's shards.

    Attributes:
        beats: what the shards that run now have done so far.
    """

    def __init__(self, record: Record, tools: Tools) -> None:
        self.beats: dict[Claim, Beat] = {}
        self._record = record
        self._tools = tools

    async def run(self, worker: Worker, claim: Claim) -> int | None:
        """Run a shard. Returns the number of the object whose last part it was."""
        shard = msgspec.convert(claim.work, Shard)
        self.beats[claim] = Beat(0, 0)
        try:
            answer = await self._watched(await worker.link(), claim, msgspec.msgpack.encode(self._order(shard, claim)))
        except ModelError as error:
            return await self._failed(claim, shard, error)
        else:
            return await self._done(claim, msgspec.msgpack.decode(answer, type=Report))
        finally:
            self.beats.pop(claim, None)

    def _order(self, shard: Shard, claim: Claim) -> Order:
        record = self._record
        return Order(
            record.options,
            shard.slices,
            record.root,
            record.destination,
            f"s3://{SCRATCH}/{record.name}/{claim.number}-{claim.attempt}",
            record.arn,
            iso(record.started_at),
        )

    async def _watched(self, link: WorkerLink, claim: Claim, order: bytes) -> bytes:
        """A shard's report. A worker that says nothing for longer than one request may take is ended."""
        loop = asyncio.get_running_loop()
        alive = asyncio.Event()
        limit = self._record.options.timeout

        def beat(payload: bytes) -> None:
            self.beats[claim] = msgspec.msgpack.decode(payload, type=Beat)
            alive.set()

        task = asyncio.ensure_future(link.run_task(RUN, order, beat))
        try:
            while not task.done():
                alive.clear()
                asked = loop.time()
                await asyncio.wait({task}, timeout=limit)
                if not task.done() and not alive.is_set() and not link.held_since(asked):
                    link.kill(
                        ModelError(
                            f"the model did not answer within {limit:g} s "
                            "(InvocationsTimeoutInSeconds in ModelClientConfig changes the limit)"
                        )
                    )
                    await asyncio.wait({task})
            return task.result()
        finally:
            task.cancel()

    async def _done(self, claim: Claim, report: Report) -> int | None:
        records, errors = sum(done.records for done in report.done), sum(done.errors for done in report.done)
        settled = [
            Outcome(done.object, done.reason, done.records, done.errors)
            for done in report.done
            if done.reason or claim.object is None
        ]
        result = msgspec.to_builtins(report.done[0]) if claim.object is not None else None

        def write(db: Connection) -> int | None:
            kept = shards.finish(db, claim, result, settled, records=records, errors=errors)
            if not kept or claim.object is None or shards.results(db, self._record.name, claim.object) is None:
                return None
            return claim.object

        whole = await self._tools.store.run(write)
        if failed := [done for done in report.done if done.reason]:
            await self._log(failed)
        return whole

    async def _failed(self, claim: Claim, shard: Shard, error: ModelError) -> int | None:
        """Its worker died, hung or broke: try again; at the end, find the guilty object, or fail it."""
        log.warning("shard failed", extra={"job": self._record.name, "shard": claim.number, "reason": error.message})
        if claim.attempt > self._record.options.retries and len(shard.slices) == 1:
            return await self._done(claim, Report((Done(shard.slices[0].object, error.message),)))
        if claim.attempt <= self._record.options.retries:
            await self._tools.store.run(lambda db: shards.put_back(db, claim))
        else:
            works = [msgspec.to_builtins(Shard((part,))) for part in shard.slices]
            await self._tools.store.run(lambda db: shards.scatter(db, claim, works))
        return None

    async def _log(self, failed: Sequence[Done]) -> None:
        """Lines of the job's data log, as SageMaker writes one for what could not be transformed."""
        name = self._record.name
        rows = await self._tools.store.run(lambda db: [shards.get_object(db, name, done.object) for done in failed])
        now = iso(self._tools.clock.now())
        lines = (f"{now}:[fourfold logs]: {row.url}: {done.reason}\n" for row, done in zip(rows, failed, strict=True))
        await asyncio.to_thread(_append, self._tools.logs(name) / "data-log.log", "".join(lines))


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
