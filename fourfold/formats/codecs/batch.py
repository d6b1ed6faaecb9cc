"""The hot loop: a batch of calls through an ArrayModel.

Every call is decoded by itself, the records of all are joined along the first axis, the model runs once, and its
outputs are divided again. A call that cannot be read costs only itself; if the model fails on the joined records,
the calls run one by one, so that only the guilty one fails.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
import numpy as np

from fourfold.formats.base import ArrayModel, Arrays, Tensor, failed
from fourfold.formats.codecs.request import BadRequest, Request
from fourfold.formats.codecs.table import CODECS, Codec, codec_for, negotiate
from fourfold.records import Call, Reply

_JSON = CODECS[0]


class _Asked(NamedTuple):
    call: Call
    codec: Codec
    request: Request


def invoke_arrays(model: ArrayModel, calls: Sequence[Call]) -> list[Reply]:
    """Answer `calls` with as few `model.predict` as possible, in order.

    A call's failure is its Reply: 400 what was sent, 415 content type, 406 Accept, 500 the model (with the traceback
    in `detail`).
    """
    joined = _rows_of_floats(model.inputs, calls) if model.max_batch > 1 else None
    if joined is None:
        return _decode_and_run(model, calls)
    asked, arrays, counts = joined
    return _together(model, asked, arrays, counts) or _one_by_one(model, asked, _parts(arrays, counts))


# The commonest batch, rows of numbers for one float matrix, has a way of its own: decoded by type, packed in one go.
# What it cannot read, wrong or only unusual, is read again by the codecs.


class _Rows(msgspec.Struct, gc=False):
    instances: list[list[float]] | None = None
    inputs: list[list[float]] | None = None


_BY_ROW = Request({})
_BY_COLUMN = Request({}, by_column=True)
_PACK = {"float32": "f", "float64": "d"}
_decode_json = msgspec.json.Decoder(_Rows | list[list[float] | float]).decode
_decode_lines = msgspec.json.Decoder(list[float]).decode_lines


def _json_rows(body: bytes) -> tuple[list[list[float]], Request]:
    decoded: Any = _decode_json(body)
    if decoded.__class__ is list:
        return ([decoded] if decoded and decoded[0].__class__ is float else decoded), _BY_ROW
    if decoded.instances is not None:
        return decoded.instances, _BY_ROW
    return decoded.inputs or [], _BY_COLUMN


def _lines_rows(body: bytes) -> tuple[list[list[float]], Request]:
    return _decode_lines(body), _BY_ROW


def _csv_rows(body: bytes) -> tuple[list[list[float]], Request]:
    content = str(body, "utf-8")
    if "_" in content:
        raise ValueError("float() would take 1_0 for 10")
    return [list(map(float, line.split(","))) for line in content.splitlines()], _BY_ROW


_ROW_READERS = {
    "application/json": (_JSON, _json_rows),
    "application/jsonlines": (codec_for("application/jsonlines")[0], _lines_rows),
    "text/csv": (codec_for("text/csv")[0], _csv_rows),
}


def _rows_of_floats(inputs: tuple[Tensor, ...], calls: Sequence[Call]) -> tuple[list[_Asked], Arrays, list[int]] | None:
    """The calls' rows as one matrix, and how many each has; None where a call is anything else.

    struct packs Python floats several times as fast as numpy converts them, and checks the widths as it goes.
    """
    if len(inputs) != 1:
        return None
    tensor = inputs[0]
    if tensor.dtype not in _PACK or len(tensor.shape) != 2:
        return None
    asked: list[_Asked] = []
    rows: list[list[float]] = []
    counts: list[int] = []
    try:
        for call in calls:
            codec, read = _ROW_READERS[call.content_type]
            own, request = read(call.body)
            if not own:
                return None
            asked.append(_Asked(call, codec, request))
            rows += own
            counts.append(len(own))
        width = tensor.shape[1] or len(rows[0])
        pack = _packer(width, _PACK[tensor.dtype])
        packed = bytearray().join([pack(*row) for row in rows])
    except (KeyError, ValueError, TypeError, struct.error, OverflowError, RecursionError):
        return None
    return asked, {tensor.name: np.frombuffer(packed, tensor.dtype).reshape(len(rows), width)}, counts


@lru_cache(64)
def _packer(width: int, kind: str) -> Callable[..., bytes]:
    return struct.Struct(f"={width}{kind}").pack


def _decode_and_run(model: ArrayModel, calls: Sequence[Call]) -> list[Reply]:
    """Any content, any model. Calls whose records have one shape share a predict."""
    replies: dict[int, Reply] = {}
    groups: dict[object, list[int]] = {}
    asked: dict[int, _Asked] = {}
    for position, call in enumerate(calls):
        try:
            asked[position] = _decode(model.inputs, call)
        except BadRequest as error:
            replies[position] = refusal(call, error)
        except Exception as error:  # no body may cost the others in its batch their answers
            replies[position] = failure(call, error)
        else:
            groups.setdefault(_joinable(model, asked[position].request, position), []).append(position)
    for positions in groups.values():
        replies.update(zip(positions, _run(model, [asked[position] for position in positions]), strict=True))
    return [replies[position] for position in range(len(calls))]


def _decode(inputs: tuple[Tensor, ...], call: Call) -> _Asked:
    codec, parameters = codec_for(call.content_type)
    negotiate(call.accept, codec, False)  # an answer that nobody wants is not worked out
    if not call.body:
        raise BadRequest("The body is empty.")
    if codec.name == "raw bytes" and _is_json(call.body):
        codec = _JSON
    request = codec.decode(call.body, parameters, inputs)
    for array in request.arrays.values():
        if array.shape[:1] == (0,):
            raise BadRequest("The body has no records; send at least one.")
    return _Asked(call, codec, request)


def _is_json(body: bytes) -> bool:
    """boto3 sends application/octet-stream where ContentType was left out: a JSON body is then taken as one."""
    content = bytes(body).strip()
    if (content[:1], content[-1:]) not in ((b"[", b"]"), (b"{", b"}")):
        return False
    try:
        msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _joinable(model: ArrayModel, request: Request, position: int) -> object:
    """Equal for calls whose records can be joined."""
    if model.max_batch == 1:
        return position
    if len(request.arrays) == 1:
        return next(iter(request.arrays.values())).shape[1:]
    if len({array.shape[:1] for array in request.arrays.values()}) != 1:
        return position  # inputs of different lengths: the model knows what it means
    return tuple((name, array.shape[1:]) for name, array in request.arrays.items())


def _run(model: ArrayModel, asked: list[_Asked]) -> list[Reply]:
    each = [one.request.arrays for one in asked]
    if len(asked) > 1:
        counts = [len(next(iter(arrays.values()))) for arrays in each]
        arrays = {name: np.concatenate([arrays[name] for arrays in each]) for name in each[0]}
        replies = _together(model, asked, arrays, counts)
        if replies is not None:
            return replies
    return _one_by_one(model, asked, each)


def _together(model: ArrayModel, asked: list[_Asked], arrays: Arrays, counts: list[int]) -> list[Reply] | None:
    """One predict for all; None where it fails or its outputs are not one a record, so that each must run alone."""
    if len(asked) == 1:
        return None
    try:
        outputs = model.predict(arrays)
    except Exception:
        return None  # told by the call that fails alone
    total = sum(counts)
    if any(array.ndim == 0 or len(array) != total for array in outputs.values()):
        return None
    return [_answer(one, part) for one, part in zip(asked, _parts(outputs, counts), strict=True)]


def _parts(arrays: Arrays, counts: list[int]) -> list[Arrays]:
    parts: list[Arrays] = []
    start = 0
    for count in counts:
        end = start + count
        parts.append({name: array[start:end] for name, array in arrays.items()})
        start = end
    return parts


def _one_by_one(model: ArrayModel, asked: list[_Asked], each: list[Arrays]) -> list[Reply]:
    replies = []
    for one, arrays in zip(asked, each, strict=True):
        try:
            replies.append(_answer(one, _predict(model, arrays)))
        except BadRequest as error:
            replies.append(refusal(one.call, error))
        except Exception as error:
            replies.append(failure(one.call, error))
    return replies


def _predict(model: ArrayModel, arrays: Arrays) -> Arrays:
    """A model with a fixed batch length gets the records in pieces of that length."""
    lengths = {tensor.shape[0] if tensor.shape else None for tensor in model.inputs}
    length = lengths.pop() if len(lengths) == 1 else None
    if length is None:
        return model.predict(arrays)
    total = len(next(iter(arrays.values())))
    if total == length:
        return model.predict(arrays)
    if total % length:
        raise BadRequest(f"The model takes {length} records at a time, got {total}; send a multiple of {length}.")
    pieces = [
        model.predict({name: array[start : start + length] for name, array in arrays.items()})
        for start in range(0, total, length)
    ]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _answer(one: _Asked, outputs: Arrays) -> Reply:
    call = one.call
    try:
        codec, content_type, parameters = negotiate(call.accept, one.codec, len(outputs) > 1)
        body = codec.encode(outputs, one.request, parameters)
        if isinstance(body, bytes):
            return Reply(call.id, body, content_type)
        return Reply(call.id, body[0], content_type, 200, body[1])
    except BadRequest as error:
        return refusal(call, error)
    except Exception as error:  # an output that the codec cannot write
        return failure(call, error)


def refusal(call: Call, error: BadRequest) -> Reply:
    return Reply(call.id, error.message.encode("utf-8", "replace"), "text/plain", error.status)


def failure(call: Call, error: BaseException) -> Reply:
    """What a model's exception becomes: 500, its message, and the traceback in `detail`."""
    return failed(call, f"{type(error).__name__}: {error}", error)
