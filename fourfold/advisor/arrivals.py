"""When requests come: Poisson, a day's wave, or a trace. Sorted float64 arrays of seconds from the start.

Every generator takes a seed and gives the same times for the same seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fourfold.errors import ValidationException

Times = NDArray[np.float64]


def poisson(rate: float, count: int, seed: int = 0) -> Times:
    """`count` arrivals at `rate` a second, independent of each other."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, count)
    return np.cumsum(gaps)


def over_day(hourly: Sequence[float], days: int = 1, seed: int = 0) -> Times:
    """Poisson arrivals whose rate (a second) changes from hour to hour, the same every day."""
    return _piecewise(np.tile(np.asarray(hourly, dtype=float), days), 3600.0, np.random.default_rng(seed))


def read(path: Path) -> Times:
    """A trace: one arrival time in seconds a line (a first line that is no number is a heading); the first becomes 0.

    Raises:
        ValidationException: the file cannot be read or a line is no time.
    """
    try:
        lines = [line.split(",")[0].strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValidationException(f"trace: {path} cannot be read: {error}") from error
    times = []
    for number, line in enumerate(lines, 1):
        try:
            times.append(float(line))
        except ValueError:
            if number > 1:
                raise ValidationException(
                    f"trace: line {number} of {path.name} is no time in seconds: {line!r}"
                ) from None
    found = np.sort(np.asarray(times, dtype=float))
    if not len(found) or not np.isfinite(found).all():
        raise ValidationException(f"trace: {path.name} holds no finite arrival times; give one in seconds a line")
    times_from_first: Times = found - found[0]
    return times_from_first


def _piecewise(rates: Times, width: float, random: np.random.Generator) -> Times:
    counts = random.poisson(rates * width)
    starts = np.repeat(np.arange(len(rates)) * width, counts)
    times: Times = np.sort(starts + random.uniform(0, width, counts.sum()))
    return times
