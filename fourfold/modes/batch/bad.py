"""What cannot be transformed: a record, which fails its object or is reported and left out; or a whole object."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import msgspec

from fourfold.modes.batch.options import OnError
from fourfold.modes.batch.split.base import Record


class BadObject(Exception):
    """The object cannot be transformed; the message is its reason."""


class BadRecord(NamedTuple):
    """A record that the model cannot answer, and why."""

    record: Record
    reason: str


class BadRecords:
    """The bad records of one slice.

    Args:
        on_error: fail: the first one fails the object; else all are reported.
        url: the object's address.
        place: says to people where a record stands.
        open: opens the report; called when there is something to report.

    Attributes:
        count: how many were reported.
    """

    def __init__(
        self, on_error: OnError, url: str, place: Callable[[Record], str], open: Callable[[], BinaryIO]
    ) -> None:
        self.count = 0
        self._on_error = on_error
        self._url = url
        self._place = place
        self._open = open
        self._report: BinaryIO | None = None

    def add(self, record: Record, reason: str) -> None:
        """Report a record. Raises BadObject where that fails the object."""
        if self._on_error == "fail":
            raise BadObject(f"{self._place(record)}: {reason}")
        self.count += 1
        if self._report is None:
            self._report = self._open()
        self._report.write(msgspec.json.encode(self._described(record, reason)) + b"\n")

    def _described(self, record: Record, reason: str) -> dict[str, Any]:
        line = {"object": self._url, "line": record.line + 1, "offset": record.offset, "reason": reason}
        try:
            return line | {"input": record.body.decode()}
        except UnicodeDecodeError:
            return line | {"input": base64.b64encode(record.body).decode(), "encoding": "BASE64"}
