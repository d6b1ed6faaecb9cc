"""What an elastic fleet uses: calls as they are answered, and workers that are kept warm as time goes by."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fourfold.store.usage import Counts, Total


class Tally:
    """Counts use.

    Args:
        memory_mb: memory size of the workers, which is what time is multiplied by.
        bill: told of everything that is counted. None: nobody is.
        total: what was used before.
    """

    def __init__(self, memory_mb: int, bill: Callable[[Counts], None] | None, total: Total) -> None:
        self.total = total
        self._memory_mb = memory_mb
        self._bill = bill
        self._loop = asyncio.get_running_loop()
        self._kept_since = self._loop.time()

    def add(self, counts: Counts) -> None:
        """Count what was used."""
        self.total.add(self._memory_mb, counts)
        if self._bill is not None:
            self._bill(counts)

    def keep(self, workers: int) -> None:
        """Count so many workers that were kept warm since the last time, called or not."""
        now = self._loop.time()
        kept_ms = round((now - self._kept_since) * 1000) * workers
        self._kept_since = now
        if kept_ms:
            self.add(Counts(kept_ms=kept_ms))

    @property
    def kept_seconds(self) -> float:
        """Seconds since workers that are kept were counted."""
        return self._loop.time() - self._kept_since
