"""Objects as batch uses them: by address, in pieces, blocking; and the scratch bucket, where parts wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from fourfold.modes.batch.orders import SCRATCH
from fourfold.modes.batch.plan import Found
from fourfold.storage.objects import Commit, Objects, parse_location

CHUNK = 1024 * 1024
"""Bytes that are read at a time."""


class Blobs:
    """Objects by address. Every method blocks; none is for the event loop.

    Args:
        buckets: the folder whose folders are the buckets.
        commit: how written objects become durable; see `Objects.writer`.
    """

    def __init__(self, buckets: Path, commit: Commit | None = None) -> None:
        self._objects = Objects(buckets)
        self._commit = commit
        self._scratch = buckets / SCRATCH

    def list(self, prefix: str) -> Iterator[Found]:
        """Objects whose address begins with `prefix`, by key in byte order. Folder markers (`a/`) are no objects."""
        for found in self._objects.list(parse_location(prefix)):
            yield Found(str(found.location), found.size)

    def size(self, url: str) -> int:
        """Raises NoSuchObject."""
        return self._objects.head(parse_location(url)).size

    def read(self, url: str, start: int = 0) -> Iterator[bytes]:
        """The object's bytes from `start` to its end. Raises NoSuchObject, or OSError where it cannot be read."""
        with self._objects.open(parse_location(url)) as file:
            file.seek(start)
            while chunk := file.read(CHUNK):
                yield chunk

    def open(self, url: str) -> Any:
        """The object as a file that pyarrow can seek in. Raises NoSuchObject or OSError."""
        location = parse_location(url)
        if self._objects.head(location).size == 0:
            return pa.BufferReader(b"")  # an empty file cannot be mapped
        return pa.memory_map(str(self._objects.path(location)))

    def write(self, url: str) -> AbstractContextManager[BinaryIO]:
        """A file that becomes the object when its block ends, and leaves nothing where the block raises.

        Raises:
            ValidationException: there is no such bucket.
        """
        location = parse_location(url)
        if location.bucket == SCRATCH:
            self._scratch.mkdir(parents=True, exist_ok=True)
        return self._objects.writer(location, self._commit)

    def delete(self, url: str) -> None:
        """Remove the object; does nothing where there is none."""
        self._objects.delete(parse_location(url))


class Commits:
    """Makes many small objects durable at once: the disk's waits overlap, which is most of the time that they take.

    Call it with a commit; `take` gives those since the last `take`.
    """

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._begun: list[Future[None]] = []

    def __call__(self, commit: Callable[[], None]) -> None:
        self._begun.append(self._pool.submit(commit))

    def take(self) -> list[Future[None]]:
        begun, self._begun = self._begun, []
        return begun
