"""Bytes to records, for any way in which the bytes come.

A `Split` knows where records begin and end. It never holds more than a window of them: `windows` turns chunks of an
object into runs of whole records, `records` takes a window apart. A byte range of an object owns the records that
*begin* in it, so that ranges can be read apart by workers that know nothing of one another, and no record is lost or
read twice wherever the borders fall.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

WINDOW = 4 * 1024 * 1024
"""Bytes of records that are held at a time; one record may be longer."""

MAX_RECORD = 256 * 1024 * 1024
"""Bytes after which a record that does not end is an error, so that memory is bounded."""

BOM = b"\xef\xbb\xbf"


class SplitError(Exception):
    """The bytes are not in the framing that they were said to be in; nothing after them can be trusted."""


class Record(NamedTuple):
    """One record: where it begins in the object (after decompression), its bytes on disk, what it holds."""

    offset: int
    raw: bytes
    body: bytes
    line: int
    """Counted from 0 in its range. For lines, blank ones count too, so that it is the line that an editor shows."""


class Window(NamedTuple):
    """Whole records, back to back."""

    offset: int
    data: bytes


class Split(Protocol):
    """A way to tell records apart."""

    def border(self, data: bytes, offset: int, final: bool) -> int | None:
        """Where the first record begins in `data`, whose first byte is the last one of the range before.

        `offset` is where `data` is in the object, `final` that the object ends with it. None: not in these bytes.
        """

    def whole(self, data: bytes) -> int:
        """Length of the whole records at the start of `data`, which begins with a record. 0: not even one."""

    def end(self, data: bytes, at: int) -> int | None:
        """Where the record that begins at `at` ends. None: not in these bytes."""

    def records(self, window: Window, line: int = 0) -> Iterator[Record]:
        """The records of a window; `line` is the number of the first. Raises SplitError."""

    def lines(self, window: Window) -> int:
        """By how much a window advances the line number."""


@dataclass
class Lines:
    """One record a line. LF or CRLF ends it, the last one may lack its end, blank lines hold no record.

    With `quoted`, a newline between double quotes belongs to the record (CSV, RFC 4180). `inside` says whether the
    range begins between quotes; it is used by `border` only, because a record always begins outside.
    """

    quoted: bool = False
    inside: bool = False

    def border(self, data: bytes, offset: int, final: bool) -> int | None:
        skipped = int(self.quoted and data[:1] == b'"')  # `inside` speaks of the byte after this one
        return _next_end(data, skipped, self.inside) if self.quoted else self.end(data, 0)

    def whole(self, data: bytes) -> int:
        if not self.quoted or b'"' not in data:
            return data.rfind(b"\n") + 1
        end = data.rfind(b"\n")
        odd = data.count(b'"', 0, end) % 2 if end >= 0 else 0
        while end >= 0:
            if not odd:
                return end + 1
            before = data.rfind(b"\n", 0, end)
            odd ^= data.count(b'"', max(before, 0), end) % 2
            end = before
        return 0

    def end(self, data: bytes, at: int) -> int | None:
        if self.quoted:
            return _next_end(data, at, False)
        return data.find(b"\n", at) + 1 or None

    def records(self, window: Window, line: int = 0) -> Iterator[Record]:
        offset, data = window
        quoted = self.quoted and b'"' in data
        start = 0
        while start < len(data):
            end = _next_end(data, start, False) if quoted else data.find(b"\n", start) + 1
            raw = data[start : end or None]
            body = raw.rstrip(b"\r\n") if not raw.endswith(b"\n") else raw[:-2] if raw.endswith(b"\r\n") else raw[:-1]
            if offset + start == 0 and body.startswith(BOM):
                body = body[len(BOM) :]
            if body:
                yield Record(offset + start, raw, body, line)
            line += raw.count(b"\n") if quoted else 1
            start += len(raw)

    def lines(self, window: Window) -> int:
        return window.data.count(b"\n")


def _next_end(data: bytes, start: int, inside: bool) -> int | None:
    """One past the first newline outside quotes, from `start` on; None where there is none."""
    while True:
        newline = data.find(b"\n", start)
        if newline < 0:
            return None
        inside ^= bool(data.count(b'"', start, newline) % 2)
        start = newline + 1
        if not inside:
            return start


_RECORDIO = struct.Struct("<II")
_RECORDIO_MAGIC = 0xCED7230A
_RECORDIO_MAGIC_BYTES = struct.pack("<I", _RECORDIO_MAGIC)


class RecordIO:
    """MXNet's RecordIO: magic, 3 bits of part flag, 29 bits of length, data, padding to 4 bytes.

    A record whose data holds the magic number is written in several parts (flags 1, 2, 3), with the magic left out
    between them: so the magic on a multiple of 4 with flag 0 or 1 is always the beginning of a record.
    """

    def border(self, data: bytes, offset: int, final: bool) -> int | None:
        at = data.find(_RECORDIO_MAGIC_BYTES, 1)
        while at >= 0:
            if at + 8 > len(data):
                return None
            if (offset + at) % 4 == 0 and _RECORDIO.unpack_from(data, at)[1] >> 29 in (0, 1):
                return at
            at = data.find(_RECORDIO_MAGIC_BYTES, at + 1)
        return None

    def whole(self, data: bytes) -> int:
        at = 0
        while (stop := self.end(data, at)) is not None:
            at = stop
        return at

    def end(self, data: bytes, at: int) -> int | None:
        while at + 8 <= len(data):
            flag, at = self._part(data, at)
            if flag in (0, 3):
                return at if at <= len(data) else None
        return None

    def records(self, window: Window, line: int = 0) -> Iterator[Record]:
        offset, data = window
        start = at = 0
        parts: list[bytes] = []
        while at < len(data):
            if at + 8 > len(data):
                raise SplitError(f"the RecordIO record at byte {offset + start:,} is cut off")
            flag, stop = self._part(data, at)
            length = _RECORDIO.unpack_from(data, at)[1] & 0x1FFFFFFF
            if at + 8 + length > len(data):
                raise SplitError(f"the RecordIO record at byte {offset + start:,} is cut off")
            parts.append(data[at + 8 : at + 8 + length])
            at = stop
            if flag in (0, 3):
                yield Record(offset + start, data[start:at], _RECORDIO_MAGIC_BYTES.join(parts), line)
                parts, start, line = [], at, line + 1
        if parts:
            raise SplitError(f"the RecordIO record at byte {offset + start:,} is cut off")

    def lines(self, window: Window) -> int:
        return sum(1 for _ in self.records(window))

    @staticmethod
    def _part(data: bytes, at: int) -> tuple[int, int]:
        magic, word = _RECORDIO.unpack_from(data, at)
        if magic != _RECORDIO_MAGIC:
            raise SplitError("no RecordIO record begins here: the magic number 0xced7230a is missing")
        return word >> 29, at + 8 + ((word & 0x1FFFFFFF) + 3) // 4 * 4


class TFRecord:
    """TensorFlow's framing: length (8 bytes), masked CRC-32C of the length (4), data, masked CRC-32C of the data (4).

    The length's checksum is verified; the data's is left to whoever decodes it. A range that begins in the middle
    finds its first record by that checksum, and by the one of the record after it.
    """

    _HEADER = struct.Struct("<QI")

    def border(self, data: bytes, offset: int, final: bool) -> int | None:
        for at in _checked_lengths(data):
            if at >= 1 and self._is_record(data, at, final):
                return at
        return None

    def whole(self, data: bytes) -> int:
        at = 0
        while (stop := self.end(data, at)) is not None:
            at = stop
        return at

    def end(self, data: bytes, at: int) -> int | None:
        if at + 12 > len(data):
            return None
        stop = at + 16 + self._length(data, at)
        return stop if stop <= len(data) else None

    def records(self, window: Window, line: int = 0) -> Iterator[Record]:
        offset, data = window
        at = 0
        while at < len(data):
            stop = self.end(data, at)
            if stop is None:
                raise SplitError(f"the TFRecord record at byte {offset + at:,} is cut off")
            yield Record(offset + at, data[at:stop], data[at + 12 : stop - 4], line)
            at, line = stop, line + 1

    def lines(self, window: Window) -> int:
        return sum(1 for _ in self.records(window))

    def _length(self, data: bytes, at: int) -> int:
        length, check = self._HEADER.unpack_from(data, at)
        if check != masked_crc(data[at : at + 8]):
            raise SplitError("no TFRecord record begins here: the checksum of the length is wrong")
        return int(length)

    def _is_record(self, data: bytes, at: int, final: bool) -> bool:
        """Does the next record, or the object's end, follow? Eight bytes of data and their checksum look the same."""
        stop = at + 16 + self._length(data, at)
        if stop + 12 > len(data):
            return final and stop == len(data)
        check: int = self._HEADER.unpack_from(data, stop)[1]
        return check == masked_crc(data[stop : stop + 8])


