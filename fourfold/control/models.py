"""From a model as CreateModel described it to what a worker needs: artifact fetched, format known, settings read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fourfold.config import Limits
from fourfold.errors import ModelLoadError
from fourfold.formats import registry
from fourfold.pool.batcher import Batching
from fourfold.pool.elastic import Elasticity
from fourfold.records import WorkerSpec

Fetch = Callable[[str], Path]
"""From a ModelDataUrl to a local folder with the unpacked artifact; blocking."""


@dataclass(frozen=True)
class Prepared:
    """A model that is ready to be loaded by workers."""

    spec: WorkerSpec
    imports: tuple[str, ...]
    batching: Batching
    load_timeout: float
    image: str
    executes_code: bool


async def prepare(
    name: str,
    model: dict[str, Any],
    fetch: Fetch,
    limits: Limits,
    *,
    trusted_only: bool = False,
    folder: Path | None = None,
) -> Prepared:
    """Fetch a model's artifact and work out how to load it.

    Args:
        name: the model's name.
        model: its document, CreateModel's members.
        fetch: brings the artifact here.
        limits: defaults for what its Environment does not set.
        trusted_only: refuse formats that run code when loaded.
        folder: where the artifact is, if it was fetched before.

    Raises:
        ModelLoadError: no artifact, unknown format, or a setting that is no number.
    """
    container = primary_container(model)
    environment = container.get("Environment", {})
    folder = await asyncio.to_thread(_artifact, folder, fetch, name, container)
    image = container.get("Image", "")
    resolved = await asyncio.to_thread(registry.resolve, image, folder, environment)
    if trusted_only and resolved.executes_code:
        raise ModelLoadError(
            f"Model {name!r} is of format {resolved.name}, which runs the artifact's own code when it is loaded, and "
            "this server was started with --trusted-only. Export it to ONNX or skops, or start without the flag."
        )
    spec = WorkerSpec(
        model=name,
        path=str(folder),
        format=resolved.name,
        environment=environment,
        threads=int(number(environment, "FOURFOLD_THREADS", 1)),
    )
    batching = Batching(
        max_batch=int(number(environment, "FOURFOLD_MAX_BATCH", 0)) or None,
        max_delay=number(environment, "FOURFOLD_MAX_DELAY_MS", 0.0) / 1000,
        queue_length=int(number(environment, "FOURFOLD_QUEUE_LENGTH", limits.queue_length)),
        timeout=number(environment, "SAGEMAKER_MODEL_SERVER_TIMEOUT", limits.invocation_seconds),
    )
    load_timeout = number(environment, "SAGEMAKER_STARTUP_TIMEOUT", limits.load_seconds)
    return Prepared(spec, resolved.imports, batching, load_timeout, image, resolved.executes_code)


def elasticity(serverless: Mapping[str, int], environment: Mapping[str, str]) -> Elasticity:
    """Bounds of a serverless variant: its ServerlessConfig, and FOURFOLD_IDLE_SECONDS in the model's Environment."""
    return Elasticity(
        max_concurrency=serverless["MaxConcurrency"],
        provisioned=serverless.get("ProvisionedConcurrency", 0),
        memory_mb=serverless["MemorySizeInMB"],
        idle_seconds=number(environment, "FOURFOLD_IDLE_SECONDS", 60.0),
    )


def _artifact(known: Path | None, fetch: Fetch, name: str, container: dict[str, Any]) -> Path:
    """Where the artifact was unpacked before, if that is still there; otherwise fetched."""
    return known if known is not None and known.is_dir() else fetch(model_data_url(name, container))


def primary_container(model: dict[str, Any]) -> dict[str, Any]:
    """The container that answers."""
    container: dict[str, Any] = model.get("PrimaryContainer") or model["Containers"][0]
    return container


def model_data_url(name: str, container: dict[str, Any]) -> str:
    """Where a container's artifact is. Raises ModelLoadError where it names none."""
    source = container.get("ModelDataSource", {}).get("S3DataSource", {})
    url = container.get("ModelDataUrl") or source.get("S3Uri")
    if not url:
        raise ModelLoadError(f"Model {name!r} names no artifact: give ModelDataUrl in its PrimaryContainer.")
    return str(url)


def number(environment: Mapping[str, str], name: str, default: float) -> float:
    """A number from a model's Environment, 0 or more. Raises ModelLoadError naming the variable."""
    text = environment.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise ModelLoadError(f"{name} in the model's Environment must be a number of 0 or more, not {text!r}.")
    return value
