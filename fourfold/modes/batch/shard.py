"""What a worker does with one shard, beside the loaded model.

`run` is called by the worker's task frame with the model and an `Order`: all that it needs as data. It reads the
shard's records, has the model answer them, and writes the answers: a whole object goes straight to its place, a part of
one to a part object that the runner assembles later. It answers with a `Report`.

Which way records take to the model:

    Parquet, Arrow                            columnar.Tables   columns as arrays
    lines of CSV or JSON, model over arrays   rows.Rows         blocks of rows as one array
    everything else                           calls.Calls       payloads, as a container would get them
"""

from __future__ import annotations

import contextlib
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import pyarrow as pa

from fourfold.errors import FourfoldError
from fourfold.formats.base import ArrayModel, AsyncModel, Model
from fourfold.formats.codecs import BadRequest
from fourfold.modes.batch import columnar, filters, overlap
from fourfold.modes.batch.addresses import errors_url
from fourfold.modes.batch.bad import BadObject, BadRecord, BadRecords
from fourfold.modes.batch.blobs import Blobs, Commits
from fourfold.modes.batch.calls import Answer, Calls
from fourfold.modes.batch.columnar import BadRow, Tables, TableWriter
from fourfold.modes.batch.filters import FilterError
from fourfold.modes.batch.finish import Finish, MismatchError
from fourfold.modes.batch.options import CSV, JSON_LINES, PARQUET
from fourfold.modes.batch.orders import Beat, Done, Order, Report
from fourfold.modes.batch.plan import Slice
from fourfold.modes.batch.reading import Reader
from fourfold.modes.batch.row_tables import RowTables, column_names
from fourfold.modes.batch.rows import Answered, Encoder, Rows, answer_codec
from fourfold.modes.batch.split.base import Record, SplitError

COMMITS = 16
"""Objects that are written to disk at the same time."""
BEAT_SECONDS = 0.2
"""How often a shard says that it is alive, at most; each beat is a call to the model that began."""


def run(model: Model, payload: bytes, report: Callable[[bytes], None]) -> bytes:
    """Do one shard. Never raises for what an object holds: that is in the report."""
    order = msgspec.msgpack.decode(payload, type=Order)
    pulse = Pulse(report)
    with ThreadPoolExecutor(COMMITS) as pool:
        commits = Commits(pool)
        blobs = Blobs(Path(order.root), commits)
        begun = [(_Transform(model, order, part, blobs, pulse).run(), commits.take()) for part in order.slices]
        done = tuple(_committed(result, waits) for result, waits in begun)
    return msgspec.msgpack.encode(Report(done))


def _committed(done: Done, commits: Iterable[Future[None]]) -> Done:
    """What became of a slice once its objects are on disk."""
    try:
        for commit in commits:
            commit.result()
    except OSError as error:
        return Done(done.object, f"cannot write the output: {error}", 0, done.errors)
    return done


async def arun(model: AsyncModel, payload: bytes, report: Callable[[bytes], None]) -> bytes:
    """The same beside a model that is awaited."""
    return await overlap.in_thread(run, model, payload, report)


class Pulse:
    """Counts what was done and tells it now and then."""

    def __init__(self, report: Callable[[bytes], None]) -> None:
        self._report = report
        self._last = 0.0
        self.records = 0
        self.errors = 0

    def beat(self) -> None:
        now = time.monotonic()
        if now - self._last >= BEAT_SECONDS:
            self._last = now
            self._report(msgspec.msgpack.encode(Beat(self.records, self.errors)))


