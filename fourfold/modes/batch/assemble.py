"""The parts of an object put together, in order, into its one `.out`.

Runs in a worker, like a shard: it copies bytes, and the gateway has better things to do. Bytes are copied as they are,
Parquet parts are joined at their row groups, and the reports of bad records get the line numbers of the whole object.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from fourfold.formats.base import Model
from fourfold.modes.batch import parquet
from fourfold.modes.batch.blobs import Blobs

FUNCTION = "fourfold.modes.batch.assemble:run"
"""What a task frame names to assemble an object."""


class Part(msgspec.Struct, frozen=True):
    """The answers of one shard of the object."""

    url: str
    errors: str = ""
    """Where its bad records are reported; empty where it has none."""
    lines: int = 0


class Assembly(msgspec.Struct, frozen=True):
    """One object's parts, on their way to a worker."""

    root: str
    output: str
    errors: str
    parts: tuple[Part, ...]
    parquet: bool = False


def run(_model: Model, payload: bytes, report: Callable[[bytes], None]) -> bytes:
    """Put an object together, then its error report; the parts are left for the runner to delete."""
    assembly = msgspec.msgpack.decode(payload, type=Assembly)
    assemble(assembly, Blobs(Path(assembly.root)))
    return b""


def assemble(assembly: Assembly, blobs: Blobs) -> None:
    """The report first: where the output is, its report is, too."""
    if any(part.errors for part in assembly.parts):
        with blobs.write(assembly.errors) as sink:
            for line in _reported(assembly.parts, blobs):
                sink.write(line)
    with blobs.write(assembly.output) as sink:
        if assembly.parquet:
            parquet.concatenate(_opened(assembly.parts, blobs), sink)
            return
        for part in assembly.parts:
            for chunk in blobs.read(part.url):
                sink.write(chunk)


def _opened(parts: tuple[Part, ...], blobs: Blobs) -> Iterator[Any]:
    for part in parts:
        with contextlib.closing(blobs.open(part.url)) as file:
            yield file


def _reported(parts: tuple[Part, ...], blobs: Blobs) -> Iterator[bytes]:
    """The bad records of all parts, their lines counted from the object's beginning."""
    before = 0
    for part in parts:
        if part.errors:
            text = b"".join(blobs.read(part.errors))
            for line in text.splitlines():
                record = msgspec.json.decode(line)
                yield msgspec.json.encode(record | {"line": record["line"] + before}) + b"\n"
        before += part.lines
