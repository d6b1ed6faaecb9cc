"""JSON 1.0 and 1.1: `X-Amz-Target` names the operation, the body holds its members."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
from botocore.model import ListShape, MapShape, OperationModel, ServiceModel, Shape, StructureShape

from fourfold.api.protocol import HttpAnswer, HttpRequest
from fourfold.api.validation import SerializationException
from fourfold.clock import iso
from fourfold.errors import FourfoldError


def parse(model: ServiceModel, request: HttpRequest) -> tuple[str, dict[str, Any]]:
    name = request.headers.get("x-amz-target", "").rpartition(".")[2]
    return name, json_object(request.body)


def answer(operation: OperationModel, answer: dict[str, Any], request_id: str) -> HttpAnswer:
    version = operation.service_model.metadata.get("jsonVersion", "1.1")
    return json_answer(operation, answer, request_id, f"application/x-amz-json-{version}")


def error(model: ServiceModel, error: FourfoldError, request_id: str) -> HttpAnswer:
    headers = {"content-type": "application/x-amz-json-1.1"} | error_headers(model, error, request_id)
    return HttpAnswer(error.status, headers, msgspec.json.encode(error_members(error)))


def json_answer(operation: OperationModel, answer: dict[str, Any], request_id: str, media: str) -> HttpAnswer:
    """An answer as a JSON document of this content type."""
    shape = operation.output_shape
    content = {} if shape is None else _to_json(shape, answer)
    headers = {"x-amzn-requestid": request_id, "content-type": media}
    return HttpAnswer(operation.http.get("responseCode", 200), headers, msgspec.json.encode(content))


def error_headers(model: ServiceModel, error: FourfoldError, request_id: str) -> dict[str, str]:
    """What every protocol but query says of an error in its headers."""
    headers = {"x-amzn-requestid": request_id, "x-amzn-errortype": error.code}
    if "awsQueryCompatible" in model.metadata:
        headers["x-amzn-query-error"] = f"{error.code};{'Sender' if error.status < 500 else 'Receiver'}"
    return headers


def error_members(error: FourfoldError) -> dict[str, str]:
    """The body of an error; clients read either of both messages."""
    return {"__type": error.code, "message": error.message, "Message": error.message}


def json_object(body: bytes) -> dict[str, Any]:
    """A body as members; no body is none. Raises SerializationException."""
    try:
        params = msgspec.json.decode(body or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SerializationException(f"The request body is not JSON: {error}") from None
    if not isinstance(params, dict):
        raise SerializationException("The request body must be a JSON object.")
    return params


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
