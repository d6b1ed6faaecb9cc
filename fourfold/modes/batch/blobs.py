"""Objects as batch reads and writes them: by address, in pieces, blocking; a written one is whole or not there."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import pyarrow as pa

from fourfold.modes.batch.plan import Found

CHUNK = 1024 * 1024
"""Bytes that are read at a time."""

SCRATCH = ".batch"
"""Beside the buckets, where no S3 client looks: what is being written, and parts that wait to be assembled."""


class Blobs(Protocol):
    """Objects by address. Every method blocks; none is for the event loop."""

    def list(self, prefix: str) -> Iterator[Found]:
        """Objects whose address begins with `prefix`, in order of their keys (UTF-8 bytes)."""

    def read(self, url: str, start: int = 0) -> Iterator[bytes]:
        """The object's bytes from `start` to its end. Raises OSError where it cannot be read."""

    def open(self, url: str) -> Any:
        """The object as a file that pyarrow can seek in. Raises OSError."""

    def write(self, url: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """A file that becomes the object when the block ends, and leaves nothing when the block raises."""

    def delete(self, url: str) -> None:
        """Remove the object; does nothing where there is none."""


class LocalBlobs:
    """Objects as plain files: `s3://bucket/key` is `<root>/bucket/key`, any other address is a path below `root`.

    Args:
        root: the folder of buckets.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def list(self, prefix: str) -> Iterator[Found]:
        place = self._path(prefix)
        bucket = prefix[: prefix.index("/", 5) + 1] if "/" in prefix[5:] else prefix + "/"
        base = self._path(bucket)
        top = place if prefix.endswith("/") else place.parent
        keys = sorted(key for key in _files(top, base) if (bucket + key).startswith(prefix))
        for key in keys:
            with contextlib.suppress(FileNotFoundError):  # deleted since it was listed
                yield Found(bucket + key, os.stat(base / key).st_size)

    def read(self, url: str, start: int = 0) -> Iterator[bytes]:
        with self._path(url).open("rb", buffering=0) as file:
            file.seek(start)
            while chunk := file.read(CHUNK):
                yield chunk

    def open(self, url: str) -> Any:
        return pa.memory_map(str(self._path(url)))

    @contextlib.contextmanager
    def write(self, url: str) -> Iterator[BinaryIO]:
        path = self._path(url)
        hidden = self._root / SCRATCH / f"{secrets.token_hex(12)}.part"
        hidden.parent.mkdir(parents=True, exist_ok=True)
        try:
            with hidden.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            path.parent.mkdir(parents=True, exist_ok=True)
            hidden.replace(path)
        except BaseException:
            hidden.unlink(missing_ok=True)
            raise

    def delete(self, url: str) -> None:
        self._path(url).unlink(missing_ok=True)

    def _path(self, url: str) -> Path:
        return self._root / url.removeprefix("s3://")


def _files(top: Path, base: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(top):
        folders[:] = [name for name in folders if not name.startswith(".nanio")]  # the S3 door's own notes
        relative = os.path.relpath(folder, base)
        for name in names:
            yield name if relative == "." else f"{relative}/{name}"
