"""Bringing up an endpoint's workers: its artifacts fetched, a fleet of the right kind for each variant, started."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec

from fourfold.clock import Clock
from fourfold.config import Settings
from fourfold.control.composites import Site, build, is_composite
from fourfold.control.deployments import part
from fourfold.control.endpoints import Document, all_variants
from fourfold.control.models import Fetch, Prepared, elasticity, prepare
from fourfold.control.running import Running, same_workers
from fourfold.control.threads import default_threads
from fourfold.errors import ModelLoadError
from fourfold.pool.components import Components
from fourfold.pool.elastic import ElasticFleet
from fourfold.pool.fleet import Fleet
from fourfold.pool.local import Placer
from fourfold.pool.metering import Meter
from fourfold.pool.room import Room
from fourfold.pool.routes import Variant
from fourfold.pool.several import Several, Workers
from fourfold.store.usage import Key

ASYNC_SECONDS = 3600.0
"""How long an asynchronous call may take, at most; each has a limit of its own, which its dispatcher sees to."""
MOST_REASON = 1024
"""Longest FailureReason, characters: DescribeEndpoint's own limit."""
SHADOW_NICE = 10
"""CPU priority of a shadow variant's workers below production's."""


class Fleets:
    """Makes the fleets of endpoints.

    Args:
        placer: starts workers.
        fetch: brings a model's artifact to this machine; blocking.
        settings: folders and limits.
        clock: for stamps.
        room: what the workers of serverless endpoints share.
        meter: counts what they use.
        capture: has the calls of a variant captured, as a DataCaptureConfig says.
    """

    def __init__(
        self,
        placer: Placer,
        fetch: Fetch,
        settings: Settings,
        clock: Clock,
        room: Room,
        meter: Meter,
        capture: Callable[[Variant, Document], None],
    ) -> None:
        self._placer = placer
        self._fetch = fetch
        self._settings = settings
        self._clock = clock
        self._room = room
        self._meter = meter
        self._capture = capture

    async def bring_up(
        self,
        name: str,
        wanted: Document,
        revision: int,
        before: Running | None,
        deployed: Document | None,
        share: float,
        changed: Callable[[str], None],
    ) -> Running:
        """Workers for every variant, those that need not change kept. All or nothing; of new fleets only a share.

        Args:
            name: of the endpoint.
            wanted: config, models, counts and weights that it shall have.
            revision: of this wish.
            before: what runs now, if anything.
            deployed: the wish that was in service last, and where its artifacts are unpacked.
            share: of each new fleet's workers, those to start with.
            changed: called with the endpoint's name when a fleet's health may have changed.

        Raises:
            FourfoldError: an artifact cannot be had, or a model does not load; its log's last lines are in the message.
        """
        after = Running(wanted, revision)
        restored = before is None and deployed is not None  # it loaded before the restart, so it need not be tried
        started: list[Workers] = []
        try:
            for variant in all_variants(wanted["config"]):
                variant_name = variant["VariantName"]
                count = wanted["counts"][variant_name]
                if before is not None and same_workers(before.wanted, wanted, variant_name):
                    fleet = await _keep(variant, count, before, after)
                else:
                    fleet = await self._new_fleet(name, variant, wanted, after, deployed)
                    started.append(fleet)
                    if not restored or (count and not isinstance(fleet, ElasticFleet)):
                        await fleet.start(part(count, share))
                fleet.changed = partial(changed, name)
                after.fleets[variant_name] = fleet
                old = before.variants.get(variant_name) if before else None
                after.variants[variant_name] = Variant(
                    name, variant_name, wanted["weights"][variant_name], fleet,
                    stats=old.stats if old else None, log_group=self._log_group(name), count=count,
                )  # fmt: skip
            after.cast_shadow()
            after.capture(self._capture)
        except BaseException as error:
            if isinstance(error, ModelLoadError) and started:
                error.message = with_log(error.message, started[-1].last_log())
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
        spec = prepared.spec
        if "FOURFOLD_THREADS" not in spec.environment:
            threads = await asyncio.to_thread(
                default_threads, spec.format, Path(spec.path), variant.get("InstanceType", ""), wanted["counts"][name]
            )
            spec = msgspec.structs.replace(spec, threads=threads)
        return Fleet(
            spec,
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

    def _log_group(self, endpoint: str) -> str:
        return self._settings.partition.arn(f"log-group:/aws/sagemaker/Endpoints/{endpoint}", "logs")


async def _keep(variant: Document, count: int, before: Running, after: Running) -> Workers:
    """A fleet that runs already, given the size that is wanted now."""
    name = variant["VariantName"]
    fleet = before.fleets[name]
    after.folders |= _of_variant(name, before.folders)
    after.images[name] = before.images[name]
    if isinstance(fleet, Fleet | Several):
        await fleet.reach(count)
    elif isinstance(fleet, ElasticFleet):
        serverless = variant["ServerlessConfig"]
        fleet.resize(
            max_concurrency=serverless["MaxConcurrency"], provisioned=serverless.get("ProvisionedConcurrency", 0)
        )
    return fleet


def _of_variant(name: str, folders: Mapping[str, str]) -> dict[str, str]:
    """The folders of one variant: its own, and those of its containers."""
    return {key: folder for key, folder in folders.items() if key.partition("/")[0] == name}


def _images(prepared: Prepared, now: float) -> list[Document]:
    image = prepared.image or f"fourfold/{prepared.spec.format}:latest"
    return [
        {"SpecifiedImage": image, "ResolvedImage": f"fourfold/{prepared.spec.format}:latest", "ResolutionTime": now}
    ]


def with_log(message: str, log: str) -> str:
    """A FailureReason: why a worker failed, and as many of the last lines that it printed as there is room for."""
    reason = f"{message[:MOST_REASON]}\nLast lines of its log:"
    room = MOST_REASON - len(reason)
    quoted: list[str] = []
    for line in reversed([line for line in log.splitlines() if line.strip() not in message]):
        room -= len(line) + 1
        if room < 0:
            break
        quoted.insert(0, line)
    return "\n".join([reason, *quoted]) if quoted else message[:MOST_REASON]
