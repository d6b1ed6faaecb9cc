"""Parquet: columns to inputs, outputs to columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fourfold.formats.base import Arrays, Tensor
from fourfold.formats.codecs import tensors
from fourfold.formats.codecs.json import plain
from fourfold.formats.codecs.request import BadRequest, Body, Parameters, Request


def decode(body: Body, parameters: Parameters, inputs: tuple[Tensor, ...]) -> Request:
    try:
        table = pq.read_table(pa.BufferReader(bytes(body)), use_threads=False)
    except Exception as error:  # pyarrow raises ArrowInvalid, OSError and others on garbage
        raise BadRequest(f"The body is not a Parquet file that can be read: {error}.") from None
    if table.num_rows == 0:
        raise BadRequest("The Parquet file has no rows; send at least one.")
    if len(set(table.column_names)) != table.num_columns:
        raise BadRequest(f"The Parquet file names a column twice: {', '.join(table.column_names)}.")
    columns = {name: _array(name, table.column(name)) for name in table.column_names}
    return Request(tensors.from_columns(columns, inputs))


def encode(outputs: Arrays, request: Request, parameters: Parameters) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(to_table(outputs), sink)
    return bytes(sink.getvalue())


def to_table(outputs: Arrays) -> Any:
    """One column an output; more than one value a record becomes a list."""
    return pa.table({name: _column(np.atleast_1d(array)) for name, array in outputs.items()})


def _array(name: str, column: Any) -> Any:
    """A column as an array: lists of one length give a second axis; a missing number is NaN."""
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _lists(name, column)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind):
        return np.array(column.to_pylist(), dtype=object)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise BadRequest(f"Column {name!r} is {kind}; numbers, booleans, strings and lists of them are read.")
    if column.null_count:
        return column.cast(pa.float64()).to_numpy()
    return column.to_numpy()


def _lists(name: str, column: Any) -> Any:
    try:
        return np.array(column.to_pylist())
    except ValueError:
        raise BadRequest(f"The lists of column {name!r} differ in length.") from None


def _column(array: Any) -> Any:
    if array.dtype.kind in "OUS":
        return pa.array(plain(array))
    if array.ndim == 1:
        return pa.array(array)
    flat = array.reshape(len(array), -1)
    if flat.shape[1] == 1:
        return pa.array(flat[:, 0])
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])
