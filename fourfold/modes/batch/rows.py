"""Rows of text to a model that takes arrays, thousands at a time: no request, no JSON document, no object per row.

The fast way reads a window of rows straight into one array: CSV through pyarrow, JSON Lines through msgspec. Where that
meets anything unusual, every row of the window is read by itself with the codec that a single call would use, so that
the answer of a row never depends on its neighbours, and a bad row is found exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from fourfold.formats.base import ArrayModel, Arrays
from fourfold.formats.codecs import BadRequest, Codec, codec_for, negotiate, tensors
from fourfold.formats.codecs.request import Request
from fourfold.modes.batch import join
from fourfold.modes.batch.bad import BadRecord
from fourfold.modes.batch.filters import Filter, FilterError
from fourfold.modes.batch.options import Options
from fourfold.modes.batch.split.base import Record, Split, Window

BLOCK = 4096
"""Most rows of one model call."""

SMALL = 2048
"""Bytes of a window below which its rows are read one by one: pyarrow takes longer to begin than they take."""

_NO_BODY = Request({})
_NULLS = ["", "na", "NA", "n/a", "N/A", "null", "NULL", "none", "None", "NaN", "nan"]
_decode_matrix = msgspec.json.Decoder(list[list[float]]).decode


class Answered(NamedTuple):
    """Rows that went through the model together."""

    records: list[Record] | None
    """The rows, where anybody has to look at them; None where nobody has."""
    rows: int
    outputs: Arrays


Beat = Callable[[], None]


class Rows:
    """Reads windows of rows and runs the model on them.

    Args:
        model: what answers.
        split: how rows are told apart.
        options: content type (CSV or JSON Lines) and the longest record allowed.
        picked: the input filter.
        keep: the rows themselves are needed later (to join, to filter).
        header: names of the CSV columns, where the object has a header.
        beat: called before each model call.
    """

    def __init__(
        self,
        model: ArrayModel,
        split: Split,
        options: Options,
        picked: Filter,
        *,
        keep: bool,
        header: str = "",
        beat: Beat = lambda: None,
    ) -> None:
        self._model = model
        self._split = split
        self._codec, parameters = codec_for(options.content_type)
        self._most = options.max_payload or 1 << 62
        self._parameters = {**parameters, "header": "absent"}
        self._picked = picked
        self._keep = keep
        self._beat = beat
        self._order = _column_order(header, picked, model)
        self._fast = self._csv if self._codec.name == "CSV" else self._json
        self._numeric = len(model.inputs) == 1 and model.inputs[0].dtype.startswith("float")

    def answer(self, window: Window, line: int) -> Iterator[Answered | BadRecord]:
        """The answers of a window's rows in order, bad rows among them where they stand."""
        records = list(self._split.records(window, line)) if self._keep or b'"' in window.data else None
        plain = self._numeric and SMALL <= len(window.data) <= self._most
        arrays = self._fast(window, records) if plain else None
        if arrays is None:
            yield from self._one_by_one(list(self._split.records(window, line)) if records is None else records)
            return
        yield from self._predict(window, line, arrays, records)

    def _predict(
        self, window: Window, line: int, arrays: Arrays, records: list[Record] | None
    ) -> Iterator[Answered | BadRecord]:
        total = len(next(iter(arrays.values())))
        for start in range(0, total, BLOCK):
            part = {name: array[start : start + BLOCK] for name, array in arrays.items()}
            count = min(BLOCK, total - start)
            outputs = self._try(part, count)
            if outputs is None:
                records = list(self._split.records(window, line)) if records is None else records
                yield from self._alone(records[start : start + BLOCK], part)
            else:
                yield Answered(records[start : start + BLOCK] if records and self._keep else None, count, outputs)

    def _try(self, arrays: Arrays, count: int) -> Arrays | None:
        """The model's outputs; None where it failed, or gave something else than one entry a row."""
        self._beat()
        try:
            outputs = self._model.predict(arrays)
        except Exception:
            return None  # told by the rows that fail alone
        if any(array.ndim == 0 or len(array) != count for array in outputs.values()):
            return None
        return outputs

    def _alone(self, records: list[Record], arrays: Arrays) -> Iterator[Answered | BadRecord]:
        """Each row in a call of its own."""
        for i, record in enumerate(records):
            part = {name: array[i : i + 1] for name, array in arrays.items()}
            self._beat()
            try:
                outputs = self._model.predict(part)
            except Exception as error:
                yield BadRecord(record, f"{type(error).__name__}: {error}")
            else:
                yield Answered([record], 1, outputs)

    # The fast way

    def _csv(self, window: Window, records: list[Record] | None) -> Arrays | None:
        """All rows of a window as one matrix; None where that is not plain sailing."""
        data = window.data[3:] if window.offset == 0 and window.data.startswith(b"\xef\xbb\xbf") else window.data
        if b"_" in data:  # Python's float would take 1_000; no CSV means that
            return None
        first = data.lstrip(b"\r\n").partition(b"\n")[0].rstrip(b"\r")
        try:
            names = [f"c{i}" for i in range(len(join.cells(first)))]
            wanted = [names[i] for i in (self._order or self._picked.columns(len(names)))]
            table = pacsv.read_csv(
                pa.BufferReader(data),
                pacsv.ReadOptions(use_threads=False, block_size=max(len(data), 1), column_names=names),
                pacsv.ParseOptions(newlines_in_values=records is not None),
                pacsv.ConvertOptions(
                    column_types=dict.fromkeys(wanted, pa.float64()),
                    include_columns=wanted,
                    null_values=_NULLS,
                    quoted_strings_can_be_null=False,
                    check_utf8=False,
                ),
            )
        except (pa.ArrowException, ValueError, IndexError, FilterError):
            return None
        if records is not None and table.num_rows != len(records):
            return None
        return self._matrix([column.to_numpy() for column in table.columns], table.num_rows)

    def _matrix(self, columns: list[Any], rows: int) -> Arrays | None:
        matrix = np.empty((rows, len(columns)), np.float64)
        for i, column in enumerate(columns):
            matrix[:, i] = column
        try:
            return tensors.from_matrix(matrix, self._model.inputs)
        except BadRequest:
            return None

    def _json(self, window: Window, records: list[Record] | None) -> Arrays | None:
        """All lines of a window at once: bare rows of numbers by one typed decode, others by the codec."""
        records = list(self._split.records(window)) if records is None else records
        model_input = self._model.inputs[0]
        try:
            bodies = [self._pick(record.body) for record in records]
            if bodies and bodies[0].startswith(b"["):
                return {model_input.name: tensors.from_values(_decode_matrix(_as_list(bodies)), model_input)}
            arrays = self._codec.decode(b"\n".join(bodies), self._parameters, self._model.inputs).arrays
        except (msgspec.DecodeError, BadRequest, FilterError, ValueError):
            return None
        return arrays if all(len(array) == len(records) for array in arrays.values()) else None

    # The careful way

    def _one_by_one(self, records: list[Record]) -> Iterator[Answered | BadRecord]:
        """Read every row by itself; those that can be read still go through the model together."""
        good: list[Record] = []
        arrays: list[Arrays] = []
        shapes = None
        for record in records:
            try:
                check_length(record, self._most)
                read = self._codec.decode(self._pick(record.body), self._parameters, self._model.inputs).arrays
            except (BadRequest, FilterError, ValueError) as error:
                yield from self._together(good, arrays)
                good, arrays = [], []
                yield BadRecord(record, getattr(error, "message", str(error)))
                continue
            found = {name: array.shape[1:] for name, array in read.items()}
            if good and (found != shapes or len(good) == BLOCK):
                yield from self._together(good, arrays)
                good, arrays = [], []
            shapes = found
            good.append(record)
            arrays.append(read)
        yield from self._together(good, arrays)

    def _pick(self, body: bytes) -> bytes:
        if self._codec.name == "CSV":
            if not self._picked and not self._order:
                return body
            cells = join.cells(body)
            order = self._order or self._picked.columns(len(cells))
            if max(order) >= len(cells):
                raise FilterError(f"the row has {len(cells)} cells, fewer than the header")
            return join.row([cells[i] for i in order])
        return msgspec.json.encode(self._picked.pick(join.decode(body))) if self._picked else body

    def _together(self, records: list[Record], arrays: list[Arrays]) -> Iterator[Answered | BadRecord]:
        if not records:
            return
        joined = {name: np.concatenate([part[name] for part in arrays]) for name in arrays[0]}
        outputs = self._try(joined, len(records))
        if outputs is None:
            yield from self._alone(records, joined)
        else:
            yield Answered(records, len(records), outputs)


