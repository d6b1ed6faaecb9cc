"""One transform job while it runs.

A lane holds one worker of the shared pool, at low priority. The first lane has its worker plan the job, where that was
not done before; then all lanes take shard after shard from the store, and assemble objects whose parts are done. A
worker that dies costs its shard one attempt. When nothing is left, the job's end is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import msgspec
from sqlalchemy.engine import Connection

from fourfold.clock import Clock, iso
from fourfold.config import Settings
from fourfold.errors import FourfoldError, ModelError, ModelLoadError
from fourfold.modes.batch import capture, plan
from fourfold.modes.batch.orders import (
    ASSEMBLE,
    RUN,
    SCRATCH,
    SURVEY,
    Assembly,
    Beat,
    Done,
    Order,
    Piece,
    Planned,
    Report,
    Survey,
)
from fourfold.modes.batch.plan import PARQUET, Shard
from fourfold.pool.link import WorkerLink
from fourfold.pool.local import Placer
from fourfold.pool.zygote import BACKGROUND
from fourfold.records import WorkerSpec
from fourfold.storage.objects import Objects, parse_location
from fourfold.store import Store, resources, shards
from fourfold.store.resources import Resource
from fourfold.store.shards import Claim, Outcome, Progress

log = logging.getLogger(__name__)

Document = dict[str, Any]

KIND = "transform-job"
IMPORTS = (*sorted({task.partition(":")[0] for task in (SURVEY, RUN, ASSEMBLE)}), "fourfold.modes.batch.warm")
"""What a zygote of batch workers imports: pyarrow above all, which takes longer than everything else of a small job."""
LEASE = 60.0
"""Seconds for which a shard is claimed; renewed while its worker lives."""
TRIES = 3
"""How often planning, assembling and the start of a worker are tried where the worker ends before it has answered."""
PATIENCE = 5.0
"""Seconds after which a lane makes room, between two shards, for a job that waits."""
ROOM_SECONDS = 0.5
"""How long a job whose lanes made room stands back."""
MOST_REASON = 1024
"""Longest FailureReason, characters: DescribeTransformJob's own limit."""
PLAN_SECONDS = 3600.0
"""Time for planning: it lists, and reads big CSV objects once."""


class Ready(Protocol):
    """A model that workers can load; `control.models.Prepared` is one."""

    @property
    def spec(self) -> WorkerSpec: ...

    @property
    def imports(self) -> tuple[str, ...]: ...

    @property
    def load_timeout(self) -> float: ...


Prepare = Callable[[str, Document], Awaitable[Ready]]
"""From a model's name and document to what a worker loads. Raises ModelLoadError."""


