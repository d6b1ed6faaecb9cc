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

import base64
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
from fourfold.formats.codecs.parquet import to_table
from fourfold.modes.batch import columnar, filters, join, overlap
from fourfold.modes.batch.addresses import errors_url
from fourfold.modes.batch.blobs import CHUNK, Blobs, Commits
from fourfold.modes.batch.calls import Calls
from fourfold.modes.batch.columnar import BadRow, Tables, TableWriter
from fourfold.modes.batch.filters import FilterError
from fourfold.modes.batch.finish import Finish, MismatchError
from fourfold.modes.batch.options import CSV, JSON_LINES, PARQUET
from fourfold.modes.batch.orders import Beat, Done, Order, Report
from fourfold.modes.batch.plan import Slice
from fourfold.modes.batch.rows import Answered, BadRecord, Encoder, Rows, answer_codec
from fourfold.modes.batch.split.base import Record, Split, SplitError, Whole, Window
from fourfold.modes.batch.split.lines import BOM, Lines
from fourfold.modes.batch.split.recordio import RecordIO
from fourfold.modes.batch.split.tfrecord import TFRecord
from fourfold.modes.batch.split.windows import windows

COMMITS = 16
"""Objects that are written to disk at the same time."""
BEAT_SECONDS = 0.2
"""How often a shard says that it is alive, at most; each beat is a call to the model that began."""


