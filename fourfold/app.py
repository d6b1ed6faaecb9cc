"""The one place where parts are built and wired."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import logging
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from sqlalchemy.engine import Connection
from starlette.types import Receive, Scope, Send

from fourfold import logs
from fourfold.advisor.prices import Prices, shipped
from fourfold.advisor.recommender.jobs import Recommender
from fourfold.api.asynchronous import async_routes
from fourfold.api.autoscaling import Autoscaling
from fourfold.api.aws import AwsApi, Service
from fourfold.api.cloudwatch import CloudWatch
from fourfold.api.components import ComponentsApi
from fourfold.api.fastlane import Lane, protocol_class
from fourfold.api.gateway import Gateway
from fourfold.api.identity import Iam, Sts
from fourfold.api.keys import Keys
from fourfold.api.logs import Logs
from fourfold.api.monitoring import Monitoring
from fourfold.api.native import endpoint_routes
from fourfold.api.oip import OpenInference
from fourfold.api.packages import ModelRegistry
from fourfold.api.recommender import InferenceRecommender
from fourfold.api.s3 import S3
from fourfold.api.sagemaker import SageMaker
from fourfold.api.scheduler import Scheduler, caller, schedule_routes
from fourfold.api.signatures.verifier import Verifier
from fourfold.api.sns import Links, Sns, topic_routes
from fourfold.api.transform import Transform, batch_routes
from fourfold.clock import Clock, SystemClock
from fourfold.config import Settings
from fourfold.control.autoscaling.autoscaler import Autoscaler
from fourfold.control.autoscaling.capacities import COPIES, INSTANCES, PROVISIONED, Copies, Variants
from fourfold.control.autoscaling.targets import Targets
from fourfold.control.components import InferenceComponents
from fourfold.control.copies import CopyKeeper, component_folders
from fourfold.control.couriers import Courier, HttpCourier, SqsCourier
from fourfold.control.endpoints import Endpoints, artifact_folders
from fourfold.control.fleets import Fleets
from fourfold.control.models import prepare
from fourfold.control.packages import packaged
from fourfold.control.reconcile import Reconciler
from fourfold.control.schedules.desired import Schedules
from fourfold.control.schedules.runner import ScheduleRunner
from fourfold.control.topics import Topics
from fourfold.errors import FourfoldError
from fourfold.modes.asynchronous.mode import Asynchronous
from fourfold.modes.batch.job import Jobs
from fourfold.monitor import queries
from fourfold.monitor.alarms import SCALING, TOPIC, Actions, Alarms, notification
from fourfold.monitor.capture import Captures
from fourfold.monitor.collector import Collector
from fourfold.monitor.endpoints import EndpointFigures
from fourfold.monitor.history import History
from fourfold.monitor.metrics import Metrics
from fourfold.monitor.output import Output
from fourfold.pool.cgroups import Cgroups
from fourfold.pool.local import LocalPlacer
from fourfold.pool.metering import Meter
from fourfold.pool.room import Room
from fourfold.pool.routes import Routes
from fourfold.storage.artifacts import Artifacts
from fourfold.storage.objects import Objects
from fourfold.store import Store, tags
from fourfold.store.migrate import upgrade

log = logging.getLogger(__name__)


class DataFolderInUse(FourfoldError):
    """Another server works on the data folder."""


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is in flight.

    Raises:
        DataFolderInUse: another server has the data folder.
        OSError: the port is taken.
    """
    logs.configure(settings.log_level)
    with _owned(settings.data_dir):
        _raise_open_files()
        listener = _listen(settings)
        settings = replace(settings, port=listener.getsockname()[1])
        Server(App(settings), listener).run()


