"""Starts of an elastic fleet's workers: each waits for its turn among all fleets of the server, and loads in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from fourfold.errors import ModelLoadError
from fourfold.pool.coldstarts import ColdStart
from fourfold.pool.link import WorkerLink
from fourfold.pool.local import Placer
from fourfold.pool.room import Room
from fourfold.records import WorkerSpec


class Starts:
    """Starts workers.

    Args:
        placer: starts processes.
        room: gives turns.
        imports: modules that the format needs, for the zygote.
        load_timeout: seconds that a model may take to load.

    Attributes:
        loading: workers that have not loaded yet.
    """

    def __init__(self, placer: Placer, room: Room, imports: Sequence[str], load_timeout: float) -> None:
        self.loading: set[WorkerLink] = set()
        self._placer = placer
        self._room = room
        self._imports = tuple(imports)
        self._load_timeout = load_timeout

    async def start(
        self,
        spec: Callable[[], WorkerSpec],
        still_wanted: Callable[[], bool],
        *,
        template: bool = False,
        hurry: bool = False,
    ) -> tuple[WorkerLink | None, ColdStart]:
        """A worker that has loaded, and how long each part took; None where it was not wanted any more at its turn.

        Args:
            spec: what it loads; asked when its turn has come.
            still_wanted: asked then, too.
            template: it may be forked from a process that has loaded the model.
            hurry: a call waits for it.

        Raises:
            ModelLoadError: the model did not load.
            ServiceUnavailable: there is no memory for another worker.
        """
        asked = time.monotonic()
        async with self._room.turn():
            if not still_wanted():
                return None, ColdStart()
            begun = time.monotonic()
            link = await self._placer.start(spec(), imports=self._imports, template=template, hurry=hurry)
            forked = time.monotonic()
            await self._loaded(link)
        return link, ColdStart(begun - asked, forked - begun, time.monotonic() - forked, template=link.from_template)

    async def _loaded(self, link: WorkerLink) -> None:
        self.loading.add(link)
        try:
            async with asyncio.timeout(self._load_timeout):
                await asyncio.shield(link.loaded)
        except TimeoutError:
            link.kill()
            raise ModelLoadError(f"Model {link.spec.model!r} did not load within {self._load_timeout:g} s.") from None
        except BaseException:
            link.kill()
            raise
        finally:
            self.loading.discard(link)
