"""The worker that a lane holds: one of the shared pool, at low priority, started again where it has died."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import msgspec

from fourfold.errors import ModelError, ModelLoadError
from fourfold.modes.batch.orders import ASSEMBLE, RUN, SURVEY
from fourfold.modes.batch.running.record import Record
from fourfold.modes.batch.running.tools import JobFailed, Ready, Tools
from fourfold.pool.link import WorkerLink
from fourfold.pool.zygote import BACKGROUND

IMPORTS = (*sorted({task.partition(":")[0] for task in (SURVEY, RUN, ASSEMBLE)}), "fourfold.modes.batch.warm")
"""What a zygote of batch workers imports: pyarrow above all, which takes longer than everything else of a small job."""
TRIES = 3
"""How often planning, assembling and the start of a worker are tried where the worker ends before it has answered."""


class Worker:
    """A lane's worker; a new one takes its place when it has died."""

    def __init__(self, start: Callable[[], Awaitable[WorkerLink]]) -> None:
        self._start = start
        self._link: WorkerLink | None = None

    @property
    def held(self) -> bool:
        """Does it stand still because calls need its core?"""
        return self._link is not None and self._link.held

    async def link(self) -> WorkerLink:
        """A worker that lives. Raises JobFailed where none can be started."""
        if self._link is None or self._link.gone.is_set():
            self._link = await self._start()
        return self._link

    async def insist(self, attempt: Callable[[WorkerLink], Awaitable[bytes]]) -> bytes:
        """What a worker answers; another one is asked where it ends over it. Raises ModelError."""
        for _ in range(TRIES - 1):
            link = await self.link()
            try:
                return await attempt(link)
            except ModelError:
                if not link.gone.is_set():
                    raise
        return await attempt(await self.link())

    async def end(self) -> None:
        if self._link is not None:
            self._link.kill()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await self._link.gone.wait()  # the next lane's worker does not run beside a dying one


class _LoadError(Exception):
    """A worker ended, or said that it could not load its model; the next one may do better."""


class Starter:
    """Starts workers that have loaded the model of a job."""

    def __init__(self, record: Record, tools: Tools, ready: Ready) -> None:
        self._record = record
        self._tools = tools
        self._ready = ready
        self._started = 0

    async def start(self) -> WorkerLink:
        """A worker that has loaded the model. Raises JobFailed with the reason where it cannot."""
        for _ in range(TRIES - 1):
            with contextlib.suppress(_LoadError):
                return await self._try()
        try:
            return await self._try()
        except _LoadError as error:
            raise JobFailed(f"AlgorithmError: {error}") from None

    async def _try(self) -> WorkerLink:
        self._started += 1
        folder = self._tools.logs(self._record.name)
        folder.mkdir(parents=True, exist_ok=True)
        spec = msgspec.structs.replace(
            self._ready.spec,
            environment={**self._ready.spec.environment, **self._environment()},
            log_path=str((folder / f"i-{self._started:04d}.log").resolve()),
        )
        link = await self._tools.placer.start(spec, imports=self._ready.imports, more=IMPORTS, nice=BACKGROUND)
        try:
            async with asyncio.timeout(self._ready.load_timeout):
                await asyncio.shield(link.loaded)
        except TimeoutError:
            link.kill()
            raise JobFailed(
                f"AlgorithmError: the model did not load within {self._ready.load_timeout:g} s "
                "(SAGEMAKER_STARTUP_TIMEOUT in its Environment changes the limit)."
            ) from None
        except ModelLoadError as error:
            raise _LoadError(error.message) from None
        except BaseException:
            link.kill()
            raise
        return link

    def _environment(self) -> dict[str, str]:
        """What SageMaker's containers see of a job, and the job's own variables."""
        document = self._record.document
        return {
            "SAGEMAKER_BATCH": "true",
            "SAGEMAKER_MAX_PAYLOAD_IN_MB": str(document.get("MaxPayloadInMB", 6)),
            "SAGEMAKER_BATCH_STRATEGY": (
                "SINGLE_RECORD" if self._record.options.strategy == "SingleRecord" else "MULTI_RECORD"
            ),
            "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": str(document.get("MaxConcurrentTransforms") or 1),
            **document.get("Environment", {}),
        }
