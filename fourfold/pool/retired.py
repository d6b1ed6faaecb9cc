"""Fleets that get no further call: they answer those that they have, and end."""

from __future__ import annotations

import asyncio

from fourfold.pool.several import Workers

LONGEST = 4000.0
"""Seconds until a retired fleet is ended whatever it does: more than the longest limit of a call, which comes first."""


class Retired:
    """Fleets on their way out, beside which their endpoint goes on."""

    def __init__(self) -> None:
        self._ending: dict[asyncio.Task[None], Workers] = {}

    def add(self, fleet: Workers) -> None:
        """End a fleet as soon as it has nothing to do any more."""
        task = asyncio.create_task(fleet.stop(LONGEST))
        self._ending[task] = fleet
        task.add_done_callback(lambda done: self._ending.pop(done, None))

    def tick(self) -> None:
        """Called regularly: calls past their deadline."""
        for fleet in list(self._ending.values()):
            fleet.tick()

    async def end(self, grace: float = 30.0) -> None:
        """Give them `grace` seconds from now."""
        ending = dict(self._ending)
        await asyncio.gather(*(fleet.stop(grace) for fleet in ending.values()))
        await asyncio.gather(*ending)

    def cancel(self) -> None:
        """Wait for them no longer; what they run goes on."""
        for task in self._ending:
            task.cancel()
