"""Templates: processes that have loaded a model, so that a cold start forks one and loads nothing.

One is made after a model's first cold start, in the background, and only where its format allows it. What they hold is
bounded: so much memory in all, the longest unused one gives way, but not one that was used in the last minute, so that
calls that go round more models than there is room for do not make and drop templates all the time.
"""

from __future__ import annotations

import asyncio

import msgspec

from fourfold.errors import FourfoldError
from fourfold.pool.forker import Forker
from fourfold.records import WorkerSpec

MOST_BYTES = 96 * 1024 * 1024
"""Private memory of all templates of one server together."""
EACH_BYTES = 48 * 1024 * 1024
"""A model that takes more is loaded at each cold start: a template would hold it while nobody calls."""
MOST = 24
"""Templates at once."""
UNUSED_SECONDS = 900.0
"""A template that made no worker for so long is dropped."""
SETTLED_SECONDS = 60.0
"""A template that was used in this time does not give way to another."""
READY_SECONDS = 60.0
DELAY = 0.25
"""Seconds after a cold start until its template is made, so that it does not slow that start's first call."""
SPEC_BYTES = 32 * 1024


class Template(Forker):
    """A process that has one model loaded; `parent` forked it."""

    def __init__(self, parent: Forker) -> None:
        super().__init__()
        self._parent = parent
        self._retired = False
        self.used = asyncio.get_running_loop().time()

    async def load(self, spec: WorkerSpec) -> None:
        """Fork it and wait until it has loaded. Raises ServiceUnavailable, TimeoutError."""
        self.pid = await self._parent.fork(self._theirs, spec.log_path, 0, template=spec)
        self._theirs.close()
        self._listen()
        async with asyncio.timeout(READY_SECONDS):
            await self.settled.wait()

    def retire(self) -> None:
        """Fork no more, and end when the last worker has: the workers of a template end with it."""
        self._retired = True
        self._worker_ended()

    def _worker_ended(self) -> None:
        if self._retired and self.idle:
            self._lost()

    def _end_process(self) -> None:
        self._parent.kill(self.pid)


class Templates:
    """The templates of one server."""

    def __init__(self) -> None:
        self._made: dict[bytes, Template] = {}
        """By model, the longest unused first."""
        self._unfit: set[bytes] = set()
        self._sizes: dict[bytes, int] = {}
        """What models that had a template took, so that none is made again where it would not fit."""
        self._making: dict[bytes, asyncio.Task[None]] = {}
        self._one_at_a_time = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None

    def find(self, spec: WorkerSpec) -> Template | None:
        """The template of a model, where there is one that can fork now."""
        key = _key(spec)
        template = self._made.get(key)
        if template is None or not template.ready:
            return None
        template.used = asyncio.get_running_loop().time()
        self._made[key] = self._made.pop(key)
        return template

    def consider(self, spec: WorkerSpec, parent: Forker) -> None:
        """A worker of this model had to load it: make a template, where it can have one and there is room."""
        key = _key(spec)
        if key in self._made and self._made[key].ended:
            del self._made[key]
        if key in self._made or key in self._unfit or key in self._making or parent.ended or len(key) > SPEC_BYTES:
            return
        if not self._fits(self._sizes.get(key, 0)):
            return
        task = asyncio.create_task(self._make(key, spec, parent))
        self._making[key] = task
        task.add_done_callback(lambda _: self._making.pop(key, None))

    def forget(self, spec: WorkerSpec) -> None:
        """The model will not be started any more."""
        key = _key(spec)
        self._unfit.discard(key)
        self._sizes.pop(key, None)
        if key in self._making:
            self._making[key].cancel()
        if key in self._made:
            self._made.pop(key).retire()

    async def close(self) -> None:
        """End all of them, and their workers."""
        if self._timer is not None:
            self._timer.cancel()
        for task in (making := list(self._making.values())):
            task.cancel()
        await asyncio.gather(*making, return_exceptions=True)
        for template in self._made.values():
            template.close()
        self._made.clear()

    async def _make(self, key: bytes, spec: WorkerSpec, parent: Forker) -> None:
        await asyncio.sleep(DELAY)
        async with self._one_at_a_time:
            template = Template(parent)
            try:
                await template.load(spec)
            except (FourfoldError, TimeoutError):
                self._unfit.add(key)
                template.close()
                return
            except BaseException:
                template.close()
                raise
        if template.ended or template.missing or template.private_bytes > EACH_BYTES:
            self._unfit.add(key)
            template.close()
            return
        self._sizes[key] = template.private_bytes
        if not self._fits(template.private_bytes):
            template.close()
            return
        self._made[key] = template
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SETTLED_SECONDS, self._sweep)

    def _fits(self, size: int) -> bool:
        """Is there room for another one, when those that nobody uses have gone?"""
        while len(self._made) >= MOST or sum(one.private_bytes for one in self._made.values()) + size > MOST_BYTES:
            if not self._give_way():
                return False
        return True

    def _give_way(self) -> bool:
        """Drop the longest unused template. False: all of them are used."""
        if not self._made:
            return False
        key, template = next(iter(self._made.items()))
        if template.used > asyncio.get_running_loop().time() - SETTLED_SECONDS:
            return False
        del self._made[key]
        template.retire()
        return True

    def _sweep(self) -> None:
        """Drop what nobody uses."""
        loop = asyncio.get_running_loop()
        for key, template in list(self._made.items()):
            if template.ended or template.used < loop.time() - UNUSED_SECONDS:
                del self._made[key]
                template.retire()
        self._timer = loop.call_later(SETTLED_SECONDS, self._sweep) if self._made else None


def _key(spec: WorkerSpec) -> bytes:
    """Everything that a loaded model depends on."""
    return msgspec.msgpack.encode(msgspec.structs.replace(spec, log_path=""))
