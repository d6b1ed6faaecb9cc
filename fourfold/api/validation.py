"""Checks a request's members against botocore's service model and words what is wrong as AWS does.

All failures of a request are told at once: "2 validation errors detected: Value … at 'modelName' failed to satisfy
constraint: …; …". Unknown members are dropped, as AWS ignores them.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import Any

from botocore.model import ListShape, MapShape, OperationModel, Shape, StructureShape

from fourfold.errors import FourfoldError, ValidationException

_NAMES = {bool: "TRUE_VALUE", int: "NUMBER_VALUE", float: "DECIMAL_VALUE", str: "STRING_VALUE", list: "START_ARRAY"}
_MOST_SHOWN = 10
_WIDER = {"Url": r"(https|s3|hf)://([^/]+)/?(.*)"}
"""Patterns by shape that allow more here than in AWS's models: a model may also come from a hub."""


class SerializationException(FourfoldError):
    """A member of another JSON type than the model says."""

    code = "SerializationException"
    status = 400


def validated(operation: OperationModel, params: dict[str, Any]) -> dict[str, Any]:
    """The known members of a request, converted: timestamps to seconds since the epoch, blobs to bytes.

    Raises:
        ValidationException: members break constraints; the message names each.
        SerializationException: a member has the wrong type.
    """
    if operation.input_shape is None:
        return {}
    problems: list[str] = []
    result: dict[str, Any] = _structure(operation.input_shape, params, "", problems)
    if problems:
        count = len(problems)
        shown = "; ".join(problems[:_MOST_SHOWN])
        raise ValidationException(f"{count} validation error{'s' if count > 1 else ''} detected: {shown}")
    return result


def _convert(shape: Shape, value: Any, path: str, problems: list[str]) -> Any:
    return _CONVERTERS[shape.type_name](shape, value, path, problems)


def _structure(shape: StructureShape, value: Any, path: str, problems: list[str]) -> Any:
    if not isinstance(value, dict):
        raise _wrong_type(value, "structure", path)
    result = {}
    for name, member in shape.members.items():
        given = value.get(name)
        inner = f"{path}.{_camel(name)}" if path else _camel(name)
        if given is not None:
            result[name] = _convert(member, given, inner, problems)
        elif name in shape.required_members:
            problems.append(f"Value null at '{inner}' failed to satisfy constraint: Member must not be null")
    if shape.metadata.get("union") and len(result) != 1:
        problems.append(
            f"Value at '{path}' failed to satisfy constraint: Exactly one of {', '.join(shape.members)} must be set"
        )
    return result


def _list(shape: ListShape, value: Any, path: str, problems: list[str]) -> Any:
    if not isinstance(value, list):
        raise _wrong_type(value, "list", path)
    _length(shape, len(value), value, path, problems)
    return [_convert(shape.member, item, f"{path}.{n}.member", problems) for n, item in enumerate(value, 1)]


def _map(shape: MapShape, value: Any, path: str, problems: list[str]) -> Any:
    if not isinstance(value, dict):
        raise _wrong_type(value, "map", path)
    _length(shape, len(value), value, path, problems)
    return {
        _convert(shape.key, name, f"{path}.{name}.key", problems): _convert(
            shape.value, item, f"{path}.{name}.member", problems
        )
        for name, item in value.items()
    }


def _string(shape: Shape, value: Any, path: str, problems: list[str]) -> Any:
    if not isinstance(value, str):
        raise _wrong_type(value, "string", path)
    enum = shape.metadata.get("enum")
    if enum and value not in enum:
        problems.append(_problem(value, path, f"Member must satisfy enum value set: [{', '.join(enum)}]"))
        return value
    _length(shape, len(value), value, path, problems)
    pattern = _WIDER.get(shape.name) or shape.metadata.get("pattern")
    if pattern and not _pattern(pattern)(value):
        problems.append(_problem(value, path, f"Member must satisfy regular expression pattern: {pattern}"))
    return value


def _integer(shape: Shape, value: Any, path: str, problems: list[str]) -> Any:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong_type(value, "integer", path)
    _range(shape, value, path, problems)
    return value


def _number(shape: Shape, value: Any, path: str, problems: list[str]) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong_type(value, "number", path)
    _range(shape, value, path, problems)
    return float(value)


def _boolean(_shape: Shape, value: Any, path: str, _problems: list[str]) -> Any:
    if not isinstance(value, bool):
        raise _wrong_type(value, "boolean", path)
    return value


def _timestamp(_shape: Shape, value: Any, path: str, _problems: list[str]) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise _wrong_type(value, "timestamp", path) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _blob(shape: Shape, value: Any, path: str, problems: list[str]) -> Any:
    if isinstance(value, str):
        try:
            value = base64.b64decode(value, validate=True)
        except binascii.Error:
            raise _wrong_type(value, "blob", path) from None
    _length(shape, len(value), value, path, problems)
    return value


_CONVERTERS: dict[str, Callable[[Any, Any, str, list[str]], Any]] = {
    "structure": _structure, "list": _list, "map": _map, "string": _string, "character": _string,
    "integer": _integer, "long": _integer, "float": _number, "double": _number, "boolean": _boolean,
    "timestamp": _timestamp, "blob": _blob,
}  # fmt: skip


def _length(shape: Shape, length: int, value: Any, path: str, problems: list[str]) -> None:
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    if least is not None and length < least:
        problems.append(_problem(value, path, f"Member must have length greater than or equal to {least}"))
    elif most is not None and length > most:
        problems.append(_problem(value, path, f"Member must have length less than or equal to {most}"))


def _range(shape: Shape, value: float, path: str, problems: list[str]) -> None:
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    if least is not None and value < float(least):
        problems.append(_problem(value, path, f"Member must have value greater than or equal to {least}"))
    elif most is not None and value > float(most):
        problems.append(_problem(value, path, f"Member must have value less than or equal to {most}"))


def _problem(value: Any, path: str, constraint: str) -> str:
    shown = str(value)
    shown = shown if len(shown) <= 200 else shown[:200] + "..."
    return f"Value '{shown}' at '{path}' failed to satisfy constraint: {constraint}"


def _wrong_type(value: Any, wanted: str, path: str) -> SerializationException:
    found = _NAMES.get(type(value), "START_OBJECT")
    return SerializationException(f"{found} cannot be converted to {wanted} at '{path}'")


def _camel(name: str) -> str:
    """`EndpointName` as AWS writes it in messages: `endpointName`."""
    return name[:1].lower() + name[1:]


@cache
def _pattern(pattern: str) -> Callable[[str], object]:
    """A Java pattern as a check of the whole value. Unicode classes become Python's nearest, which are wider."""
    for java, python in ((r"\p{L}", r"\w"), (r"\p{N}", r"\d"), (r"\p{Z}", r"\s"), (r"\p{M}", r"\w"), (r"\p{S}", "")):
        pattern = pattern.replace(java, python)
    try:
        return re.compile(pattern).fullmatch
    except re.error:
        return lambda _value: True  # what Python cannot express is let through: AWS's own check is not stricter
