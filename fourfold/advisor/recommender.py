"""Inference recommendations jobs: one model under load in several configurations, and what each bears and costs.

    wish           CreateInferenceRecommendationsJob and Stop write the job's status and wake the runner
    running        one job at a time, one benchmark at a time (`benchmark`, a process of its own), so that nothing but
                   the server's other work disturbs what is measured
    result         each finished benchmark is in the store at once; after a restart the job goes on with the next

Every configuration runs on this machine: an instance type gives the worker as many threads as it has vCPUs, up to the
cores that are here, and its price. What a larger machine would bear is not guessed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import logging
import os
import sys
import tarfile
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Protocol

import msgspec
from sqlalchemy.engine import Connection

from fourfold.advisor.prices import Prices
from fourfold.advisor.trial import Result, Step, Trial
from fourfold.clock import Clock
from fourfold.errors import FourfoldError, ResourceInUse, ResourceNotFound, ValidationException
from fourfold.records import Partition, WorkerSpec
from fourfold.storage.objects import Objects, parse_location
from fourfold.store import Store, resources, tags
from fourfold.store.resources import Resource

log = logging.getLogger(__name__)

KIND = "inference-recommendations-job"
UNSETTLED = ("PENDING", "IN_PROGRESS", "STOPPING")
ENDED = ("COMPLETED", "FAILED", "STOPPED")
DEFAULT_TYPES = ("ml.c5.large", "ml.m5.large", "ml.c5.xlarge")
DEFAULT_SERVERLESS = (2048, 4096)
"""Memory sizes in MB."""
DEFAULT_CONCURRENCY = 8
DEFAULT_STEPS = tuple(Step(users, 3.0) for users in (1, 2, 4, 8, 16, 32))
"""The load of a job without a traffic pattern: twice the users every three seconds, until the rate is flat."""
MOST_TESTS = 10
MOST_SECONDS = 18_000
"""AWS allows a job five hours."""
SECONDS = 7200
PAYLOAD_FILES, PAYLOAD_BYTES = 100, 25_000_000
MB_PER_VCPU = 1769
"""A serverless container has a vCPU for each so many MB, as AWS documents it for Lambda."""
COOLDOWN_S = 300

Document = dict[str, Any]


class Ready(Protocol):
    """A model that workers can load; `control.models.Prepared` is one."""

    @property
    def spec(self) -> WorkerSpec: ...

    @property
    def imports(self) -> tuple[str, ...]: ...


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
            bodies, content_type = await asyncio.to_thread(self._payload, wanted)
            limits = document.get("StoppingConditions", {})
            deadline = self._clock.now() + wanted.get("JobDurationInSeconds", SECONDS)
            for number, test in enumerate(document["tests"]):
                if test["Status"] == "PENDING":
                    trial = _trial(ready, test["configuration"], wanted, limits, self._prices)
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
                result = await _run(trial)
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

    def _payload(self, wanted: Document) -> tuple[tuple[bytes, ...], str]:
        """The sample requests and their content type; none where the job brings none."""
        config = wanted.get("ContainerConfig", {}).get("PayloadConfig", {})
        content_type = (config.get("SupportedContentTypes") or ["application/json"])[0]
        url = config.get("SamplePayloadUrl")
        if not url:
            return (), content_type
        location = parse_location(url)
        body = self._objects.get(location, PAYLOAD_BYTES)
        with self._objects.open(location) as file:
            try:
                with tarfile.open(fileobj=file) as archive:
                    return tuple(_files(archive)), content_type
            except tarfile.ReadError:
                return (body,), content_type  # the object is the payload itself

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


def configurations(request: Document, prices: Prices) -> list[Document]:
    """The configurations that a job tries, each with `InstanceType` or `ServerlessConfig`, and its `environment`.

    Raises:
        ValidationException: a member contradicts another or names what is not there; the message says which.
    """
    wanted = request["InputConfig"]
    if ("ModelName" in wanted) == ("ModelPackageVersionArn" in wanted):
        raise ValidationException("InputConfig: name either a ModelName or a ModelPackageVersionArn.")
    if wanted.get("Endpoints"):
        raise ValidationException(
            "InputConfig.Endpoints: endpoints that run are not put under load here; use `fourfold verify`, or name the "
            "model and an EndpointConfiguration."
        )
    if wanted.get("JobDurationInSeconds", SECONDS) > MOST_SECONDS:
        raise ValidationException(f"InputConfig.JobDurationInSeconds: at most {MOST_SECONDS}.")
    given = wanted.get("EndpointConfigurations")
    if request["JobType"] == "Advanced" and not given:
        raise ValidationException("InputConfig.EndpointConfigurations is missing; an Advanced job tries what you list.")
    found = [one for entry in given or _usual(wanted) for one in _expanded(entry)]
    most = wanted.get("ResourceLimit", {}).get("MaxNumberOfTests", MOST_TESTS)
    if len(found) > most:
        raise ValidationException(
            f"InputConfig.EndpointConfigurations: {len(found)} configurations, and at most {most} are tried; "
            "list fewer, or fewer values of EnvironmentParameterRanges."
        )
    for one in found:
        if "InstanceType" in one:
            prices.find("hosting", instance_type=one["InstanceType"])
    return found


def _usual(wanted: Document) -> list[Document]:
    container = wanted.get("ContainerConfig", {})
    types = container.get("SupportedInstanceTypes") or DEFAULT_TYPES
    instances: list[Document] = [{"InstanceType": name} for name in types[:MOST_TESTS]]
    if container.get("SupportedEndpointType", "RealTime") == "RealTime":
        return instances
    sizes = [{"MemorySizeInMB": size, "MaxConcurrency": DEFAULT_CONCURRENCY} for size in DEFAULT_SERVERLESS]
    return [{"ServerlessConfig": config} for config in sizes]


def _expanded(entry: Document) -> Iterator[Document]:
    """One configuration for each combination of environment values."""
    if ("InstanceType" in entry) == ("ServerlessConfig" in entry):
        raise ValidationException(
            "InputConfig.EndpointConfigurations: each has either an InstanceType or a ServerlessConfig."
        )
    kind = "InstanceType" if "InstanceType" in entry else "ServerlessConfig"
    if kind == "ServerlessConfig" and entry[kind]["MemorySizeInMB"] % 1024:
        raise ValidationException("ServerlessConfig.MemorySizeInMB: use 1024, 2048, 3072, 4096, 5120 or 6144.")
    ranges = entry.get("EnvironmentParameterRanges", {}).get("CategoricalParameterRanges", [])
    for values in itertools.product(*(one["Value"] for one in ranges)):
        environment = {one["Name"]: value for one, value in zip(ranges, values, strict=True)}
        yield {kind: entry[kind], "environment": environment}


def steps(wanted: Document) -> tuple[Step, ...]:
    """The load of a job as steps of constant users.

    A phase begins with its InitialNumberOfUsers and gets SpawnRate more each minute; stairs get UsersPerStep more each
    step.

    Raises:
        ValidationException: the pattern's type and its members do not go together.
    """
    pattern = wanted.get("TrafficPattern")
    if not pattern:
        return DEFAULT_STEPS
    if pattern.get("TrafficType", "PHASES") == "PHASES":
        if not pattern.get("Phases"):
            raise ValidationException("InputConfig.TrafficPattern.Phases is missing; TrafficType is PHASES.")
        return tuple(step for phase in pattern["Phases"] for step in _phase(phase))
    stairs = pattern.get("Stairs")
    if not stairs:
        raise ValidationException("InputConfig.TrafficPattern.Stairs is missing; TrafficType is STAIRS.")
    each, seconds = stairs.get("UsersPerStep", 1), stairs.get("DurationInSeconds", 120)
    return tuple(Step(each * (number + 1), float(seconds)) for number in range(stairs.get("NumberOfSteps", 1)))


def _phase(phase: Document) -> Iterator[Step]:
    left, users = float(phase.get("DurationInSeconds", 120)), phase.get("InitialNumberOfUsers", 1)
    while left > 0:
        yield Step(users, min(left, 60.0))
        left, users = left - 60, users + phase.get("SpawnRate", 0)


def _trial(ready: Ready, one: Document, wanted: Document, limits: Document, prices: Prices) -> Trial:
    spec = ready.spec
    serverless = one.get("ServerlessConfig")
    cores = len(os.sched_getaffinity(0))
    vcpu = round(serverless["MemorySizeInMB"] / MB_PER_VCPU) if serverless else prices.size(one["InstanceType"]).vcpu
    threshold = (limits.get("ModelLatencyThresholds") or [{}])[0]
    load = steps(wanted)
    if serverless:
        load = tuple(step for step in load if step.users <= serverless["MaxConcurrency"]) or load[:1]
    return Trial(
        spec=msgspec.structs.replace(
            spec,
            environment=spec.environment | one["environment"],
            threads=max(1, min(vcpu, cores)),
            memory_mb=serverless["MemorySizeInMB"] if serverless else spec.memory_mb,
        ),
        imports=ready.imports,
        steps=load,
        stop_when_flat=limits.get("FlatInvocations", "Stop" if load is DEFAULT_STEPS else "Continue") == "Stop",
        most_per_minute=limits.get("MaxInvocations"),
        percentile=float(threshold.get("Percentile", "P95").lstrip("Pp")),
        slowest_ms=threshold.get("ValueInMilliseconds"),
    )


async def _run(trial: Trial) -> Result:
    """The benchmark in its own process, which ends with this task and with the server."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "fourfold.advisor.benchmark", str(os.getpid()),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        answer, _ = await process.communicate(msgspec.json.encode(trial))
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    if process.returncode:
        return Result(error=f"The benchmark ended with status {process.returncode}; the server's log says more.")
    return msgspec.json.decode(answer, type=Result)


