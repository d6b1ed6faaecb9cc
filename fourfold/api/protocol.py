"""Bytes to calls and answers to bytes, from botocore's own service models.

    contract = Contract("sagemaker")
    call = contract.parse(request…)                     ApiCall with validated members
    contract.serialize(call.operation, answer)          status, headers, body
    contract.serialize_error(error)

Protocols: JSON 1.0 and 1.1, query (form in, XML out), REST-JSON, Smithy's RPC in CBOR. A service is a class whose
methods are marked with `@operation("CreateModel")`; parsing and writing need no code of its own.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable, Callable, Container, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple, Protocol, TypeVar, cast
from urllib.parse import parse_qsl, unquote
from xml.sax.saxutils import escape

import botocore.loaders
import msgspec
from botocore.model import ListShape, MapShape, OperationModel, ServiceModel, Shape, StructureShape

from fourfold.api import cbor
from fourfold.api.validation import SerializationException, validated
from fourfold.clock import iso
from fourfold.errors import FourfoldError, UnknownOperationException

FORM = "application/x-www-form-urlencoded"
CBOR = "smithy-rpc-v2-cbor"
_CBOR_HEADERS = {"smithy-protocol": "rpc-v2-cbor", "content-type": "application/cbor"}

F = TypeVar("F", bound=Callable[..., Awaitable[dict[str, Any]]])


@dataclass(frozen=True)
class ApiCall:
    """One call of an AWS API, parsed and validated."""

    service: str
    operation: str
    params: dict[str, Any] = field(default_factory=dict)
    region: str = ""
    request_id: str = ""


class HttpRequest(NamedTuple):
    """What the parser needs of an HTTP request."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


class HttpAnswer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Operation:
    """An operation that is implemented, and what the page of compatibility cannot read from its code.

    Attributes:
        name: as in AWS's service model.
        kept: members (dotted paths, without list marks, `*` for any text) that are accepted and have no effect,
            although code names them.
        refused: members that are answered with an error, written alike.
    """

    name: str
    kept: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


class _Marked(Protocol):
    """A function that bears what `@operation` says about it."""

    operation: Operation


def operation(name: str, *, kept: tuple[str, ...] = (), refused: tuple[str, ...] = ()) -> Callable[[F], F]:
    """Marks a method `async def f(self, call: ApiCall) -> dict` as the implementation of an `Operation`."""

    def mark(method: F) -> F:
        cast("_Marked", method).operation = Operation(name, kept, refused)
        return method

    return mark


def operations(service: object) -> dict[str, Callable[[ApiCall], Awaitable[dict[str, Any]]]]:
    """The operations that an object (or a class) implements, by name."""
    methods = (getattr(service, name) for name in dir(service) if not name.startswith("__"))
    return {marked(method).name: method for method in methods if hasattr(method, "operation")}


def marked(method: Callable[..., object]) -> Operation:
    """What `@operation` says about a method."""
    return cast("_Marked", method).operation