class Slots:
    """How many shards run at once, over all jobs. `wanted` is how many lanes wait for a slot."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.wanted = 0
        self._semaphore = asyncio.Semaphore(count)

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        self.wanted += 1
        try:
            await self._semaphore.acquire()
        finally:
            self.wanted -= 1
        try:
            yield
        finally:
            self._semaphore.release()


@dataclass(frozen=True)
class Tools:
    """What every job works with."""

    store: Store
    placer: Placer
    prepare: Prepare
    settings: Settings
    clock: Clock
    slots: Slots
    owner: str
    shard_bytes: int


class JobFailed(Exception):
    """The job cannot go on; the message is its FailureReason."""


class _LoadError(Exception):
    """A worker ended, or said that it could not load its model; the next one may do better."""


class Running:
    """A job that is being worked on."""

    task: asyncio.Task[None]

    def __init__(self, job: Resource, tools: Tools) -> None:
        self._name = job.name
        self._arn = job.arn
        self._status = job.status
        self._document = job.document
        self._tools = tools
        self._options = msgspec.structs.replace(plan.options(job.document), shard_bytes=tools.shard_bytes)
        self._destination = address(job.document["TransformOutput"]["S3OutputPath"])
        self._root = str(tools.settings.buckets.resolve())
        self._workers = 0
        self._ready: Ready
        self._lanes: list[_Worker] = []
        self._beats: dict[Claim, Beat] = {}
        self._whole: deque[int] = deque()

    def claims(self) -> list[Claim]:
        """The shards that run now."""
        return list(self._beats)

    def added_to(self, done: Progress) -> Progress:
        """What is written, and what the running shards have done so far."""
        return replace(
            done,
            records=done.records + sum(beat.records for beat in self._beats.values()),
            errors=done.errors + sum(beat.errors for beat in self._beats.values()),
            waits=bool(self._lanes) and all(worker.held for worker in self._lanes),
        )

    async def run(self) -> None:
        """Bring the job to its end, or to Stopped where that is wished."""
        try:
            if self._status != "Stopping":
                await self._work()
                await self._end()
                return
        except asyncio.CancelledError:
            if not await self._is_stopping():
                raise  # the server ends; the job goes on with the next one
        except JobFailed as failed:
            await self._write_end("Failed", str(failed))
            return
        except FourfoldError as error:
            await self._write_end("Failed", f"{error.code}: {error.message}")
            return
        except Exception as error:
            log.exception("transform job failed inside the server", extra={"job": self._name})
            await self._write_end("Failed", f"InternalServerError: {type(error).__name__}: {error}")
            return
        await self._write_end("Stopped")

    async def _is_stopping(self) -> bool:
        job = await self._tools.store.run(lambda db: resources.get(db, KIND, self._name))
        return job is not None and job.status == "Stopping"

    async def _work(self) -> None:
        await self._begin()
        try:
            self._ready = await self._tools.prepare(self._document["ModelName"], self._document["model"])
        except ModelLoadError as error:
            raise JobFailed(f"ClientError: {error.message}") from None
        while True:
            try:
                async with asyncio.TaskGroup() as lanes:
                    lanes.create_task(self._first_lane(lanes))
            except BaseExceptionGroup as group:
                raise group.exceptions[0] from None
            if not await self._unfinished() and not self._whole:
                return
            await self._tools.clock.sleep(ROOM_SECONDS)  # lanes made room, or another gateway holds the last shards

    async def _begin(self) -> None:
        def write(db: Connection) -> list[int]:
            job = resources.get(db, KIND, self._name)
            assert job is not None
            if "TransformStartTime" not in job.document:
                job.document = job.document | {"TransformStartTime": self._tools.clock.now()}
                resources.save(db, job)
            self._document = job.document
            return shards.whole(db, self._name)

        self._whole.extend(await self._tools.store.run(write))
        log.info("transform job runs", extra={"job": self._name})

    async def _unfinished(self) -> int:
        return await self._tools.store.run(lambda db: shards.unfinished(db, self._name))

    # Lanes

    async def _first_lane(self, lanes: asyncio.TaskGroup) -> None:
        async with self._worker() as worker:
            if not self._document["planned"]:
                await self._plan(worker)
            useful = min(self._parallel(), await self._unfinished())
            for _ in range(useful - 1):
                lanes.create_task(self._lane())
            await self._take_shards(worker)

    async def _lane(self) -> None:
        async with self._worker() as worker:
            await self._take_shards(worker)

    def _parallel(self) -> int:
        """Shards of this job that run at once: instances times requests per instance, at most the machine's cores."""
        cores = self._tools.slots.count
        each = self._document.get("MaxConcurrentTransforms") or cores
        return min(cores, int(self._document["TransformResources"]["InstanceCount"]) * int(each))

    async def _take_shards(self, worker: _Worker) -> None:
        """Work until there is none left, or until a lane of another job has waited long enough."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while await self._step(worker):
            if self._tools.slots.wanted and loop.time() - began > PATIENCE:
                return

    async def _step(self, worker: _Worker) -> bool:
        """One object assembled or one shard done. False: there is nothing to do."""
        if self._whole:
            await self._assemble(worker, self._whole.popleft())
            return True
        now = self._tools.clock.now()
        claim = await self._tools.store.run(
            lambda db: shards.claim(db, self._name, self._tools.owner, now, LEASE),
        )
        if claim is None:
            return False
        await self._run_shard(worker, claim)
        return True

    @contextlib.asynccontextmanager
    async def _worker(self) -> AsyncIterator[_Worker]:
        async with self._tools.slots.one():
            worker = _Worker(self._start_worker)
            self._lanes.append(worker)
            try:
                yield worker
            finally:
                self._lanes.remove(worker)
                await worker.end()

    async def _start_worker(self) -> WorkerLink:
        """A worker that has loaded the model. Raises JobFailed with the reason where it cannot."""
        for _ in range(TRIES - 1):
            with contextlib.suppress(_LoadError):
                return await self._try_to_start()
        try:
            return await self._try_to_start()
        except _LoadError as error:
            raise JobFailed(f"AlgorithmError: {error}") from None

    async def _try_to_start(self) -> WorkerLink:
        self._workers += 1
        folder = self._tools.settings.logs / "transform-jobs" / self._name
        folder.mkdir(parents=True, exist_ok=True)
        spec = msgspec.structs.replace(
            self._ready.spec,
            environment={**self._ready.spec.environment, **self._environment()},
            log_path=str((folder / f"i-{self._workers:04d}.log").resolve()),
        )
        link = await self._tools.placer.start(spec, imports=self._ready.imports, more=IMPORTS, nice=BACKGROUND)
        try:
            async with asyncio.timeout(self._ready.load_timeout):
                await asyncio.shield(link.loaded)
        except TimeoutError:
            link.kill()
            raise JobFailed(
                f"AlgorithmError: the model did not load within {self._ready.load_timeout:g} s "
                "(SAGEMAKER_STARTUP_TIMEOUT in its Environment changes the limit)."
            ) from None
        except ModelLoadError as error:
            raise _LoadError(error.message) from None
        except BaseException:
            link.kill()
            raise
        return link

    def _environment(self) -> dict[str, str]:
        """What SageMaker's containers see of a job, and the job's own variables."""
        return {
            "SAGEMAKER_BATCH": "true",
            "SAGEMAKER_MAX_PAYLOAD_IN_MB": str(self._document.get("MaxPayloadInMB", 6)),
            "SAGEMAKER_BATCH_STRATEGY": {"SingleRecord": "SINGLE_RECORD"}.get(self._options.strategy, "MULTI_RECORD"),
            "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": str(self._document.get("MaxConcurrentTransforms") or 1),
            **self._document.get("Environment", {}),
        }

    # Planning

    async def _plan(self, worker: _Worker) -> None:
        """Have the plan made and written."""
        try:
            answer = await self._insist(worker, self._survey)
        except ModelError as error:
            raise JobFailed(f"InternalServerError: the job could not be planned: {error.message}") from None
        planned = msgspec.msgpack.decode(answer, type=Planned)
        if planned.problem:
            raise JobFailed(planned.problem)
        await self._note(planned=True)

    async def _survey(self, link: WorkerLink) -> bytes:
        """One attempt; half a plan of a former one is dropped."""
        source = self._document["TransformInput"]["DataSource"]["S3DataSource"]
        survey = Survey(self._options, self._root, source["S3DataType"], address(source["S3Uri"]), self._destination)
        await self._tools.store.run(lambda db: shards.drop(db, self._name))
        pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        writing = asyncio.create_task(self._write_plan(pieces))
        try:
            async with asyncio.timeout(PLAN_SECONDS):
                answer = await link.run_task(SURVEY, msgspec.msgpack.encode(survey), pieces.put_nowait)
            pieces.put_nowait(None)
            await writing
        finally:
            writing.cancel()
            await asyncio.wait({writing})  # what it writes now must not come after the next attempt's drop
        return answer

    async def _insist(self, worker: _Worker, attempt: Callable[[WorkerLink], Awaitable[bytes]]) -> bytes:
        """What a worker answers; another one is asked where it ends over it. Raises ModelError."""
        for _ in range(TRIES - 1):
            link = await worker.link()
            try:
                return await attempt(link)
            except ModelError:
                if not link.gone.is_set():
                    raise
        return await attempt(await worker.link())

    async def _write_plan(self, pieces: asyncio.Queue[bytes | None]) -> None:
        number = 0
        while (content := await pieces.get()) is not None:
            piece = msgspec.msgpack.decode(content, type=Piece)
            rows = [self._shard_row(number + i, shard) for i, shard in enumerate(piece.shards)]
            new = [
                {"job": self._name, "number": item.object, "url": item.url, "output": item.output, "size": item.size}
                for item in piece.objects
            ]
            await self._tools.store.run(partial(shards.add, new_objects=new, new_shards=rows))
            number += len(rows)

    def _shard_row(self, number: int, shard: Shard) -> Document:
        work = msgspec.to_builtins(shard)
        return {"job": self._name, "number": number, "object": shard.object, "work": work}

    async def _note(self, **changes: Any) -> None:
        """Add to the job's document."""

        def write(db: Connection) -> None:
            job = resources.get(db, KIND, self._name)
            assert job is not None
            self._document = job.document = job.document | changes
            resources.save(db, job)

        await self._tools.store.run(write)

    # Shards

    async def _run_shard(self, worker: _Worker, claim: Claim) -> None:
        shard = msgspec.convert(claim.work, Shard)
        order = Order(
            self._options,
            shard.slices,
            self._root,
            self._destination,
            f"s3://{SCRATCH}/{self._name}/{claim.number}-{claim.attempt}",
            self._arn,
            iso(self._document["TransformStartTime"]),
        )
        self._beats[claim] = Beat(0, 0)
        try:
            answer = await self._watched(await worker.link(), claim, msgspec.msgpack.encode(order))
        except ModelError as error:
            await self._shard_failed(claim, shard, error)
        else:
            await self._shard_done(claim, msgspec.msgpack.decode(answer, type=Report))
        finally:
            self._beats.pop(claim, None)

    async def _watched(self, link: WorkerLink, claim: Claim, order: bytes) -> bytes:
        """A shard's report. A worker that says nothing for longer than one request may take is ended."""
        loop = asyncio.get_running_loop()
        alive = asyncio.Event()

        def beat(payload: bytes) -> None:
            self._beats[claim] = msgspec.msgpack.decode(payload, type=Beat)
            alive.set()

        task = asyncio.ensure_future(link.run_task(RUN, order, beat))
        try:
            while not task.done():
                alive.clear()
                asked = loop.time()
                await asyncio.wait({task}, timeout=self._options.timeout)
                if not task.done() and not alive.is_set() and not link.held_since(asked):
                    link.kill(
                        ModelError(
                            f"the model did not answer within {self._options.timeout:g} s "
                            "(InvocationsTimeoutInSeconds in ModelClientConfig changes the limit)"
                        )
                    )
                    await asyncio.wait({task})
            return task.result()
        finally:
            task.cancel()

    async def _shard_done(self, claim: Claim, report: Report) -> None:
        records, errors = sum(done.records for done in report.done), sum(done.errors for done in report.done)
        settled = [
            Outcome(done.object, done.reason, done.records, done.errors)
            for done in report.done
            if done.reason or claim.object is None
        ]
        result = msgspec.to_builtins(report.done[0]) if claim.object is not None else None

        def write(db: Connection) -> bool:
            kept = shards.finish(db, claim, result, settled, records=records, errors=errors)
            return kept and claim.object is not None and shards.results(db, self._name, claim.object) is not None

        if await self._tools.store.run(write):
            assert claim.object is not None
            self._whole.append(claim.object)
        await self._log_failures([done for done in report.done if done.reason])

    async def _shard_failed(self, claim: Claim, shard: Shard, error: ModelError) -> None:
        """Its worker died, hung or broke: try again; at the end, find the guilty object, or fail it."""
        log.warning("shard failed", extra={"job": self._name, "shard": claim.number, "reason": error.message})
        if claim.attempt <= self._options.retries:
            await self._tools.store.run(lambda db: shards.put_back(db, claim))
        elif len(shard.slices) > 1:
            works = [msgspec.to_builtins(Shard((part,))) for part in shard.slices]
            await self._tools.store.run(lambda db: shards.scatter(db, claim, works))
        else:
            await self._shard_done(claim, Report((Done(shard.slices[0].object, error.message),)))

    # Objects

    async def _assemble(self, worker: _Worker, number: int) -> None:
        def read(db: Connection) -> tuple[Any, list[Any] | None]:
            return shards.get_object(db, self._name, number), shards.results(db, self._name, number)

        row, results = await self._tools.store.run(read)
        if results is None or row.state != "pending":
            return
        parts = tuple(msgspec.convert(result, Done) for result in results)
        assembly = Assembly(
            self._root,
            row.output,
            plan.errors_url(self._destination, row.output),
            parts,
            self._options.answer in PARQUET or self._options.columnar,
        )
        reason = ""
        try:
            order = msgspec.msgpack.encode(assembly)
            await self._insist(worker, lambda link: link.run_task(ASSEMBLE, order))
        except ModelError as error:
            reason = f"the output could not be put together: {error.message}"
        outcome = Outcome(number, reason, sum(part.records for part in parts), sum(part.errors for part in parts))
        await self._tools.store.run(lambda db: shards.settle(db, self._name, outcome))
        if not reason:
            await asyncio.to_thread(self._discard, parts)

    def _discard(self, parts: Iterable[Done]) -> None:
        objects = Objects(self._tools.settings.buckets)
        for part in parts:
            for url in (part.part, part.error_part):
                if url:
                    objects.delete(parse_location(url))

    async def _log_failures(self, failed: list[Done]) -> None:
        """Lines of the job's data log, as SageMaker writes one for what could not be transformed."""
        if failed:
            path = self._tools.settings.logs / "transform-jobs" / self._name / "data-log.log"
            rows = await self._tools.store.run(
                lambda db: [shards.get_object(db, self._name, done.object) for done in failed]
            )
            now = iso(self._tools.clock.now())
            text = "".join(
                f"{now}:[fourfold logs]: {row.url}: {done.reason}\n" for row, done in zip(rows, failed, strict=True)
            )
            await asyncio.to_thread(_append, path, text)

    # The end

    async def _end(self) -> None:
        def read(db: Connection) -> tuple[Progress, list[Any]]:
            return shards.progress(db, self._name), shards.failures(db, self._name, 1)

        progress, failures = await self._tools.store.run(read)
        if failures:
            first = failures[0]
            reason = (
                f"ClientError: {progress.objects_failed} of {progress.objects} objects could not be transformed. "
                f"The first: {first.url}: {first.reason}"
            )
            await self._write_end("Failed", reason)
            return
        if self._options.capture:
            await self._capture()
        await asyncio.to_thread(shutil.rmtree, self._tools.settings.buckets / SCRATCH / self._name, True)
        await self._write_end("Completed")

    async def _capture(self) -> None:
        rows = await self._tools.store.run(lambda db: shards.finished(db, self._name))
        objects = Objects(self._tools.settings.buckets)
        started = self._document["TransformStartTime"]
        await asyncio.to_thread(capture.write, objects, self._options.capture, self._arn, started, rows)

    async def _write_end(self, status: str, reason: str = "") -> None:
        now = self._tools.clock.now()

        def write(db: Connection) -> None:
            job = resources.get(db, KIND, self._name)
            if job is None:
                return
            job.status, job.modified_at = status, now
            job.document = job.document | {"TransformEndTime": now}
            if reason:
                job.document["FailureReason"] = reason[:MOST_REASON]
            resources.save(db, job)

        await self._tools.store.run(write)
        log.info("transform job ended", extra={"job": self._name, "status": status, "reason": reason})


class _Worker:
    """A lane's worker; a new one takes its place when it has died."""

    def __init__(self, start: Callable[[], Awaitable[WorkerLink]]) -> None:
        self._start = start
        self._link: WorkerLink | None = None

    @property
    def held(self) -> bool:
        """Does it stand still because calls need its core?"""
        return self._link is not None and self._link.held

    async def link(self) -> WorkerLink:
        """A worker that lives. Raises JobFailed where none can be started."""
        if self._link is None or self._link.gone.is_set():
            self._link = await self._start()
        return self._link

    async def end(self) -> None:
        if self._link is not None:
            self._link.kill()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await self._link.gone.wait()  # the next lane's worker does not run beside a dying one


def address(url: str) -> str:
    """An S3 address in the form `s3://bucket/key`, whichever form it was given in. Raises ValidationException."""
    return str(parse_location(url))


def _append(path: Any, text: str) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(text)
