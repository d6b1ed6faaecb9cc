"""What the processes of many models weigh, and what one model more would add."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

WEIGH_SECONDS = 5.0
"""How often everything is weighed: models grow with their first calls."""


@dataclass
class _Weight:
    size: float
    models: int


class Weights:
    """Of processes that hold models, one or many each. A model's own share is their average."""

    def __init__(self) -> None:
        self._known: dict[int, _Weight] = {}
        self._empty: dict[int, int] = {}
        self._weighed = 0.0

    def began(self, pid: int, size: int) -> None:
        """A process for many models weighed so much, in bytes, before it had one."""
        self._empty[pid] = size

    def due(self, models: Mapping[int, int], now: float) -> list[int]:
        """Processes to be weighed now.

        Args:
            models: how many each holds, of all there are. Others are forgotten.
            now: seconds on any clock.
        """
        self._known = {pid: weight for pid, weight in self._known.items() if pid in models}
        self._empty = {pid: size for pid, size in self._empty.items() if pid in models}
        if now - self._weighed >= WEIGH_SECONDS:
            self._weighed = now
            return list(models)
        return [pid for pid, count in models.items() if pid not in self._known or self._known[pid].models != count]

    def record(self, sizes: Mapping[int, int], models: Mapping[int, int]) -> None:
        """So many bytes had these processes to themselves, with so many models."""
        for pid, size in sizes.items():
            self._known[pid] = _Weight(size, models[pid])

    def left(self, pids: Iterable[int]) -> None:
        """One model is gone from each of these. What it gave back is not known before they are weighed again."""
        share = self.share
        for pid in pids:
            weight = self._known.get(pid)
            if weight is None:
                continue
            weight.models -= 1
            weight.size = max(self._empty[pid], weight.size - share) if pid in self._empty else 0.0

    @property
    def total(self) -> float:
        """Bytes of all, as far as they have been weighed."""
        return sum(weight.size for weight in self._known.values())

    @property
    def share(self) -> float:
        """Bytes of an ordinary model."""
        models = sum(weight.models for weight in self._known.values())
        return max(0.0, self.total - sum(self._empty.values())) / max(1, models)

    def with_workers(self, count: int) -> float:
        """Bytes that so many models would take: those that have not been weighed are taken for ordinary ones."""
        return self.total + self.share * (count - sum(weight.models for weight in self._known.values()))
