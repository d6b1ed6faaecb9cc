"""Tables in, tables out: columns go to the model as arrays, and nothing is ever a row or a document.

Reads Parquet and Arrow by row groups in batches, writes Parquet. The feature columns are picked by name or place
(`InputFilter`), `JoinSource` Input keeps every column of the input beside the predicted ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fourfold.formats.base import ArrayModel, Arrays, Tensor
from fourfold.formats.codecs import BadRequest, tensors
from fourfold.formats.codecs.parquet import to_table
from fourfold.modes.batch.filters import Filter
from fourfold.modes.batch.options import ARROW
from fourfold.modes.batch.plan import Slice
from fourfold.modes.batch.rows import BLOCK

BATCH_ROWS = 16 * BLOCK
"""Rows that are decoded at a time."""
GROUP_BYTES = 32 * 1024 * 1024
"""About how much of the output becomes one row group."""


class BadRow(NamedTuple):
    """A row that the model cannot answer: its number in the object, why, and its cells."""

    row: int
    reason: str
    cells: dict[str, Any]


def row_groups(file: Any, media: str) -> list[int]:
    """The length of each row group (Parquet) or record batch (Arrow file); one length for an Arrow stream."""
    if media == ARROW[1]:
        return [0]
    if media == ARROW[0]:
        reader = pa.ipc.open_file(file)
        return [reader.get_batch(i).num_rows for i in range(reader.num_record_batches)]
    metadata = pq.ParquetFile(file).metadata
    return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]


def batches(file: Any, media: str, part: Slice, columns: list[str] | None) -> Iterator[tuple[int, Any]]:
    """The rows of a slice as (number of the first row, record batch); `columns` None reads all of them."""
    row = part.first_row
    for batch in _batches(file, media, part, columns):
        start = row
        row += batch.num_rows
        if part.whole:
            yield start, batch
        elif row > part.start and start < part.stop:
            skip = max(part.start - start, 0)
            yield start + skip, batch.slice(skip, min(part.stop, row) - start - skip)
        if not part.whole and row >= part.stop:
            return


def _batches(file: Any, media: str, part: Slice, columns: list[str] | None) -> Iterator[Any]:
    if media == ARROW[1]:
        batches_: Any = pa.ipc.open_stream(file)
    elif media == ARROW[0]:
        reader = pa.ipc.open_file(file)
        first, last = part.groups if not part.whole else (0, reader.num_record_batches)
        batches_ = (reader.get_batch(i) for i in range(first, last))
    else:
        table = pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
        groups = range(*part.groups) if not part.whole else range(table.num_row_groups)
        yield from table.iter_batches(BATCH_ROWS, row_groups=list(groups), columns=columns, use_threads=False)
        return
    for batch in batches_:
        for start in range(0, batch.num_rows, BATCH_ROWS):
            piece = batch.slice(start, BATCH_ROWS)
            yield piece if columns is None else piece.select(columns)


def schema_of(file: Any, media: str) -> Any:
    """The columns of an object."""
    if media == ARROW[1]:
        return pa.ipc.open_stream(file).schema
    return pa.ipc.open_file(file).schema if media == ARROW[0] else pq.ParquetFile(file).schema_arrow


class Tables:
    """Runs a model over record batches.

    Args:
        model: what answers.
        known: names of the object's columns.
        picked: the input filter, by name or place. `$` takes the columns that the model asks for by name, where it
            does, else all.
        join: keep the input's columns.
        beat: called before each model call.
    """

    def __init__(
        self,
        model: ArrayModel,
        known: list[str],
        picked: Filter,
        *,
        join: bool,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._model = model
        self._features = picked.names(known) if picked else _asked_for(model.inputs, known)
        self._join = join
        self._beat = beat
        self.columns = None if join else self._features
        """What has to be read."""

    def answer(self, first: int, batch: Any) -> Iterator[Any]:
        """The output rows of one batch as tables, with a BadRow for each that has no answer, in order."""
        try:
            arrays = self._arrays(batch)
        except BadRequest as error:
            yield from self._alone(first, batch, error.message)
            return
        for start in range(0, batch.num_rows, BLOCK):
            part = {name: array[start : start + BLOCK] for name, array in arrays.items()}
            rows = batch.slice(start, BLOCK)
            self._beat()
            try:
                outputs = self._model.predict(part)
            except Exception as error:
                yield from self._alone(first + start, rows, f"{type(error).__name__}: {error}")
            else:
                yield self._table(rows, outputs)

    def empty(self, schema: Any) -> Any:
        """The output of an object without rows."""
        outputs = to_table({output.name: _one_row(output) for output in self._model.outputs}).slice(0, 0)
        return beside(schema.empty_table(), outputs) if self._join else outputs

    def _alone(self, first: int, rows: Any, reason: str) -> Iterator[Any]:
        """Each row in a call of its own."""
        if rows.num_rows == 1:
            yield BadRow(first, reason, rows.to_pylist()[0])
            return
        for i in range(rows.num_rows):
            yield from self.answer(first + i, rows.slice(i, 1))

    def _arrays(self, batch: Any) -> Arrays:
        columns = {name: _array(name, batch.column(name)) for name in self._features}
        return tensors.from_columns(columns, self._model.inputs)

    def _table(self, rows: Any, outputs: Arrays) -> Any:
        predicted = to_table(outputs)
        return beside(pa.Table.from_batches([rows]), predicted) if self._join else predicted


def beside(table: Any, predicted: Any) -> Any:
    """The columns of both tables; a predicted one that is called as another is gets `_predicted` at its end."""
    for name in predicted.column_names:
        new = f"{name}_predicted" if name in table.column_names else name
        table = table.append_column(new, predicted.column(name))
    return table


def as_text(names: list[str]) -> Any:
    """The schema of a table with these columns, of text."""
    return pa.schema([(name, pa.string()) for name in names])


def _asked_for(inputs: tuple[Tensor, ...], known: list[str]) -> list[str]:
    wanted = [tensor.name for tensor in inputs]
    if not set(wanted) <= set(known):
        wanted = [name for tensor in inputs for name in tensor.columns]
    return wanted if wanted and set(wanted) <= set(known) else known


def _array(name: str, column: Any) -> Any:
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        if column.null_count:
            column = column.cast(pa.float64())
        return column.to_numpy(zero_copy_only=False)
    if pa.types.is_fixed_size_list(kind) and not column.null_count:
        return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), kind.list_size)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        try:
            return np.array(column.to_pylist())
        except ValueError:
            raise BadRequest(f"The lists of column {name!r} differ in length.") from None
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind):
        return np.array(column.to_pylist(), dtype=object)
    raise BadRequest(f"Column {name!r} is {kind}; numbers, booleans, strings and lists of them are read.")


def _one_row(output: Tensor) -> Any:
    shape = (1, *(length or 1 for length in output.shape[1:]))
    return np.full(shape, "", object) if output.dtype == "object" else np.zeros(shape, output.dtype)


class TableWriter:
    """Writes tables as one Parquet file, in row groups of about GROUP_BYTES."""

    def __init__(self, sink: Any) -> None:
        self._sink = sink
        self._writer: Any = None
        self._held: list[Any] = []
        self._bytes = 0

    def write(self, table: Any) -> None:
        self._held.append(table)
        self._bytes += table.nbytes
        if self._bytes >= GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        """Write what is held and the footer. At least one table must have been written, be it empty."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if not self._held:
            return
        table = pa.concat_tables(self._held)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._sink, table.schema)
        self._writer.write_table(table, row_group_size=max(table.num_rows, 1))
        self._held, self._bytes = [], 0
