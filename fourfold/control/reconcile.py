"""The control loop: compares what endpoints should be with what runs, acts, and alone writes a status.

    Creating  ─► InService            workers have loaded, the route is published
              └► Failed               with the real reason
    Updating  ─► InService            new workers took over; the old ones finished what they had
              └► InService            with FailureReason: the new ones could not load, the old ones stayed
              └► RollingBack ─► InService, with FailureReason: something went wrong while traffic moved (`deployments`)
                             └► UpdateRollbackFailed: the old ones could not be brought back
    Deleting  ─► gone
    after a restart: InService ─► SystemUpdating ─► InService, tried until it succeeds
    InService ◄► OutOfService         while no worker of some variant can be kept alive

One task works on one endpoint at a time; different endpoints go on side by side.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Connection

from fourfold.clock import Clock
from fourfold.config import Settings
from fourfold.control import deployments
from fourfold.control.composites import Site, build, is_composite
from fourfold.control.deployments import Deployment, Plan, RolledBack
from fourfold.control.endpoints import BUSY, Document, all_variants
from fourfold.control.models import Fetch, Prepared, elasticity, prepare
from fourfold.errors import FourfoldError, InternalFailure, ModelLoadError
from fourfold.pool.components import Components
from fourfold.pool.elastic import ElasticFleet
from fourfold.pool.fleet import Fleet
from fourfold.pool.local import Placer
from fourfold.pool.metering import Meter
from fourfold.pool.room import Room
from fourfold.pool.routes import Kind, Route, Routes, Variant
from fourfold.pool.several import Several, Workers
from fourfold.pool.shadow import Shadow
from fourfold.store import Store, resources
from fourfold.store.resources import Resource
from fourfold.store.usage import Key

log = logging.getLogger(__name__)

TICK = 0.1
AT_ONCE = 4
"""Endpoints that are worked on side by side: loading is CPU and disk, more would only slow each other down."""
ASYNC_SECONDS = 3600.0
"""How long an asynchronous call may take, at most; each has a limit of its own, which its dispatcher sees to."""
RESTORE_SECONDS = 1.0
"""After a restart: pause before an endpoint that could not be brought back is tried again."""
LOG_LINES = 60
"""Last lines of a worker's log that a FailureReason quotes."""
SHADOW_NICE = 10
"""CPU priority of a shadow variant's workers below production's."""


@dataclass
class Running:
    """An endpoint that answers calls."""

    wanted: Document
    revision: int
    fleets: dict[str, Workers] = field(default_factory=dict)
    variants: dict[str, Variant] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)
    images: dict[str, list[Document]] = field(default_factory=dict)

    @property
    def production(self) -> list[Variant]:
        """The variants that answer."""
        return [self.variants[variant["VariantName"]] for variant in self.wanted["config"]["ProductionVariants"]]

    @property
    def shadows(self) -> list[Variant]:
        """The variants that get copies."""
        shadows = self.wanted["config"].get("ShadowProductionVariants", [])
        return [self.variants[variant["VariantName"]] for variant in shadows]

    @property
    def healthy(self) -> bool:
        return all(fleet.ready or not (fleet.wanted or fleet.failure) for fleet in self.fleets.values())