def check_length(record: Record, most: int) -> None:
    """Raises ValueError where a record is longer than `most` bytes; 0 allows any."""
    if most and len(record.body) > most:
        raise ValueError(f"the record has {len(record.body):,} bytes, over MaxPayloadInMB ({most:,} bytes)")


def _column_order(header: str, picked: Filter, model: ArrayModel) -> list[int] | None:
    """Which columns go to the model, in its order, by a CSV header; None where there is none."""
    if not header:
        return None
    names = [name.strip() for name in join.cells(header.encode())]
    chosen = picked.names(names)
    wanted = model.inputs[0].columns if len(model.inputs) == 1 else ()
    if wanted and set(wanted) <= set(chosen):
        chosen = list(wanted)
    return [names.index(name) for name in chosen]


def _as_list(bodies: list[bytes]) -> bytes:
    return b"[" + b",".join(bodies) + b"]"


class Encoder:
    """Outputs to lines of text, one a row, as the codec of a single call writes them."""

    def __init__(self, codec: Codec, parameters: dict[str, str]) -> None:
        self._encode = codec.encode
        self._parameters = {name: value for name, value in parameters.items() if name != "header"}

    def __call__(self, outputs: Arrays) -> bytes:
        """Lines, each with its newline."""
        return cast(bytes, self._encode(outputs, _NO_BODY, self._parameters))  # line codecs add no headers


def answer_codec(model: ArrayModel, content_type: str, accept: str) -> tuple[Codec, dict[str, str]]:
    """How the model's answers are written. Raises BadRequest where the types do not go together."""
    asked, _ = codec_for(content_type)
    codec, _, parameters = negotiate(accept, asked, len(model.outputs) > 1)
    return codec, dict(parameters)
