"""MXNet's RecordIO."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from fourfold.modes.batch.split.base import Record, Split, SplitError, Window

_HEADER = struct.Struct("<II")
_MAGIC = 0xCED7230A
_MAGIC_BYTES = struct.pack("<I", _MAGIC)


class RecordIO(Split):
    """MXNet's RecordIO: magic, 3 bits of part flag, 29 bits of length, data, padding to 4 bytes.

    A record whose data holds the magic number is written in several parts (flags 1, 2, 3), with the magic left out
    between them: so the magic on a multiple of 4 with flag 0 or 1 is always the beginning of a record.
    """

    def border(self, data: bytes, offset: int, final: bool) -> int | None:
        at = data.find(_MAGIC_BYTES, 1)
        while at >= 0:
            if at + 8 > len(data):
                return None
            if (offset + at) % 4 == 0 and _HEADER.unpack_from(data, at)[1] >> 29 in (0, 1):
                return at
            at = data.find(_MAGIC_BYTES, at + 1)
        return None

    def end(self, data: bytes, at: int) -> int | None:
        while at + 8 <= len(data):
            flag, _, at = self._part(data, at)
            if flag in (0, 3):
                return at if at <= len(data) else None
        return None

    def records(self, window: Window, line: int = 0) -> Iterator[Record]:
        offset, data = window
        start = at = 0
        parts: list[bytes] = []
        while at < len(data):
            if at + 8 > len(data):
                raise _cut_off(offset + start)
            flag, length, stop = self._part(data, at)
            if at + 8 + length > len(data):
                raise _cut_off(offset + start)
            parts.append(data[at + 8 : at + 8 + length])
            at = stop
            if flag in (0, 3):
                yield Record(offset + start, data[start:at], _MAGIC_BYTES.join(parts), line)
                parts, start, line = [], at, line + 1
        if parts:
            raise _cut_off(offset + start)

    @staticmethod
    def _part(data: bytes, at: int) -> tuple[int, int, int]:
        """A part's flag, the length of its data, and where it ends. Raises SplitError."""
        magic, word = _HEADER.unpack_from(data, at)
        if magic != _MAGIC:
            raise SplitError("no RecordIO record begins here: the magic number 0xced7230a is missing")
        length = word & 0x1FFFFFFF
        return word >> 29, length, at + 8 + (length + 3) // 4 * 4


def _cut_off(offset: int) -> SplitError:
    return SplitError(f"the RecordIO record at byte {offset:,} is cut off")