class BadObject(Exception):
    """The object cannot be transformed; the message is its reason."""


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
        self._order = order
        self._options = order.options
        self._slice = part
        self._blobs = blobs
        self._pulse = pulse
        self._records = self._errors = self._lines = 0
        self._open: contextlib.ExitStack
        self._error_sink: BinaryIO | None = None
        name = f"{order.parts}/{part.object}-{part.start}"
        self._target = part.output if part.whole else name
        self._error_target = errors_url(order.destination, part.output) if part.whole else f"{name}-errors"

    def run(self) -> Done:
        try:
            with contextlib.ExitStack() as open_:
                sink = open_.enter_context(self._blobs.write(self._target))
                self._open = open_
                self._transform(sink)
        except (BadObject, SplitError, BadRequest, FilterError, MismatchError, FourfoldError) as error:
            return self._failed(getattr(error, "message", str(error)))
        except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
            return self._failed(f"cannot read {self._slice.url}: {error}")
        return Done(
            self._slice.object,
            "",
            self._records,
            self._errors,
            self._lines,
            "" if self._slice.whole else self._target,
            self._error_target if self._error_sink and not self._slice.whole else "",
        )

    def _failed(self, reason: str) -> Done:
        return Done(self._slice.object, reason or "unknown reason", 0, self._errors)

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
        given = self._options
        split = self._split()
        codec, parameters = answer_codec(self._model, given.content_type, given.accept)
        finish = self._finish()
        picked = filters.parse(given.input_filter)
        rows = Rows(self._model, split, given, picked, keep=bool(finish), header=self._header(), beat=self._pulse.beat)
        answers = (
            answer for window in self._windows(split) for answer in rows.answer(window, self._line(window, split))
        )
        if codec.name == "Parquet":
            self._table_of_rows(sink, answers, self._kept(split))
            return
        if codec.name not in ("CSV", "JSON Lines"):
            self._calls(sink)
            return
        encode = Encoder(codec, parameters)
        for answer in answers:
            if isinstance(answer, BadRecord):
                self._bad(answer.record, answer.reason)
                continue
            text = encode(answer.outputs)
            if finish:
                assert answer.records is not None
                text = self._finished(finish, answer.records, text)
            sink.write(text)
            self._count(answer.rows)

    def _answers(self, rows: Rows, split: Split) -> Iterator[Answered | BadRecord]:
        for window in self._windows(split):
            yield from rows.answer(window, self._line(window, split))

    def _finished(self, finish: Finish, records: list[Record], text: bytes) -> bytes:
        """Join and filter; a record that the filter does not fit is bad, the others of its block are written."""
        try:
            return finish.lines(records, text)
        except (FilterError, ValueError):
            good = []
            for record, row in zip(records, text.splitlines(), strict=True):
                try:
                    good.append(finish.one(record, row) + b"\n")
                except (FilterError, ValueError) as error:
                    self._bad(record, str(error))
                    self._records -= 1  # it was answered, but is not written
            return b"".join(good)

    def _table_of_rows(self, sink: BinaryIO, answers: Iterable[Answered | BadRecord], kept: list[str]) -> None:
        """Answers as a table; `kept` names the input's columns, which stand before them as text."""
        assert isinstance(self._model, ArrayModel)
        table = TableWriter(sink)
        empty = True
        for answer in answers:
            if isinstance(answer, BadRecord):
                self._bad(answer.record, answer.reason)
                continue
            written = self._joined(answer, kept) if kept else to_table(answer.outputs)
            if written.num_rows:
                table.write(written)
                self._count(written.num_rows)
                empty = False
        if empty:
            nothing = Tables(self._model, [], filters.parse("$"), join=bool(kept))
            table.write(nothing.empty(columnar.as_text(kept)))
        table.close()

    def _kept(self, split: Split) -> list[str]:
        """Names of the columns of a CSV object that are kept beside the answers: the header's, or c0, c1, …"""
        if not self._options.join:
            return []
        if header := self._header():
            return [name.strip() for name in join.cells(header.encode())]
        first = next(
            (record for window in windows(self._chunks(0), split, 0, 1) for record in split.records(window)), None
        )
        return [f"c{i}" for i in range(len(join.cells(first.body)))] if first else []

    def _joined(self, answer: Answered, kept: list[str]) -> Any:
        """Rows and their answers as one table, without the rows that do not have a cell for each column."""
        assert answer.records is not None
        rows = [join.cells(record.body) for record in answer.records]
        good = [i for i, row in enumerate(rows) if len(row) == len(kept)]
        if len(good) < len(rows):
            for record, row in zip(answer.records, rows, strict=True):
                if len(row) != len(kept):
                    self._bad(record, f"the row has {len(row)} cells, the first has {len(kept)}")
            answer = Answered(answer.records, len(good), {name: array[good] for name, array in answer.outputs.items()})
        columns = zip(*(rows[i] for i in good), strict=True) if good else [()] * len(kept)
        cells = pa.Table.from_arrays(
            [pa.array(column, pa.string()) for column in columns], schema=columnar.as_text(kept)
        )
        return columnar.beside(cells, to_table(answer.outputs))

    # Tables

    def _columnar(self, sink: BinaryIO) -> None:
        if not isinstance(self._model, ArrayModel):
            raise BadObject("This model takes requests, not columns: send lines of JSON or CSV instead of a table.")
        given, part = self._options, self._slice
        with self._blobs.open(part.url) as file:
            schema = columnar.schema_of(file, given.media)
        picked = filters.parse(given.input_filter)
        tables = Tables(self._model, schema.names, picked, join=given.join, beat=self._pulse.beat)
        out = TableWriter(sink)
        empty = True
        with self._blobs.open(part.url) as file:
            for first, batch in columnar.batches(file, given.media, part, tables.columns):
                for piece in tables.answer(first, batch):
                    if isinstance(piece, BadRow):
                        record = Record(piece.row, b"", _cells(piece.cells), piece.row)
                        self._bad(record, piece.reason)
                        continue
                    out.write(piece)
                    self._count(piece.num_rows)
                    empty = False
        if empty:
            out.write(tables.empty(schema))
        out.close()

    # Everything else

    def _calls(self, sink: BinaryIO) -> None:
        split = self._split()
        finish = self._finish()
        calls = Calls(self._model, self._options, beat=self._pulse.beat)
        by_line = self._options.assemble == "Line"
        for answer in calls.answer(self._all_records(split)):
            if isinstance(answer, BadRecord):
                self._bad(answer.record, answer.reason)
                continue
            body = answer.body
            if finish:
                try:
                    body = finish.payload(answer.records, body)
                except (FilterError, ValueError) as error:
                    if len(answer.records) > 1:
                        raise BadObject(str(error)) from None
                    self._bad(answer.records[0], str(error))
                    continue
            sink.write(body)
            if by_line and not body.endswith(b"\n"):
                sink.write(b"\n")
            self._count(len(answer.records))

    # Reading

    def _split(self) -> Split:
        match self._options.split:
            case "Line":
                return Lines(self._quoted(), self._slice.inside)
            case "RecordIO":
                return RecordIO()
            case "TFRecord":
                return TFRecord()
            case _:
                return Whole()

    def _quoted(self) -> bool:
        """May a newline belong to a record? Only in CSV, and only where the object's quotes balance."""
        if self._options.media not in CSV:
            return False
        if self._slice.quotes is not None:
            return self._slice.quotes
        quotes = sum(chunk.count(b'"') for chunk in self._chunks(0))
        return quotes > 0 and quotes % 2 == 0

    def _windows(self, split: Split) -> Iterator[Window]:
        part = self._slice
        stop = part.stop if not self._options.gzip else 1 << 62
        chunks = self._chunks(max(part.start - 1, 0))
        if self._options.split == "None":
            chunks = _bounded(chunks, self._options.max_payload)
        for window in windows(chunks, split, part.start, stop):
            if window.offset == 0 and self._options.header and self._options.split == "Line":
                rest = _without_first(window, split)
                self._lines += split.lines(window) - split.lines(rest)
                window = rest
            yield window

    def _line(self, window: Window, split: Split) -> int:
        """Number of the window's first line; to be asked once per window."""
        line = self._lines
        self._lines += split.lines(window)
        return line

    def _all_records(self, split: Split) -> Iterator[Record]:
        for window in self._windows(split):
            yield from split.records(window, self._line(window, split))

    def _chunks(self, start: int) -> Iterator[bytes]:
        chunks = self._blobs.read(self._slice.url, start)
        return _gunzip(chunks) if self._options.gzip else chunks

    def _header(self) -> str:
        """The names of a CSV object's columns; empty where it has no header."""
        if not self._options.header:
            return ""
        return self._slice.header or first_line(self._chunks(0))

    # Counting and reporting

    def _finish(self) -> Finish:
        return Finish(self._options, job=self._order.job, time=self._order.time, url=self._slice.url)

    def _count(self, records: int) -> None:
        self._records += records
        self._pulse.records += records

    def _bad(self, record: Record, reason: str) -> None:
        """Fail the object, or report the record and go on."""
        if self._options.on_error == "fail":
            raise BadObject(f"{self._place(record)}: {reason}")
        self._errors += 1
        self._pulse.errors += 1
        if self._error_sink is None:
            self._error_sink = self._open.enter_context(self._blobs.write(self._error_target))
        self._error_sink.write(msgspec.json.encode(self._described(record, reason)) + b"\n")

    def _described(self, record: Record, reason: str) -> dict[str, Any]:
        line = {"object": self._slice.url, "line": record.line + 1, "offset": record.offset, "reason": reason}
        try:
            return line | {"input": record.body.decode()}
        except UnicodeDecodeError:
            return line | {"input": base64.b64encode(record.body).decode(), "encoding": "BASE64"}

    def _place(self, record: Record) -> str:
        if self._options.columnar:
            return f"row {record.line + 1:,}"
        if self._options.split == "None":
            return "the object"
        if self._options.split != "Line":
            return f"the record at byte {record.offset:,}"
        line = record.line if self._slice.start == 0 else _newlines(self._chunks(0), record.offset)
        return f"line {line + 1:,} (byte {record.offset:,})"


def _takes_arrays(model: Model) -> bool:
    return isinstance(model, ArrayModel) and model.max_batch > 1


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


def _cells(row: dict[str, Any]) -> bytes:
    return msgspec.json.encode(row, enc_hook=str)


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