def _crc_table() -> NDArray[np.uint32]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1).astype(np.uint32)
    return table


_CRC = _crc_table()
_CRC_LIST = _CRC.tolist()


def masked_crc(data: bytes) -> int:
    """TFRecord's checksum: CRC-32C (Castagnoli), rotated right by 15 bits, plus 0xa282ead8."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_LIST[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _checked_lengths(data: bytes) -> list[int]:
    """Every place in `data` where 8 bytes are followed by their masked CRC-32C."""
    places = len(data) - 11
    if places <= 0:
        return []
    octets = np.frombuffer(data, np.uint8)
    crc = np.full(places, 0xFFFFFFFF, np.uint32)
    for i in range(8):
        crc = _CRC[(crc ^ octets[i : i + places]) & 0xFF] ^ (crc >> 8)
    crc = ~crc
    masked = (crc >> 15 | crc << 17) + np.uint32(0xA282EAD8)
    stored = np.lib.stride_tricks.sliding_window_view(octets[8:], 4)[:places].copy().view("<u4")[:, 0]
    return [int(place) for place in np.flatnonzero(masked == stored)]


class Whole:
    """No split: the object is one record, however long."""

    def border(self, data: bytes, offset: int, final: bool) -> int | None:
        return None

    def whole(self, data: bytes) -> int:
        return 0

    def end(self, data: bytes, at: int) -> int | None:
        return None

    def records(self, window: Window, line: int = 0) -> Iterator[Record]:
        if window.data:
            yield Record(window.offset, window.data, window.data, line)

    def lines(self, window: Window) -> int:
        return 1


def windows(chunks: Iterable[bytes], split: Split, start: int, stop: int, size: int = WINDOW) -> Iterator[Window]:
    """The records that begin in `start` to `stop` of an object, as runs of whole ones.

    Args:
        chunks: the object's bytes from `max(start - 1, 0)` on, to its end if need be; read no further than needed.
        split: how records are told apart.
        start: first byte of the range; 0 is the object's beginning.
        stop: one past the last byte of the range; a record that begins before it is given whole.
        size: about how many bytes a window has; one longer record makes a longer window.
    """
    source = iter(chunks)
    at, buffer = (0, b"") if start == 0 else _seek(source, split, start)
    pending, held = [buffer], len(buffer)
    wanted = size
    for chunk in source:
        if at >= stop:
            return
        pending.append(chunk)
        held += len(chunk)
        if held < wanted and at + held < stop:
            continue
        buffer = b"".join(pending)
        length = _whole_length(buffer, split, at, stop)
        if length:
            yield Window(at, buffer[:length])
        at, buffer = at + length, buffer[length:]
        pending, held = [buffer], len(buffer)
        if not length and held > MAX_RECORD and not isinstance(split, Whole):
            raise SplitError(f"the record at byte {at:,} does not end within {MAX_RECORD:,} bytes")
        wanted = size if length else 2 * held  # one record is longer: look again when twice as much is there
    buffer = b"".join(pending)
    length = _whole_length(buffer, split, at, stop)
    if length:
        yield Window(at, buffer[:length])
    if buffer[length:] and at + length < stop:  # the last record lacks its end
        yield Window(at + length, buffer[length:])


def _seek(source: Iterator[bytes], split: Split, start: int) -> tuple[int, bytes]:
    """Skip to the first record of a range: its offset, and the bytes from there on that were read already."""
    at, buffer = start - 1, b""
    for chunk in source:
        buffer += chunk
        found = split.border(buffer, at, False)
        if found is not None:
            return at + found, buffer[found:]
    found = split.border(buffer, at, True)
    return (at + len(buffer), b"") if found is None else (at + found, buffer[found:])


def _whole_length(buffer: bytes, split: Split, at: int, stop: int) -> int:
    """Length of the whole records at the start of `buffer`, which is at `at`, that begin before `stop`."""
    if at + len(buffer) <= stop:
        return split.whole(buffer)
    length = split.whole(buffer[: max(stop - at, 0)])
    if at + length >= stop:
        return length
    return split.end(buffer, length) or length
