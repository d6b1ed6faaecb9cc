"""From a model as CreateModel described it to what a worker needs: artifact fetched, format known, settings read."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from fourfold.config import Limits
from fourfold.control.threads import MOST_THREADS
from fourfold.errors import ModelLoadError
from fourfold.formats import registry
from fourfold.formats.environment import prepare as prepare_environment
from fourfold.formats.environment import requirements
from fourfold.formats.imports import handler_imports
from fourfold.pool.batcher import Batching
from fourfold.pool.elastic import Elasticity
from fourfold.records import WorkerSpec

_HUB_REVISIONS = ("HF_MODEL_REVISION", "HF_REVISION")


class Fetch(Protocol):
    """Brings a model here; blocking."""

    def __call__(self, url: str, code: str = "") -> Path:
        """A local folder with the unpacked artifact at `url` (empty: none), and the handler's code in its `code/`."""


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
    environments: Path,
    trusted_only: bool = False,
    folder: Path | None = None,
) -> Prepared:
    """Fetch a model's artifact and work out how to load it. A pipeline's containers are loaded by one worker.

    Args:
        name: the model's name.
        model: its document, CreateModel's members.
        fetch: brings the artifact here.
        limits: defaults for what its Environment does not set.
        environments: folder of the virtual environments that handlers' requirements get.
        trusted_only: refuse formats that run code when loaded.
        folder: where the artifact is, if it was fetched before.

    Raises:
        ModelLoadError: no artifact, unknown format, requirements that cannot be installed, or a setting that is no
            number.
    """
    if is_pipeline(model):
        stages = [
            await prepare(
                f"{name}/{number}",
                {"PrimaryContainer": container},
                fetch,
                limits,
                environments=environments,
                trusted_only=trusted_only,
            )
            for number, container in enumerate(model["Containers"], 1)
        ]
        return _in_a_row(name, stages)
    container = primary_container(model)
    image = container.get("Image", "")
    environment = dict(container.get("Environment", {}))
    code = _code_url(environment)
    if code:
        environment["SAGEMAKER_SUBMIT_DIRECTORY"] = "/opt/ml/model/code"
    folder = await asyncio.to_thread(_artifact, folder, fetch, model_data_url(name, container), code)
    resolved = await asyncio.to_thread(registry.resolve, image, folder, environment)
    if trusted_only and resolved.executes_code:
        raise ModelLoadError(
            f"Model {name!r} is of format {resolved.name}, which runs the artifact's own code when it is loaded, and "
            "this server was started with --trusted-only. Export it to ONNX or skops, or start without the flag."
        )
    if resolved.name == "process" and not registry.is_known(image):
        environment.setdefault("FOURFOLD_IMAGE", image)
    if resolved.name == "handler" and (toolkit := registry.toolkit(image)):
        environment.setdefault("FOURFOLD_TOOLKIT", toolkit)
    spec = WorkerSpec(
        model=name,
        path=str(folder),
        format=resolved.name,
        environment=environment,
        threads=int(number(environment, "FOURFOLD_THREADS", 1, MOST_THREADS, least=1)),
        python=await asyncio.to_thread(_interpreter, resolved.name, folder, environment, environments),
    )
    load_timeout = number(environment, "SAGEMAKER_STARTUP_TIMEOUT", limits.load_seconds)
    imports = resolved.imports
    if resolved.name == "handler":
        imports += await asyncio.to_thread(handler_imports, folder, environment)
    return Prepared(spec, imports, batching(environment, limits), load_timeout, image, resolved.executes_code)


def is_pipeline(model: Mapping[str, Any]) -> bool:
    """Several containers, each of which gets what the one before it answered?"""
    found = model.get("Containers", [])
    one_model_each = all(container.get("Mode") != "MultiModel" for container in found)
    return len(found) > 1 and one_model_each and model.get("InferenceExecutionConfig", {}).get("Mode") != "Direct"


def _in_a_row(name: str, stages: Sequence[Prepared]) -> Prepared:
    """The stages of a pipeline as one. Raises ModelLoadError where they need environments that cannot be one."""
    pythons = {stage.spec.python for stage in stages if stage.spec.python}
    if len(pythons) > 1:
        raise ModelLoadError(
            f"Several containers of model {name!r} have a requirements.txt, and they differ: outside of endpoints one "
            "process runs them all. Give them the same one."
        )
    first = stages[0].spec
    spec = msgspec.structs.replace(
        first, model=name, environment={}, python="".join(pythons), stages=tuple(stage.spec for stage in stages)
    )
    return Prepared(
        spec,
        tuple(dict.fromkeys(module for stage in stages for module in stage.imports)),
        stages[0].batching,
        sum(stage.load_timeout for stage in stages),
        stages[-1].image,
        any(stage.executes_code for stage in stages),
    )


