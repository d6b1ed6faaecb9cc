"""REST-JSON: the operation in method and path, members in path, query, headers and a JSON body."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, unquote

from botocore.model import ListShape, OperationModel, ServiceModel, StructureShape

from fourfold.api.protocol import HttpAnswer, HttpRequest
from fourfold.api.wire import aws_json
from fourfold.api.wire.base import scalar, service_model
from fourfold.errors import FourfoldError, UnknownOperationException


def parse(model: ServiceModel, request: HttpRequest) -> tuple[str, dict[str, Any]]:
    for method, pattern, name in _rest_routes(model.service_name):
        found = pattern.fullmatch(request.path) if method == request.method else None
        if found is None:
            continue
        shape = model.operation_model(name).input_shape
        params = aws_json.json_object(request.body) if request.body else {}
        if shape is not None:
            params |= _outside_body(shape, request, found.groupdict())
        return name, params
    raise UnknownOperationException(
        f"The service {model.service_name} has no operation {request.method} {request.path}."
    )


def answer(operation: OperationModel, answer: dict[str, Any], request_id: str) -> HttpAnswer:
    return aws_json.json_answer(operation, answer, request_id, "application/json")


def error(model: ServiceModel, error: FourfoldError, request_id: str) -> HttpAnswer:
    return aws_json.error(model, error, request_id)


def _outside_body(shape: StructureShape, request: HttpRequest, path: Mapping[str, str]) -> dict[str, Any]:
    query = parse_qsl(request.query, keep_blank_values=True)
    params: dict[str, Any] = {}
    for member_name, member in shape.members.items():
        location, wire = member.serialization.get("location"), member.serialization.get("name", member_name)
        if location == "uri":
            params[member_name] = scalar(member, unquote(path[_group(wire)]))
        elif location == "querystring":
            values = [value for name, value in query if name == wire]
            if values:
                params[member_name] = values if isinstance(member, ListShape) else scalar(member, values[-1])
        elif location == "header" and wire.lower() in request.headers:
            params[member_name] = scalar(member, request.headers[wire.lower()])
    return params


@cache
def _rest_routes(service: str) -> list[tuple[str, re.Pattern[str], str]]:
    model = service_model(service)
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
