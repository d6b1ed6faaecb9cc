"""What a split is, and the one that leaves an object whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol


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
        at = 0
        while (stop := self.end(data, at)) is not None:
            at = stop
        return at

    def end(self, data: bytes, at: int) -> int | None:
        """Where the record that begins at `at` ends. None: not in these bytes."""

    def records(self, window: Window, line: int = 0) -> Iterator[Record]:
        """The records of a window; `line` is the number of the first. Raises SplitError."""

    def lines(self, window: Window) -> int:
        """By how much a window advances the line number."""
        return sum(1 for _ in self.records(window))


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
