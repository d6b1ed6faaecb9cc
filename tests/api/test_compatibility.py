"""The page of compatibility says what the server does: what it calls refused is refused; no declaration is in vain."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.model import ListShape, MapShape, StructureShape

from fourfold.api.compatibility import RUNTIME, implemented, members
from fourfold.api.contract import Contract
from fourfold.api.protocol import Operation
from tests.server import LiveServer

DECLARED = [(service, one) for service, names in implemented().items() for one in names.values()]
POLICY = {"ServiceNamespace": "sagemaker", "ResourceId": "endpoint/x/variant/v", "PolicyName": "p"}
POLICY["ScalableDimension"] = "sagemaker:variant:DesiredInstanceCount"
COMPONENT = {"InferenceComponentName": "c", "EndpointName": "e", "VariantName": "v"}
ADAPTER = {"BaseInferenceComponentName": "base"}
REFUSED: dict[tuple[str, str, str], dict[str, Any]] = {
    ("application-autoscaling", "PutScalingPolicy", "PredictiveScalingPolicyConfiguration"): POLICY
    | {
        "PolicyType": "PredictiveScaling",
        "PredictiveScalingPolicyConfiguration": {"MetricSpecifications": [{"TargetValue": 1.0}]},
    },
    ("sagemaker", "CreateInferenceComponent", "Specification.BaseInferenceComponentName"): COMPONENT
    | {"Specification": ADAPTER},
    ("sagemaker", "CreateInferenceComponent", "Specifications[].BaseInferenceComponentName"): COMPONENT
    | {"Specifications": [ADAPTER]},
    ("sagemaker", "UpdateInferenceComponent", "Specification.BaseInferenceComponentName"): {
        "InferenceComponentName": "c", "Specification": ADAPTER,
    },
    ("sagemaker", "UpdateInferenceComponent", "Specifications[].BaseInferenceComponentName"): {
        "InferenceComponentName": "c", "Specifications": [ADAPTER],
    },
}  # fmt: skip
"""A request for each member that the page calls refused."""


def test_every_refused_member_has_an_example():
    found = {
        (service, one.name, member.path)
        for service, one in DECLARED
        for member in members(Contract(service).operation(one.name), one)
        if member.status == "refused"
    }
    assert found == set(REFUSED)


@pytest.mark.parametrize("which", REFUSED, ids=lambda which: " ".join(which[1:]))
def test_what_is_called_refused_is_refused(server: LiveServer, which: tuple[str, str, str]):
    service, name, path = which
    client = server.client(service)
    call = next(method for method, operation in client.meta.method_to_api_mapping.items() if operation == name)
    with pytest.raises(ClientError) as error:
        getattr(client, call)(**REFUSED[which])
    answer = error.value.response
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert path.rpartition(".")[2] in answer["Error"]["Message"]


@pytest.mark.parametrize(("service", "one"), DECLARED, ids=lambda value: getattr(value, "name", value))
def test_every_declaration_names_a_member(service: str, one: Operation):
    paths = list(every_path(Contract(service).operation(one.name).input_shape))
    for pattern in (*one.kept, *one.refused):
        assert any(fnmatchcase(path, pattern) for path in paths), pattern


def every_path(shape: Any, above: str = "", outer: frozenset[str] = frozenset()) -> Any:
    while isinstance(shape, ListShape | MapShape):
        shape = shape.member if isinstance(shape, ListShape) else shape.value
    if isinstance(shape, StructureShape) and shape.name not in outer:
        for name, member in shape.members.items():
            yield f"{above}{name}"
            yield from every_path(member, f"{above}{name}.", outer | {shape.name})


def test_members_in_headers_are_found():
    found = {one.path: one.status for one in members(Contract(RUNTIME).operation("InvokeEndpointAsync"))}
    assert found["InputLocation"] == "works"


def test_what_code_only_passes_on_is_kept():
    name = "CreateEndpointConfig"
    contract, operation = Contract("sagemaker"), implemented()["sagemaker"][name]
    found = {one.path: one.status for one in members(contract.operation(name), operation)}
    assert found["KmsKeyId"] == "kept"
    assert found["AsyncInferenceConfig.OutputConfig.KmsKeyId"] == "kept"
    assert found["ProductionVariants[].ModelName"] == "works"
    assert "VpcConfig.Subnets" not in found
