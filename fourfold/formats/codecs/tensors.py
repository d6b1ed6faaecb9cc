"""Values to the arrays that a model's inputs want: shapes, dtypes and names are checked here, for every codec.

Numbers are cast only where nothing is lost but precision: a whole float fits an integer input, 1.5 does not; a string
never becomes a number. None (JSON's null) and an empty CSV cell are NaN in a float input and an error elsewhere.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fourfold.formats.base import Arrays, Tensor
from fourfold.formats.codecs.request import BadRequest

Array = NDArray[Any]


def from_values(values: Any, tensor: Tensor) -> Array:
    """Nested lists, as JSON gives them, as `tensor`'s array; the first axis is the record."""
    return conform(_array(values, tensor), tensor)


def conform(array: Array, tensor: Tensor) -> Array:
    """`array` with `tensor`'s dtype and a shape that fits it. Raises BadRequest naming both."""
    return _cast(_shaped(array, tensor), tensor)


def from_columns(columns: Mapping[str, Array], inputs: Sequence[Tensor]) -> Arrays:
    """Named columns, each with one entry a record, as the model's inputs.

    Columns that are called as the inputs go to these, and others are left out. Else a model of one input takes all of
    them side by side: in the order of its own column names, where it has such names, else in the order given.
    """
    if covers(columns, inputs):
        return {tensor.name: conform(_spread(columns[tensor.name], tensor), tensor) for tensor in inputs}
    if len(inputs) > 1:
        raise BadRequest(f"The model has the inputs {describe(inputs)}; the data has {_listed(columns)}.")
    return {inputs[0].name: conform(_side_by_side(columns, inputs[0]), inputs[0])}


def covers(names: Collection[str], inputs: Sequence[Tensor]) -> bool:
    """Are the names those of the inputs? A table may have further columns where a model has several inputs."""
    wanted = {tensor.name for tensor in inputs}
    return wanted <= set(names) if len(inputs) > 1 else wanted == set(names)


def from_matrix(matrix: Array, inputs: Sequence[Tensor]) -> Arrays:
    """Columns without names: each input takes as many, from the left, as one record of it has values."""
    if len(inputs) == 1:
        return {inputs[0].name: conform(_spread(matrix, inputs[0]), inputs[0])}
    widths = [record_size(tensor) for tensor in inputs]
    if None in widths or sum(width or 0 for width in widths) != matrix.shape[1]:
        raise BadRequest(
            f"{matrix.shape[1]} columns without names cannot be told apart for the inputs {describe(inputs)}; "
            "name the columns."
        )
    arrays, start = {}, 0
    for tensor, width in zip(inputs, widths, strict=True):
        part = matrix[:, start : start + (width or 0)]
        arrays[tensor.name] = conform(_spread(part, tensor), tensor)
        start += width or 0
    return arrays


def by_name(values: Mapping[str, Any], inputs: Sequence[Tensor]) -> Arrays:
    """Whole arrays by input name, from nested lists or arrays."""
    missing = [tensor.name for tensor in inputs if tensor.name not in values]
    unknown = sorted(set(values) - {tensor.name for tensor in inputs})
    if missing or unknown:
        wrong = [f"missing: {', '.join(missing)}"] * bool(missing) + [f"unknown: {', '.join(unknown)}"] * bool(unknown)
        raise BadRequest(f"The model has the inputs {describe(inputs)}; {'; '.join(wrong)}.")
    return {
        tensor.name: conform(value, tensor) if isinstance(value, np.ndarray) else from_values(value, tensor)
        for tensor in inputs
        for value in (values[tensor.name],)
    }


def to_columns(outputs: Arrays) -> Arrays:
    """Outputs as matrices, a record a row. A value without a record axis is one record."""
    each = {name: np.atleast_1d(array) for name, array in outputs.items()}
    return {name: array.reshape(len(array), -1) for name, array in each.items()}


