"""The jobs, and the loop that runs them, one after the other."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from sqlalchemy.engine import Connection

from fourfold.advisor.prices import Prices
from fourfold.advisor.recommender.benchmarks import Ready, measured, trial_of
from fourfold.advisor.recommender.configurations import SECONDS, configurations
from fourfold.advisor.recommender.payloads import payload
from fourfold.advisor.recommender.traffic import steps
from fourfold.advisor.trial import Result, Trial
from fourfold.clock import Clock
from fourfold.errors import FourfoldError, ResourceInUse, ResourceNotFound, ValidationException
from fourfold.records import Partition
from fourfold.storage.objects import Objects
from fourfold.store import Store, resources, tags
from fourfold.store.resources import Resource

log = logging.getLogger(__name__)

KIND = "inference-recommendations-job"
UNSETTLED = ("PENDING", "IN_PROGRESS", "STOPPING")
ENDED = ("COMPLETED", "FAILED", "STOPPED")

Document = dict[str, Any]

Packaged = Callable[[Connection, str, Partition], Document]
"""From a model package's ARN to the document of a model. Raises ValidationException."""
Prepare = Callable[[str, Document], Awaitable[Ready]]
"""From a model's name and document to what a worker loads. Raises ModelLoadError."""


class Recommender:
    """The jobs: what people want of them, and the runner.

    Args:
        store: the jobs and their results.
        objects: where sample payloads are.
        prepare: makes a model ready to be loaded.
        packaged: finds model packages.
        prices: what an hour of an instance type costs.
        partition: account and region.
        clock: stamps.
    """

    def __init__(
        self,
        store: Store,
        objects: Objects,
        prepare: Prepare,
        packaged: Packaged,
        prices: Prices,
        partition: Partition,
        clock: Clock,
    ) -> None:
        self._store = store
        self._objects = objects
        self._prepare = prepare
        self._packaged = packaged
        self._prices = prices
        self._partition = partition
        self._clock = clock
        self._wake = asyncio.Event()
        self._current = ""
        self._work: asyncio.Task[None] | None = None

    # Wishes

    async def create(self, request: Document) -> str:
        """CreateInferenceRecommendationsJob; returns the job's ARN.

        Raises:
            ValidationException: the request contradicts itself, or names a model or type that is not there.
            ResourceInUse: the name is taken.
        """
        name, wanted = request["JobName"], request["InputConfig"]
        arn, now = self._partition.arn(f"{KIND}/{name}"), self._clock.now()
        steps(wanted)
        tests = [{"configuration": one, "Status": "PENDING"} for one in configurations(request, self._prices)]

        def write(db: Connection) -> None:
            model = self._model(db, wanted)
            if resources.get(db, KIND, name) is not None:
                raise ResourceInUse(f"There is an inference recommendations job of the name {name} already ({arn}).")
            document = {k: v for k, v in request.items() if k != "Tags"} | {"model": model, "tests": tests}
            resources.insert(db, Resource(KIND, name, arn, now, now, "PENDING", document))
            tags.put(db, arn, {tag["Key"]: tag["Value"] for tag in request.get("Tags", [])})

        await self._store.run(write)
        self._wake.set()
        return arn

    def _model(self, db: Connection, wanted: Document) -> Document:
        if "ModelPackageVersionArn" in wanted:
            return self._packaged(db, wanted["ModelPackageVersionArn"], self._partition)
        model = resources.get(db, "model", wanted["ModelName"])
        if model is None:
            missing = self._partition.arn(f"model/{wanted['ModelName']}")
            raise ValidationException(f'Could not find model "{missing}".')
        return model.document

    async def stop(self, name: str) -> None:
        """StopInferenceRecommendationsJob. Raises ResourceNotFound; does nothing to a job that has ended."""

        def write(db: Connection) -> None:
            job = self._find(db, name)
            if job.status not in ENDED:
                job.status, job.modified_at = "STOPPING", self._clock.now()
                resources.save(db, job)

        await self._store.run(write)
        if self._work and self._current == name:
            self._work.cancel()
        self._wake.set()

    async def describe(self, name: str) -> Resource:
        """The job. Raises ResourceNotFound."""
        return await self._store.run(lambda db: self._find(db, name))

    def _find(self, db: Connection, name: str) -> Resource:
        job = resources.get(db, KIND, name)
        if job is None:
            raise ResourceNotFound(f"Could not find an inference recommendations job of the name {name}.")
        return job

    # The runner

    async def run(self) -> None:
        """Work on every job that has not ended, for ever."""
        while True:
            self._wake.clear()
            for job in await self._store.run(lambda db: resources.every(db, KIND, UNSETTLED)):
                if job.status == "STOPPING":
                    await self._end(job.name, "STOPPED")
                    continue
                self._current, self._work = job.name, asyncio.create_task(self._work_on(job))
                try:
                    await asyncio.wait([self._work])
                finally:  # the server ends: the benchmark ends with it, and the job goes on after the next start
                    self._work.cancel()
                    await asyncio.gather(self._work, return_exceptions=True)
                    self._current = ""
            await self._wake.wait()

    async def _work_on(self, job: Resource) -> None:
        try:
            await self._set(job.name, "IN_PROGRESS")
            document, wanted = job.document, job.document["InputConfig"]
            ready = await self._prepare(wanted.get("ModelName", job.name), document["model"])
            bodies, content_type = await asyncio.to_thread(payload, self._objects, wanted)
            limits = document.get("StoppingConditions", {})
            deadline = self._clock.now() + wanted.get("JobDurationInSeconds", SECONDS)
            for number, test in enumerate(document["tests"]):
                if test["Status"] == "PENDING":
                    trial = trial_of(ready, test["configuration"], wanted, limits, self._prices)
                    trial = msgspec.structs.replace(trial, bodies=bodies, content_type=content_type)
                    await self._measure(job.name, number, trial, deadline)
            tests = (await self.describe(job.name)).document["tests"]
            failed = [test["FailureReason"] for test in tests if test["Status"] == "FAILED"]
            if len(failed) == len(tests):
                await self._end(job.name, "FAILED", failed[0])
            else:
                await self._end(job.name, "COMPLETED")
        except FourfoldError as error:
            await self._end(job.name, "FAILED", error.message)
        except Exception as error:
            log.exception("inference recommendations job failed inside the server", extra={"job": job.name})
            await self._end(job.name, "FAILED", f"{type(error).__name__} inside the server; its log says more.")

    async def _measure(self, name: str, number: int, trial: Trial, deadline: float) -> None:
        began = self._clock.now()
        await self._note(name, number, {"Status": "IN_PROGRESS", "began": began})
        try:
            async with asyncio.timeout(max(deadline - began, 0.0)):
                result = await measured(trial)
        except TimeoutError:
            result = Result(error="The job's JobDurationInSeconds was over before this benchmark ended.")
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                await self._note(name, number, {"Status": "PENDING"})
            raise
        noted: Document = {"Status": "COMPLETED", "ended": self._clock.now(), "result": msgspec.to_builtins(result)}
        if result.error:
            noted = {"Status": "FAILED", "ended": self._clock.now(), "FailureReason": result.error}
        await self._note(name, number, noted)

    async def _set(self, name: str, status: str) -> None:
        def write(db: Connection) -> None:
            job = self._find(db, name)
            if job.status != "STOPPING":
                job.status, job.modified_at = status, self._clock.now()
                resources.save(db, job)

        await self._store.run(write)

    async def _note(self, name: str, number: int, members: Document) -> None:
        def write(db: Connection) -> None:
            job = self._find(db, name)
            job.document["tests"][number] |= members
            job.modified_at = self._clock.now()
            resources.save(db, job)

        await self._store.run(write)

    async def _end(self, name: str, status: str, reason: str = "") -> None:
        def write(db: Connection) -> None:
            job = self._find(db, name)
            job.status, job.modified_at = status, self._clock.now()
            job.document["CompletionTime"] = job.modified_at
            if reason:
                job.document["FailureReason"] = reason[:1024]
            for test in job.document["tests"]:
                if test["Status"] in ("PENDING", "IN_PROGRESS"):
                    test["Status"] = "STOPPED"
            resources.save(db, job)

        await self._store.run(write)