def _files(archive: tarfile.TarFile) -> Iterator[bytes]:
    left = PAYLOAD_BYTES
    for member in itertools.islice((m for m in archive if m.isfile()), PAYLOAD_FILES):
        left -= member.size
        if left < 0:
            raise ValidationException(f"SamplePayloadUrl: the samples have more than {PAYLOAD_BYTES:,} bytes together.")
        file = archive.extractfile(member)
        if file is not None:
            yield file.read()


def metrics(test: Document, prices: Prices) -> Document:
    """A finished benchmark as SageMaker's RecommendationMetrics. Money in US dollars, times in milliseconds."""
    result = msgspec.convert(test["result"], Result)
    one = test["configuration"]
    if "InstanceType" in one:
        name = one["InstanceType"]
        an_hour = float(prices.find("hosting", instance_type=name)[0].usd)
        memory_mb = prices.size(name).memory_gib * 1024
    else:
        # A serverless container is paid for while it works: each user keeps one busy.
        memory_mb = one["ServerlessConfig"]["MemorySizeInMB"]
        an_hour = result.users * 3600 * memory_mb / 1024 * float(prices.find("serverless")[0].usd)
    return {
        "CostPerHour": an_hour,
        "CostPerInference": an_hour / (60 * max(result.per_minute, 1)),
        "MaxInvocations": result.per_minute,
        "ModelLatency": max(1, round(result.latency_ms)),
        "CpuUtilization": result.cpu_percent,
        "MemoryUtilization": 100 * result.memory_mb / memory_mb,
    } | ({} if "InstanceType" in one else {"ModelSetupTime": round(result.setup_ms)})


