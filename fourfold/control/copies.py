"""Keeps the copies of inference components: the loop that brings them up on their endpoints, replaces and ends them.

New copies take over at once, when all have loaded; with a RollingUpdatePolicy batch by batch (`deployments`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy.engine import Connection

from fourfold.clock import Clock, sleep_or_event
from fourfold.config import Settings
from fourfold.control.components import BUSY, KIND, needs_of
from fourfold.control.composites import Prepare
from fourfold.control.deployments import Deployment, RolledBack, plan
from fourfold.control.fleets import with_log
from fourfold.control.models import Prepared
from fourfold.control.threads import MOST_THREADS, vcpus
from fourfold.errors import FourfoldError, InternalFailure, ModelLoadError
from fourfold.pool.components import Components
from fourfold.pool.fleet import Fleet
from fourfold.pool.local import Placer
from fourfold.pool.processes import total_bytes
from fourfold.store import Store, resources
from fourfold.store.resources import Resource

log = logging.getLogger(__name__)

Document = dict[str, Any]

WAIT = 0.2
"""Seconds until the next look at an endpoint that is not in service yet."""
LONGEST_SLEEP = 3600.0
MEGABYTE = 2**20

Host = Callable[[str, str], Components | None]
"""From an endpoint and a variant to where its components run; None while the endpoint is not in service."""


class CopyKeeper:
    """Keeps the copies of one server's components as they are wanted.

    Args:
        store: where they are kept.
        placer: starts workers.
        prepare: makes a model ready.
        host: finds where components run.
        settings: for ARNs and folders.
        clock: for stamps.
        forget: called in the transaction that removes a component, with its ARN, for what hangs on it.
        alarms: the states of alarms by name, for updates that watch some.
    """

    def __init__(
        self,
        store: Store,
        placer: Placer,
        prepare: Prepare,
        host: Host,
        settings: Settings,
        clock: Clock,
        forget: Callable[[Connection, str], None],
        alarms: Callable[[Sequence[str]], Awaitable[Mapping[str, str]]],
    ) -> None:
        self._store = store
        self._placer = placer
        self._prepare = prepare
        self._host = host
        self._settings = settings
        self._clock = clock
        self._forget = forget
        self._alarms = alarms
        self._wake = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def wake(self) -> None:
        """There is something to do."""
        self._wake.set()

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
            task = self._tasks[component.name]
            if component.status == "Deleting" and not task.cancelling():
                task.cancel()  # what is being started is not wanted any more
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
        before = host.get(component.name) or await self._restore(component, host)
        try:
            fleet, deployed = await self._bring_up(component, host, before)
        except Exception as error:
            reason = _reason(error)
            log.warning("inference component failed", extra={"component": component.name, "reason": reason})
            if before is None:
                await self._settle(component, "Failed", {"FailureReason": reason})
            else:
                status = "InService" if before.ready or not before.wanted else "Failed"
                changes = {"current": len(before.ready), "FailureReason": reason}
                await self._settle(component, status, _as_before(component, before.wanted) | changes)
            return
        current = min(len(fleet.ready), fleet.wanted)  # those that are being ended are no copies any more
        await self._settle(component, "InService", {"deployed": deployed, "current": current})
        if before is not None and before is not fleet:
            host.retire(before)

    async def _restore(self, component: Resource, host: Components) -> Fleet | None:
        """After a restart amid an update: the copies of before, so that there is something to go back to."""
        document = component.document
        was = document["deployed"]
        if was is None or _same(was, document):
            return None
        try:
            prepared = await self._prepare(component.name, was["model"], folder=Path(was["folder"]))
            fleet = self._fleet(component, was["Specification"], prepared)
            await fleet.start(document["current"])
        except FourfoldError as error:
            log.warning("copies of before are lost", extra={"component": component.name, "reason": error.message})
            return None
        host.put(component.name, fleet)
        return fleet

    async def _bring_up(self, component: Resource, host: Components, before: Fleet | None) -> tuple[Fleet, Document]:
        """Copies as they are wanted: the ones that are there scaled, or new ones."""
        document, was = component.document, component.document["deployed"]
        await self._check_needs(component, host)
        if before is not None and was is not None and _same(was, document):
            await self._scale(before, document)
            return before, was
        known = Path(was["folder"]) if was is not None and _same(was, document) else None
        async with asyncio.timeout(_startup_seconds(document)):
            prepared = await self._prepare(component.name, document["model"], folder=known)
            fleet = self._fleet(component, document["Specification"], prepared)
            if document["copies"] and not self._rolls(document, before):
                await self._start(fleet, document["copies"])
        if before is not None and self._rolls(document, before):
            await self._roll(component, host, before, fleet)
        host.put(component.name, fleet)
        return fleet, {key: document[key] for key in _DEPLOYED} | {"folder": prepared.spec.path}

    @staticmethod
    async def _scale(fleet: Fleet, document: Document) -> None:
        """Give copies that run the wanted count. Raises ModelLoadError, with the count as it was."""
        had = fleet.wanted
        fleet.failure = None  # of an earlier try
        try:
            async with asyncio.timeout(_startup_seconds(document)):
                await fleet.reach(document["copies"])
        except BaseException:
            fleet.scale(had)
            raise

    @staticmethod
    async def _start(fleet: Fleet, copies: int) -> None:
        """All copies, or none. Raises ModelLoadError with what they printed."""
        try:
            await fleet.start(copies)
        except BaseException as error:
            if isinstance(error, ModelLoadError):
                error.message = with_log(error.message, fleet.last_log())
            await fleet.stop(0)
            raise

    @staticmethod
    def _rolls(document: Document, before: Fleet | None) -> bool:
        """Are copies to be replaced batch by batch?"""
        return bool(before is not None and before.wanted and document["copies"] and document.get("rolling"))

    async def _roll(self, component: Resource, host: Components, before: Fleet, fleet: Fleet) -> None:
        """Replace copies batch by batch. Raises RolledBack: those of before have all calls again if they can."""
        document, name, had = component.document, component.name, before.wanted
        others = await self._beside(component, host)

        def fits(count: int) -> bool:
            """Is there memory for so many new copies beside those of before?"""
            both = _megabytes(document) * count + _megabytes(document["deployed"]) * before.wanted
            return both + others <= total_bytes() // MEGABYTE

        deployment = Deployment(
            plan(document["rolling"], document["copies"]), self._clock, {name: before}, {name: fleet},
            partial(host.share, name, fleet), self._alarms, _untold, fits,
        )  # fmt: skip
        try:
            await deployment.run({name: document["copies"]}, self._clock.monotonic())
        except asyncio.CancelledError:  # it is being deleted
            _end(host, name, fleet)
            raise
        except Exception as error:
            reason = with_log(_reason(error), fleet.last_log()) if fleet.failure else _reason(error)
            # The wish is given up first, so that a restart does not begin it again.
            await self._settle(component, "Updating", _as_before(component, had) | {"FailureReason": reason})
            try:
                await deployment.back()
                before.scale(had)
            except ModelLoadError as problem:
                reason += f" The roll-back failed: {problem.message}"
            _end(host, name, fleet)
            raise RolledBack(reason) from error

    def _fleet(self, component: Resource, specification: Document, prepared: Prepared) -> Fleet:
        document = component.document
        needs = needs_of({"Specification": specification})
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
        endpoint = await self._store.run(lambda db: resources.get(db, "endpoint", document["EndpointName"]))
        instance_type = "" if endpoint is None else _instance_type(endpoint, document["VariantName"])
        cores = needs_of(document).get("NumberOfCpuCoresRequired", 0)
        if instance_type and cores > vcpus(instance_type):
            raise ModelLoadError(
                f"A copy needs {cores:g} CPU cores, and an {instance_type} has {vcpus(instance_type)}. Lower "
                "NumberOfCpuCoresRequired, or give the variant a larger InstanceType."
            )
        others, there = await self._beside(component, host), total_bytes() // MEGABYTE
        wanted = _megabytes(document) * document["copies"]
        if wanted + others > there:
            raise ModelLoadError(
                f"Its copies need {wanted:,} MB of memory, those of other components {others:,} MB, and the machine "
                f"has {there:,} MB. Lower CopyCount or MinMemoryRequiredInMb."
            )

    async def _beside(self, component: Resource, host: Components) -> int:
        """Megabytes that the copies of its neighbours need."""
        name = component.document["EndpointName"]
        hosted = await self._store.run(lambda db: resources.with_member(db, KIND, "EndpointName", name))
        neighbours = {one.name: one.document for one in hosted if one.name != component.name}
        copies = {name: fleet.wanted for name, fleet in host.items().items() if name in neighbours}
        return sum(_megabytes(neighbours[name]) * count for name, count in copies.items())

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


_DEPLOYED = ("Specification", "model")
"""What decides whether copies that run are the ones that are wanted."""


def _same(one: Document, other: Document) -> bool:
    """Would copies run the same under both wishes?"""
    return all(one[key] == other[key] for key in _DEPLOYED)


def _as_before(component: Resource, copies: int) -> Document:
    """What its record says when an update was given up."""
    was = component.document["deployed"] or {}
    return {"copies": copies, "rolling": None} | {key: was[key] for key in _DEPLOYED if key in was}


def _megabytes(document: Document) -> int:
    return int(needs_of(document).get("MinMemoryRequiredInMb", 0))


def _instance_type(endpoint: Resource, name: str) -> str:
    """Of a variant; empty where it is to come from pools of instances."""
    variants = endpoint.document["wanted"]["config"]["ProductionVariants"]
    return next((str(one.get("InstanceType", "")) for one in variants if one["VariantName"] == name), "")


def _end(host: Components, name: str, fleet: Fleet) -> None:
    """End new copies that are not to take over; what they have, they finish."""
    host.share(name, fleet, 0.0)
    host.retire(fleet)


async def _untold(_stage: str) -> None:
    """A component is Updating throughout: SageMaker tells no stages of it."""


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