class App:
    """Every part of one server, built and connected. An ASGI application whose lifespan runs the control loop."""

    def __init__(self, settings: Settings) -> None:
        clock = SystemClock()
        self.settings = settings
        self.placer = LocalPlacer(Cgroups.find(), settings.partition.region)
        self.placer.warm()  # the zygote imports while the rest is built
        self.store = Store(settings.store_url)
        upgrade(self.store)
        self.keys = Keys(settings.data_dir)
        self.keys.first()
        self.routes = Routes()
        objects = Objects(settings.buckets)
        objects.sweep()
        artifacts = Artifacts(settings.artifacts, objects)
        artifacts.sweep()
        artifacts.collect(self.store.run_now(lambda db: artifact_folders(db) + component_folders(db)))
        self.meter = Meter(self.store, clock)
        self.history = History(self.store, clock)
        self.actions = Actions()
        self.alarms = Alarms(self.store, self.history, settings.partition, clock, self.actions)
        room = Room(settings.limits.warm_workers)
        self.captures = Captures(objects, clock, settings.capture_seconds)
        fleets = Fleets(self.placer, artifacts.fetch, settings, clock, room, self.meter, self.captures.tap)
        self.reconciler = Reconciler(
            self.store, fleets, self.routes, settings, clock, forget=self._forget, alarms=self.alarms.states
        )
        endpoints = Endpoints(
            self.store,
            settings.partition,
            settings.limits,
            clock,
            self.reconciler.wake,
            lambda name: self.asynchronous.announce(name),  # made below
            self.captures.works,
        )
        prepared = partial(
            prepare,
            fetch=artifacts.fetch,
            limits=settings.limits,
            environments=settings.environments,
            trusted_only=settings.trusted_only,
        )
        self.copies = CopyKeeper(
            self.store,
            self.placer,
            prepared,
            self.reconciler.components_of,
            settings,
            clock,
            forget=self._forget,
            alarms=self.alarms.states,
        )
        self.components = InferenceComponents(self.store, settings, clock, self.copies.wake)
        self.targets = Targets(
            self.store,
            settings.partition,
            clock,
            {
                dimension: Variants(self.store, endpoints.update_weights_and_capacities, dimension)
                for dimension in (INSTANCES, PROVISIONED)
            }
            | {COPIES: Copies(self.store, self.components.update_runtime)},
            self.alarms,
        )
        self.autoscaler = Autoscaler(self.store, self.targets, clock, partial(queries.evaluate, self.history))
        self.actions.known[SCALING] = self.autoscaler.act
        verifier = Verifier(self.keys, clock, settings.limits.clock_skew_seconds)
        figures = EndpointFigures(self.routes)
        self.collector = Collector(self.history, figures, clock, settings.metrics_seconds, collected=self.alarms.wake)
        self.jobs = Jobs(self.store, self.placer, prepared, settings, clock)
        prices = shipped()
        self.recommender = Recommender(self.store, objects, prepared, packaged, prices, settings.partition, clock)
        services: dict[str, Service] = {}  # filled below: a schedule may call any of them
        couriers: dict[str, Courier] = dict.fromkeys(("http", "https"), HttpCourier())
        queues = SqsCourier(settings.sqs_endpoint, settings.partition.region) if settings.sqs_endpoint else None
        if queues:
            couriers["sqs"] = queues
        self.scheduled = ScheduleRunner(self.store, clock, caller(services), queues.send if queues else None)
        self.schedules = Schedules(self.store, settings.partition, clock, self.scheduled.wake)
        self.topics = Topics(self.store, settings.partition, clock, couriers, settings.url)
        self.actions.known[TOPIC] = self._tell_topic
        self.asynchronous = Asynchronous(self.store, self.routes, objects, settings, clock, self.topics)
        self.collector.sources.append(self.asynchronous.figures.datapoints)
        self.lane = Lane(self.routes, verifier, settings.limits, self.asynchronous.accept)
        metrics = Metrics(self.routes, self.lane.refused)
        self.output = Output(settings.logs, clock)
        aws = self._aws(endpoints, prices, clock)
        services |= aws.services
        self.gateway = Gateway(
            self.lane,
            verifier,
            aws,
            S3(settings.buckets, verifier, settings.partition.region),
            OpenInference(self.lane, self.ready),
            Links(self.topics),
            endpoint_routes(settings, self.routes)
            | batch_routes(self.jobs, clock)
            | schedule_routes(self.schedules)
            | async_routes(self.asynchronous.records)
            | topic_routes(self.topics, settings.partition),
            metrics.render,
            self.ready,
        )

    def _aws(self, endpoints: Endpoints, prices: Prices, clock: Clock) -> AwsApi:
        """AWS's services, each answered by the parts built before."""
        partition = self.settings.partition
        return AwsApi(
            [
                Service(
                    SageMaker(self.store, endpoints, partition, clock),
                    ComponentsApi(self.store, self.components),
                    ModelRegistry(self.store, partition, clock),
                    Transform(self.store, self.jobs),
                    InferenceRecommender(self.store, self.recommender, prices),
                    Monitoring(),
                ),
                Service(Scheduler(self.store, self.schedules)),
                Service(Sns(self.topics, partition)),
                Service(Autoscaling(self.store, self.targets, self.alarms, partition.account)),
                Service(CloudWatch(self.history, self.alarms, clock)),
                Service(Logs(self.output, partition)),
                Service(Sts(partition, self.keys, clock)),
                Service(Iam(partition)),
            ]
        )

    def _forget(self, db: Connection, arn: str) -> None:
        """What hangs on an endpoint or component goes with it."""
        tags.remove(db, arn)
        self.targets.forget(db, arn)

    async def _tell_topic(self, topic: str, alarm: dict[str, Any], _value: float | None) -> None:
        subject, message = notification(alarm, self.settings.partition)
        await self.topics.publish(topic, subject, message)

    def ready(self) -> bool:
        """Is every endpoint in service that should be?"""
        return self.reconciler.settled and all(running.healthy for running in self.reconciler.running.values())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self.gateway(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        async with self._background():
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    @asynccontextmanager
    async def _background(self) -> AsyncIterator[None]:
        """What runs beside the calls, as long as the server."""
        await self.reconciler.adopt()
        workers = (
            self.reconciler, self.copies, self.autoscaler, self.meter,
            self.asynchronous, self.jobs, self.scheduled, self.topics, self.recommender,
            self.collector, self.history, self.alarms, self.output, self.captures,
        )  # fmt: skip
        loops = [self.reconciler.tick(), self.lane.sweep(), self._refresh_keys(), *(one.run() for one in workers)]
        tasks = [asyncio.create_task(loop) for loop in loops]
        for task in tasks:
            task.add_done_callback(_must_not_end)
        try:
            yield
            await self.asynchronous.finish(self.settings.grace_seconds)
        finally:
            for task in tasks:
                task.remove_done_callback(_must_not_end)
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.asynchronous.close()
            await self.jobs.close()
            await self.reconciler.close()
            await self.captures.flush()
            await self.history.flush()
            logging.getLogger("fourfold.pool").setLevel(logging.ERROR)  # that workers end now is no news
            await self.placer.close()
            await self.meter.flush()
            self.store.close()

    async def _refresh_keys(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            await asyncio.to_thread(self.keys.refresh)


class Server(uvicorn.Server):
    """uvicorn with our protocol class, our signals and our one line of output."""

    def __init__(self, app: App, listener: socket.socket) -> None:
        settings = app.settings
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol_class(app.lane),
                ws="none",
                loop="uvloop",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=max(1, round(settings.grace_seconds)),
            )
        )
        self._listener = listener
        self._settings = settings

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        super().run(sockets or [self._listener])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        gc.collect()
        gc.freeze()  # what start-up made lives as long as the server: the collector need not look at it again
        with suppress(OSError):  # a full disk is no reason not to serve
            self._settings.address_file.write_text(self._settings.address)
        print(f"ready {self._settings.address}", flush=True)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT end the server in good order, with exit status 0; uvicorn would raise them once more."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.handle_exit)
        yield


def _must_not_end(task: asyncio.Task[None]) -> None:
    """A background loop that ends is a defect; the server must not go on without it as if nothing had happened."""
    if not task.cancelled():
        log.critical("a background loop ended", exc_info=task.exception())
        os.kill(os.getpid(), signal.SIGTERM)


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((settings.host, settings.port))
    listener.listen(4096)
    return listener


@contextmanager
def _owned(folder: Path) -> Iterator[None]:
    """Hold the data folder for this process alone. The lock goes with the process, however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "server.pid").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise DataFolderInUse(
                f"The data folder {folder} belongs to another server (process {lock.read().strip() or 'unknown'}). "
                "Stop that one, or give this one another --data-dir."
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def _raise_open_files() -> None:
    """Each connection and worker takes a file descriptor; the usual soft limit of 1,024 is soon reached."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