class Contract:
    """One service's wire contract.

    Args:
        name: botocore's name of the service, e.g. `sagemaker` or `application-autoscaling`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.model = ServiceModel(_load(name), name)
        protocols = self.model.metadata.get("protocols", [])
        self.protocol: str = "json" if "json" in protocols else self.model.protocol
        self.target_prefix: str = self.model.metadata.get("targetPrefix", "")
        self.signing_name: str = self.model.metadata.get("signingName", self.model.metadata["endpointPrefix"])

    def parse(
        self, request: HttpRequest, here: Container[str] | None = None, *, region: str = "", request_id: str = ""
    ) -> ApiCall:
        """The call that a request makes.

        Args:
            request: as it came.
            here: operations that are implemented; another is refused before its members are looked at. None: all.

        Raises:
            UnknownOperationException: the service has no such operation, or it is not here.
            ValidationException, SerializationException: its members are wrong.
        """
        name, params = _PARSERS[self.spoken(request)](self, request)
        model = self.operation(name)
        if here is not None and name not in here:
            raise UnknownOperationException(
                f"Fourfold does not implement {name} of {self.name}. "
                "docs/reference/compatibility.md lists what it does."
            )
        return ApiCall(self.name, name, validated(model, params), region, request_id)

    def operation(self, name: str) -> OperationModel:
        """The model of an operation. Raises UnknownOperationException."""
        if name not in self.model.operation_names:
            raise UnknownOperationException(f"The service {self.name} has no operation {name!r}.")
        return self.model.operation_model(name)

    def spoken(self, request: HttpRequest) -> str:
        """The protocol of a request. Of a service that has several, JSON has a target, query a form, CBOR a header."""
        several = self.model.metadata.get("protocols", [])
        if CBOR in several and request.headers.get("smithy-protocol") == _CBOR_HEADERS["smithy-protocol"]:
            return CBOR
        if "json" in several and "x-amz-target" in request.headers:
            return "json"
        if "query" in several and request.headers.get("content-type", "").startswith(FORM):
            return "query"
        return self.protocol

    def serialize(self, name: str, answer: dict[str, Any], request_id: str, protocol: str | None = None) -> HttpAnswer:
        """An operation's answer in the request's protocol. Members that are None are left out."""
        protocol = protocol or self.protocol
        shape = self.operation(name).output_shape
        headers = {"x-amzn-requestid": request_id}
        if protocol == "query":
            body = _xml_answer(self.model, name, shape, answer, request_id)
            return HttpAnswer(200, headers | {"content-type": "text/xml"}, body)
        if protocol == CBOR:
            return HttpAnswer(
                200, headers | _CBOR_HEADERS, cbor.encode({} if shape is None else _to_cbor(shape, answer))
            )
        content = {} if shape is None else _to_json(shape, answer)
        headers["content-type"] = f"application/x-amz-json-{self.model.metadata.get('jsonVersion', '1.1')}"
        if protocol == "rest-json":
            headers["content-type"] = "application/json"
        status = self.operation(name).http.get("responseCode", 200)
        return HttpAnswer(status, headers, msgspec.json.encode(content))

    def serialize_error(self, error: FourfoldError, request_id: str, protocol: str | None = None) -> HttpAnswer:
        """An error in the request's protocol. Control-plane errors are 400 in JSON services, 4xx elsewhere."""
        headers = {"x-amzn-requestid": request_id}
        if (protocol or self.protocol) == "query":
            kind = "Sender" if error.status < 500 else "Receiver"
            body = (
                f"<ErrorResponse><Error><Type>{kind}</Type><Code>{escape(error.code)}</Code>"
                f"<Message>{escape(error.message)}</Message></Error><RequestId>{request_id}</RequestId></ErrorResponse>"
            ).encode()
            return HttpAnswer(error.status, headers | {"content-type": "text/xml"}, body)
        headers |= {"x-amzn-errortype": error.code, "content-type": "application/x-amz-json-1.1"}
        if "awsQueryCompatible" in self.model.metadata:
            headers["x-amzn-query-error"] = f"{error.code};{'Sender' if error.status < 500 else 'Receiver'}"
        content = {"__type": error.code, "message": error.message, "Message": error.message}
        if protocol == CBOR:
            return HttpAnswer(error.status, headers | _CBOR_HEADERS, cbor.encode(content))
        body = msgspec.json.encode(content)
        return HttpAnswer(error.status, headers, body)


@cache
def _load(name: str) -> Any:
    return botocore.loaders.Loader().load_service_model(name, "service-2")


# Requests