class Reconciler:
    """The one control loop of a server.

    Args:
        store: desired state, and the statuses it writes.
        placer: starts workers.
        routes: where endpoints that can be called are published.
        fetch: brings a model's artifact to this machine; blocking.
        settings: folders and limits.
        clock: for stamps.
        room: what the workers of serverless endpoints share.
        meter: counts what they use.
        forget: called in the transaction that removes an endpoint, with its ARN, for what hangs on it (tags).
        alarms: the states of alarms by name, for deployments that watch some.
    """

    def __init__(
        self,
        store: Store,
        placer: Placer,
        routes: Routes,
        fetch: Fetch,
        settings: Settings,
        clock: Clock,
        room: Room,
        meter: Meter,
        forget: Callable[[Connection, str], None] = lambda _db, _arn: None,
        alarms: Callable[[Sequence[str]], Awaitable[Mapping[str, str]]] | None = None,
    ) -> None:
        self._store = store
        self._placer = placer
        self._routes = routes
        self._fetch = fetch
        self._settings = settings
        self._clock = clock
        self._room = room
        self._meter = meter
        self._forget = forget
        self._alarms = alarms or _no_alarms
        self._awake = asyncio.Event()
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._removing: set[str] = set()
        self._unwell: set[str] = set()
        self._retried: set[str] = set()
        self.running: dict[str, Running] = {}
        self._arriving: dict[str, Running] = {}  # the new fleets of deployments that are under way
        self.settled = False
        """True when every endpoint that was in service before the start has been worked on once."""

    def wake(self) -> None:
        """There is something to do."""
        self._awake.set()

    def components_of(self, endpoint: str, variant: str) -> Components | None:
        """Where a variant's inference components run; None while it does not, or where it has a model of its own."""
        running = self.running.get(endpoint)
        fleet = running.fleets.get(variant) if running is not None else None
        return fleet if isinstance(fleet, Components) else None

    async def run(self) -> None:
        """Work until cancelled."""
        await self._adopt()
        while True:
            self._awake.clear()
            for endpoint in await self._store.run(_unsettled):
                self._work_on(endpoint)
            for name in list(self._unwell):
                self._unwell.discard(name)
                await self._report_health(name)
            if not self._tasks:
                self.settled = True
            await self._awake.wait()

    async def tick(self) -> None:
        """Every tenth of a second: deadlines, memory limits, idle workers."""
        while True:
            for running in [*self.running.values(), *self._arriving.values()]:
                for fleet in running.fleets.values():
                    if not (isinstance(fleet, ElasticFleet) and fleet.asleep):
                        fleet.tick()
            await asyncio.sleep(TICK)

    async def close(self) -> None:
        """Stop working; what runs goes on until the placer is closed."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _adopt(self) -> None:
        """After a restart nothing runs: what was in service is so no more, until its workers are back."""

        def mark(db: Connection) -> None:
            for endpoint in resources.every(db, "endpoint"):
                if endpoint.status in ("InService", "OutOfService", "UpdateRollbackFailed"):
                    endpoint.status = "SystemUpdating"
                    resources.save(db, endpoint)
                elif endpoint.document.get("stage"):  # an update that was under way begins again
                    endpoint.document = endpoint.document | {"stage": None}
                    resources.save(db, endpoint)

        await self._store.run(mark)

    def _work_on(self, endpoint: Resource) -> None:
        if endpoint.name in self._tasks:
            if endpoint.status == "Deleting" and endpoint.name not in self._removing:
                self._tasks[endpoint.name].cancel()  # what is being started is not wanted any more
            return
        work = self._remove(endpoint) if endpoint.status == "Deleting" else self._deploy(endpoint)
        task = asyncio.create_task(self._guarded(endpoint.name, work))
        self._tasks[endpoint.name] = task
        task.add_done_callback(lambda _: self._done(endpoint.name))

    def _done(self, name: str) -> None:
        del self._tasks[name]
        self.wake()

    async def _guarded(self, name: str, work: Awaitable[None]) -> None:
        try:
            await work
        except Exception:
            log.exception("control loop failed", extra={"endpoint": name})
            await asyncio.sleep(1.0)  # the endpoint is still unsettled: it is tried again, but not in a tight loop

    # Deploy

    async def _deploy(self, endpoint: Resource) -> None:
        document = endpoint.document
        before = self.running.get(endpoint.name)
        revision = document["revision"]
        wanted = document["wanted"]
        if before is None and document["deployed"] and document["deployed"].get("revision") != revision:
            revision, wanted = (
                document["deployed"]["revision"],
                document["deployed"],
            )  # first what ran before the restart
        started = self._clock.monotonic()
        try:
            plan = deployments.plan(document.get("deployment"), sum(wanted["counts"].values()))
            first = plan.shares[0] if plan.rolling and before is not None else 1.0
            async with self._at_once:
                if before is not None and not _keeps_workers(before.wanted, wanted):
                    await self._stage(endpoint.name, revision, wanted, "Creating")
                after = await self._bring_up(endpoint.name, wanted, revision, before, document["deployed"], first)
        except Exception as error:
            if not isinstance(error, FourfoldError):
                log.exception("deployment failed", extra={"endpoint": endpoint.name})
                error = InternalFailure(f"{type(error).__name__}: {error}")
            await self._failed(endpoint, revision, error)
            return
        if before is not None and not await self._change_over(endpoint, revision, plan, started, before, after):
            return
        self.running[endpoint.name] = after
        self._publish(after)
        deployed = wanted | {"revision": revision, "folders": after.folders, "images": after.images}
        changes = {"deployed": deployed, "stage": None}
        if endpoint.name in self._retried:
            self._retried.discard(endpoint.name)
            changes["failure"] = None
        await self._settle(endpoint.name, revision, "InService", changes)
        log.info("endpoint in service", extra={"endpoint": endpoint.name, "revision": revision})
        if before is not None:
            await deployments.settle(_without(before, after))

    async def _change_over(
        self, endpoint: Resource, revision: int, plan: Plan, started: float, before: Running, after: Running
    ) -> bool:
        """Move traffic from the old fleets to the new ones, step by step. False: it went wrong and was undone."""
        new = _without(after, before)
        if not new:
            return True
        name = endpoint.name
        deployment = Deployment(
            plan, self._clock, before.fleets, after.fleets,
            partial(self._publish_both, before, after), self._alarms,
            partial(self._stage, name, revision, after.wanted),
        )  # fmt: skip
        self._arriving[name] = after
        try:
            await deployment.run(after.wanted["counts"], started)
        except Exception as error:
            if not isinstance(error, RolledBack):
                log.exception("deployment failed", extra={"endpoint": name})
            _scale_back(before, after)
            await self._roll_back(endpoint, revision, deployment, str(error) or type(error).__name__, before)
            await deployments.settle(new)
            return False
        except asyncio.CancelledError:
            await deployments.settle(new)  # the endpoint is being deleted
            raise
        finally:
            del self._arriving[name]
        return True

    async def _roll_back(
        self, endpoint: Resource, revision: int, deployment: Deployment, reason: str, before: Running
    ) -> None:
        """Back to what ran before. The wish is given up first, so that a restart does not begin it again."""
        log.warning("deployment rolled back", extra={"endpoint": endpoint.name, "reason": reason})
        deployed = {**endpoint.document["deployed"], "revision": revision}
        changes = {"failure": reason, "wanted": deployed, "deployed": deployed, "stage": None}
        await self._settle(endpoint.name, revision, "RollingBack", changes)
        before.revision = revision
        try:
            await deployment.back()
        except ModelLoadError as problem:
            failure = f"{reason} The roll-back failed: {problem.message}"
            await self._settle(endpoint.name, revision, "UpdateRollbackFailed", {"failure": failure})
            return
        self._publish(before)
        await self._settle(endpoint.name, revision, "InService", {})

    def _publish(self, running: Running) -> None:
        name, config = running.production[0].endpoint, running.wanted["config"]
        route = Route(
            name, running.production, _kind(config), config.get("AsyncInferenceConfig"), shadows=running.shadows
        )  # fmt: skip
        self._routes.publish(route)

    def _publish_both(self, before: Running, after: Running, share: float) -> None:
        """Calls go to the new fleets with this share, to the old ones with the rest."""
        old, new = before.production, after.production
        of_old, of_new = sum(v.weight for v in old), sum(v.weight for v in new)
        weights = [v.weight / of_old * (1 - share) for v in old] + [v.weight / of_new * share for v in new]
        config = after.wanted["config"]
        route = Route(
            new[0].endpoint, [*old, *new], _kind(config), config.get("AsyncInferenceConfig"), weights=weights,
            shadows=[*before.shadows, *after.shadows],
        )  # fmt: skip
        self._routes.publish(route)

    async def _stage(self, name: str, revision: int, wanted: Document, status: str) -> None:
        """Note what a deployment does, for DescribeEndpoint."""
        now = self._clock.now()

        def write(db: Connection) -> None:
            endpoint = resources.get(db, "endpoint", name)
            if endpoint is not None and endpoint.status == "Updating" and endpoint.document["revision"] == revision:
                begun = (endpoint.document.get("stage") or {}).get("begun", now)
                endpoint.document = endpoint.document | {"stage": {"status": status, "since": now, "begun": begun}}
                resources.save(db, endpoint)

        await self._store.run(write)

    async def _bring_up(
        self,
        name: str,
        wanted: Document,
        revision: int,
        before: Running | None,
        deployed: Document | None,
        share: float,
    ) -> Running:
        """Workers for every variant, those that need not change kept. All or nothing; of new fleets only a share."""
        after = Running(wanted, revision)
        restored = before is None and deployed is not None  # it loaded before the restart, so it need not be tried
        started: list[Workers] = []
        try:
            for variant in all_variants(wanted["config"]):
                variant_name = variant["VariantName"]
                count = wanted["counts"][variant_name]
                if before is not None and _same_workers(before.wanted, wanted, variant_name):
                    fleet = before.fleets[variant_name]
                    after.folders |= _of_variant(variant_name, before.folders)
                    after.images[variant_name] = before.images[variant_name]
                    if isinstance(fleet, Fleet | Several):
                        await fleet.reach(count)
                    elif isinstance(fleet, ElasticFleet):
                        fleet.resize(
                            max_concurrency=variant["ServerlessConfig"]["MaxConcurrency"],
                            provisioned=variant["ServerlessConfig"].get("ProvisionedConcurrency", 0),
                        )
                else:
                    fleet = await self._new_fleet(name, variant, wanted, after, deployed)
                    started.append(fleet)
                    if not restored or (count and not isinstance(fleet, ElasticFleet)):
                        await fleet.start(deployments.part(count, share))
                fleet.changed = lambda: self._changed(name)
                after.fleets[variant_name] = fleet
                old = before.variants.get(variant_name) if before else None
                after.variants[variant_name] = Variant(
                    name, variant_name, wanted["weights"][variant_name], fleet,
                    stats=old.stats if old else None, log_group=self._log_group(name), count=count,
                )  # fmt: skip
            _cast_shadow(after)
        except BaseException as error:
            if isinstance(error, ModelLoadError) and started:
                error.message += _last_lines(started[-1])
            await asyncio.gather(*(fleet.stop(0) for fleet in started), return_exceptions=True)
            raise
        return after

    async def _new_fleet(
        self, endpoint: str, variant: Document, wanted: Document, after: Running, deployed: Document | None
    ) -> Workers:
        name, model_name = variant["VariantName"], variant.get("ModelName")
        if model_name is None:
            after.images[name] = []
            return Components()
        model = wanted["models"][model_name]
        folders = deployed["folders"] if deployed and deployed["revision"] == after.revision else {}
        health_check = variant.get("ContainerStartupHealthCheckTimeoutInSeconds", 0)
        log_folder = self._settings.logs / "endpoints" / endpoint / name
        if is_composite(model):
            site = Site(name, log_folder, self._settings.limits, folders, health_check)
            several = await build(model_name, model, site, self._prepare, self._placer)
            after.folders |= site.folders
            after.images[name] = [image for one in site.prepared for image in _images(one, self._clock.now())]
            return several
        prepared = await self._prepare(model_name, model, folder=Path(folders[name]) if name in folders else None)
        after.folders[name] = prepared.spec.path
        after.images[name] = _images(prepared, self._clock.now())
        serverless = variant.get("ServerlessConfig")
        if serverless is not None:
            return ElasticFleet(
                prepared.spec,
                self._placer,
                prepared.batching,
                elasticity(serverless, prepared.spec.environment),
                room=self._room,
                bill=partial(self._meter.add, Key(endpoint, name, serverless["MemorySizeInMB"])),
                used=await self._meter.total(endpoint, name),
                imports=prepared.imports,
                log_folder=log_folder,
            )
        batching = prepared.batching
        if "AsyncInferenceConfig" in wanted["config"]:
            batching = replace(batching, timeout=ASYNC_SECONDS)
        return Fleet(
            prepared.spec,
            self._placer,
            batching,
            imports=prepared.imports,
            load_timeout=max(prepared.load_timeout, health_check),
            log_folder=log_folder,
            nice=SHADOW_NICE if variant in wanted["config"].get("ShadowProductionVariants", []) else 0,
        )

    async def _prepare(self, name: str, model: Document, *, folder: Path | None = None) -> Prepared:
        return await prepare(
            name,
            model,
            self._fetch,
            self._settings.limits,
            environments=self._settings.environments,
            trusted_only=self._settings.trusted_only,
            folder=folder,
        )

    async def _failed(self, endpoint: Resource, revision: int, error: FourfoldError) -> None:
        log.warning("endpoint failed", extra={"endpoint": endpoint.name, "reason": error.message})
        if endpoint.name not in self.running:
            if endpoint.document["deployed"]:  # it was in service before the restart, and shall be so again
                self._retried.add(endpoint.name)
                await self._settle(endpoint.name, revision, "SystemUpdating", {"failure": error.message})
                await self._clock.sleep(RESTORE_SECONDS)
            else:
                await self._settle(endpoint.name, revision, "Failed", {"failure": error.message})
            return
        deployed = {**endpoint.document["deployed"], "revision": revision}  # the wish is given up, what runs stays
        running = self.running[endpoint.name]
        running.revision = revision
        _scale_back(running, running)
        changes = {"failure": error.message, "wanted": deployed, "deployed": deployed, "stage": None}
        await self._settle(endpoint.name, revision, "InService", changes)

    async def _settle(self, name: str, revision: int, status: str, changes: Document) -> None:
        """Write what was reached, unless somebody has wished otherwise meanwhile."""

        def write(db: Connection) -> None:
            endpoint = resources.get(db, "endpoint", name)
            if endpoint is None:
                return
            if endpoint.document["revision"] != revision:
                changes.pop("wanted", None)
            elif endpoint.status != "Deleting":
                endpoint.status = status
                endpoint.modified_at = self._clock.now()
            endpoint.document = endpoint.document | changes
            resources.save(db, endpoint)

        await self._store.run(write)

    # Remove

    async def _remove(self, endpoint: Resource) -> None:
        self._removing.add(endpoint.name)
        self._routes.withdraw(endpoint.name)
        running = self.running.pop(endpoint.name, None)
        if running is not None:
            await deployments.settle(list(running.fleets.values()))

        def write(db: Connection) -> None:
            resources.delete(db, "endpoint", endpoint.name)
            self._forget(db, endpoint.arn)

        await asyncio.to_thread(shutil.rmtree, self._settings.logs / "endpoints" / endpoint.name, ignore_errors=True)
        await self._store.run(write)
        self._removing.discard(endpoint.name)
        log.info("endpoint deleted", extra={"endpoint": endpoint.name})

    # Health

    def _changed(self, name: str) -> None:
        self._unwell.add(name)
        self.wake()

    async def _report_health(self, name: str) -> None:
        """InService means that a request would succeed now; say so when that changes."""
        running = self.running.get(name)
        if running is None:
            return
        failing = [fleet for fleet in running.fleets.values() if not fleet.ready and fleet.failure]

        def write(db: Connection) -> None:
            endpoint = resources.get(db, "endpoint", name)
            if endpoint is None:
                return
            if failing and endpoint.status == "InService":
                endpoint.status = "OutOfService"
                assert failing[0].failure is not None
                endpoint.document = endpoint.document | {"failure": failing[0].failure.message}
            elif running.healthy and endpoint.status == "OutOfService":
                endpoint.status = "InService"
                endpoint.document = endpoint.document | {"failure": None}
            else:
                return
            endpoint.modified_at = self._clock.now()
            resources.save(db, endpoint)

        await self._store.run(write)

    def _log_group(self, endpoint: str) -> str:
        return self._settings.partition.arn(f"log-group:/aws/sagemaker/Endpoints/{endpoint}", "logs")


def _without(running: Running, other: Running) -> list[Workers]:
    """The fleets that the other does not have."""
    theirs = set(map(id, other.fleets.values()))
    return [fleet for fleet in running.fleets.values() if id(fleet) not in theirs]


def _cast_shadow(running: Running) -> None:
    """With a shadow variant, the production variant's calls are copied to it."""
    for shadow in running.shadows:
        (production,) = running.production
        share = min(1.0, shadow.weight / production.weight)
        production.submit = Shadow(production.submit, shadow, share).submit


