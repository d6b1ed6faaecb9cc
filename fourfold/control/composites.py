"""Backends of variants that are more than one model: multi-model containers, pipelines, containers called by name.

Mode=MultiModel                          one container, many models   MultiModel
Containers, InferenceExecutionConfig     Serial (the default)         Pipeline
                                         Direct                       Direct
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fourfold.config import Limits
from fourfold.control.models import Prepared, batching, number
from fourfold.errors import FourfoldError, ModelLoadError, ValidationError, ValidationException
from fourfold.pool.containers import Direct, Pipeline
from fourfold.pool.fleet import Fleet
from fourfold.pool.local import Placer
from fourfold.pool.multimodel import Loadable, MultiModel, Room
from fourfold.pool.processes import total_bytes
from fourfold.pool.several import Several

Document = dict[str, Any]

MEMORY_SHARE = 0.7
"""Share of the machine's memory that a multi-model variant's workers may take where its Environment does not say."""


class Prepare(Protocol):
    def __call__(self, name: str, model: Document, *, folder: Path | None = None) -> Awaitable[Prepared]:
        """A model (CreateModel's members) made ready to be loaded."""


@dataclass
class Site:
    """Where a backend is built, and what comes of it.

    Attributes:
        variant: the variant's name.
        log_folder: of the variant's workers.
        limits: defaults for what an Environment does not set.
        known: folders of artifacts that were fetched before, by the keys that `folders` had then.
        load_timeout: seconds that a model may take to load at least.
        folders: filled: where artifacts are.
        prepared: filled: what was prepared.
    """

    variant: str
    log_folder: Path
    limits: Limits
    known: Mapping[str, str] = field(default_factory=dict)
    load_timeout: float = 0.0
    folders: dict[str, str] = field(default_factory=dict)
    prepared: list[Prepared] = field(default_factory=list)


def is_composite(model: Document | None) -> bool:
    """Is it more than one model?"""
    return model is not None and (len(model.get("Containers", [])) > 1 or _is_multi_model(containers(model)[0]))


def containers(model: Document) -> list[Document]:
    """A model's containers."""
    found: list[Document] = model.get("Containers") or [model["PrimaryContainer"]]
    return found


async def build(name: str, model: Document, site: Site, prepare: Prepare, placer: Placer) -> Several:
    """The backend of a variant with this model; to be started.

    Raises:
        ModelLoadError: a container's artifact cannot be fetched or is of no known format.
    """
    parts: dict[str, Fleet | Several] = {}
    fleets: dict[str, Fleet] = {}
    found = containers(model)
    for number_, container in enumerate(found, 1):
        hostname = container.get("ContainerHostname", f"container-{number_}")
        if _is_multi_model(container):
            parts[hostname] = _multi_model(name, container, site, prepare, placer)
        else:
            parts[hostname] = fleets[hostname] = await _fleet(name, hostname, container, site, prepare, placer)
    if len(found) == 1 and not fleets:
        (only,) = parts.values()
        assert isinstance(only, Several)
        return only
    if model.get("InferenceExecutionConfig", {}).get("Mode") == "Direct":
        return Direct(fleets)
    return Pipeline(parts)


def _is_multi_model(container: Document) -> bool:
    return container.get("Mode") == "MultiModel"


async def _fleet(name: str, hostname: str, container: Document, site: Site, prepare: Prepare, placer: Placer) -> Fleet:
    key = f"{site.variant}/{hostname}"
    known = Path(site.known[key]) if key in site.known else None
    prepared = await prepare(f"{name}/{hostname}", {"PrimaryContainer": container}, folder=known)
    site.folders[key] = prepared.spec.path
    site.prepared.append(prepared)
    return Fleet(
        prepared.spec,
        placer,
        prepared.batching,
        imports=prepared.imports,
        load_timeout=max(prepared.load_timeout, site.load_timeout),
        log_folder=site.log_folder / hostname,
    )


def _multi_model(name: str, container: Document, site: Site, prepare: Prepare, placer: Placer) -> MultiModel:
    prefix = _prefix(container)
    environment = container.get("Environment", {})

    async def fetch(target: str) -> Loadable:
        path = target.lstrip("/")
        one = {member: value for member, value in container.items() if member == "Image"}
        one |= {"ModelDataUrl": prefix + path, "Environment": environment | {"SAGEMAKER_MULTI_MODEL": "true"}}
        try:
            prepared = await prepare(f"{name}/{path}", {"PrimaryContainer": one})
        except ModelLoadError as error:
            if isinstance(error.__cause__, ValidationException | OSError):  # there is no such object
                raise _not_downloaded(prefix, path, error) from error
            raise
        return Loadable(
            prepared.spec,
            prepared.imports,
            max(prepared.load_timeout, site.load_timeout),
            sociable=not prepared.executes_code,
        )

    megabytes = number(environment, "FOURFOLD_MULTI_MODEL_MEMORY_MB", 0.0)
    room = Room(
        memory_bytes=int(megabytes * 2**20) or int(MEMORY_SHARE * total_bytes()),
        models=int(number(environment, "FOURFOLD_MULTI_MODEL_MAX_MODELS", 0)) or None,
        keep=container.get("MultiModelConfig", {}).get("ModelCacheSetting", "Enabled") == "Enabled",
    )
    return MultiModel(fetch, placer, batching(environment, site.limits), room, site.log_folder)


def _prefix(container: Document) -> str:
    source = container.get("ModelDataSource", {}).get("S3DataSource", {})
    url = str(container.get("ModelDataUrl") or source["S3Uri"])
    return url if url.endswith("/") else f"{url}/"


def _not_downloaded(prefix: str, path: str, error: FourfoldError) -> ValidationError:
    bucket, _, key = prefix.removeprefix("s3://").partition("/")
    return ValidationError(
        f"Failed to download model data(bucket: {bucket}, key: {key}{path}). Please ensure that there is an object "
        f"located at the URL and that it is a model. {error.message}"
    )
