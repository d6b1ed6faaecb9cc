"""Where the workers of one fleet log: a file each, `i-0001.log` and on, of which the newest are kept.

Workers write to their files themselves, so that a crash costs no line. `shorten` bounds a file that a worker still
writes to: what it holds moves to a file beside it, whose place the next such move takes.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

KEPT = 20
"""Logs of a fleet's workers that are kept: a model that ends again and again does not fill the disk."""
MOST_BYTES = 16 * 1024 * 1024
"""A log that is longer is shortened."""
ALIGNED = 64 * 1024
"""File systems take whole blocks away from a file; none has larger ones."""
TAIL = 16384
"""Bytes at the end of a log that say why a worker ended."""


class LogFiles:
    """The logs of one fleet.

    Args:
        folder: where they are. None: workers log to the server's own output.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._paths: list[Path] | None = None

    def next(self, in_use: Iterable[str]) -> str:
        """The path for another worker's log; empty where workers have none. The oldest go, but for those in use."""
        if self._folder is None:
            return ""
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._paths is None:
            self._paths = sorted(self._folder.glob("i-*.log"), key=_number)  # of the time before a restart
        path = self._folder / f"i-{_number(self._paths[-1]) + 1 if self._paths else 1:04d}.log"
        self._paths.append(path)
        kept = {Path(one) for one in in_use}.union(self._paths[-KEPT:])
        for old in [one for one in self._paths if one not in kept]:
            self._paths.remove(old)
            old.unlink(missing_ok=True)
            earlier(old).unlink(missing_ok=True)
        return str(path)

    def last(self) -> str:
        """The end of what the newest worker printed; empty where it has no log."""
        if not self._paths:
            return ""
        try:
            with self._paths[-1].open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
                return file.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return ""


def shorten(path: Path) -> None:
    """Move what a log holds, but for its end, to the file beside it.

    The file itself stays, because a worker has it open and appends to it. Where the file system can take the beginning
    of a file away (ext4, XFS) no line is lost; elsewhere all of it goes, and what is printed in this moment with it.
    """
    begin = max(0, path.stat().st_size - 1) // ALIGNED * ALIGNED
    shutil.copyfile(path, earlier(path))
    if _take_away(path, begin):
        os.truncate(earlier(path), begin)
    else:
        os.truncate(path, 0)


def earlier(path: Path) -> Path:
    """Where the part of a log is that was moved."""
    return path.with_name(path.name + ".1")


_COLLAPSE_RANGE = 8  # linux/falloc.h
_libc = ctypes.CDLL(None)


def _take_away(path: Path, begin: int) -> bool:
    """Remove the first bytes of a file, of which something stays. False where that cannot be done here."""
    try:
        fallocate = _libc.fallocate
    except AttributeError:  # not Linux
        return False
    with path.open("r+b") as log:
        return begin > 0 and not fallocate(
            log.fileno(), _COLLAPSE_RANGE, ctypes.c_longlong(0), ctypes.c_longlong(begin)
        )


def _number(path: Path) -> int:
    digits = path.stem.removeprefix("i-")
    return int(digits) if digits.isdigit() else 0
