"""The records of one slice: its object's bytes unpacked, without the header, in windows of whole records."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from functools import cached_property

from fourfold.modes.batch.bad import BadObject
from fourfold.modes.batch.blobs import CHUNK, Blobs
from fourfold.modes.batch.options import CSV, Options
from fourfold.modes.batch.plan import Slice
from fourfold.modes.batch.split.base import Record, Split, Whole, Window
from fourfold.modes.batch.split.lines import BOM, Lines
from fourfold.modes.batch.split.recordio import RecordIO
from fourfold.modes.batch.split.tfrecord import TFRecord
from fourfold.modes.batch.split.windows import windows

_NO_END = 1 << 62


class Reader:
    """Reads one slice.

    Attributes:
        lines: how many lines were read.
    """

    def __init__(self, blobs: Blobs, options: Options, part: Slice) -> None:
        self.lines = 0
        self._blobs = blobs
        self._options = options
        self._slice = part

    @cached_property
    def split(self) -> Split:
        """How records are told apart."""
        match self._options.split:
            case "Line":
                return Lines(self._quoted(), self._slice.inside)
            case "RecordIO":
                return RecordIO()
            case "TFRecord":
                return TFRecord()
            case _:
                return Whole()

    @cached_property
    def header(self) -> str:
        """The names of a CSV object's columns; empty where it has no header."""
        if not self._options.header:
            return ""
        return self._slice.header or first_line(self._chunks(0))

    def windows(self) -> Iterator[tuple[int, Window]]:
        """Whole records, and the number of the first line of each window."""
        part, options = self._slice, self._options
        chunks = self._chunks(max(part.start - 1, 0))
        if options.split == "None":
            chunks = _bounded(chunks, options.max_payload)
        for window in windows(chunks, self.split, part.start, _NO_END if options.gzip else part.stop):
            if window.offset == 0 and options.header and options.split == "Line":
                rest = _without_first(window, self.split)
                self.lines += self.split.lines(window) - self.split.lines(rest)
                window = rest
            first = self.lines
            self.lines += self.split.lines(window)
            yield first, window

    def records(self) -> Iterator[Record]:
        """One record after the other."""
        for line, window in self.windows():
            yield from self.split.records(window, line)

    def first_record(self) -> Record | None:
        """The first record of the object, whichever slice of it this is; not counted as read."""
        for window in windows(self._chunks(0), self.split, 0, 1):
            for record in self.split.records(window):
                return record
        return None

    def place(self, record: Record) -> str:
        """Where a record stands, for people."""
        if self._options.columnar:
            return f"row {record.line + 1:,}"
        if self._options.split == "None":
            return "the object"
        if self._options.split != "Line":
            return f"the record at byte {record.offset:,}"
        line = record.line if self._slice.start == 0 else _newlines(self._chunks(0), record.offset)
        return f"line {line + 1:,} (byte {record.offset:,})"

    def _quoted(self) -> bool:
        """May a newline belong to a record? Only in CSV, and only where the object's quotes balance."""
        if self._options.media not in CSV:
            return False
        if self._slice.quotes is not None:
            return self._slice.quotes
        quotes = sum(chunk.count(b'"') for chunk in self._chunks(0))
        return quotes > 0 and quotes % 2 == 0

    def _chunks(self, start: int) -> Iterator[bytes]:
        chunks = self._blobs.read(self._slice.url, start)
        return _gunzip(chunks) if self._options.gzip else chunks


def first_line(chunks: Iterable[bytes]) -> str:
    """The first line of a text, without its end and without a byte order mark."""
    text = b""
    for chunk in chunks:
        text += chunk
        if b"\n" in text:
            break
    return text.partition(b"\n")[0].rstrip(b"\r").removeprefix(BOM).decode("utf-8", "replace")


def _without_first(window: Window, split: Split) -> Window:
    first = next(iter(split.records(window)), None)
    start = first.offset + len(first.raw) if first else window.offset
    return Window(start, window.data[start - window.offset :])


def _newlines(chunks: Iterable[bytes], stop: int) -> int:
    """How many newlines stand before byte `stop`."""
    found = at = 0
    for chunk in chunks:
        found += chunk[: max(stop - at, 0)].count(b"\n")
        at += len(chunk)
        if at >= stop:
            break
    return found


def _bounded(chunks: Iterable[bytes], most: int) -> Iterator[bytes]:
    """The chunks of an object that goes to the model in one piece. Raises BadObject where it is too long for that."""
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if most and size > most:
            raise BadObject(
                f"the object has more than {most:,} bytes (MaxPayloadInMB), and SplitType None sends it in one piece"
            )
        yield chunk


def _gunzip(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Unpack gzip, one member after the other. Raises zlib.error, or EOFError where the last one is cut off."""
    unpacker = None
    for chunk in chunks:
        while chunk:
            unpacker = unpacker or zlib.decompressobj(wbits=31)
            unpacked = unpacker.decompress(chunk, CHUNK)
            if unpacked:
                yield unpacked
            chunk = unpacker.unconsumed_tail
            if unpacker.eof:
                chunk, unpacker = unpacker.unused_data.lstrip(b"\0"), None
    if unpacker is not None:
        raise EOFError("the gzip data is cut off")
