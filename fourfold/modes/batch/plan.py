"""The plan of a job: its objects, cut into shards.

The plan is written before anything runs, and with the job's options it is all that a worker gets: addresses, byte
ranges, row ranges. A shard is either a run of whole small objects or a part of one big object. Where an object can be
cut is found by `cut`, with what a `Source` tells of it; `split` and `columnar` do the reading.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import msgspec

from fourfold.modes.batch.options import CSV, MIB, Options

SHARD_OBJECTS = 256
"""Most whole objects in one shard."""
SHARD_ROWS = 262_144
"""About how many rows of a Parquet or Arrow file one shard takes."""
GROUP_SHARDS = 8
"""Most shards in one row group: a shard that begins inside one decodes what comes before its rows, too."""


class Slice(msgspec.Struct, frozen=True, omit_defaults=True):
    """An object or a part of one.

    `quotes` is about CSV: None, nobody has looked (the slice is a whole object); False, a newline ends a record
    wherever it is; True, not between quotes, and `inside` says whether the slice begins there.
    """

    object: int
    url: str
    output: str
    size: int
    start: int = 0
    stop: int = 0
    """Bytes, one past the last; for columnar objects rows, counted over the whole object."""
    quotes: bool | None = None
    inside: bool = False
    header: str = ""
    """The first line of a CSV object that has a header."""
    groups: tuple[int, int] = (0, 0)
    """Columnar: the row groups (or record batches) to read, one past the last."""
    first_row: int = 0
    """Columnar: number of the first row of those groups."""

    @property
    def whole(self) -> bool:
        return self.start == 0 and self.stop >= self.size and self.groups == (0, 0)


class Shard(msgspec.Struct, frozen=True):
    """What one worker does at a time."""

    slices: tuple[Slice, ...]

    @property
    def object(self) -> int | None:
        """The object that it is a part of; None where it holds whole objects."""
        return None if self.slices[0].whole else self.slices[0].object


class Found(msgspec.Struct, frozen=True):
    """An object of a listing."""

    url: str
    size: int


def is_mark(found: Found) -> bool:
    """Is it an empty object such as `_SUCCESS`, which Spark puts beside the data to say that they are whole?"""
    return found.size == 0 and found.url.rpartition("/")[2].startswith(("_", "."))


class Source(Protocol):
    """What planning needs to know about a big object; blocking."""

    def quotes(self, url: str, borders: Sequence[int]) -> list[int]:
        """How many double quotes stand before each border, and, last, in the whole object."""

    def first_line(self, url: str) -> str:
        """The first line of a CSV object, without its end."""

    def row_groups(self, url: str, media: str) -> list[int]:
        """The length of each row group or record batch."""


def shards(found: Iterable[tuple[int, Found, str]], given: Options, source: Source) -> Iterator[Shard]:
    """Cut objects, each with its number and output address, into shards, in order."""
    small: list[Slice] = []
    held = 0
    for number, item, output in found:
        slices = cut(Slice(number, item.url, output, item.size, 0, item.size), given, source)
        if len(slices) > 1:
            yield from (Shard((part,)) for part in slices)
            continue
        if small and (held + item.size > given.shard_bytes or len(small) == SHARD_OBJECTS):
            yield Shard(tuple(small))
            small, held = [], 0
        small.append(slices[0])
        held += item.size
    if small:
        yield Shard(tuple(small))


def cut(item: Slice, given: Options, source: Source) -> list[Slice]:
    """One object as slices that can be read apart; a single one where it is small or cannot be divided."""
    if given.gzip:
        return [item]
    if given.columnar:
        return _cut_rows(item, source.row_groups(item.url, given.media)) if item.size > MIB else [item]
    if given.split == "None" or item.size <= given.shard_bytes:
        return [item]
    count = -(-item.size // given.shard_bytes)
    borders = [item.size * i // count for i in range(count + 1)]
    pieces = [msgspec.structs.replace(item, start=a, stop=b) for a, b in itertools.pairwise(borders)]
    return _quoted(pieces, given, source) if given.media in CSV and given.split == "Line" else pieces


def _quoted(pieces: list[Slice], given: Options, source: Source) -> list[Slice]:
    """Tell each slice of a CSV object whether it begins between quotes.

    Where the quotes of an object do not balance, newlines between them cannot be told from others: every newline ends
    a record then, and a stray quote costs its own record only.
    """
    *before, total = source.quotes(pieces[0].url, [piece.start for piece in pieces])
    quoted = total > 0 and total % 2 == 0
    header = source.first_line(pieces[0].url) if given.header else ""
    return [
        msgspec.structs.replace(piece, quotes=quoted, inside=quoted and count % 2 == 1, header=header)
        for piece, count in zip(pieces, before, strict=True)
    ]


def _cut_rows(item: Slice, groups: list[int]) -> list[Slice]:
    """Slices of about SHARD_ROWS rows: several small row groups, or a part of a big one."""
    slices: list[Slice] = []
    total = sum(groups)
    run: list[int] = []
    first = row = 0
    for number, rows in enumerate(groups):
        run.append(rows)
        held = sum(run)
        if held < SHARD_ROWS and number + 1 < len(groups):
            continue
        parts = min(-(-held // SHARD_ROWS), GROUP_SHARDS) if len(run) == 1 else 1
        for i in range(parts):
            start, stop = row + held * i // parts, row + held * (i + 1) // parts
            span = (first, number + 1)
            slices.append(msgspec.structs.replace(item, start=start, stop=stop, groups=span, first_row=row))
        run, first, row = [], number + 1, row + held
    return slices if len(slices) > 1 and total else [item]
