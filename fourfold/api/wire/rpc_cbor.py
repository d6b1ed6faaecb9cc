"""Smithy's RPC version 2 in CBOR: `POST /service/<service>/operation/<operation>`, members in the body."""

from __future__ import annotations

from typing import Any

from botocore.model import ListShape, MapShape, OperationModel, ServiceModel, Shape, StructureShape

from fourfold.api import cbor
from fourfold.api.protocol import HttpAnswer, HttpRequest
from fourfold.api.validation import SerializationException
from fourfold.api.wire import aws_json
from fourfold.errors import FourfoldError

PROTOCOL = "rpc-v2-cbor"
"""What the header `smithy-protocol` says."""

_HEADERS = {"smithy-protocol": PROTOCOL, "content-type": "application/cbor"}


def parse(model: ServiceModel, request: HttpRequest) -> tuple[str, dict[str, Any]]:
    try:
        params = cbor.decode(request.body) if request.body else {}
    except cbor.CborError as error:
        raise SerializationException(f"The request body is not CBOR: {error}.") from None
    if not isinstance(params, dict):
        raise SerializationException("The request body must be a CBOR map.")
    return request.path.rpartition("/operation/")[2], params


def answer(operation: OperationModel, answer: dict[str, Any], request_id: str) -> HttpAnswer:
    shape = operation.output_shape
    body = cbor.encode({} if shape is None else _to_cbor(shape, answer))
    return HttpAnswer(200, {"x-amzn-requestid": request_id} | _HEADERS, body)


def error(model: ServiceModel, error: FourfoldError, request_id: str) -> HttpAnswer:
    headers = aws_json.error_headers(model, error, request_id) | _HEADERS
    return HttpAnswer(error.status, headers, cbor.encode(aws_json.error_members(error)))


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
