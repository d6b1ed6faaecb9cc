"""A range of an object as runs of whole records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fourfold.modes.batch.split.base import Split, SplitError, Whole, Window

WINDOW = 4 * 1024 * 1024
"""Bytes of records that are held at a time; one record may be longer."""
MAX_RECORD = 256 * 1024 * 1024
"""Bytes after which a record that does not end is an error, so that memory is bounded."""


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
