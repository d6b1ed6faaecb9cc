"""Batch work beside a model that is awaited: the work runs in a thread, and its calls overlap on the worker's loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from fourfold.formats.base import AsyncModel, Model, failed
from fourfold.records import Call, Reply

Work = Callable[[Model, bytes, Callable[[bytes], None]], bytes]


async def in_thread(work: Work, model: AsyncModel, payload: bytes, report: Callable[[bytes], None]) -> bytes:
    """Run what `work` does in a thread of its own; it may call the model, and report, as if it were in a worker's."""
    loop = asyncio.get_running_loop()

    def tell(part: bytes) -> None:
        loop.call_soon_threadsafe(report, part)

    return await asyncio.to_thread(work, _Awaited(model, loop), payload, tell)


class _Awaited(Model):
    """The model as it looks from the thread: it blocks, and takes as many calls at once as may overlap."""

    def __init__(self, model: AsyncModel, loop: asyncio.AbstractEventLoop) -> None:
        self._model = model
        self._loop = loop
        self.max_batch = model.concurrency
        self.inputs, self.outputs = model.inputs, model.outputs

    def invoke(self, calls: Sequence[Call]) -> list[Reply]:
        return asyncio.run_coroutine_threadsafe(self._all(calls), self._loop).result()

    async def _all(self, calls: Sequence[Call]) -> list[Reply]:
        return list(await asyncio.gather(*map(self._one, calls)))

    async def _one(self, call: Call) -> Reply:
        try:
            return await self._model.ainvoke(call)
        except Exception as error:
            return failed(call, f"{type(error).__name__}: {error}", error)
