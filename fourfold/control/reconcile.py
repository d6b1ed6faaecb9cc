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
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial

from sqlalchemy.engine import Connection

from fourfold.clock import Clock
from fourfold.config import Settings
from fourfold.control import deployments
from fourfold.control.deployments import Deployment, Plan, RolledBack
from fourfold.control.endpoints import BUSY, Document
from fourfold.control.fleets import Fleets
from fourfold.control.running import Running, keeps_workers, route, shared_route
from fourfold.errors import FourfoldError, InternalFailure, ModelLoadError
from fourfold.pool.components import Components
from fourfold.pool.elastic import ElasticFleet
from fourfold.pool.retired import Retired
from fourfold.pool.routes import Routes
from fourfold.pool.several import Workers
from fourfold.store import Store, resources
from fourfold.store.resources import Resource

log = logging.getLogger(__name__)

TICK = 0.1
AT_ONCE = 4
"""Endpoints that are worked on side by side: loading is CPU and disk, more would only slow each other down."""
RESTORE_SECONDS = 1.0
"""After a restart: pause before an endpoint that could not be brought back is tried again."""


class Reconciler:
    """The one control loop of a server.

    Args:
        store: desired state, and the statuses it writes.
        fleets: brings up workers.
        routes: where endpoints that can be called are published.
        settings: folders.
        clock: for stamps.
        forget: called in the transaction that removes an endpoint, with its ARN, for what hangs on it (tags).
        alarms: the states of alarms by name, for deployments that watch some.
    """

    def __init__(
        self,
        store: Store,
        fleets: Fleets,
        routes: Routes,
        settings: Settings,
        clock: Clock,
        forget: Callable[[Connection, str], None] = lambda _db, _arn: None,
        alarms: Callable[[Sequence[str]], Awaitable[Mapping[str, str]]] | None = None,
    ) -> None:
        self._store = store
        self._fleets = fleets
        self._routes = routes
        self._settings = settings
        self._clock = clock
        self._forget = forget
        self._alarms = alarms or _no_alarms
        self._awake = asyncio.Event()
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._removing: set[str] = set()
        self._unwell: set[str] = set()
        self._retried: set[str] = set()
        self._retired: defaultdict[str, Retired] = defaultdict(Retired)
        self.running: dict[str, Running] = {}
        self._watched: set[Workers] = set()  # all fleets but those that sleep: thousands of these cost nothing
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

    async def adopt(self) -> None:
        """After a restart nothing runs: what was in service is so no more, until its workers are back.

        To be done before the first call is taken.
        """

        def mark(db: Connection) -> list[str]:
            returning = []
            for endpoint in resources.every(db, "endpoint"):
                if endpoint.document["deployed"] and endpoint.status != "Deleting":
                    returning.append(endpoint.name)
                if endpoint.status in ("InService", "OutOfService", "UpdateRollbackFailed"):
                    endpoint.status = "SystemUpdating"
                    resources.save(db, endpoint)
                elif endpoint.document.get("stage"):  # an update that was under way begins again
                    endpoint.document = endpoint.document | {"stage": None}
                    resources.save(db, endpoint)
            return returning

        self._routes.expect(await self._store.run(mark))

    async def run(self) -> None:
        """Work until cancelled."""
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
            for fleet in list(self._watched):
                fleet.tick()
                if isinstance(fleet, ElasticFleet) and fleet.asleep:
                    self._watched.discard(fleet)
            for retired in self._retired.values():
                retired.tick()
            await asyncio.sleep(TICK)

    async def close(self) -> None:
        """Stop working; what runs goes on until the placer is closed."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        for retired in self._retired.values():
            retired.cancel()

    def _work_on(self, endpoint: Resource) -> None:
        if endpoint.name in self._tasks:
            task = self._tasks[endpoint.name]
            if endpoint.status == "Deleting" and endpoint.name not in self._removing and not task.cancelling():
                task.cancel()  # what is being started is not wanted any more
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
            wanted = document["deployed"]  # first what ran before the restart
            revision = wanted["revision"]
        started = self._clock.monotonic()
        try:
            replaces = before is not None and not keeps_workers(before.wanted, wanted)
            plan = deployments.plan(document.get("deployment"), sum(wanted["counts"].values())) if replaces else Plan()
            first = plan.shares[0] if plan.rolling else 1.0
            async with self._at_once:
                if replaces:
                    await self._stage(endpoint.name, revision, wanted, "Creating")
                after = await self._fleets.bring_up(
                    endpoint.name, wanted, revision, before, document["deployed"], first, self._changed
                )
        except Exception as error:
            if not isinstance(error, FourfoldError):
                log.exception("deployment failed", extra={"endpoint": endpoint.name})
                error = InternalFailure(f"{type(error).__name__}: {error}")
            await self._failed(endpoint, revision, error)
            return
        self._watch(after.fleets.values())
        if before is not None and not await self._change_over(endpoint, revision, plan, started, before, after):
            return
        self.running[endpoint.name] = after
        self._routes.publish(route(after))
        deployed = wanted | {"revision": revision, "folders": after.folders, "images": after.images}
        changes = {"deployed": deployed, "stage": None}
        if endpoint.name in self._retried:
            self._retried.discard(endpoint.name)
            changes["failure"] = None
        await self._settle(endpoint.name, revision, "InService", changes)
        log.info("endpoint in service", extra={"endpoint": endpoint.name, "revision": revision})
        if before is not None:
            self._retire(endpoint.name, before.without(after))

    async def _change_over(
        self, endpoint: Resource, revision: int, plan: Plan, started: float, before: Running, after: Running
    ) -> bool:
        """Move traffic from the old fleets to the new ones, step by step. False: it went wrong and was undone."""
        new = after.without(before)
        if not new:
            return True
        name = endpoint.name
        deployment = Deployment(
            plan, self._clock, before.fleets, after.fleets,
            lambda share: self._routes.publish(shared_route(before, after, share)), self._alarms,
            partial(self._stage, name, revision, after.wanted),
        )  # fmt: skip
        try:
            await deployment.run(after.wanted["counts"], started)
        except Exception as error:
            if not isinstance(error, RolledBack):
                log.exception("deployment failed", extra={"endpoint": name})
            before.scale_as_wanted(after.fleets)
            await self._roll_back(endpoint, revision, deployment, str(error) or type(error).__name__, before)
            self._retire(name, new)
            return False
        except asyncio.CancelledError:
            self._retire(name, new)  # the endpoint is being deleted
            raise
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
        self._routes.publish(route(before))
        await self._settle(endpoint.name, revision, "InService", {})

    def _watch(self, fleets: Iterable[Workers]) -> None:
        """Tick these, as long as they are not asleep."""
        for fleet in fleets:
            self._watched.add(fleet)
            if isinstance(fleet, ElasticFleet):
                fleet.woken = partial(self._watched.add, fleet)

    def _retire(self, name: str, fleets: Sequence[Workers]) -> None:
        """End fleets that get no traffic any more, while the endpoint may be worked on already."""
        self._watched.difference_update(fleets)
        for fleet in fleets:
            self._retired[name].add(fleet)

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
        running.scale_as_wanted(running.fleets)
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
            self._retire(endpoint.name, list(running.fleets.values()))
        await self._retired.pop(endpoint.name, Retired()).end()

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


async def _no_alarms(_names: Sequence[str]) -> Mapping[str, str]:
    return {}


def _unsettled(db: Connection) -> list[Resource]:
    return resources.every(db, "endpoint", BUSY)