def only(inputs: Sequence[Tensor]) -> Tensor:
    """The input of a model that has one. Raises BadRequest where values without a name cannot be placed."""
    if len(inputs) == 1:
        return inputs[0]
    raise BadRequest(f"The model has the inputs {describe(inputs)}; name the values: {{name: value, …}}.")


def describe(inputs: Sequence[Tensor]) -> str:
    return ", ".join(str(tensor) for tensor in inputs)


def record_size(tensor: Tensor) -> int | None:
    """Values in one record; None where the model leaves a length open."""
    record = tensor.shape[1:]
    return None if None in record else math.prod(length or 0 for length in record)


def _array(values: Any, tensor: Tensor) -> Array:
    if tensor.dtype == "object":
        return np.array(values, dtype=object)
    try:
        array = np.array(values)
    except (ValueError, OverflowError):
        raise BadRequest(f"Input {tensor} needs rows of one length; they differ{_lengths(values)}.") from None
    return array


def _lengths(values: Any) -> str:
    if not isinstance(values, list):
        return ""
    lengths = sorted({len(row) for row in values if isinstance(row, list)})
    return f" ({', '.join(map(str, lengths[:5]))})" if len(lengths) > 1 else ""


def _cast(array: Array, tensor: Tensor) -> Array:
    if tensor.dtype == "object":
        return _strings(array, tensor)
    wanted = np.dtype(tensor.dtype)
    if array.dtype == wanted:
        return array
    if array.dtype == object:
        array = _numbers(array, tensor)
    if wanted.kind == "b":
        fits = array.dtype.kind in "iuf" and bool(np.isin(array, (0, 1)).all())
    elif array.dtype.kind not in "fiub":
        fits = False
    elif wanted.kind in "iu":
        fits = array.dtype.kind == "b" or _whole(array, wanted)
    else:
        return _as_float(array, wanted, tensor)
    if not fits:
        raise BadRequest(f"Input {tensor} cannot take {_sample(array, wanted)}.")
    return array.astype(wanted)


def _as_float(array: Array, wanted: np.dtype[Any], tensor: Tensor) -> Array:
    """Precision may be lost, but no finite number becomes infinite."""
    with np.errstate(over="ignore"):
        cast = array.astype(wanted)
    if not np.isfinite(cast).all() and (np.isinf(cast) & np.isfinite(array)).any():
        raise BadRequest(f"Input {tensor} cannot take {_sample(array, wanted)}.")
    return cast


def _whole(array: Array, wanted: np.dtype[Any]) -> bool:
    limits = np.iinfo(wanted)
    if array.dtype.kind == "f":
        # compared as floats: 2**63 as a float is one past int64's end
        return bool((np.isfinite(array) & (array == np.trunc(array))).all()) and (
            array.size == 0 or (float(array.min()) >= limits.min and float(array.max()) < float(limits.max) + 1)
        )
    return array.size == 0 or (int(array.min()) >= limits.min and int(array.max()) <= limits.max)


def _numbers(array: Array, tensor: Tensor) -> Array:
    """An object array that came of None, of numbers past 64 bits, or of something that is no number."""
    for value in array.flat:
        if value is not None and not isinstance(value, (int, float)):
            kind = type(value).__name__
            kind = {"str": "a string", "dict": "an object", "list": "rows of different depth"}.get(kind, kind)
            raise BadRequest(f"Input {tensor} takes numbers, not {kind}: {_short(value)}.")
    if tensor.dtype.startswith("float"):
        try:
            return array.astype(np.float64)
        except OverflowError:
            raise BadRequest(f"Input {tensor} got a number that is too large.") from None
    raise BadRequest(f"Input {tensor} cannot take null or a number past 64 bits.")


def _strings(array: Array, tensor: Tensor) -> Array:
    if array.dtype.kind == "U":
        return array.astype(object)
    if array.dtype.kind == "S":
        return np.char.decode(array, "utf-8").astype(object)
    if tensor.binary:
        values = [_unpacked(value) for value in array.flat]
        array = np.array(values, dtype=object).reshape(array.shape)
    for value in array.flat:
        if isinstance(value, bytes) and tensor.binary:
            continue
        if not isinstance(value, str) and not (value is None and tensor.nullable):
            raise BadRequest(f"Input {tensor} takes strings, not {type(value).__name__}: {_short(value)}.")
    if not tensor.nullable:
        return array.astype(object)
    missing = np.array([value is None for value in array.flat], bool).reshape(array.shape)
    return np.where(missing, math.nan, array)