def batching(environment: Mapping[str, str], limits: Limits) -> Batching:
    """How calls are gathered, from a model's Environment.

    Raises:
        ModelLoadError: a setting is no number, or calls would be kept back for all the time that they have.
    """
    delay = number(environment, "FOURFOLD_MAX_DELAY_MS", 0.0) / 1000
    timeout = number(environment, "SAGEMAKER_MODEL_SERVER_TIMEOUT", limits.invocation_seconds)
    if delay and delay >= timeout:
        raise ModelLoadError(
            f"FOURFOLD_MAX_DELAY_MS in the model's Environment keeps a call back for {delay:g} s to fill a batch, but "
            f"a call has {timeout:g} s in all (SAGEMAKER_MODEL_SERVER_TIMEOUT): make it shorter. A few ms are usual."
        )
    return Batching(
        max_batch=int(number(environment, "FOURFOLD_MAX_BATCH", 0)) or None,
        max_delay=delay,
        queue_length=int(number(environment, "FOURFOLD_QUEUE_LENGTH", limits.queue_length)),
        timeout=timeout,
        stream_timeout=number(environment, "FOURFOLD_STREAM_SECONDS", limits.stream_seconds),
    )


def elasticity(serverless: Mapping[str, int], environment: Mapping[str, str]) -> Elasticity:
    """Bounds of a serverless variant: its ServerlessConfig, and what the model's Environment says.

    FOURFOLD_IDLE_SECONDS is how long an idle worker stays (60); FOURFOLD_TEMPLATE=0 keeps nothing loaded meanwhile.
    """
    return Elasticity(
        max_concurrency=serverless["MaxConcurrency"],
        provisioned=serverless.get("ProvisionedConcurrency", 0),
        memory_mb=serverless["MemorySizeInMB"],
        idle_seconds=number(environment, "FOURFOLD_IDLE_SECONDS", 60.0),
        template=environment.get("FOURFOLD_TEMPLATE") != "0",
    )


def _artifact(known: Path | None, fetch: Fetch, url: str, code: str) -> Path:
    """Where the artifact was unpacked before, if that is still there; otherwise fetched."""
    return known if known is not None and known.is_dir() else fetch(url, code)


def _code_url(environment: Mapping[str, str]) -> str:
    """Where the handler's code is, if it is kept apart from the artifact, as the SDK's framework models do."""
    submitted = environment.get("SAGEMAKER_SUBMIT_DIRECTORY", "")
    return submitted if submitted.startswith(("s3://", "https://")) else ""


def _interpreter(format: str, folder: Path, environment: Mapping[str, str], environments: Path) -> str:
    """The interpreter of a handler's own environment; empty where it has no requirements."""
    wanted = requirements(folder, environment) if format == "handler" else None
    return "" if wanted is None else str(prepare_environment(wanted, environments))


def primary_container(model: dict[str, Any]) -> dict[str, Any]:
    """The container that answers. Raises ModelLoadError where it is chosen by each call, or holds many models."""
    container: dict[str, Any] = (model.get("Containers") or [model["PrimaryContainer"]])[0]
    if len(model.get("Containers", [])) > 1 or container.get("Mode") == "MultiModel":
        raise ModelLoadError(
            "A model whose containers or models each call names (InferenceExecutionConfig Direct, Mode MultiModel) is "
            "served by real-time endpoints only."
        )
    return container


def model_data_url(name: str, container: dict[str, Any]) -> str:
    """Where a container's artifact is; empty where its image or command needs none.

    Raises:
        ModelLoadError: it names none and needs one.
    """
    source = container.get("ModelDataSource", {}).get("S3DataSource", {})
    url = container.get("ModelDataUrl") or source.get("S3Uri")
    settings = container.get("Environment", {})
    hub = settings.get("HF_MODEL_ID", "")
    if url:
        return str(url)
    if hub and not hub.startswith("/"):
        revision = next((settings[name] for name in _HUB_REVISIONS if settings.get(name)), "")
        return f"hf://{hub}@{revision}" if revision else f"hf://{hub}"
    if _code_url(settings) or settings.get("FOURFOLD_COMMAND") or not registry.is_known(container.get("Image", "")):
        return ""
    raise ModelLoadError(f"Model {name!r} names no artifact: give ModelDataUrl in its PrimaryContainer.")


def number(environment: Mapping[str, str], name: str, default: float, most: float = 1e9, *, least: float = 0) -> float:
    """A number from a model's Environment, from `least` to `most`. Raises ModelLoadError naming the variable."""
    text = environment.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise ModelLoadError(
            f"{name} in the model's Environment must be a number from {least:g} to {most:,.0f}, not {text!r}."
        )
    return value