class _Transform:
    """One slice: from its records to its answers."""

    def __init__(self, model: Model, order: Order, part: Slice, blobs: Blobs, pulse: Pulse) -> None:
        self._model = model
        self._options = order.options
        self._slice = part
        self._blobs = blobs
        self._pulse = pulse
        self._records = 0
        self._files = contextlib.ExitStack()
        self._reader = Reader(blobs, order.options, part)
        self._finish = Finish(order.options, job=order.job, time=order.time, url=part.url)
        name = f"{order.parts}/{part.object}-{part.start}"
        self._target = part.output if part.whole else name
        self._error_target = errors_url(order.destination, part.output) if part.whole else f"{name}-errors"
        self._bad_records = BadRecords(
            order.options.on_error, part.url, self._reader.place, lambda: self._write(self._error_target)
        )

    def run(self) -> Done:
        try:
            with self._files:
                self._transform(self._write(self._target))
        except (BadObject, SplitError, BadRequest, FilterError, MismatchError, FourfoldError) as error:
            return self._failed(getattr(error, "message", str(error)))
        except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
            return self._failed(f"cannot read {self._slice.url}: {error}")
        errors = self._bad_records.count
        return Done(
            self._slice.object,
            "",
            self._records,
            errors,
            self._reader.lines,
            "" if self._slice.whole else self._target,
            self._error_target if errors and not self._slice.whole else "",
        )

    def _failed(self, reason: str) -> Done:
        return Done(self._slice.object, reason or "unknown reason", 0, self._bad_records.count)

    def _write(self, url: str) -> BinaryIO:
        return self._files.enter_context(self._blobs.write(url))

    def _transform(self, sink: BinaryIO) -> None:
        given = self._options
        if given.columnar:
            self._columnar(sink)
        elif given.split == "Line" and given.media in CSV + JSON_LINES and _takes_arrays(self._model):
            self._rows(sink)
        elif given.answer in PARQUET:
            raise BadObject("Parquet is written by models over arrays from Parquet, Arrow, or lines of CSV or JSON.")
        else:
            self._calls(sink)

    # Lines of CSV and JSON Lines to a model over arrays

    def _rows(self, sink: BinaryIO) -> None:
        assert isinstance(self._model, ArrayModel)
        codec, parameters = answer_codec(self._model, self._options.content_type, self._options.accept)
        if codec.name == "Parquet":
            self._table_of_rows(sink, self._model)
        elif codec.name not in ("CSV", "JSON Lines"):
            self._calls(sink)
        else:
            encode = Encoder(codec, parameters)
            for answer in self._answered_rows(self._model):
                sink.write(self._finished_lines(answer, encode(answer.outputs)))
                self._count(answer.rows)

    def _answered_rows(self, model: ArrayModel) -> Iterator[Answered]:
        """Answers in order; bad rows among them are reported."""
        reader, given = self._reader, self._options
        picked, keep = filters.parse(given.input_filter), bool(self._finish)
        rows = Rows(model, reader.split, given, picked, keep=keep, header=reader.header, beat=self._pulse.beat)
        for line, window in reader.windows():
            for answer in rows.answer(window, line):
                if isinstance(answer, BadRecord):
                    self._bad(answer.record, answer.reason)
                else:
                    yield answer

    def _finished_lines(self, answer: Answered, text: bytes) -> bytes:
        """Join and filter; a record that the filter does not fit is bad, the others of its block are written."""
        finish = self._finish
        if not finish:
            return text
        assert answer.records is not None
        try:
            return finish.lines(answer.records, text)
        except (FilterError, ValueError):
            good = []
            for record, row in zip(answer.records, text.splitlines(), strict=True):
                try:
                    good.append(finish.one(record, row) + b"\n")
                except (FilterError, ValueError) as error:
                    self._bad(record, str(error))
                    self._records -= 1  # it was answered, but is not written
            return b"".join(good)

    def _table_of_rows(self, sink: BinaryIO, model: ArrayModel) -> None:
        kept = column_names(self._reader) if self._options.join else []
        tables = RowTables(model, kept, self._bad)
        self._write_tables(sink, map(tables.table, self._answered_rows(model)), tables.empty)

    # Tables

    def _columnar(self, sink: BinaryIO) -> None:
        if not isinstance(self._model, ArrayModel):
            raise BadObject("This model takes requests, not columns: send lines of JSON or CSV instead of a table.")
        given = self._options
        with self._blobs.open(self._slice.url) as file:
            schema = columnar.schema_of(file, given.media)
        picked = filters.parse(given.input_filter)
        tables = Tables(self._model, schema.names, picked, join=given.join, beat=self._pulse.beat)
        self._write_tables(sink, self._answered_tables(tables), lambda: tables.empty(schema))

    def _answered_tables(self, tables: Tables) -> Iterator[Any]:
        with self._blobs.open(self._slice.url) as file:
            for first, batch in columnar.batches(file, self._options.media, self._slice, tables.columns):
                for piece in tables.answer(first, batch):
                    if isinstance(piece, BadRow):
                        body = msgspec.json.encode(piece.cells, enc_hook=str)
                        self._bad(Record(piece.row, b"", body, piece.row), piece.reason)
                    else:
                        yield piece

    def _write_tables(self, sink: BinaryIO, tables: Iterable[Any], empty: Callable[[], Any]) -> None:
        """Tables as one Parquet file; `empty` gives its columns where they have no row."""
        out = TableWriter(sink)
        before = self._records
        for table in tables:
            if table.num_rows:
                out.write(table)
                self._count(table.num_rows)
        if self._records == before:
            out.write(empty())
        out.close()

    # Everything else

    def _calls(self, sink: BinaryIO) -> None:
        calls = Calls(self._model, self._options, beat=self._pulse.beat)
        by_line = self._options.assemble == "Line"
        for answer in calls.answer(self._reader.records()):
            if isinstance(answer, BadRecord):
                self._bad(answer.record, answer.reason)
                continue
            body = self._finished_payload(answer)
            if body is None:
                continue
            sink.write(body)
            if by_line and not body.endswith(b"\n"):
                sink.write(b"\n")
            self._count(len(answer.records))

    def _finished_payload(self, answer: Answer) -> bytes | None:
        """Join and filter; None where that makes its only record a bad one. Raises BadObject where it has several."""
        if not self._finish:
            return answer.body
        try:
            return self._finish.payload(answer.records, answer.body)
        except (FilterError, ValueError) as error:
            if len(answer.records) > 1:
                raise BadObject(str(error)) from None
            self._bad(answer.records[0], str(error))
            return None

    # Counting

    def _count(self, records: int) -> None:
        self._records += records
        self._pulse.records += records

    def _bad(self, record: Record, reason: str) -> None:
        self._bad_records.add(record, reason)
        self._pulse.errors += 1


def _takes_arrays(model: Model) -> bool:
    return isinstance(model, ArrayModel) and model.max_batch > 1
