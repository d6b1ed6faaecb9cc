"""The runner of transform jobs: bookkeeping on the event loop, work in workers.

    wish           CreateTransformJob, Stop and resume write the job's status and wake the runner
    running        each job that is not settled is worked on (`running`), until its end is written to the store

All that a restart needs is in the store. A shard that was running when the server ended is run again from its
beginning, and writes the same bytes to another part.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from sqlalchemy.engine import Connection

from fourfold.clock import Clock
from fourfold.config import Settings
from fourfold.errors import ResourceInUse, ResourceNotFound, ValidationException
from fourfold.modes.batch.addresses import errors_url
from fourfold.modes.batch.options import SHARD_BYTES, options_of
from fourfold.modes.batch.running.lanes import LEASE, Running
from fourfold.modes.batch.running.record import KIND, destination
from fourfold.modes.batch.running.tools import Prepare, Slots, Tools
from fourfold.pool.local import Placer
from fourfold.store import Store, resources, shards, tags
from fourfold.store.resources import Resource
from fourfold.store.shards import Progress

Document = dict[str, Any]


class Jobs:
    """Transform jobs: what people want of them, and the runner.

    Args:
        store: desired state and plans.
        placer: starts workers.
        prepare: makes a model ready to be loaded.
        settings: folders and the partition.
        clock: stamps and leases.
        cores: how many shards run at once, over all jobs. None: as many as the machine has cores.
        owner: whose claims are this runner's; the same after a restart.
        shard_bytes: about how much of an object one shard takes.
    """

    def __init__(
        self,
        store: Store,
        placer: Placer,
        prepare: Prepare,
        settings: Settings,
        clock: Clock,
        *,
        cores: int | None = None,
        owner: str = "local",
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._owner = owner
        slots = Slots(cores or len(os.sched_getaffinity(0)))
        self._tools = Tools(store, placer, prepare, settings, clock, slots, owner, shard_bytes)
        self._wake = asyncio.Event()
        self._running: dict[str, Running] = {}

    # Wishes

    async def create(self, request: Document) -> str:
        """CreateTransformJob; returns the job's ARN.

        Raises:
            ValidationException: the options contradict one another, or there is no such model.
            ResourceInUse: the name is taken.
        """
        name = request["TransformJobName"]
        options_of(request)
        now = self._clock.now()
        arn = self._settings.partition.arn(f"transform-job/{name}")
        pairs = {tag["Key"]: tag["Value"] for tag in request.get("Tags", [])}
        document = {member: value for member, value in request.items() if member != "Tags"}

        def write(db: Connection) -> None:
            model = resources.get(db, "model", request["ModelName"])
            if model is None:
                missing = self._settings.partition.arn(f"model/{request['ModelName']}")
                raise ValidationException(f'Could not find model "{missing}".')
            if resources.get(db, KIND, name) is not None:
                raise ResourceInUse(
                    "Job name must be unique within an AWS account and region, and a job with this name already "
                    f"exists ({arn})."
                )
            wish = document | {"model": model.document, "planned": False}
            resources.insert(db, Resource(KIND, name, arn, now, now, "InProgress", wish))
            tags.put(db, arn, pairs)

        await self._store.run(write)
        self._wake.set()
        return arn

    async def stop(self, name: str) -> None:
        """StopTransformJob. Raises ResourceNotFound; does nothing to a job that has ended."""

        def write(db: Connection) -> None:
            job = self._find(db, name)
            if job.status == "InProgress":
                job.status, job.modified_at = "Stopping", self._clock.now()
                resources.save(db, job)

        await self._store.run(write)
        self._wake.set()

    async def resume(self, name: str) -> None:
        """Go on with a job that was stopped or has failed: what is done stays done, what failed is tried again.

        Raises:
            ResourceNotFound: there is no such job.
            ValidationException: it is neither stopped nor failed.
        """

        def write(db: Connection) -> None:
            job = self._find(db, name)
            if job.status not in ("Stopped", "Failed"):
                raise ValidationException(
                    f"Only a job that is Stopped or Failed can be resumed; {name} is {job.status}."
                )
            shards.retry(db, name)
            job.status, job.modified_at = "InProgress", self._clock.now()
            job.document = {k: v for k, v in job.document.items() if k not in ("TransformEndTime", "FailureReason")}
            resources.save(db, job)

        await self._store.run(write)
        self._wake.set()

    async def describe(self, name: str) -> Resource:
        """The job. Raises ResourceNotFound."""
        return await self._store.run(lambda db: self._find(db, name))

    async def progress(self, name: str) -> Progress:
        """How far the job is, what runs now included. Raises ResourceNotFound."""

        def read(db: Connection) -> Progress:
            self._find(db, name)
            return shards.progress(db, name)

        done = await self._store.run(read)
        running = self._running.get(name)
        return done if running is None else running.added_to(done)

    async def errors(self, name: str) -> list[Document]:
        """Objects that failed, and those with bad records and where these are reported. Raises ResourceNotFound."""

        def read(db: Connection) -> list[Document]:
            base = destination(self._find(db, name))
            failed = [{"Object": row.url, "Reason": row.reason} for row in shards.failures(db, name)]
            reported = [
                {"Object": row.url, "BadRecords": row.errors, "Report": errors_url(base, row.output)}
                for row in shards.with_errors(db, name)
            ]
            return failed + reported

        return await self._store.run(read)

    def _find(self, db: Connection, name: str) -> Resource:
        job = resources.get(db, KIND, name)
        if job is None:
            arn = self._settings.partition.arn(f"transform-job/{name}")
            raise ResourceNotFound(f'Could not find requested job with name: {name} ("{arn}").')
        return job

    # The runner

    async def run(self) -> None:
        """Work on every job that is not settled, for ever. What a former life of this owner held is taken up again."""
        await self._store.run(lambda db: shards.release(db, self._owner))
        renewing = asyncio.create_task(self._renew())
        try:
            while True:
                self._wake.clear()
                for job in await self._store.run(lambda db: resources.every(db, KIND, ("InProgress", "Stopping"))):
                    self._work_on(job)
                await self._wake.wait()
        finally:
            renewing.cancel()

    async def close(self) -> None:
        """Let go of everything; the next runner goes on with it."""
        tasks = [running.task for running in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _work_on(self, job: Resource) -> None:
        running = self._running.get(job.name)
        if running is not None:
            if job.status == "Stopping":
                running.task.cancel()
            return
        running = self._running[job.name] = Running(job, self._tools)
        running.task = asyncio.create_task(running.run())
        running.task.add_done_callback(lambda _: self._ended(job.name))

    def _ended(self, name: str) -> None:
        del self._running[name]
        self._wake.set()

    async def _renew(self) -> None:
        while True:
            await self._clock.sleep(LEASE / 3)
            await self._store.run(self._renew_claims)

    def _renew_claims(self, db: Connection) -> None:
        held = [claim for running in list(self._running.values()) for claim in running.claims()]
        shards.renew(db, held, self._clock.now() + LEASE)
