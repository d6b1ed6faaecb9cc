"""Whatever a client sends to the control API, the answer is AWS's own kind of answer and never a 5xx.

Requests are drawn from botocore's service models: members that are right, members that are slightly wrong, and members
of another type altogether, for every operation that the server implements.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from botocore.model import ListShape, MapShape, Shape, StructureShape
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fourfold.api.compatibility import implemented
from fourfold.api.contract import Contract
from tests.server import LiveServer

CONTRACTS = {name: Contract(name) for name in implemented()}
JSON_OPERATIONS = sorted(
    (service, name)
    for service, names in implemented().items()
    for name in names
    if CONTRACTS[service].protocol == "json"
)

SMALL = ["a", "live-1", "x" * 64, "", "under_score", "s3://bucket/key", "é", "\x00", "\ud800"[:0], "../..", "🙂"]
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def members(shape: Shape, depth: int = 0) -> st.SearchStrategy[Any]:
    """Values for a shape, most of them of the right type."""
    if depth > 5:
        return st.none()
    match shape:
        case StructureShape():
            fields = {name: members(member, depth + 1) for name, member in shape.members.items()}
            needed = {name: value for name, value in fields.items() if name in shape.required_members}
            optional = {name: value for name, value in fields.items() if name not in needed}
            right = st.fixed_dictionaries(needed, optional=optional)
        case ListShape():
            right = st.lists(members(shape.member, depth + 1), max_size=2)
        case MapShape():
            right = st.dictionaries(members(shape.key, depth + 1).filter(lambda key: isinstance(key, str)),
                                    members(shape.value, depth + 1), max_size=2)  # fmt: skip
        case _:
            right = scalar(shape)
    return st.one_of(*[right] * 12, anything)


def scalar(shape: Shape) -> st.SearchStrategy[Any]:
    if shape.metadata.get("enum"):
        return st.sampled_from(shape.metadata["enum"])
    if shape.type_name in ("integer", "long"):
        return st.sampled_from([0, 1, 2, 1024, -1, 2**31, 2**70])
    if shape.type_name in ("float", "double"):
        return st.floats(allow_nan=False)
    if shape.type_name == "boolean":
        return st.booleans()
    if shape.type_name == "timestamp":
        return st.integers(0, 2**40) | st.floats(allow_nan=False) | st.just("2026-01-01T00:00:00Z")
    return st.sampled_from(SMALL) | st.text(max_size=70)


@pytest.fixture(scope="module")
def door(server) -> Any:
    headers = {"Authorization": f"Bearer {server.keys['api_key']}"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=60) as client:
        yield client


def test_the_server_tells_what_it_implements(server: LiveServer):
    assert len(JSON_OPERATIONS) >= 18


@pytest.mark.parametrize(("service", "operation"), JSON_OPERATIONS)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_request_of_an_operation_breaks_the_server(door, service, operation, data):
    contract = CONTRACTS[service]
    shape = contract.operation(operation).input_shape
    params = data.draw(members(shape)) if shape is not None else {}
    send(door, contract, operation, json.dumps(params).encode())


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=st.binary(max_size=200) | st.sampled_from([b'{"ModelName":"\\ud800"}', b"[" * 100_000, b'{"a":' * 100_000]))
def test_no_body_breaks_the_server(door, body):
    send(door, CONTRACTS["sagemaker"], "DescribeModel", body)


def send(door: httpx.Client, contract: Contract, operation: str, body: bytes) -> None:
    headers = {"X-Amz-Target": f"{contract.target_prefix}.{operation}", "Content-Type": "application/x-amz-json-1.1"}
    answer = door.post("/", content=body, headers=headers)
    assert answer.status_code < 500, answer.text
    assert isinstance(answer.json(), dict)
    if answer.status_code != 200:
        assert answer.json()["__type"] == answer.headers["x-amzn-errortype"]
        assert answer.json()["message"]