def recommendation_id(job: str, number: int) -> str:
    """Names a benchmark of a job; the same each time."""
    return f"{job}/{hashlib.sha256(f'{job} {number}'.encode()).hexdigest()[:8]}"


def scaling(test: Document, target_percent: int, least: int, most: int) -> Document:
    """Autoscaling for a configuration that was measured: SageMaker's DynamicScalingConfiguration.

    The target is the rate at which the worker's processors would be busy for `target_percent` of the time, as measured,
    and never more than it was seen to bear.

    Args:
        test: a finished benchmark.
        target_percent: processor use to aim at.
        least: invocations a minute when it is quiet.
        most: invocations a minute at the peak.
    """
    result = msgspec.convert(test["result"], Result)
    share = min(1.0, target_percent / result.cpu_percent) if result.cpu_percent else target_percent / 100
    target = max(1, int(result.per_minute * share))
    low = max(1, -(-least // target))
    return {
        "MinCapacity": low,
        "MaxCapacity": max(low, -(-most // target)),
        "ScaleInCooldown": COOLDOWN_S,
        "ScaleOutCooldown": COOLDOWN_S,
        "ScalingPolicies": [
            {
                "TargetTracking": {
                    "MetricSpecification": {
                        "Predefined": {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"}
                    },
                    "TargetValue": float(target),
                }
            }
        ],
    }
