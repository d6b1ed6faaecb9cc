"""JSON and JSON Lines, in the row and column forms of TensorFlow Serving and the record forms of pandas.

NaN and the infinities have no JSON: they are written as null, and null is read as NaN. The bare words NaN and
Infinity, which Python's json writes, are read too.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np

from fourfold.formats.base import Arrays, Tensor
from fourfold.formats.codecs import tensors
from fourfold.formats.codecs.request import BadRequest, Body, Parameters, Request, text

_FORMS = (
    '{"instances": [record, …]}, {"inputs": rows}, {"inputs": {name: rows}}, [[…], …], [{column: value}, …] or '
    '{"columns": […], "data": [[…], …]}'
)

_encode = msgspec.json.encode
_decode = msgspec.json.Decoder().decode


def decode(body: Body, parameters: Parameters, inputs: tuple[Tensor, ...]) -> Request:
    value = parse(body)
    if isinstance(value, list):
        return Request(_bare(value, inputs))
    if not isinstance(value, dict):
        raise BadRequest(f"The body is a JSON {_kind(value)}; send {_FORMS}.")
    if "instances" in value:
        return Request(_records(_list(value["instances"], "instances"), inputs))
    if "inputs" in value:
        return Request(_columns(value["inputs"], inputs), by_column=True)
    if "dataframe_records" in value:
        return Request(_records(_list(value["dataframe_records"], "dataframe_records"), inputs))
    table = value.get("dataframe_split", value)
    if isinstance(table, dict) and "columns" in table and "data" in table:
        return Request(_table(table["columns"], table["data"], inputs))
    if value and not any(isinstance(member, (list, dict)) for member in value.values()):
        return Request(_records([value], inputs))
    value = _without_index(value)
    if value and tensors.covers(value, inputs):
        known = {tensor.name: value[tensor.name] for tensor in inputs}
        if all(_depth(known[tensor.name]) >= _rank(tensor) for tensor in inputs):
            return Request(_columns(known, inputs))
        return Request(_records([known], inputs))
    if len(inputs) == 1 and inputs[0].columns and value.keys() >= set(inputs[0].columns):
        return Request(_named(value, inputs))
    raise BadRequest(f"The body is an object with the members {', '.join(map(repr, value)) or 'none'}; send {_FORMS}.")


def encode(outputs: Arrays, request: Request, parameters: Parameters) -> bytes:
    if request.by_column:
        columns = {name: plain(array) for name, array in outputs.items()}
        return _encode({"outputs": next(iter(columns.values())) if len(columns) == 1 else columns})
    return _encode({"predictions": records(outputs)})


def decode_lines(body: Body, parameters: Parameters, inputs: tuple[Tensor, ...]) -> Request:
    values = []
    for number, line in enumerate(text(body).splitlines(), 1):
        if line.strip():
            try:
                values.append(parse(line.encode()))
            except BadRequest as error:
                raise BadRequest(f"Line {number}: {error.message}") from None
    if values and all(isinstance(value, dict) and value.keys() == {"features"} for value in values):
        values = [value["features"] for value in values]  # the dense form of SageMaker's own algorithms
    if values and all(isinstance(value, dict) and value.keys() == {"instances"} for value in values):
        values = [record for value in values for record in _list(value["instances"], "instances")]
    return Request(_records(values, inputs))


def encode_lines(outputs: Arrays, request: Request, parameters: Parameters) -> bytes:
    return b"".join([_encode(record) + b"\n" for record in records(outputs)])


def parse(body: Body) -> Any:
    """Any JSON value. Raises BadRequest saying where it breaks."""
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        content = text(body)
        if "NaN" in content or "Infinity" in content:
            try:
                return json.loads(content)
            except (ValueError, RecursionError):
                pass
        raise BadRequest(f"The body is not valid JSON: {error}.") from None


def records(outputs: Arrays) -> list[Any]:
    """One value a record: the output's own where there is one output, else an object by output name."""
    columns = [plain(array) for array in outputs.values()]
    if len(columns) == 1:
        column = columns[0]
        return column if isinstance(column, list) else [column]
    names = list(outputs)
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def plain(array: Any) -> Any:
    """The array as nested lists of what JSON has."""
    values = array.tolist()
    return _decoded(values) if array.dtype.kind in "OS" else values


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(entry) for entry in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def _bare(values: list[Any], inputs: tuple[Tensor, ...]) -> Arrays:
    """`[[…], …]`, or `[…]` for one record."""
    if len(inputs) > 1 and values and not isinstance(values[0], (list, dict)):
        values = [values]
    if len(inputs) == 1 and not inputs[0].shape and values and not isinstance(values[0], (list, dict)):
        values = [values]  # a rank that the model does not tell: most take rows
    if len(inputs) == 1 and values and len(inputs[0].shape) > 1 and not isinstance(values[0], dict):
        record = inputs[0].shape[1:]
        if _depth(values) == len(record) and not (all(length == 1 for length in record) and len(values) > 1):
            values = [values]
    return _records(values, inputs)


