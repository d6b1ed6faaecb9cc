"""Inference requests of the Open Inference Protocol v2 (KServe, Triton), with its binary tensor extension.

The protocol's paths and headers are the gateway's; it hands the body on with the content type
`application/vnd.oip.v2+json; model=NAME`, and `header-length=N` where the client sent Inference-Header-Content-Length.
The answer carries that header in turn where it has binary tensors.
"""

from __future__ import annotations

import math
import struct
from typing import Any, NamedTuple

import msgspec
import numpy as np

from fourfold.formats.base import Arrays, Tensor
from fourfold.formats.codecs import tensors
from fourfold.formats.codecs.json import parse, plain
from fourfold.formats.codecs.request import BadRequest, Body, Parameters, Request

TYPE = "application/vnd.oip.v2+json"
HEADER_LENGTH = "inference-header-content-length"

_DTYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    "BYTES": "object",
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


class _Asked(NamedTuple):
    """What the answer needs to know of the request."""

    id: str | None
    model: str
    outputs: dict[str, bool]
    """Outputs that were asked for, each with whether it is to be binary. Empty: all."""
    binary: bool
    """Binary where the request does not say it for the output."""


def decode(body: Body, parameters: Parameters, inputs: tuple[Tensor, ...]) -> Request:
    content = bytes(body)
    length = parameters.get("header-length", str(len(content)))
    if not length.isdigit() or int(length) > len(content):
        raise BadRequest(f"Inference-Header-Content-Length is {length!r}, and the body has {len(content)} bytes.")
    header, rest = parse(content[: int(length)]), memoryview(content)[int(length) :]
    if not isinstance(header, dict) or not isinstance(header.get("inputs"), list):
        raise BadRequest('The body must be a JSON object with "inputs", a list of tensors.')
    arrays = {}
    for entry in header["inputs"]:
        name, array, rest = _tensor(entry, rest)
        arrays[name] = array
    if rest:
        raise BadRequest(f"{len(rest)} bytes follow the last binary tensor.")
    return Request(tensors.by_name(arrays, inputs), note=_asked(header, parameters))


def encode(outputs: Arrays, request: Request, parameters: Parameters) -> tuple[bytes, dict[str, str]]:
    asked: _Asked = request.note or _Asked(None, "", {}, False)
    unknown = [name for name in asked.outputs if name not in outputs]
    if unknown:
        raise BadRequest(f"The model has the outputs {', '.join(outputs)}; asked for {', '.join(unknown)}.")
    entries, blobs = [], []
    for name in asked.outputs or outputs:
        entry, blob = _entry(name, outputs[name], asked.outputs.get(name, asked.binary))
        entries.append(entry)
        blobs.append(blob)
    answer = {"model_name": asked.model, "model_version": "1", "outputs": entries}
    header = msgspec.json.encode(answer if asked.id is None else {"id": asked.id, **answer})
    binary = b"".join(blobs)
    return header + binary, {HEADER_LENGTH: str(len(header))} if binary else {}


def _asked(header: dict[str, Any], parameters: Parameters) -> _Asked:
    binary = _member(header, "parameters", dict, {}).get("binary_data_output") is True
    outputs = {}
    for entry in _member(header, "outputs", list, []):
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise BadRequest('Each of "outputs" must be an object with a "name".')
        wanted = _member(entry, "parameters", dict, {})
        if wanted.get("classification"):
            raise BadRequest(f"Output {entry['name']} is asked for as a classification, an extension that is not here.")
        outputs[entry["name"]] = wanted.get("binary_data", binary) is True
    return _Asked(_member(header, "id", str, None), parameters.get("model", ""), outputs, binary)


def _tensor(entry: Any, rest: memoryview) -> tuple[str, Any, memoryview]:
    """One input's name and array, and what is left of the binary part."""
    if not isinstance(entry, dict):
        raise BadRequest('Each of "inputs" must be an object.')
    name, shape, datatype = _member(entry, "name", str), _member(entry, "shape", list), _member(entry, "datatype", str)
    if datatype not in _DTYPES:
        raise BadRequest(f"Input {name} has the datatype {datatype!r}; known are {', '.join(_DTYPES)}.")
    if not all(type(length) is int and length >= 0 for length in shape):
        raise BadRequest(f"Input {name} has the shape {shape}; give whole numbers.")
    size = _member(entry, "parameters", dict, {}).get("binary_data_size")
    if size is None:
        values = _member(entry, "data", list)
        flat = np.array(values, dtype=object).ravel() if datatype == "BYTES" else _numbers(name, values).ravel()
    else:
        if type(size) is not int or not 0 <= size <= len(rest):
            raise BadRequest(f"Input {name} has binary_data_size {size}; {len(rest)} bytes are left.")
        flat = _unpack(name, rest[:size], datatype)
        rest = rest[size:]
    if flat.size != math.prod(shape):
        raise BadRequest(f"Input {name} has the shape {shape}, {math.prod(shape)} values, and got {flat.size}.")
    target = Tensor(name, _DTYPES[datatype], ())
    return name, tensors.conform(flat.reshape(shape), target), rest


def _numbers(name: str, values: list[Any]) -> Any:
    try:
        return np.array(values)
    except (ValueError, OverflowError):
        raise BadRequest(f"The data of input {name} is ragged or out of range.") from None


def _unpack(name: str, blob: memoryview, datatype: str) -> Any:
    if datatype != "BYTES":
        dtype = np.dtype(_DTYPES[datatype]).newbyteorder("<")
        if len(blob) % dtype.itemsize:
            raise BadRequest(f"Input {name} has {len(blob)} bytes, no multiple of {datatype}'s {dtype.itemsize}.")
        return np.frombuffer(blob, dtype)
    strings, start = [], 0
    while start < len(blob):
        end = start + 4 + int.from_bytes(blob[start : start + 4], "little")
        if end > len(blob) or len(blob) - start < 4:
            raise BadRequest(f"The strings of input {name} end in the middle of one.")
        try:
            strings.append(str(blob[start + 4 : end], "utf-8"))
        except UnicodeDecodeError:
            raise BadRequest(f"String {len(strings)} of input {name} is not UTF-8.") from None
        start = end
    return np.array(strings, dtype=object)


def _entry(name: str, array: Any, binary: bool) -> tuple[dict[str, Any], bytes]:
    """An output as the header has it, and its bytes where they follow the header."""
    datatype = _NAMES.get(array.dtype.name, "BYTES")
    entry: dict[str, Any] = {"name": name, "shape": array.shape, "datatype": datatype}
    if not binary:
        return entry | {"data": plain(array.ravel())}, b""
    if datatype == "BYTES":
        texts = [str(text).encode() for text in plain(array.ravel())]
        blob = b"".join([struct.pack("<I", len(text)) + text for text in texts])
    else:
        blob = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    return entry | {"parameters": {"binary_data_size": len(blob)}}, blob


def _member(value: dict[str, Any], name: str, kind: type, *default: Any) -> Any:
    found = value.get(name, *default)
    if found is None and default:
        return default[0]
    if not isinstance(found, kind):
        raise BadRequest(f"{name!r} must be a JSON {'object' if kind is dict else kind.__name__}.")
    return found