def _unpacked(value: Any) -> Any:
    """The bytes of `{"b64": …}`; any other value is itself."""
    if not isinstance(value, dict) or value.keys() != {"b64"}:
        return value
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (TypeError, ValueError):
        raise BadRequest(f"{_short(value['b64'])} in b64 is not base64.") from None


def _shaped(array: Array, tensor: Tensor) -> Array:
    shape = tensor.shape
    if not shape:  # a scalar, or a rank that the model does not tell: it checks for itself
        return array
    if array.ndim == len(shape):
        if all(wanted is None or wanted == came for wanted, came in zip(shape[1:], array.shape[1:], strict=True)):
            return array
    elif array.ndim == 1 and len(shape) > 1 and all(length == 1 for length in shape[1:]):
        return array.reshape(-1, *(1 for _ in shape[1:]))  # one value a record
    elif array.ndim == 2 and len(shape) == 1 and array.shape[1] == 1:
        return array[:, 0]
    came = ", ".join(map(str, array.shape))
    raise BadRequest(f"The model expects {tensor}, got {array.dtype}[{came}].{_hint(array, tensor)}")


def _hint(array: Array, tensor: Tensor) -> str:
    shape = tensor.shape
    if array.ndim == len(shape) == 2 and shape[1] is not None:
        return f" Each record needs {shape[1]} values and has {array.shape[1]}."
    if array.ndim == len(shape) - 1:
        return " Put one more pair of brackets around a single record."
    return ""


def _spread(array: Array, tensor: Tensor) -> Array:
    """Flat rows in the shape of the tensor's records; what does not fit is left for `conform` to name."""
    record = tensor.shape[1:]
    if len(tensor.shape) == 1 and array.ndim == 2 and array.shape[1] == 1:
        return array[:, 0]
    if array.ndim <= 2 and len(record) > 1 and record_size(tensor) == (array.shape[1] if array.ndim == 2 else 1):
        return array.reshape(len(array), *(length or 0 for length in record))
    return array


def _side_by_side(columns: Mapping[str, Array], tensor: Tensor) -> Array:
    order = list(columns)
    if tensor.columns:
        missing = [name for name in tensor.columns if name not in columns]
        if not missing:
            order = list(tensor.columns)
        elif len(missing) < len(tensor.columns):
            raise BadRequest(f"The model wants the columns {_listed(tensor.columns)}; missing: {_listed(missing)}.")
    parts = [columns[name] for name in order]
    if len(parts) == 1 and parts[0].ndim >= len(tensor.shape):
        return parts[0]
    rows = len(parts[0])
    try:
        return _spread(np.concatenate([part.reshape(rows, -1) for part in parts], axis=1), tensor)
    except (ValueError, TypeError):
        raise BadRequest(f"The columns {_listed(order)} cannot be put side by side for input {tensor}.") from None


def _listed(names: Any, most: int = 12) -> str:
    names = list(names)
    shown = ", ".join(repr(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "") if names else "no names"


def _sample(array: Array, wanted: np.dtype[Any]) -> str:
    if array.size == 0:
        return str(array.dtype)
    if array.dtype.kind in "US":
        for value in array.flat:
            try:
                float(value)
            except ValueError:
                return f"a string: {_short(str(value))}"
        return f"numbers written as strings: {_short(str(array.flat[0]))}"
    if wanted.kind in "iub" and array.dtype.kind == "f":
        broken = array[~(np.isfinite(array) & (array == np.trunc(array)))]
        if broken.size:
            return f"{array.dtype}: {broken.flat[0]!s}"
    return f"{array.dtype} beyond its range"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
