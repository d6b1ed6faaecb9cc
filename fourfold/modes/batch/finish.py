"""What is done to an answer before it is written: joined with its input, filtered, given an inference id."""

from __future__ import annotations

import uuid
from typing import Any

import msgspec

from fourfold.modes.batch import filters, join
from fourfold.modes.batch.options import CSV, JSON_LINES, Options
from fourfold.modes.batch.split.base import Record, Window
from fourfold.modes.batch.split.lines import Lines

_IDS = uuid.UUID("6e0c1b1e-7f43-4c52-9c55-6a0a2a1f0f0d")
"""Namespace of inference ids: the same record of the same job has the same id however often it is worked on."""


class MismatchError(Exception):
    """The model gave another number of answers than it got records."""


class Finish:
    """Turns a record and its answer into what is written.

    Args:
        options: JoinSource, OutputFilter, GenerateInferenceId.
        job: the job's ARN; part of every inference id.
        time: when the job started, ISO 8601; the inference time.
        url: the object's address; part of every inference id.
    """

    def __init__(self, options: Options, *, job: str = "", time: str = "", url: str = "") -> None:
        self._join = options.join
        self._filter = filters.parse(options.output_filter)
        self._csv = options.answer in CSV
        self._identify = options.inference_ids
        self._source = f"{job}#{url}"
        self._time = time
        self._by_line = options.media in CSV + JSON_LINES
        self._single = options.split != "Line" and not self._by_line

    def __bool__(self) -> bool:
        """Is there anything to do?"""
        return self._join or bool(self._filter) or self._identify

    def payload(self, records: list[Record], answer: bytes) -> bytes:
        """The answer to one payload. Raises MismatchError where lines and records do not pair."""
        if len(records) == 1 and self._by_line and b"\n" in records[0].body:
            records = list(Lines(quoted=self._csv).records(Window(0, records[0].body)))
        if len(records) == 1:
            return self.one(records[0], answer.rstrip(b"\r\n")) + b"\n" * answer.endswith(b"\n")
        return self.lines(records, answer)

    def lines(self, records: list[Record], answers: bytes) -> bytes:
        """Lines that answer records, one each, with their newlines."""
        rows = [row.body for row in Lines(quoted=self._csv).records(Window(1, answers))]
        if len(rows) != len(records):
            raise MismatchError(f"the model gave {len(rows)} lines for {len(records)} records; they cannot be paired")
        return b"".join([self.one(record, row) + b"\n" for record, row in zip(records, rows, strict=True)])

    def one(self, record: Record, answer: bytes) -> bytes:
        """One record's answer, neither with a newline. Raises FilterError or ValueError."""
        return self._row(record, answer) if self._csv else self._value(record, answer)

    def _row(self, record: Record, answer: bytes) -> bytes:
        if self._filter:
            cells = (join.cells(record.body) if self._join else []) + join.cells(answer)
            row = join.row([cells[i] for i in self._filter.columns(len(cells))])
        else:
            row = join.join_rows(record.body, answer) if self._join else answer
        return row + f",{self._id(record)},{self._time}".encode() if self._identify else row

    def _value(self, record: Record, answer: bytes) -> bytes:
        value: Any = join.decode(answer)
        if self._join:
            value = join.join_json(join.decode(record.body), value)
        value = self._filter.pick(value)
        if self._identify:
            value = value if isinstance(value, dict) else {join.OUTPUT: value}
            value |= {"SageMakerInferenceId": self._id(record), "SageMakerInferenceTime": self._time}
        return msgspec.json.encode(value)

    def _id(self, record: Record) -> str:
        return str(uuid.uuid5(_IDS, f"{self._source}#{record.offset}"))
