"""One record a line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fourfold.modes.batch.split.base import Record, Window

BOM = b"\xef\xbb\xbf"


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
