"""What a protocol does, and what several of them share."""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol

import botocore.loaders
from botocore.model import OperationModel, ServiceModel, Shape

from fourfold.api.protocol import HttpAnswer, HttpRequest
from fourfold.api.validation import SerializationException
from fourfold.errors import FourfoldError, UnknownOperationException


class Wire(Protocol):
    """One of AWS's protocols."""

    def parse(self, model: ServiceModel, request: HttpRequest) -> tuple[str, dict[str, Any]]:
        """The operation that a request names, and its members as the client sent them.

        Raises:
            UnknownOperationException: the service has no such operation.
            SerializationException: the request is not in this protocol.
        """

    def answer(self, operation: OperationModel, answer: dict[str, Any], request_id: str) -> HttpAnswer:
        """An operation's answer. Members that are None are left out."""

    def error(self, model: ServiceModel, error: FourfoldError, request_id: str) -> HttpAnswer:
        """What went wrong."""


@cache
def service_model(name: str) -> ServiceModel:
    """botocore's model of a service, e.g. `sagemaker`."""
    return ServiceModel(botocore.loaders.Loader().load_service_model(name, "service-2"), name)


def find_operation(model: ServiceModel, name: str) -> OperationModel:
    """The model of an operation. Raises UnknownOperationException."""
    if name not in model.operation_names:
        raise UnknownOperationException(f"The service {model.service_name} has no operation {name!r}.")
    return model.operation_model(name)


def scalar(shape: Shape, text: str) -> Any:
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
