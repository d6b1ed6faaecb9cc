"""Records to a model in calls, for every model that is not fed arrays: handlers, own servers, whole files.

A payload is what one request to a SageMaker container would be: one record, or with MultiRecord as many as fit. Where
the model refuses a payload of several records, each goes alone, so that only the guilty one is bad.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import msgspec

from fourfold.formats.base import ArrayModel, Model
from fourfold.modes.batch import filters, join
from fourfold.modes.batch.bad import BadRecord
from fourfold.modes.batch.filters import Filter, FilterError
from fourfold.modes.batch.options import CSV, JSON_LINES, Options
from fourfold.modes.batch.rows import check_length
from fourfold.modes.batch.split.base import Record, Window
from fourfold.modes.batch.split.lines import Lines
from fourfold.records import Call, Reply

MOST_CALLS = 256
"""Calls that go to an array model at once; other models say themselves."""
FLIGHT_BYTES = 16 * 1024 * 1024
"""Payload bytes that go to the model at once, unless one payload alone has more."""


class Answer(NamedTuple):
    """The model's answer to a payload."""

    records: list[Record]
    body: bytes


class Payload(NamedTuple):
    records: list[Record]
    body: bytes


class Calls:
    """Packs records into payloads and has the model answer them.

    Args:
        model: what answers.
        options: strategy, sizes and types.
        beat: called before each model call.
    """

    def __init__(self, model: Model, options: Options, *, beat: Callable[[], None] = lambda: None) -> None:
        self._model = model
        self._options = options
        self._picked = filters.parse(options.input_filter)
        self._beat = beat
        self._most = MOST_CALLS if isinstance(model, ArrayModel) else max(model.max_batch, 1)
        lines_of_json = options.media not in CSV + JSON_LINES and isinstance(model, ArrayModel)
        self._single = (
            options.split == "None"
            or options.strategy == "SingleRecord"
            or (options.split == "Line" and lines_of_json)  # our JSON codec takes one document a call
        )
        self._next = 0

    def answer(self, records: Iterable[Record]) -> Iterator[Answer | BadRecord]:
        """Answers in the order of the records, bad records among them where they stand."""
        flight: list[Payload] = []
        size = 0
        for payload in self._payloads(records):
            if isinstance(payload, BadRecord):
                yield from self._send(flight)
                flight, size = [], 0
                yield payload
                continue
            if flight and (len(flight) == self._most or size + len(payload.body) > FLIGHT_BYTES):
                yield from self._send(flight)
                flight, size = [], 0
            flight.append(payload)
            size += len(payload.body)
        yield from self._send(flight)

    def _payloads(self, records: Iterable[Record]) -> Iterator[Payload | BadRecord]:
        most = self._options.max_payload
        open_: list[Record] = []
        bodies: list[bytes] = []
        size = 0
        for record in records:
            try:
                check_length(record, most)
                body, problem = self._pick(record), ""
            except (FilterError, ValueError) as error:
                body, problem = b"", str(error)
            if problem or (open_ and (self._single or (most and size + len(body) + 1 > most))):
                if open_:
                    yield self._payload(open_, bodies)
                open_, bodies, size = [], [], 0
            if problem:
                yield BadRecord(record, problem)
                continue
            open_.append(record)
            bodies.append(body)
            size += len(body) + 1
        if open_:
            yield self._payload(open_, bodies)

    def _payload(self, records: list[Record], bodies: list[bytes]) -> Payload:
        return Payload(records, (b"\n" if self._options.split == "Line" else b"").join(bodies))

    def _pick(self, record: Record) -> bytes:
        if self._picked:
            if self._options.media in CSV and self._options.split == "None":
                rows = Lines(quoted=True).records(Window(0, record.body))
                return b"\n".join(pick(row.body, self._options, self._picked) for row in rows)
            return pick(record.body, self._options, self._picked)
        framed = self._options.split in ("RecordIO", "TFRecord") and not self._single
        return record.raw if framed else record.body  # "padding is removed" for SingleRecord only

    def _send(self, flight: list[Payload]) -> Iterator[Answer | BadRecord]:
        if not flight:
            return
        self._beat()
        replies = self._model.invoke([self._call(payload.body) for payload in flight])
        for payload, reply in zip(flight, replies, strict=True):
            if reply.status == 200:
                yield Answer(payload.records, reply.body)
            elif len(payload.records) == 1:
                yield BadRecord(payload.records[0], _reason(reply))
            else:
                yield from self._alone(payload.records)

    def _alone(self, records: list[Record]) -> Iterator[Answer | BadRecord]:
        """Each record in a payload of its own."""
        for start in range(0, len(records), self._most):
            part = records[start : start + self._most]
            yield from self._send([Payload([record], self._pick(record)) for record in part])

    def _call(self, body: bytes) -> Call:
        self._next += 1
        given = self._options
        return Call(self._next, body, given.content_type or "application/json", given.accept)


def pick(body: bytes, options: Options, picked: Filter) -> bytes:
    """What the input filter leaves of one record. Raises FilterError or ValueError."""
    if options.media in CSV:
        cells = join.cells(body)
        return join.row([cells[i] for i in picked.columns(len(cells))])
    return msgspec.json.encode(picked.pick(join.decode(body)))


def _reason(reply: Reply) -> str:
    return f"the model answered {reply.status}: {reply.body.decode('utf-8', 'replace')[:2000]}"
