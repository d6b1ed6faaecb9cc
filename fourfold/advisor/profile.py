"""Measures a model on this machine: service time by batch size, memory, cold start. What the search takes as given.

The model runs in a real worker of the pool, as it would behind an endpoint; the gateway and the network are left out.
"""

from __future__ import annotations

import asyncio
import io
import statistics
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fourfold.advisor.scenario import Mode, Scenario
from fourfold.advisor.simulate.queue import Batching
from fourfold.errors import FourfoldError, ModelError, ValidationException
from fourfold.formats import registry
from fourfold.pool.frames import Loaded
from fourfold.pool.link import WorkerLink
from fourfold.pool.local import LocalPlacer
from fourfold.records import Call, Reply, WorkerSpec

COLD_STARTS = 3
"""Starts that are timed after a first one, which also imports the framework."""
LOAD_S = 600.0
MOST = 64
"""The largest batch that is tried, if the model takes it."""


@dataclass(frozen=True)
class Profile:
    """What was measured. Seconds and MB of 2^20 bytes."""

    model: str
    format: str
    service_s: dict[int, float]
    """Median time of one call of so many requests, by batch size."""
    cold_start_s: float
    """Median time from the wish for a worker to a loaded model, with the framework imported before."""
    first_start_s: float
    """The same for the very first worker, framework included."""
    memory_mb: float | None
    """Most memory that the worker held; None where the system does not tell."""
    request: tuple[bytes, str]
    """Body and content type of the request that was measured."""

    @property
    def batching(self) -> Batching:
        """The straight line through the service times, for `simulate`."""
        sizes, times = list(self.service_s), list(self.service_s.values())
        if len(sizes) == 1:
            return Batching(1, 0.0, times[0])
        each, fixed = np.polyfit(sizes, times, 1)
        return Batching(max(sizes), max(float(fixed), 0.0), max(float(each), 0.0))

    def each_s(self, mode: Mode) -> float:
        """Seconds of work on one request; in a batch, where requests are many, on each more of them."""
        return (mode == "batch" and self.batching.each_s) or self.service_s[1]

    def applied(self, scenario: Scenario) -> Scenario:
        """A scenario with what was measured in place of what it says or leaves open."""
        memory = scenario.memory_gb if self.memory_mb is None else self.memory_mb * 2**20 / 1e9
        payload = scenario.payload_mb if scenario.payload_mb is not None else len(self.request[0]) / 1e6
        return replace(scenario, processing_s=self.service_s[1], memory_gb=memory, payload_mb=payload)

    def plain(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "format": self.format,
            "service_s": {str(size): seconds for size, seconds in self.service_s.items()},
            "cold_start_s": self.cold_start_s,
            "first_start_s": self.first_start_s,
            "memory_mb": self.memory_mb,
            "request_bytes": len(self.request[0]),
            "content_type": self.request[1],
            "scenario": {
                member: value
                for member, value in vars(self.applied(Scenario())).items()
                if member in ("processing_s", "memory_gb", "payload_mb") and value is not None
            },
        }


async def profile(
    source: Path, request: tuple[bytes, str] | None = None, seconds: float = 1.0, threads: int = 1
) -> Profile:
    """Measure a model.

    Args:
        source: a file, a folder or a tar archive that holds it.
        request: body and content type of one request. None: numbers of the shape that the model names.
        seconds: how long each batch size is measured.
        threads: intra-op threads of the framework.

    Raises:
        ModelLoadError: it cannot be loaded, or its format is unknown.
        ValidationException: a request is needed and was not given, or the model refuses it.
    """
    with _unpacked(source) as folder:
        kind = registry.resolve("", folder)
        spec = WorkerSpec(model=source.name, path=str(folder), format=kind.name, threads=threads)
        placer = LocalPlacer()
        try:
            first_s, link, loaded = await start(placer, spec, kind.imports)
            colds = []
            for _ in range(COLD_STARTS):
                link.kill()
                cold_s, link, loaded = await start(placer, spec, kind.imports)
                colds.append(cold_s)
            body, content_type = request or sample(loaded.inputs)
            times = await _times(link, loaded.max_batch, body, content_type, seconds)
            memory = peak_memory_mb(link.pid)
            link.kill()
        finally:
            await placer.close()
    return Profile(
        source.name, kind.name, times, statistics.median(colds), first_s, memory, (body, content_type)
    )  # fmt: skip


