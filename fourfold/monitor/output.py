"""What workers print, as CloudWatch Logs has it: groups of streams of lines with times.

    logs/endpoints/<endpoint>/<variant>/<instance>.log   →  /aws/sagemaker/Endpoints/<endpoint>, <variant>/<instance>
    logs/transform-jobs/<job>/<instance>.log             →  /aws/sagemaker/TransformJobs, <job>/<instance>

Workers write to their files themselves, so that a crash costs no line; the files hold no times. Once a second the
sizes of the files are noted, and a line has the time of the first note that has all of it. A place in a stream is its
byte, so that reading goes on where it was, whatever is written meanwhile; a file that was shortened begins anew.
Methods block.
"""

from __future__ import annotations

import asyncio
import threading
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fourfold.clock import Clock
from fourfold.pool import logfiles

ENDPOINTS = "/aws/sagemaker/Endpoints/"
TRANSFORM_JOBS = "/aws/sagemaker/TransformJobs"
NOTE_SECONDS = 1.0
NOTE_SHARE = 0.002
"""Share of one core that noting sizes may take: with thousands of endpoints notes come less often than each second."""
PAGE_BYTES = 1024 * 1024
"""Most text in one answer, as in CloudWatch Logs."""
EVENT_BYTES = 256 * 1024
"""A longer line becomes several events, as in CloudWatch Logs."""
MOST_NOTES = 4096
"""Notes kept of a file; past these every other one goes, and times become coarser."""


@dataclass(frozen=True)
class Event:
    """One line."""

    stream: str
    time: int
    """Milliseconds since the epoch."""
    message: str
    start: int
    end: int
    """Its bytes in the stream, the end of the line included."""


@dataclass(frozen=True)
class Stream:
    name: str
    path: Path
    size: int
    first: int
    last: int
    """Times of the first and of the last line, milliseconds since the epoch."""


@dataclass
class _Notes:
    """Sizes of one file, and when it had them first."""

    sizes: list[int] = field(default_factory=list)
    times: list[int] = field(default_factory=list)

    def add(self, size: int, time: int) -> None:
        if self.sizes and size < self.sizes[-1]:  # another file of the same name
            self.sizes.clear()
            self.times.clear()
        if not self.sizes or size > self.sizes[-1]:
            self.sizes.append(size)
            self.times.append(max(time, self.times[-1] if self.times else 0))
        if len(self.sizes) > MOST_NOTES:
            self.sizes, self.times = self.sizes[1::2], self.times[1::2]

    def time_of(self, end: int) -> int:
        return self.times[min(bisect_left(self.sizes, end), len(self.times) - 1)]

    def before(self, time: int) -> int:
        """Bytes that were certainly written before a time."""
        place = bisect_left(self.times, time)
        return self.sizes[place - 1] if place else 0


class Output:
    """The output of one server's workers.

    Args:
        folder: where workers log.
        clock: for waiting between notes.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock
        self._notes: dict[Path, _Notes] = {}
        self._noting = threading.Lock()

    async def run(self) -> None:
        """Note sizes until cancelled."""
        while True:
            began = self._clock.monotonic()
            await asyncio.to_thread(self.note)
            await self._clock.sleep(max(NOTE_SECONDS, (self._clock.monotonic() - began) / NOTE_SHARE))

    def note(self) -> None:
        """Note the sizes of all files, and shorten those that are too long; forget files that are gone."""
        found = set(self._folder.rglob("*.log"))
        for path in found:
            notes = self._note(path)
            if notes is not None and notes.sizes[-1] > logfiles.MOST_BYTES:
                logfiles.shorten(path)
        with self._noting:
            for path in self._notes.keys() - found:
                del self._notes[path]

    def groups(self) -> list[str]:
        """Names of the groups that have streams, sorted."""
        endpoints = self._folder / "endpoints"
        names = [ENDPOINTS + path.name for path in endpoints.glob("*")] + [TRANSFORM_JOBS]
        return sorted(name for name in names if next(self._files(name), None) is not None)

    def streams(self, group: str) -> dict[str, Stream]:
        """A group's streams by name. Empty where there is no such group."""
        folder = self._group_folder(group)
        found = {}
        for path in sorted(self._files(group)):
            notes = self._note(path)
            if notes is not None and folder is not None:
                name = str(path.relative_to(folder).with_suffix(""))
                found[name] = Stream(name, path, notes.sizes[-1], notes.times[0], notes.times[-1])
        return found

    def forward(self, stream: Stream, start: int, most: int) -> list[Event]:
        """The events from a place on, at most so many and PAGE_BYTES."""
        block = _read(stream.path, start, min(start + PAGE_BYTES, stream.size))
        whole = block.rfind(b"\n") + 1
        if not whole and len(block) == PAGE_BYTES:
            whole = len(block)  # one line that is longer than a page
        return list(self._events(stream, start, block[:whole], most))

    def backward(self, stream: Stream, end: int, most: int) -> list[Event]:
        """The last events before a place, in order, at most so many and PAGE_BYTES."""
        start = max(0, end - PAGE_BYTES)
        block = _read(stream.path, start, min(end, stream.size))
        if start:
            cut = block.find(b"\n") + 1
            start, block = start + cut, block[cut:]
        block = block[: block.rfind(b"\n") + 1]
        return list(self._events(stream, start, block, len(block) + 1))[-most:]

    def place(self, stream: Stream, time: int) -> int:
        """A place that all events from a time on are behind."""
        notes = self._notes.get(stream.path)
        return notes.before(time) if notes is not None else 0

    def _events(self, stream: Stream, start: int, block: bytes, most: int) -> Iterator[Event]:
        notes = self._notes.get(stream.path) or _Notes([stream.size], [stream.last])
        place = start
        for line in block.splitlines(keepends=True):
            for piece in range(0, len(line), EVENT_BYTES):
                part = line[piece : piece + EVENT_BYTES]
                place += len(part)
                text = part.decode("utf-8", "replace").rstrip("\r\n")
                if text:
                    yield Event(stream.name, notes.time_of(place), text, place - len(part), place)
                    most -= 1
                    if not most:
                        return

    def _note(self, path: Path) -> _Notes | None:
        try:
            stat = path.stat()
        except FileNotFoundError:
            return None
        with self._noting:
            notes = self._notes.setdefault(path, _Notes())
            notes.add(stat.st_size, round(stat.st_mtime * 1000))
        return notes

    def _files(self, group: str) -> Iterator[Path]:
        folder = self._group_folder(group)
        return iter(()) if folder is None else (path for path in folder.rglob("*.log") if path.is_file())

    def _group_folder(self, group: str) -> Path | None:
        if group == TRANSFORM_JOBS:
            return self._folder / "transform-jobs"
        name = group.removeprefix(ENDPOINTS)
        return self._folder / "endpoints" / name if name != group and name.replace("-", "").isalnum() else None


def _read(path: Path, start: int, end: int) -> bytes:
    """Bytes of a file; none where it is gone, as an endpoint's are when it is deleted."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(max(0, end - start))
    except FileNotFoundError:
        return b""
