"""How cold starts went: one record each, sums for metrics, the newest ones for percentiles."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

REMEMBERED = 256
"""Newest cold starts and warm calls that percentiles are taken of."""


@dataclass
class ColdStart:
    """One worker's way from the call that wanted it to that call's answer; parts in seconds."""

    queue: float = 0.0
    """Until it was its turn to start."""
    fork: float = 0.0
    load: float = 0.0
    """Until the model was loaded; next to nothing where a process that had loaded it was forked."""
    first_call: float = 0.0
    """From there to the first answer."""
    template: bool = False
    """Was a process forked that had loaded the model before?"""

    @property
    def total(self) -> float:
        return self.queue + self.fork + self.load + self.first_call

    def parts(self) -> dict[str, float]:
        """Seconds by part."""
        return {name: value for name, value in asdict(self).items() if name != "template"}


@dataclass
class ColdStarts:
    """All cold starts of one fleet."""

    count: int = 0
    from_template: int = 0
    sums: ColdStart = field(default_factory=ColdStart)
    newest: deque[ColdStart] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def add(self, start: ColdStart) -> None:
        self.count += 1
        self.from_template += start.template
        for part, seconds in start.parts().items():
            setattr(self.sums, part, getattr(self.sums, part) + seconds)
        self.newest.append(start)


def median_ms(seconds: Iterable[float]) -> float | None:
    """The median in milliseconds; None of nothing."""
    values = list(seconds)
    return round(statistics.median(values) * 1000, 3) if values else None
