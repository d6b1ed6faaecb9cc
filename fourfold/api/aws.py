"""The AWS services of one server, except S3 and the invocation calls: tells them apart and calls their operations."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import ClassVar, Protocol
from urllib.parse import unquote

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fourfold.api.compression import unpack
from fourfold.api.contract import Contract
from fourfold.api.fastlane import request_id
from fourfold.api.protocol import HttpAnswer, HttpRequest, operations
from fourfold.errors import FourfoldError, InternalFailure, UnknownOperationException

log = logging.getLogger(__name__)

CONTROL_BODY = 4 * 1024 * 1024
"""Bytes of a request to a service that is not the runtime or S3."""
_CREDENTIAL = re.compile(r"Credential=[^/,&]*/[^/]*/[^/]*/([^/]*)/aws4_request")
"""The service in a credential's scope, in a header or a query."""


class Implementation(Protocol):
    """An object whose methods are marked with `@operation`."""

    service: ClassVar[str]
    """botocore's name of the service that the operations belong to."""


class Service:
    """One AWS service: its contract and what implements its operations."""

    def __init__(self, *implementations: Implementation) -> None:
        (name,) = {part.service for part in implementations}
        self.contract = Contract(name)
        self.operations = {
            name: method for part in implementations for name, method in operations(part).items()
        }  # fmt: skip

    async def answer(self, request: HttpRequest, region: str, id: str, access_key_id: str = "") -> HttpAnswer:
        """Parse, call, serialize; every failure in the service's own form."""
        contract = self.contract
        protocol = contract.spoken(request)
        encoding = request.headers.get("content-encoding")
        try:
            if encoding:
                request = request._replace(body=unpack(request.body, encoding, CONTROL_BODY))
            call = contract.parse(request, self.operations, region=region, request_id=id, access_key_id=access_key_id)
            return contract.serialize(call.operation, await self.operations[call.operation](call), id, protocol)
        except FourfoldError as error:
            return contract.serialize_error(error, id, protocol)
        except Exception as error:
            log.exception("operation failed inside the server", extra={"service": contract.name, "request": id})
            failure = InternalFailure(f"{type(error).__name__} inside the server; its log has request {id}.")
            return contract.serialize_error(failure, id, protocol)


class AwsApi:
    """ASGI application for several services.

    A service is told by `X-Amz-Target`, else by the name that the request is signed for, else by its path.
    """

    def __init__(self, services: Iterable[Service]) -> None:
        self.services = {service.contract.name: service for service in services}
        self._by_target = {s.contract.target_prefix: s for s in self.services.values() if s.contract.target_prefix}
        self._by_signing_name = {s.contract.signing_name: s for s in self.services.values()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        id = request_id().decode()
        identity = scope.get("state", {}).get("identity")
        service = self._find(request, getattr(identity, "service", ""))
        if service is None:
            answer = _unknown(request, getattr(identity, "service", ""), id)
        else:
            parts = HttpRequest(
                request.method, _path(request), request.url.query, request.headers, await request.body()
            )
            region, access_key_id = getattr(identity, "region", ""), getattr(identity, "access_key_id", "")
            answer = await service.answer(parts, region, id, access_key_id)
        await Response(answer.body, answer.status, answer.headers)(scope, receive, send)

    def refusal(self, scope: Scope, error: FourfoldError) -> Response:
        """An error before the call was read, in the form of the service that it seems to be for."""
        request = Request(scope)
        signed = _CREDENTIAL.search(request.headers.get("authorization", "") or unquote(request.url.query))
        service = self._find(request, signed[1] if signed else "") or next(iter(self.services.values()))
        protocol = service.contract.spoken(HttpRequest(request.method, "", "", request.headers, b""))
        answer = service.contract.serialize_error(error, request_id().decode(), protocol)
        return Response(answer.body, answer.status, answer.headers)

    def _find(self, request: Request, signed_for: str) -> Service | None:
        target = request.headers.get("x-amz-target")
        if target:
            return self._by_target.get(target.rpartition(".")[0])
        if signed_for:
            return self._by_signing_name.get(signed_for)
        return None


def _unknown(request: Request, signed_for: str, id: str) -> HttpAnswer:
    what = request.headers.get("x-amz-target") or signed_for or f"{request.method} {request.url.path}"
    error = UnknownOperationException(f"Fourfold has no service for {what!r}: see docs/reference/compatibility.md.")
    body = msgspec.json.encode({"__type": error.code, "message": error.message})
    return HttpAnswer(404, {"x-amzn-errortype": error.code, "x-amzn-requestid": id}, body)


def _path(request: Request) -> str:
    """The path as it was sent: an ARN in it has its slashes escaped."""
    return str(request.scope["raw_path"], "latin-1")
