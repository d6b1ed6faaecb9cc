"""CSV: one record a line, without a header unless it shows.

A header is there where the media type says so (`text/csv; header=present`), or where the first line has no number
and the model takes numbers only, or where its cells are the names of the model's inputs or columns. Answers have a
header only where Accept says `header=present`.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np

from fourfold.formats.base import Arrays, Tensor
from fourfold.formats.codecs import tensors
from fourfold.formats.codecs.json import plain
from fourfold.formats.codecs.request import BadRequest, Body, Parameters, Request, text

_WORDS = dict.fromkeys(("", "na", "n/a", "null", "none"), math.nan) | {"true": 1.0, "false": 0.0}
"""Cells, in lower case, that are numbers: missing ones, which are NaN in a float input, and booleans."""


def decode(body: Body, parameters: Parameters, inputs: tuple[Tensor, ...]) -> Request:
    content = text(body)
    numeric = all(tensor.dtype != "object" for tensor in inputs)
    if numeric and '"' not in content and "_" not in content and "header" not in parameters:
        matrix = _numbers(content, inputs)
        if matrix is not None:
            return Request(tensors.from_matrix(matrix, inputs))
    rows = _rows(content)
    header = _header(rows[0], parameters, inputs, numeric)
    if header is not None:
        rows = rows[1:]
        if not rows:
            raise BadRequest("The body has a header and no records.")
        if len(set(header)) != len(header):
            raise BadRequest(f"The header names a column twice: {', '.join(header)}.")
        return Request(_by_header(header, rows, inputs))
    if numeric:
        cells = [cell for row in rows for cell in row]
        return Request(tensors.from_matrix(_floats(cells, len(rows[0])).reshape(len(rows), -1), inputs))
    return Request(_mixed(rows, inputs))


def encode(outputs: Arrays, request: Request, parameters: Parameters) -> bytes:
    columns = tensors.to_columns(outputs)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if parameters.get("header") == "present":
        writer.writerow(_column_names(columns))
    if all(array.dtype.kind in "fiu" for array in columns.values()):
        lists = [array.tolist() for array in columns.values()]
        rows = lists[0] if len(lists) == 1 else [list(itertools.chain(*parts)) for parts in zip(*lists, strict=True)]
        out.write(_number_lines(rows) + "\n")
    else:
        writer.writerows(itertools.chain(*parts) for parts in zip(*map(plain, columns.values()), strict=True))
    return out.getvalue().encode()


def _number_lines(rows: list[list[float]]) -> str:
    """Rows of numbers as lines. JSON writes them four times as fast as `repr` does, but knows no NaN or infinity."""
    encoded = msgspec.json.encode(rows)
    if b"null" not in encoded:
        return encoded[2:-2].replace(b"],[", b"\n").decode()
    return "\n".join([",".join(map(_written, row)) for row in rows])


def _written(value: float) -> str:
    return msgspec.json.encode(value).decode() if math.isfinite(value) else repr(value)


def _column_names(columns: Arrays) -> list[str]:
    names: list[str] = []
    for name, array in columns.items():
        width = array.shape[1]
        names.extend([name] if width == 1 else [f"{name}_{index}" for index in range(width)])
    return names


def _numbers(content: str, inputs: tuple[Tensor, ...]) -> Any:
    """The common case, numbers and nothing else, in one pass. None: it is not that case."""
    lines = content.splitlines()
    if not lines or "" in lines:
        return None
    commas = lines[0].count(",")
    if any(line.count(",") != commas for line in lines):
        return None
    whole = all(tensor.dtype[0] in "iu" for tensor in inputs)
    try:
        values = list(map(int if whole else float, ",".join(lines).split(",")))
        return np.array(values, dtype=np.int64 if whole else np.float64).reshape(len(lines), commas + 1)
    except (ValueError, OverflowError):
        return None


def _rows(content: str) -> list[list[str]]:
    try:
        rows = [row for row in csv.reader(io.StringIO(content), strict=True, skipinitialspace=True) if row]
    except csv.Error as error:
        raise BadRequest(f"The body is not valid CSV: {error}.") from None
    if not rows:
        raise BadRequest("The body has no records; send at least one.")
    width = len(rows[0])
    for number, row in enumerate(rows, 1):
        if len(row) != width:
            raise BadRequest(f"Line {number} of the CSV has {len(row)} cells where the first has {width}.")
    return rows


def _header(first: list[str], parameters: Parameters, inputs: tuple[Tensor, ...], numeric: bool) -> list[str] | None:
    cells = [cell.strip() for cell in first]
    stated = parameters.get("header")
    if stated is not None:
        return cells if stated == "present" else None
    names = {tensor.name for tensor in inputs} | {name for tensor in inputs for name in tensor.columns}
    if set(cells) <= names or (len(inputs) > 1 and tensors.covers(cells, inputs)):
        return cells
    return cells if numeric and not any(_is_number(cell) or cell.lower() in _WORDS for cell in cells) else None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


def _by_header(header: list[str], rows: list[list[str]], inputs: tuple[Tensor, ...]) -> Arrays:
    cells = dict(zip(header, zip(*rows, strict=True), strict=True))
    known = {tensor.name: tensor for tensor in inputs}
    if len(inputs) > 1 and tensors.covers(header, inputs):
        cells = {name: cells[name] for name in known}
    columns: dict[str, Any] = {}
    for name, values in cells.items():
        tensor = known.get(name, inputs[0])
        columns[name] = _strings(values, tensor) if tensor.dtype == "object" else _floats(values, 1)
    return tensors.from_columns(columns, inputs)


def _mixed(rows: list[list[str]], inputs: tuple[Tensor, ...]) -> Arrays:
    """Columns without names, some of them strings: from the left, as many as each input has."""
    table = np.array(rows, dtype=object)
    if len(inputs) == 1:
        return tensors.from_matrix(table, inputs)
    widths = [tensors.record_size(tensor) for tensor in inputs]
    if None in widths or sum(width or 0 for width in widths) != table.shape[1]:
        raise BadRequest(
            f"The model has the inputs {tensors.describe(inputs)}; {table.shape[1]} columns without a header cannot "
            "be told apart."
        )
    arrays: Arrays = {}
    start = 0
    for tensor, width in zip(inputs, widths, strict=True):
        part = table[:, start : start + (width or 0)]
        start += width or 0
        cells = part.ravel().tolist()
        values = _strings(cells, tensor) if tensor.dtype == "object" else _floats(cells, part.shape[1])
        arrays |= tensors.from_matrix(values.reshape(part.shape), (tensor,))
    return arrays


def _strings(cells: Iterable[str], tensor: Tensor) -> Any:
    """An empty cell is a missing string where the input allows that."""
    return np.array([cell or None for cell in cells] if tensor.nullable else list(cells), dtype=object)


def _floats(cells: Sequence[str], width: int) -> Any:
    """Cells of records of `width` cells each, one after the other."""
    if "_" not in "".join(cells):  # `float` would take 1_000
        try:
            return np.array([float(cell) if cell else math.nan for cell in cells], dtype=np.float64)
        except ValueError:
            pass  # words for what is missing, or a mistake to name
    return np.array([_number(cell, at // width + 1) for at, cell in enumerate(cells)], dtype=np.float64)


def _number(cell: str, line: int) -> float:
    if _is_number(cell):
        return float(cell)
    word = cell.strip().lower()
    if word in _WORDS:
        return _WORDS[word]
    raise BadRequest(f"Record {line} of the CSV has {cell[:60]!r} where the model takes a number.")