def _parse_json(contract: Contract, request: HttpRequest) -> tuple[str, dict[str, Any]]:
    name = request.headers.get("x-amz-target", "").rpartition(".")[2]
    return name, _json_object(request.body)


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        params = msgspec.json.decode(body or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SerializationException(f"The request body is not JSON: {error}") from None
    if not isinstance(params, dict):
        raise SerializationException("The request body must be a JSON object.")
    return params


def _parse_cbor(contract: Contract, request: HttpRequest) -> tuple[str, dict[str, Any]]:
    """`POST /service/<service>/operation/<operation>`; no body is no members."""
    try:
        params = cbor.decode(request.body) if request.body else {}
    except cbor.CborError as error:
        raise SerializationException(f"The request body is not CBOR: {error}.") from None
    if not isinstance(params, dict):
        raise SerializationException("The request body must be a CBOR map.")
    return request.path.rpartition("/operation/")[2], params


def _parse_query(contract: Contract, request: HttpRequest) -> tuple[str, dict[str, Any]]:
    try:
        form = dict(parse_qsl(request.body.decode() or request.query, keep_blank_values=True))
    except UnicodeDecodeError:
        raise SerializationException("The request body is not a form in UTF-8.") from None
    name = form.get("Action", "")
    shape = contract.operation(name).input_shape
    return name, {} if shape is None else _from_form(shape, form, "")


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
    return None if text is None else _scalar(shape, text)


def _scalar(shape: Shape, text: str) -> Any:
    """A text of a form, path or query as the JSON value that the shape wants."""
    try:
        if shape.type_name in ("integer", "long"):
            return int(text)
        if shape.type_name in ("float", "double"):
            return float(text)
    except ValueError:
        raise SerializationException(f"{text!r} cannot be converted to {shape.type_name}") from None
    if shape.type_name == "boolean":
        return text.lower() == "true"
    return text


def _parse_rest(contract: Contract, request: HttpRequest) -> tuple[str, dict[str, Any]]:
    for method, pattern, name in _rest_routes(contract.name):
        found = pattern.fullmatch(request.path) if method == request.method else None
        if found is None:
            continue
        shape = contract.operation(name).input_shape
        params = _json_object(request.body) if request.body else {}
        if shape is not None:
            params |= _outside_body(shape, request, found.groupdict())
        return name, params
    raise UnknownOperationException(f"The service {contract.name} has no operation {request.method} {request.path}.")


def _outside_body(shape: StructureShape, request: HttpRequest, path: Mapping[str, str]) -> dict[str, Any]:
    query = parse_qsl(request.query, keep_blank_values=True)
    params: dict[str, Any] = {}
    for member_name, member in shape.members.items():
        location, wire = member.serialization.get("location"), member.serialization.get("name", member_name)
        if location == "uri":
            params[member_name] = _scalar(member, unquote(path[_group(wire)]))
        elif location == "querystring":
            values = [value for name, value in query if name == wire]
            if values:
                params[member_name] = values if isinstance(member, ListShape) else _scalar(member, values[-1])
        elif location == "header" and wire.lower() in request.headers:
            params[member_name] = _scalar(member, request.headers[wire.lower()])
    return params


@cache
def _rest_routes(service: str) -> list[tuple[str, re.Pattern[str], str]]:
    model = ServiceModel(_load(service), service)
    routes = []
    for name in model.operation_names:
        http = model.operation_model(name).http
        path = http["requestUri"].partition("?")[0]
        pattern = re.sub(
            r"\\{(\w[\w-]*)(\\\+)?\\}",
            lambda match: f"(?P<{_group(match[1])}>{'.+' if match[2] else '[^/]+'})",
            re.escape(path).replace(r"\-", "-"),
        )
        routes.append((http["method"], re.compile(pattern), name))
    return routes


def _group(name: str) -> str:
    return name.replace("-", "_")


_PARSERS: dict[str, Callable[[Contract, HttpRequest], tuple[str, dict[str, Any]]]] = {
    "json": _parse_json,
    "query": _parse_query,
    "rest-json": _parse_rest,
    CBOR: _parse_cbor,
}


# Answers


def _to_json(shape: Shape, value: Any) -> Any:
    match shape:
        case StructureShape():
            return {
                shape.members[name].serialization.get("name", name): _to_json(shape.members[name], item)
                for name, item in value.items()
                if item is not None and name in shape.members
            }
        case ListShape():
            return [_to_json(shape.member, item) for item in value]
        case MapShape():
            return {name: _to_json(shape.value, item) for name, item in value.items()}
    if shape.type_name == "blob":
        return base64.b64encode(value).decode()
    if shape.type_name == "timestamp" and shape.serialization.get("timestampFormat") == "iso8601":
        return iso(value, "milliseconds")
    return value


def _to_cbor(shape: Shape, value: Any) -> Any:
    match shape:
        case StructureShape():
            return {
                name: _to_cbor(shape.members[name], item)
                for name, item in value.items()
                if item is not None and name in shape.members
            }
        case ListShape():
            return [_to_cbor(shape.member, item) for item in value]
        case MapShape():
            return {name: _to_cbor(shape.value, item) for name, item in value.items()}
    return cbor.Moment(value) if shape.type_name == "timestamp" else value


def _xml_answer(
    model: ServiceModel, name: str, shape: StructureShape | None, answer: dict[str, Any], request_id: str
) -> bytes:
    namespace = model.metadata.get("xmlNamespace", "")
    result = "" if shape is None else "".join(_members_xml(shape, answer))
    wrapper = shape.serialization.get("resultWrapper", f"{name}Result") if shape is not None else f"{name}Result"
    return (
        f'<{name}Response xmlns="{namespace}"><{wrapper}>{result}</{wrapper}>'
        f"<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{name}Response>"
    ).encode()


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
