"""NumPy's own files (NPY, NPZ) and raw little-endian bytes. Pickled objects are never read or written."""

from __future__ import annotations

import io
import math
import zipfile
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.lib import format as npy

from fourfold.formats.base import Arrays, Tensor
from fourfold.formats.codecs import tensors
from fourfold.formats.codecs.request import BadRequest, Body, Parameters, Request

MAX_UNPACKED = 1 << 30
"""Most bytes that an NPZ may hold unpacked; one that claims more is refused unread."""


def decode_npy(body: Body, parameters: Parameters, inputs: tuple[Tensor, ...]) -> Request:
    return Request({tensors.only(inputs).name: _placed(read_npy(body), inputs[0])})


def encode_npy(outputs: Arrays, request: Request, parameters: Parameters) -> bytes:
    if len(outputs) != 1:
        raise BadRequest(
            f"The model has the outputs {', '.join(outputs)}, and NPY holds one array: accept application/x-npz "
            "or application/json, or choose one with FOURFOLD_OUTPUTS in the model's Environment.",
            406,
        )
    return write_npy(next(iter(outputs.values())))


def decode_npz(body: Body, parameters: Parameters, inputs: tuple[Tensor, ...]) -> Request:
    arrays = read_npz(body)
    if len(arrays) == len(inputs) == 1:
        return Request({inputs[0].name: _placed(next(iter(arrays.values())), inputs[0])})
    return Request(tensors.by_name(arrays, inputs))


def encode_npz(outputs: Arrays, request: Request, parameters: Parameters) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, array in outputs.items():
            archive.writestr(f"{name.replace('/', '_')}.npy", write_npy(array))
    return out.getvalue()


def decode_raw(body: Body, parameters: Parameters, inputs: tuple[Tensor, ...]) -> Request:
    """Records of the one input, one after the other, in its dtype, little endian."""
    tensor = tensors.only(inputs)
    size = tensors.record_size(tensor)
    if tensor.dtype == "object" or not tensor.shape or size is None:
        raise BadRequest(f"Raw bytes need an input of numbers and of a known width; the model has {tensor}. Send NPY.")
    dtype = np.dtype(tensor.dtype).newbyteorder("<")
    if len(body) == 0 or len(body) % (size * dtype.itemsize):
        raise BadRequest(
            f"The model expects {tensor}: {size * dtype.itemsize} bytes a record, little endian; got {len(body)} bytes."
        )
    array = np.frombuffer(body, dtype).reshape(-1, *(length or 0 for length in tensor.shape[1:]))
    return Request({tensor.name: array})


def encode_raw(outputs: Arrays, request: Request, parameters: Parameters) -> bytes:
    array: Any = next(iter(outputs.values()))
    if len(outputs) != 1 or array.dtype.kind not in "fiub":
        raise BadRequest(
            f"The model has the outputs {', '.join(outputs)}; raw bytes hold one array of numbers: accept "
            "application/json.",
            406,
        )
    return bytes(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())


def read_npy(body: Body) -> Any:
    """An array over the body's own memory; read-only. Raises BadRequest for what is not one whole array."""
    content = bytes(body)
    start = _data_start(content)
    shape, fortran, dtype = _header(content[:start])
    size = math.prod(shape) * dtype.itemsize
    if len(content) - start != size:
        raise BadRequest(
            f"The NPY header says {dtype}[{', '.join(map(str, shape))}], {size} bytes; "
            f"{len(content) - start} bytes follow it."
        )
    array = np.frombuffer(content, dtype, offset=start)
    return array.reshape(shape, order="F" if fortran else "C")


def write_npy(array: Any) -> bytes:
    if array.dtype == object:
        array = array.astype(str)
    return b"".join((_written_header(array.dtype, array.shape), array.tobytes()))


@lru_cache(1024)
def _written_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    out = io.BytesIO()
    npy.write_array_header_1_0(out, {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
    return out.getvalue()


def _data_start(content: bytes) -> int:
    """Where the header ends: its length is in the 2 (version 1) or 4 bytes after magic and version."""
    if content[:6] != npy.MAGIC_PREFIX or len(content) < 12:
        raise BadRequest("The body is not an NPY file: it does not start with \\x93NUMPY.")
    width = 2 if content[6] == 1 else 4
    return 8 + width + int.from_bytes(content[8 : 8 + width], "little")


@lru_cache(256)
def _header(content: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Parsed once for each header, since clients send the same few and parsing one takes 30 µs."""
    file = io.BytesIO(content)
    try:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except Exception as error:  # the header is a Python literal, which can be wrong in every way
        raise BadRequest(f"The body is not an NPY file that can be read: {error}.") from None
    if dtype.hasobject or dtype.kind not in "biufUS":
        raise BadRequest(f"The NPY file holds {dtype}; only numbers, booleans and strings are read, never objects.")
    if any(length < 0 for length in shape):
        raise BadRequest(f"The NPY header has a negative length: {shape}.")
    return shape, fortran, dtype


def read_npz(body: Body) -> dict[str, Any]:
    """Every array of an NPZ by name; a sparse matrix, as scipy.sparse.save_npz writes it, as one dense array."""
    arrays = _members(body)
    return {"dense": _dense(arrays)} if arrays.keys() >= {"format", "shape", "data"} else arrays


def _members(body: Body) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > MAX_UNPACKED:
                raise BadRequest(f"The NPZ file is larger than {MAX_UNPACKED} bytes unpacked.")
            return {member.filename.removesuffix(".npy"): read_npy(archive.read(member)) for member in members}
    except BadRequest:
        raise
    except Exception as error:  # zipfile raises a dozen kinds on garbage
        raise BadRequest(f"The body is not an NPZ file that can be read: {error}.") from None


def _dense(parts: dict[str, Any]) -> Any:
    """A sparse matrix as scipy.sparse.save_npz writes it; CSR and CSC."""
    kind = bytes(parts["format"].item()).decode() if parts["format"].dtype.kind == "S" else str(parts["format"].item())
    rows, columns = (int(length) for length in parts["shape"])
    if kind not in ("csr", "csc") or not {"indices", "indptr"} <= parts.keys():
        raise BadRequest(f"The NPZ file holds a sparse matrix of format {kind!r}; csr and csc are read.")
    if rows * columns * parts["data"].dtype.itemsize > MAX_UNPACKED:
        raise BadRequest(f"The sparse matrix of {rows} × {columns} is larger than {MAX_UNPACKED} bytes unpacked.")
    dense = np.zeros((rows, columns), parts["data"].dtype)
    try:
        major = np.repeat(np.arange(len(parts["indptr"]) - 1), np.diff(parts["indptr"]))
        where = (major, parts["indices"]) if kind == "csr" else (parts["indices"], major)
        dense[where] = parts["data"]
    except (IndexError, ValueError) as error:
        raise BadRequest(f"The sparse matrix in the NPZ file is broken: {error}.") from None
    return dense


def _placed(array: Any, tensor: Tensor) -> Any:
    """One record may come without its batch axis."""
    if len(tensor.shape) > 1 and array.ndim == len(tensor.shape) - 1 and set(tensor.shape[1:]) != {1}:
        array = array[np.newaxis]
    return tensors.conform(array, tensor)