def _records(values: list[Any], inputs: tuple[Tensor, ...]) -> Arrays:
    if not values:
        raise BadRequest("The body has no records; send at least one.")
    if not isinstance(values[0], dict) and len(inputs) > 1 and all(tensors.record_size(one) == 1 for one in inputs):
        return _table([tensor.name for tensor in inputs], values, inputs)  # as a CSV without a header
    if not isinstance(values[0], dict) or (len(inputs) == 1 and inputs[0].binary and values[0].keys() == {"b64"}):
        return {tensors.only(inputs).name: tensors.from_values(values, inputs[0])}
    names = values[0].keys()
    if not names:
        raise BadRequest("The first record has no members.")
    for number, record in enumerate(values, 1):
        if not isinstance(record, dict) or record.keys() != names:
            raise BadRequest(f"Record {number} does not have the members of the first: {', '.join(map(repr, names))}.")
    return _named({name: [record[name] for record in values] for name in names}, inputs)


def _table(names: Any, rows: Any, inputs: tuple[Tensor, ...]) -> Arrays:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadRequest('"columns" must be a list of strings.')
    if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == len(names) for row in rows):
        raise BadRequest(f'"data" must be a list of rows of {len(names)} values, one for each of "columns".')
    if not rows or not names:
        raise BadRequest("The body has no records; send at least one.")
    return _named(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)), inputs)


def _named(columns: dict[str, list[Any]], inputs: tuple[Tensor, ...]) -> Arrays:
    """Columns of JSON values, each checked as the input that it belongs to."""
    if tensors.covers(columns, inputs):
        return tensors.by_name({tensor.name: columns[tensor.name] for tensor in inputs}, inputs)
    if len(inputs) == 1:
        entry = Tensor(inputs[0].name, inputs[0].dtype, ())
        arrays = {name: tensors.from_values(values, entry) for name, values in columns.items()}
        return tensors.from_columns(arrays, inputs)
    return tensors.by_name(columns, inputs)


def _columns(value: Any, inputs: tuple[Tensor, ...]) -> Arrays:
    if isinstance(value, dict):
        return tensors.by_name(value, inputs)
    return {tensors.only(inputs).name: tensors.from_values(value, inputs[0])}


def _without_index(columns: dict[str, Any]) -> dict[str, Any]:
    """Columns as pandas writes them by default, objects from a row's label to its value, as lists of values."""
    kinds = {type(column) for column in columns.values()}
    if kinds != {dict} or len({tuple(column) for column in columns.values()}) != 1:
        return columns
    return {name: list(column.values()) for name, column in columns.items()}


def _rank(tensor: Tensor) -> int:
    """Lists around a value of several records; of those with one value each, a list of values will do."""
    return 1 if tensors.record_size(tensor) == 1 else len(tensor.shape)


def _depth(value: Any) -> int:
    """How many lists there are around the first value."""
    depth = 0
    while isinstance(value, list) and value:
        depth, value = depth + 1, value[0]
    return depth


def _list(value: Any, member: str) -> list[Any]:
    if not isinstance(value, list):
        raise BadRequest(f'"{member}" must be a list of records, not a JSON {_kind(value)}.')
    return value


def _kind(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return {str: "string", int: "number", float: "number", dict: "object", list: "list"}[type(value)]