def _scale_back(before: Running, after: Running) -> None:
    """Give fleets that both have the size that they had."""
    for name, fleet in before.fleets.items():
        if isinstance(fleet, Fleet) and after.fleets.get(name) is fleet:
            fleet.scale(before.wanted["counts"][name])


async def _no_alarms(_names: Sequence[str]) -> Mapping[str, str]:
    return {}


def _kind(config: Document) -> Kind:
    if "AsyncInferenceConfig" in config:
        return "asynchronous"
    return "serverless" if any("ServerlessConfig" in variant for variant in all_variants(config)) else "realtime"


def _unsettled(db: Connection) -> list[Resource]:
    return resources.every(db, "endpoint", BUSY)


def _same_workers(old: Document, new: Document, variant: str) -> bool:
    """Would the variant's workers load and run the same under both wishes?"""

    def workers(wanted: Document) -> Any:
        for entry in all_variants(wanted["config"]):
            if entry["VariantName"] == variant:
                ignored = ("InitialVariantWeight", "InitialInstanceCount", "ServerlessConfig")
                memory = entry.get("ServerlessConfig", {}).get("MemorySizeInMB")  # its other bounds need no new worker
                kept = {k: v for k, v in entry.items() if k not in ignored}
                if "ModelName" not in entry:
                    return "components"  # which come and go by themselves
                return kept, memory, wanted["models"].get(entry["ModelName"])
        return None

    before, after = workers(old), workers(new)
    return before is not None and before == after


def _of_variant(name: str, folders: Mapping[str, str]) -> dict[str, str]:
    """The folders of one variant: its own, and those of its containers."""
    return {key: folder for key, folder in folders.items() if key.partition("/")[0] == name}


def _keeps_workers(old: Document, new: Document) -> bool:
    """Is every variant of the new wish one that runs already?"""
    return all(_same_workers(old, new, variant["VariantName"]) for variant in all_variants(new["config"]))


def _images(prepared: Prepared, now: float) -> list[Document]:
    image = prepared.image or f"fourfold/{prepared.spec.format}:latest"
    return [
        {"SpecifiedImage": image, "ResolvedImage": f"fourfold/{prepared.spec.format}:latest", "ResolutionTime": now}
    ]


def _last_lines(fleet: Workers) -> str:
    """The end of the newest worker's log, for a FailureReason."""
    text = fleet.last_log()
    lines = text.strip().splitlines()[-LOG_LINES:]
    return "\nLast lines of its log:\n" + "\n".join(lines) if lines else ""
