"""Metering: sums up in memory what serverless endpoints use, and brings the sums to the store twice a second.

So a call costs a few additions and never a write, and `kill -9` loses half a second at most.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from fourfold.clock import Clock
from fourfold.store import Store, usage
from fourfold.store.usage import Counts, Key, Total

log = logging.getLogger(__name__)

PERIOD = 0.5
"""Seconds between writes; none is made where nothing was used."""
PRUNE_EVERY = 24 * 3600.0


class Meter:
    """What all serverless endpoints of one server use.

    Args:
        store: where the sums are kept.
        clock: says which minute it is, and when to write.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._pending: dict[Key, Counts] = {}
        self._writing = asyncio.Lock()

    def add(self, key: Key, counts: Counts) -> None:
        """Count; in the store within `PERIOD`."""
        pending = self._pending.get(key)
        if pending is None:
            pending = self._pending[key] = Counts()
        pending.add(counts)

    async def total(self, endpoint: str, variant: str) -> Total:
        """All that a variant has used since its endpoint was made, what is not in the store yet included."""
        await self.flush()
        return await self._store.run(lambda db: usage.total(db, endpoint, variant))

    async def run(self) -> None:
        """Write as long as the server runs."""
        pruned = 0.0
        while True:
            await self._clock.sleep(PERIOD)
            await self.flush()
            now = self._clock.now()
            if now - pruned > PRUNE_EVERY:
                pruned = now
                await self._store.run(partial(usage.prune, now=now))

    async def flush(self) -> None:
        """Write now. What cannot be written is kept for the next time."""
        async with self._writing:
            pending, self._pending = self._pending, {}
            if not pending:
                return
            minute = int(self._clock.now() // 60)
            try:
                await self._store.run(lambda db: usage.add(db, minute, pending.items()))
            except Exception:
                log.exception("usage was not written; it will be tried again")
                for key, counts in pending.items():
                    self.add(key, counts)
