"""Inference components: what people want of them, and the loop that brings them up on their endpoints.

Creating ─► InService       its copies have loaded
         └► Failed          with the real reason
Updating ─► InService       new copies took over, or with FailureReason: they could not load, the old ones stayed
Deleting ─► gone
after a restart: InService ─► Updating ─► InService
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy.engine import Connection

from fourfold.clock import Clock, sleep_or_event
from fourfold.config import Settings
from fourfold.control.composites import Prepare, is_composite
from fourfold.control.endpoints import check_count
from fourfold.control.fleets import with_log
from fourfold.control.models import Prepared
from fourfold.control.threads import MOST_THREADS, vcpus
from fourfold.errors import FourfoldError, InternalFailure, ModelLoadError, ValidationException
from fourfold.pool.components import Components
from fourfold.pool.fleet import Fleet
from fourfold.pool.local import Placer
from fourfold.pool.processes import total_bytes
from fourfold.store import Store, resources, tags
from fourfold.store.resources import Resource

log = logging.getLogger(__name__)

Document = dict[str, Any]

KIND = "inference-component"
BUSY = ("Creating", "Updating", "Deleting")
WAIT = 0.2
"""Seconds until the next look at an endpoint that is not in service yet."""
LONGEST_SLEEP = 3600.0
MEGABYTE = 2**20

Host = Callable[[str, str], Components | None]
"""From an endpoint and a variant to where its components run; None while the endpoint is not in service."""


class InferenceComponents:
    """Wishes about components, and the loop.

    Args:
        store: where they are kept.
        placer: starts workers.
        prepare: makes a model ready.
        host: finds where components run.
        settings: for ARNs and folders.
        clock: for stamps.
        forget: called in the transaction that removes a component, with its ARN, for what hangs on it.
    """

    def __init__(
        self,
        store: Store,
        placer: Placer,
        prepare: Prepare,
        host: Host,
        settings: Settings,
        clock: Clock,
        forget: Callable[[Connection, str], None] = lambda _db, _arn: None,
    ) -> None:
        self._store = store
        self._placer = placer
        self._prepare = prepare
        self._host = host
        self._settings = settings
        self._clock = clock
        self._forget = forget
        self._wake = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    # Wishes

    async def create(self, request: Document, pairs: dict[str, str]) -> str:
        """CreateInferenceComponent; returns the ARN.

        Raises:
            ValidationException: the name is taken, the endpoint or model is not there, or the endpoint's variant has
                a model of its own.
            ResourceLimitExceeded: more copies than a component may have; the other two below raise it, too.
        """
        name, now = request["InferenceComponentName"], self._clock.now()
        arn = self._settings.partition.arn(f"{KIND}/{name}")
        specification = _specification(request)

        def write(db: Connection) -> None:
            if resources.get(db, KIND, name) is not None:
                raise ValidationException(f'Cannot create already existing inference component "{arn}".')
            endpoint, variant = self._variant(db, request)
            copies = request.get("RuntimeConfig", {}).get("CopyCount", 1)
            self._check_copies(name, copies)
            document = {
                "EndpointName": endpoint.name,
                "EndpointArn": endpoint.arn,
                "VariantName": variant,
                "Specification": specification,
                "model": self._model(db, specification),
                "copies": copies,
                "current": 0,
                "revision": 1,
                "deployed": None,
                "FailureReason": None,
            }
            resources.insert(db, Resource(KIND, name, arn, now, now, "Creating", document))
            tags.put(db, arn, pairs)

        await self._store.run(write)
        self._wake.set()
        return arn

    async def update(self, request: Document) -> str:
        """UpdateInferenceComponent; returns the ARN. Raises ValidationException."""
        change = _specification(request)
        if request.get("DeploymentConfig", {}).get("AutoRollbackConfiguration", {}).get("Alarms"):
            raise ValidationException(
                "AutoRollbackConfiguration is for endpoints: a component's new copies take over at once when all have "
                "loaded, and the old ones stay where one does not. No alarm rolls that back."
            )

        def write(db: Connection) -> str:
            component = self._settled(db, request["InferenceComponentName"])
            document = {**component.document}
            if change:
                document["Specification"] = document["Specification"] | change
                document["model"] = self._model(db, document["Specification"])
            if "RuntimeConfig" in request:
                document["copies"] = request["RuntimeConfig"]["CopyCount"]
            document["deployment"] = request.get("DeploymentConfig", document.get("deployment"))
            self._want(db, component, document)
            return component.arn

        arn = await self._store.run(write)
        self._wake.set()
        return arn

    async def update_runtime(self, name: str, copies: int) -> str:
        """UpdateInferenceComponentRuntimeConfig; returns the ARN. Raises ValidationException."""

        def write(db: Connection) -> str:
            component = self._settled(db, name)
            self._want(db, component, component.document | {"copies": copies})
            return component.arn

        arn = await self._store.run(write)
        self._wake.set()
        return arn

    async def delete(self, name: str) -> None:
        """DeleteInferenceComponent. Raises ValidationException: there is no such component."""

        def write(db: Connection) -> None:
            component = self._find(db, name)
            component.status = "Deleting"
            component.modified_at = self._clock.now()
            resources.save(db, component)

        await self._store.run(write)
        self._wake.set()

    async def get(self, name: str) -> Resource:
        """Raises ValidationException: there is no such component."""
        return await self._store.run(lambda db: self._find(db, name))

    def _find(self, db: Connection, name: str) -> Resource:
        found = resources.get(db, KIND, name)
        if found is None:
            arn = self._settings.partition.arn(f"{KIND}/{name}")
            raise ValidationException(f'Could not find inference component "{arn}".')
        return found

    def _settled(self, db: Connection, name: str) -> Resource:
        component = self._find(db, name)
        if component.status in BUSY:
            raise ValidationException(
                f'Cannot update in-progress inference component "{component.arn}": it is {component.status}.'
            )
        return component

    def _check_copies(self, name: str, copies: int) -> None:
        check_count(copies, self._settings.limits, f'Inference component "{name}"', "copies")

    def _want(self, db: Connection, component: Resource, document: Document) -> None:
        self._check_copies(component.name, document["copies"])
        component.document = document | {"revision": document["revision"] + 1, "FailureReason": None}
        component.status = "Updating"
        component.modified_at = self._clock.now()
        resources.save(db, component)

    def _variant(self, db: Connection, request: Document) -> tuple[Resource, str]:
        """The endpoint and the variant that a component is for."""
        name = request["EndpointName"]
        endpoint = resources.get(db, "endpoint", name)
        if endpoint is None or endpoint.status in ("Deleting", "Failed"):
            arn = self._settings.partition.arn(f"endpoint/{name}")
            raise ValidationException(f'Could not find endpoint "{arn}", or it is being deleted or has failed.')
        variants = {one["VariantName"]: one for one in endpoint.document["wanted"]["config"]["ProductionVariants"]}
        wanted = request.get("VariantName") or next(iter(variants))
        if wanted not in variants:
            raise ValidationException(f'Could not find variant "{wanted}": {name} has {", ".join(variants)}.')
        if "ModelName" in variants[wanted]:
            raise ValidationException(
                f'Variant "{wanted}" of endpoint "{endpoint.arn}" has a model of its own. Inference components go to '
                "variants whose endpoint config names no ModelName."
            )
        return endpoint, wanted

    def _model(self, db: Connection, specification: Document) -> Document:
        """The model of a specification, as CreateModel would have it."""
        name, container = specification.get("ModelName"), specification.get("Container")
        if (name is None) == (container is None):
            raise ValidationException("The Specification needs exactly one of ModelName and Container.")
        if container is not None:
            members = {"Image": "Image", "ArtifactUrl": "ModelDataUrl", "Environment": "Environment"}
            return {"PrimaryContainer": {members[key]: value for key, value in container.items() if key in members}}
        found = resources.get(db, "model", str(name))
        if found is None:
            raise ValidationException(f'Could not find model "{self._settings.partition.arn(f"model/{name}")}".')
        if is_composite(found.document):
            raise ValidationException(f"Model {name} has several models or containers; a component has one.")
        return found.document

    # The loop

    async def run(self) -> None:
        """Work until cancelled."""
        await self._store.run(_adopt)
        try:
            while True:
                self._wake.clear()
                waiting = False
                for component in await self._store.run(lambda db: resources.every(db, KIND, BUSY)):
                    waiting = self._work_on(component) or waiting
                await sleep_or_event(self._clock, WAIT if waiting else LONGEST_SLEEP, self._wake)
        finally:
            for task in self._tasks.values():
                task.cancel()

    def _work_on(self, component: Resource) -> bool:
        """Begin what is to be done; True where its endpoint has to be waited for."""
        if component.name in self._tasks:
            if component.status == "Deleting":
                self._tasks[component.name].cancel()  # what is being started is not wanted any more
            return False
        host = self._host(component.document["EndpointName"], component.document["VariantName"])
        if component.status == "Deleting":
            work = self._remove(component, host)
        elif host is None:
            return True
        else:
            work = self._deploy(component, host)
        task = self._tasks[component.name] = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._done(component.name))
        return False

    def _done(self, name: str) -> None:
        del self._tasks[name]
        self._wake.set()

    async def _deploy(self, component: Resource, host: Components) -> None:
        document, name = component.document, component.name
        before = host.get(name)
        try:
            async with asyncio.timeout(_startup_seconds(document)):
                fleet, deployed = await self._bring_up(component, host, before)
        except Exception as error:
            reason = _reason(error)
            log.warning("inference component failed", extra={"component": name, "reason": reason})
            if before is None:
                await self._settle(component, "Failed", {"FailureReason": reason})
            else:
                changes = {"FailureReason": reason, "copies": before.wanted, "current": len(before.ready)}
                was = document["deployed"] or {}
                await self._settle(component, "InService", changes | {k: was[k] for k in _DEPLOYED if k in was})
            return
        current = min(len(fleet.ready), fleet.wanted)  # those that are being ended are no copies any more
        changes = {"deployed": deployed, "current": current, "FailureReason": None}
        await self._settle(component, "InService", changes)
        if before is not None and before is not fleet:
            await before.stop()

    async def _bring_up(self, component: Resource, host: Components, before: Fleet | None) -> tuple[Fleet, Document]:
        """Copies as they are wanted: the ones that are there scaled, or new ones."""
        document, was = component.document, component.document["deployed"]
        await self._check_needs(component, host)
        wanted = {key: document[key] for key in _DEPLOYED}
        if before is not None and was is not None and {key: was[key] for key in _DEPLOYED} == wanted:
            had = before.wanted
            before.failure = None  # of an earlier try
            try:
                await before.reach(document["copies"])
            except BaseException:
                before.scale(had)
                raise
            return before, was
        known = Path(was["folder"]) if was is not None and {key: was[key] for key in _DEPLOYED} == wanted else None
        prepared = await self._prepare(component.name, document["model"], folder=known)
        fleet = self._fleet(component, prepared)
        if document["copies"]:
            try:
                await fleet.start(document["copies"])
            except BaseException as error:
                if isinstance(error, ModelLoadError):
                    error.message = with_log(error.message, fleet.last_log())
                await fleet.stop(0)
                raise
        host.put(component.name, fleet)
        return fleet, wanted | {"folder": prepared.spec.path}

    def _fleet(self, component: Resource, prepared: Prepared) -> Fleet:
        document = component.document
        needs = _needs(document)
        cores = min(max(1, int(needs.get("NumberOfCpuCoresRequired", 1))), MOST_THREADS)
        spec = msgspec.structs.replace(
            prepared.spec,
            threads=prepared.spec.threads if "FOURFOLD_THREADS" in prepared.spec.environment else cores,
            memory_mb=needs.get("MaxMemoryRequiredInMb"),
        )
        folder = self._settings.logs / "endpoints" / document["EndpointName"] / document["VariantName"]
        return Fleet(
            spec,
            self._placer,
            prepared.batching,
            imports=prepared.imports,
            load_timeout=prepared.load_timeout,
            log_folder=folder / component.name,
        )

    async def _check_needs(self, component: Resource, host: Components) -> None:
        """Raises ModelLoadError where there is not what its copies need, beside what those of its neighbours need."""
        document = component.document

        def read(db: Connection) -> tuple[Resource | None, list[Resource]]:
            name = document["EndpointName"]
            return resources.get(db, "endpoint", name), resources.with_member(db, KIND, "EndpointName", name)

        endpoint, hosted = await self._store.run(read)
        instance_type = "" if endpoint is None else _instance_type(endpoint, document["VariantName"])
        cores = _needs(document).get("NumberOfCpuCoresRequired", 0)
        if instance_type and cores > vcpus(instance_type):
            raise ModelLoadError(
                f"A copy needs {cores:g} CPU cores, and an {instance_type} has {vcpus(instance_type)}. Lower "
                "NumberOfCpuCoresRequired, or give the variant a larger InstanceType."
            )
        neighbours = {one.name: one.document for one in hosted if one.name != component.name}
        copies = {name: fleet.wanted for name, fleet in host.items().items() if name in neighbours}
        others = sum(_megabytes(neighbours[name]) * count for name, count in copies.items())
        wanted, there = _megabytes(document) * document["copies"], total_bytes() // MEGABYTE
        if wanted + others > there:
            raise ModelLoadError(
                f"Its copies need {wanted:,} MB of memory, those of other components {others:,} MB, and the machine "
                f"has {there:,} MB. Lower CopyCount or MinMemoryRequiredInMb."
            )

    async def _settle(self, component: Resource, status: str, changes: Document) -> None:
        """Write what was reached, unless somebody has wished otherwise meanwhile."""

        def write(db: Connection) -> None:
            found = resources.get(db, KIND, component.name)
            if found is None:
                return
            if found.document["revision"] != component.document["revision"]:
                reached = {key: changes[key] for key in ("deployed", "current") if key in changes}
                found.document = found.document | reached
            elif found.status != "Deleting":
                found.document = found.document | changes
                found.status = status
                found.modified_at = self._clock.now()
            resources.save(db, found)

        await self._store.run(write)

    async def _remove(self, component: Resource, host: Components | None) -> None:
        fleet = host.remove(component.name) if host is not None else None
        if fleet is not None:
            await fleet.stop()

        def write(db: Connection) -> None:
            resources.delete(db, KIND, component.name)
            self._forget(db, component.arn)

        await self._store.run(write)


class Copies:
    """Copies of inference components as a capacity that application-autoscaling moves (`capacities.Scalable`)."""

    words = "desired copy count"

    def __init__(self, store: Store, components: InferenceComponents) -> None:
        self._store = store
        self._components = components

    async def capacity(self, resource: str) -> tuple[int, bool] | None:
        """As in `Scalable`."""
        name = resource.partition("/")[2]
        found = await self._store.run(lambda db: resources.get(db, KIND, name))
        return None if found is None else (int(found.document["copies"]), found.status == "InService")

    async def change(self, resource: str, capacity: int) -> None:
        """As in `Scalable`."""
        await self._components.update_runtime(resource.partition("/")[2], capacity)

    async def least(self, resource: str) -> int:
        """A component may have no copies."""
        return 0


_DEPLOYED = ("Specification", "model")
"""What decides whether copies that run are the ones that are wanted."""


def component_folders(db: Connection) -> list[Path]:
    """Where the artifacts of components are unpacked."""
    deployed = (component.document["deployed"] for component in resources.every(db, KIND))
    return [Path(one["folder"]) for one in deployed if one]


def _adopt(db: Connection) -> None:
    """After a restart nothing runs: what was in service is so no more, until its copies are back."""
    for component in resources.every(db, KIND, ("InService",)):
        component.status = "Updating"
        component.document = component.document | {"current": 0}
        resources.save(db, component)


def _specification(request: Document) -> Document:
    """What a request says of a component's model; empty where it says nothing."""
    one: Document | None = request.get("Specification")
    specification = one if one is not None else (request.get("Specifications") or [{}])[0]
    if "BaseInferenceComponentName" in specification:
        raise ValidationException("Adapter components (BaseInferenceComponentName) are not supported here.")
    needs = _needs({"Specification": specification})
    if needs.get("MinMemoryRequiredInMb", 0) > needs.get("MaxMemoryRequiredInMb", math.inf):
        raise ValidationException("MinMemoryRequiredInMb must not be more than MaxMemoryRequiredInMb.")
    return specification


def _needs(document: Document) -> Document:
    """What each copy needs of the machine."""
    needs: Document = document["Specification"].get("ComputeResourceRequirements", {})
    return needs


def _megabytes(document: Document) -> int:
    return int(_needs(document).get("MinMemoryRequiredInMb", 0))


def _instance_type(endpoint: Resource, name: str) -> str:
    """Of a variant; empty where it is to come from pools of instances."""
    variants = endpoint.document["wanted"]["config"]["ProductionVariants"]
    return next((str(one.get("InstanceType", "")) for one in variants if one["VariantName"] == name), "")


def _startup_seconds(document: Document) -> float | None:
    """How long its copies may take, where its StartupParameters say so."""
    given = document["Specification"].get("StartupParameters", {})
    seconds: list[float] = [
        given[name]
        for name in ("ModelDataDownloadTimeoutInSeconds", "ContainerStartupHealthCheckTimeoutInSeconds")
        if name in given
    ]
    return sum(seconds) if len(seconds) == 2 else None


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "Its copies did not start within the time that StartupParameters give."
    if not isinstance(error, FourfoldError):
        log.error("inference component failed inside the server", exc_info=error)
        error = InternalFailure(f"{type(error).__name__}: {error}")
    return error.message
