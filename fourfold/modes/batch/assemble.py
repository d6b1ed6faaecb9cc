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

from fourfold.formats.base import AsyncModel, Model
from fourfold.modes.batch import overlap, parquet
from fourfold.modes.batch.blobs import Blobs
from fourfold.modes.batch.orders import Assembly, Done


def run(_model: Model, payload: bytes, report: Callable[[bytes], None]) -> bytes:
    """Put an object together, then its error report; the parts are left for the runner to delete."""
    assembly = msgspec.msgpack.decode(payload, type=Assembly)
    assemble(assembly, Blobs(Path(assembly.root)))
    return b""


async def arun(model: AsyncModel, payload: bytes, report: Callable[[bytes], None]) -> bytes:
    """The same beside a model that is awaited."""
    return await overlap.in_thread(run, model, payload, report)


def assemble(assembly: Assembly, blobs: Blobs) -> None:
    """The report first: where the output is, its report is, too."""
    if any(part.error_part for part in assembly.parts):
        with blobs.write(assembly.errors) as sink:
            for line in _reported(assembly.parts, blobs):
                sink.write(line)
    with blobs.write(assembly.output) as sink:
        if assembly.parquet:
            parquet.concatenate(_opened(assembly.parts, blobs), sink)
            return
        for part in assembly.parts:
            for chunk in blobs.read(part.part):
                sink.write(chunk)


def _opened(parts: tuple[Done, ...], blobs: Blobs) -> Iterator[Any]:
    for part in parts:
        with contextlib.closing(blobs.open(part.part)) as file:
            yield file


def _reported(parts: tuple[Done, ...], blobs: Blobs) -> Iterator[bytes]:
    """The bad records of all parts, their lines counted from the object's beginning."""
    before = 0
    for part in parts:
        if part.error_part:
            text = b"".join(blobs.read(part.error_part))
            for line in text.splitlines():
                record = msgspec.json.decode(line)
                yield msgspec.json.encode(record | {"line": record["line"] + before}) + b"\n"
        before += part.lines
