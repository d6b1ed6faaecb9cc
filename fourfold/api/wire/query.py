"""Query: a form names the operation and holds its members; answers are XML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from botocore.model import ListShape, MapShape, OperationModel, ServiceModel, Shape, StructureShape

from fourfold.api.protocol import HttpAnswer, HttpRequest
from fourfold.api.validation import SerializationException
from fourfold.api.wire.base import find_operation, scalar
from fourfold.clock import iso
from fourfold.errors import FourfoldError

FORM = "application/x-www-form-urlencoded"


def parse(model: ServiceModel, request: HttpRequest) -> tuple[str, dict[str, Any]]:
    try:
        form = dict(parse_qsl(request.body.decode() or request.query, keep_blank_values=True))
    except UnicodeDecodeError:
        raise SerializationException("The request body is not a form in UTF-8.") from None
    name = form.get("Action", "")
    shape = find_operation(model, name).input_shape
    return name, {} if shape is None else _from_form(shape, form, "")


def answer(operation: OperationModel, answer: dict[str, Any], request_id: str) -> HttpAnswer:
    name, shape = operation.name, operation.output_shape
    namespace = operation.service_model.metadata.get("xmlNamespace", "")
    result = "" if shape is None else "".join(_members_xml(shape, answer))
    wrapper = f"{name}Result" if shape is None else shape.serialization.get("resultWrapper", f"{name}Result")
    body = (
        f'<{name}Response xmlns="{namespace}"><{wrapper}>{result}</{wrapper}>'
        f"<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{name}Response>"
    )
    return _xml(200, body, request_id)


def error(model: ServiceModel, error: FourfoldError, request_id: str) -> HttpAnswer:
    kind = "Sender" if error.status < 500 else "Receiver"
    body = (
        f"<ErrorResponse><Error><Type>{kind}</Type><Code>{escape(error.code)}</Code>"
        f"<Message>{escape(error.message)}</Message></Error><RequestId>{request_id}</RequestId></ErrorResponse>"
    )
    return _xml(error.status, body, request_id)


def _xml(status: int, body: str, request_id: str) -> HttpAnswer:
    return HttpAnswer(status, {"x-amzn-requestid": request_id, "content-type": "text/xml"}, body.encode())


def _from_form(shape: Shape, form: dict[str, str], prefix: str) -> Any:
    """The value at `prefix` of a form: `Tags.member.1.Key=a` becomes {"Tags": [{"Key": "a"}]}. None where absent."""
    match shape:
        case StructureShape():
            wires = {name: member.serialization.get("name", name) for name, member in shape.members.items()}
            found = {
                name: _from_form(member, form, f"{prefix}.{wires[name]}" if prefix else wires[name])
                for name, member in shape.members.items()
            }
            found = {name: value for name, value in found.items() if value is not None}
            return found if found or not prefix else None
        case ListShape():
            inner = shape.member.serialization.get("name", "member")
            stem = prefix if shape.serialization.get("flattened") else f"{prefix}.{inner}"
            items: list[Any] = []
            while (item := _from_form(shape.member, form, f"{stem}.{len(items) + 1}")) is not None:
                items.append(item)
            return items or None
        case MapShape():
            names = shape.key.serialization.get("name", "key"), shape.value.serialization.get("name", "value")
            stem = prefix if shape.serialization.get("flattened") else f"{prefix}.entry"
            entries: dict[str, Any] = {}
            number = 1
            while (key := form.get(f"{stem}.{number}.{names[0]}")) is not None:
                entries[key] = _from_form(shape.value, form, f"{stem}.{number}.{names[1]}")
                number += 1
            return entries or None
    text = form.get(prefix)
    return None if text is None else scalar(shape, text)


def _members_xml(shape: StructureShape, value: Mapping[str, Any]) -> list[str]:
    return [
        _to_xml(shape.members[name], item, shape.members[name].serialization.get("name", name))
        for name, item in value.items()
        if item is not None and name in shape.members
    ]


def _to_xml(shape: Shape, value: Any, tag: str) -> str:
    match shape:
        case StructureShape():
            return f"<{tag}>{''.join(_members_xml(shape, value))}</{tag}>"
        case ListShape():
            flat = shape.serialization.get("flattened")
            inner = tag if flat else shape.member.serialization.get("name", "member")
            items = "".join(_to_xml(shape.member, item, inner) for item in value)
            return items if flat else f"<{tag}>{items}</{tag}>"
        case MapShape():
            names = shape.key.serialization.get("name", "key"), shape.value.serialization.get("name", "value")
            entries = "".join(
                f"<entry>{_to_xml(shape.key, key, names[0])}{_to_xml(shape.value, item, names[1])}</entry>"
                for key, item in value.items()
            )
            return f"<{tag}>{entries}</{tag}>"
    if shape.type_name == "timestamp":
        value = iso(value, "milliseconds")
    elif shape.type_name == "boolean":
        value = "true" if value else "false"
    return f"<{tag}>{escape(str(value))}</{tag}>"
