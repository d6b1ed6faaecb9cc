"""One service's wire contract: bytes to calls and answers to bytes, from botocore's own service model.

contract = Contract("sagemaker")
call = contract.parse(request…)                     ApiCall with validated members
contract.serialize(call.operation, answer)          status, headers, body
contract.serialize_error(error)
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from botocore.model import OperationModel

from fourfold.api.protocol import ApiCall, HttpAnswer, HttpRequest
from fourfold.api.validation import validated
from fourfold.api.wire import aws_json, query, rest_json, rpc_cbor
from fourfold.api.wire.base import Wire, find_operation, service_model
from fourfold.errors import FourfoldError, UnknownOperationException

CBOR = "smithy-rpc-v2-cbor"

_WIRES: dict[str, Wire] = {"json": aws_json, "query": query, "rest-json": rest_json, CBOR: rpc_cbor}


class Contract:
    """One service's wire contract.

    Args:
        name: botocore's name of the service, e.g. `sagemaker` or `application-autoscaling`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.model = service_model(name)
        protocols = self.model.metadata.get("protocols", [])
        self.protocol: str = "json" if "json" in protocols else self.model.protocol
        self.target_prefix: str = self.model.metadata.get("targetPrefix", "")
        self.signing_name: str = self.model.metadata.get("signingName", self.model.metadata["endpointPrefix"])

    def parse(
        self,
        request: HttpRequest,
        here: Container[str] | None = None,
        *,
        region: str = "",
        request_id: str = "",
        access_key_id: str = "",
    ) -> ApiCall:
        """The call that a request makes.

        Args:
            request: as it came.
            here: operations that are implemented; another is refused before its members are looked at. None: all.

        Raises:
            UnknownOperationException: the service has no such operation, or it is not here.
            ValidationException, SerializationException: its members are wrong.
        """
        name, params = _WIRES[self.spoken(request)].parse(self.model, request)
        model = self.operation(name)
        if here is not None and name not in here:
            raise UnknownOperationException(
                f"Fourfold does not implement {name} of {self.name}. "
                "docs/reference/compatibility.md lists what it does."
            )
        return ApiCall(self.name, name, validated(model, params), region, request_id, access_key_id)

    def operation(self, name: str) -> OperationModel:
        """The model of an operation. Raises UnknownOperationException."""
        return find_operation(self.model, name)

    def spoken(self, request: HttpRequest) -> str:
        """The protocol of a request. Of a service that has several, JSON has a target, query a form, CBOR a header."""
        several = self.model.metadata.get("protocols", [])
        if CBOR in several and request.headers.get("smithy-protocol") == rpc_cbor.PROTOCOL:
            return CBOR
        if "json" in several and "x-amz-target" in request.headers:
            return "json"
        if "query" in several and request.headers.get("content-type", "").startswith(query.FORM):
            return "query"
        return self.protocol

    def serialize(self, name: str, answer: dict[str, Any], request_id: str, protocol: str | None = None) -> HttpAnswer:
        """An operation's answer in the request's protocol. Members that are None are left out."""
        return _WIRES[protocol or self.protocol].answer(self.operation(name), answer, request_id)

    def serialize_error(self, error: FourfoldError, request_id: str, protocol: str | None = None) -> HttpAnswer:
        """An error in the request's protocol. Control-plane errors are 400 in JSON services, 4xx elsewhere."""
        return _WIRES[protocol or self.protocol].error(self.model, error, request_id)