def sample(inputs: Sequence[tuple[str, str, list[int | None]]]) -> tuple[bytes, str]:
    """One request of random numbers with the shapes that a model names.

    Raises:
        ValidationException: it names none, or takes strings.
    """
    kinds = {dtype for _, dtype, _ in inputs}
    if not inputs or kinds & {"object", "str", "string"}:
        raise ValidationException("request: the model does not say what a request is; give --request FILE")
    random = np.random.default_rng(0)
    arrays = {
        name: random.uniform(0, 1, [1, *(n or 1 for n in shape[1:])]).astype(dtype) for name, dtype, shape in inputs
    }
    buffer = io.BytesIO()
    if len(arrays) == 1:
        np.save(buffer, next(iter(arrays.values())))
        return buffer.getvalue(), "application/x-npy"
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # numpy types the names as one of its own options
    return buffer.getvalue(), "application/x-npz"


async def start(placer: LocalPlacer, spec: WorkerSpec, imports: tuple[str, ...]) -> tuple[float, WorkerLink, Loaded]:
    """A worker with its model loaded, and the seconds that it took."""
    began = time.perf_counter()
    link = await placer.start(spec, imports=imports)
    loaded = await asyncio.wait_for(link.loaded, LOAD_S)
    return time.perf_counter() - began, link, loaded


async def _times(link: WorkerLink, max_batch: int, body: bytes, content_type: str, seconds: float) -> dict[int, float]:
    await _call(link, 1, body, content_type)  # the first call pays for lazy work
    times, size = {}, 1
    while size <= min(max_batch, MOST):
        seen: list[float] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(seen) < 3:
            began = time.perf_counter()
            await _call(link, size, body, content_type)
            seen.append(time.perf_counter() - began)
        times[size] = statistics.median(seen)
        size *= 2
    return times


async def _call(link: WorkerLink, size: int, body: bytes, content_type: str) -> None:
    """One batch, answered; an answer that is an error becomes ValidationException."""
    loop = asyncio.get_running_loop()
    waiters = [Pending(Call(number, body, content_type), loop) for number in range(size)]
    link.invoke(waiters, lambda _: None)
    for reply in await asyncio.gather(*(waiter.reply for waiter in waiters)):
        if reply.status != 200:
            said = reply.body.decode("utf-8", "replace")[:300]
            raise ValidationException(f"request: the model refuses it: {said}. Give one with --request FILE")


class Pending:
    """A call whose reply is awaited."""

    def __init__(self, call: Call, loop: asyncio.AbstractEventLoop) -> None:
        self.call = call
        self.arrived = loop.time()
        self.reply: asyncio.Future[Reply] = loop.create_future()

    def answer(self, reply: Reply) -> None:
        self.reply.set_result(reply)

    def fail(self, error: FourfoldError) -> None:
        self.reply.set_exception(ModelError(f"the model died while it was measured: {error.message}"))


def peak_memory_mb(pid: int) -> float | None:
    """Peak resident memory of a process, from Linux's /proc."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    peak = next((line.split()[1] for line in lines if line.startswith("VmHWM")), None)
    return None if peak is None else int(peak) / 1024


@contextmanager
def _unpacked(source: Path) -> Iterator[Path]:
    """The folder that holds a model, for as long as the block lasts."""
    if source.is_dir():
        yield source
        return
    if not source.is_file():
        raise ValidationException(f"model: there is no file or folder {source}")
    with tempfile.TemporaryDirectory(prefix="fourfold-") as scratch:
        folder = Path(scratch)
        _place(source, folder)
        yield folder


def _place(source: Path, folder: Path) -> None:
    try:
        with tarfile.open(source) as archive:
            archive.extractall(folder, filter="data")
    except tarfile.ReadError:
        (folder / source.name).symlink_to(source.resolve())
