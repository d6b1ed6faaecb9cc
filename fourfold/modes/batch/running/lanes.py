"""A job's life.

A lane holds one worker. The first lane has its worker plan the job, where that was not done before; then all lanes take
shard after shard from the store, and assemble objects whose parts are done. When nothing is left, the job's end is
written.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from sqlalchemy.engine import Connection

from fourfold.errors import FourfoldError, ModelLoadError
from fourfold.modes.batch import capture
from fourfold.modes.batch.orders import SCRATCH
from fourfold.modes.batch.running.attempts import Attempts
from fourfold.modes.batch.running.outputs import assemble
from fourfold.modes.batch.running.planning import make_plan
from fourfold.modes.batch.running.record import Record
from fourfold.modes.batch.running.tools import JobFailed, Tools
from fourfold.modes.batch.running.workers import Starter, Worker
from fourfold.storage.objects import Objects
from fourfold.store import shards
from fourfold.store.resources import Resource
from fourfold.store.shards import Claim, Progress

log = logging.getLogger(__name__)

LEASE = 60.0
"""Seconds for which a shard is claimed; renewed while its worker lives."""
PATIENCE = 5.0
"""Seconds after which a lane makes room, between two shards, for a job that waits."""
ROOM_SECONDS = 0.5
"""How long a job whose lanes made room stands back."""


class Running:
    """A job that is being worked on."""

    task: asyncio.Task[None]

    def __init__(self, job: Resource, tools: Tools) -> None:
        self._status = job.status
        self._tools = tools
        self._record = Record(job, tools)
        self._attempts = Attempts(self._record, tools)
        self._starter: Starter
        self._workers: list[Worker] = []
        self._whole: deque[int] = deque()

    def claims(self) -> list[Claim]:
        """The shards that run now."""
        return list(self._attempts.beats)

    def added_to(self, done: Progress) -> Progress:
        """What is written, and what the running shards have done so far."""
        beats = self._attempts.beats.values()
        return replace(
            done,
            records=done.records + sum(beat.records for beat in beats),
            errors=done.errors + sum(beat.errors for beat in beats),
            waits=bool(self._workers) and all(worker.held for worker in self._workers),
        )

    async def run(self) -> None:
        """Bring the job to its end, or to Stopped where that is wished."""
        try:
            if self._status != "Stopping":
                await self._work()
                await self._end()
                return
        except asyncio.CancelledError:
            if not await self._record.is_stopping():
                raise  # the server ends; the job goes on with the next one
        except JobFailed as failed:
            await self._record.end("Failed", str(failed))
            return
        except FourfoldError as error:
            await self._record.end("Failed", f"{error.code}: {error.message}")
            return
        except Exception as error:
            log.exception("transform job failed inside the server", extra={"job": self._record.name})
            await self._record.end("Failed", f"InternalServerError: {type(error).__name__}: {error}")
            return
        await self._record.end("Stopped")

    async def _work(self) -> None:
        await self._record.begin()
        self._whole.extend(await self._tools.store.run(lambda db: shards.whole(db, self._record.name)))
        self._starter = await self._prepared()
        while True:
            try:
                async with asyncio.TaskGroup() as lanes:
                    lanes.create_task(self._first_lane(lanes))
            except BaseExceptionGroup as group:
                raise group.exceptions[0] from None
            if not await self._unfinished() and not self._whole:
                return
            await self._tools.clock.sleep(ROOM_SECONDS)  # lanes made room, or another gateway holds the last shards

    async def _prepared(self) -> Starter:
        document = self._record.document
        try:
            ready = await self._tools.prepare(document["ModelName"], document["model"])
        except ModelLoadError as error:
            raise JobFailed(f"ClientError: {error.message}") from None
        return Starter(self._record, self._tools, ready)

    async def _unfinished(self) -> int:
        return await self._tools.store.run(lambda db: shards.unfinished(db, self._record.name))

    # Lanes

    async def _first_lane(self, lanes: asyncio.TaskGroup) -> None:
        async with self._worker() as worker:
            if not self._record.document["planned"]:
                await make_plan(self._record, self._tools, worker)
            useful = min(self._parallel(), await self._unfinished())
            for _ in range(useful - 1):
                lanes.create_task(self._lane())
            await self._take_shards(worker)

    async def _lane(self) -> None:
        async with self._worker() as worker:
            await self._take_shards(worker)

    @contextlib.asynccontextmanager
    async def _worker(self) -> AsyncIterator[Worker]:
        async with self._tools.slots.one():
            worker = Worker(self._starter.start)
            self._workers.append(worker)
            try:
                yield worker
            finally:
                self._workers.remove(worker)
                await worker.end()

    def _parallel(self) -> int:
        """Shards of this job that run at once: instances times requests per instance, at most the machine's cores."""
        document, cores = self._record.document, self._tools.slots.count
        each = document.get("MaxConcurrentTransforms") or cores
        return min(cores, int(document["TransformResources"]["InstanceCount"]) * int(each))

    async def _take_shards(self, worker: Worker) -> None:
        """Work until there is none left, or until a lane of another job has waited long enough."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while await self._step(worker):
            if self._tools.slots.wanted and loop.time() - began > PATIENCE:
                return

    async def _step(self, worker: Worker) -> bool:
        """One object assembled or one shard done. False: there is nothing to do."""
        if self._whole:
            await assemble(self._record, self._tools, worker, self._whole.popleft())
            return True
        name, owner, now = self._record.name, self._tools.owner, self._tools.clock.now()
        claim = await self._tools.store.run(lambda db: shards.claim(db, name, owner, now, LEASE))
        if claim is None:
            return False
        whole = await self._attempts.run(worker, claim)
        if whole is not None:
            self._whole.append(whole)
        return True

    # The end

    async def _end(self) -> None:
        name, buckets = self._record.name, self._tools.settings.buckets

        def read(db: Connection) -> tuple[Progress, list[Any]]:
            return shards.progress(db, name), shards.failures(db, name, 1)

        progress, failures = await self._tools.store.run(read)
        if failures:
            first = failures[0]
            reason = (
                f"ClientError: {progress.objects_failed} of {progress.objects} objects could not be transformed. "
                f"The first: {first.url}: {first.reason}"
            )
            await self._record.end("Failed", reason)
            return
        if self._record.options.capture:
            await self._capture()
        await asyncio.to_thread(shutil.rmtree, buckets / SCRATCH / name, True)
        await self._record.end("Completed")

    async def _capture(self) -> None:
        record = self._record
        rows = await self._tools.store.run(lambda db: shards.finished(db, record.name))
        objects = Objects(self._tools.settings.buckets)
        await asyncio.to_thread(capture.write, objects, record.options.capture, record.arn, record.started_at, rows)
