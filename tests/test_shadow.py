"""A shadow variant gets copies of calls, is measured, and never shows in an answer."""

from __future__ import annotations

import os

import pytest
from botocore.exceptions import ClientError

from tests.control.test_deployments import MODEL
from tests.test_serve import eventually
from tests.test_streams import stream

SHADOW = """
import time
def model_fn(model_dir):
    return None
def input_fn(data, content_type):
    return data
def predict_fn(data, model):
    if data == b"slow":
        time.sleep(5)
    raise ValueError("a shadow's error")
"""
TALKER = """
import time
def model_fn(model_dir):
    return None
def transform_fn(model, data, content_type, accept):
    yield "seen"
    while data == "stay":
        time.sleep(0.01)
        yield "more"
"""
WHISPERER = """
import time
def model_fn(model_dir):
    return None
def transform_fn(model, data, content_type, accept):
    yield "hidden"
    if data == "hang":
        time.sleep(600)
    if data == "fail":
        raise ValueError("a shadow's error")
"""


def deploy_pair(server, handler, name: str, seen: str, hidden: str) -> None:
    server.deploy(f"{name}-seen", handler(seen), endpoint=False)
    server.deploy(f"{name}-hidden", handler(hidden), endpoint=False)
    variant = {"InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    server.client("sagemaker").create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[variant | {"VariantName": "production", "ModelName": f"{name}-seen"}],
        ShadowProductionVariants=[variant | {"VariantName": "shadow", "ModelName": f"{name}-hidden"}],
    )
    server.client("sagemaker").create_endpoint(EndpointName=name, EndpointConfigName=name)
    server.wait(name)


@pytest.fixture(scope="module")
def shadowed(server, handler):
    deploy_pair(server, handler, "pair", MODEL.format(name="seen", load="pass"), SHADOW)
    return server


def call(server, body: bytes = b"x") -> tuple[str, str]:
    answer = server.client("sagemaker-runtime").invoke_endpoint(
        EndpointName="pair", ContentType="text/plain", Body=body
    )
    return answer["Body"].read().decode(), answer["InvokedProductionVariant"]


def test_answers_are_the_production_variants_and_copies_are_counted(shadowed):
    assert {call(shadowed) for _ in range(20)} == {("seen", "production")}
    copies = b'fourfold_invocations_total{endpoint="pair",status="424",variant="shadow"} 20.0'
    eventually(lambda: copies in shadowed.get("/metrics"))
    summary = shadowed.client("sagemaker").describe_endpoint(EndpointName="pair")
    assert [one["VariantName"] for one in summary["ShadowProductionVariants"]] == ["shadow"]


def test_a_shadow_that_hangs_slows_nobody_and_its_copies_are_bounded(shadowed):
    assert {call(shadowed, b"slow") for _ in range(100)} == {("seen", "production")}  # 500 s of the shadow's time


def test_a_shadow_cannot_be_called(shadowed):
    with pytest.raises(ClientError, match="Variant shadow is not found"):
        shadowed.client("sagemaker-runtime").invoke_endpoint(EndpointName="pair", Body=b"x", TargetVariant="shadow")


def test_streams_are_copied_and_end_by_themselves(server, handler):
    deploy_pair(server, handler, "streams", TALKER, WHISPERER)

    def answered(body: bytes) -> list[bytes]:
        with stream(server, "streams", body) as events:
            return [event["PayloadPart"]["Bytes"] for event in events]

    def count(variant: str, status: int, calls: int) -> bool:
        line = f'fourfold_invocations_total{{endpoint="streams",status="{status}",variant="{variant}"}} {calls}.0\n'
        return line.encode() in server.get("/metrics")

    assert [answered(b"go") for _ in range(10)] == [[b"seen"]] * 10
    with stream(server, "streams", b"stay") as events:
        assert next(events)["PayloadPart"]["Bytes"] == b"seen"
    eventually(lambda: count("production", 499, 1))  # that client left
    eventually(lambda: count("shadow", 200, 11))  # nobody leaves a copy
    assert [answered(b"fail") for _ in range(5)] == [[b"seen"]] * 5
    eventually(lambda: count("shadow", 424, 5))
    assert [answered(b"hang") for _ in range(100)] == [[b"seen"]] * 100  # 1,000 minutes of the shadow's time
    eventually(lambda: count("production", 200, 115))


def test_a_shadow_that_is_promoted_runs_as_production_does(shadowed):
    def priorities(pids: set[int]) -> set[int]:
        return {os.getpriority(os.PRIO_PROCESS, pid) for pid in pids}

    sagemaker = shadowed.client("sagemaker")
    variant = {"VariantName": "shadow", "ModelName": "pair-hidden", "InstanceType": "ml.m5.large"}
    sagemaker.create_endpoint_config(
        EndpointConfigName="promoted", ProductionVariants=[variant | {"InitialInstanceCount": 1}]
    )
    before = set(shadowed.worker_pids())
    assert max(priorities(before)) > 0
    sagemaker.update_endpoint(EndpointName="pair", EndpointConfigName="promoted")
    shadowed.wait("pair")
    assert priorities(set(shadowed.worker_pids()) - before) == {0}
    with pytest.raises(ClientError, match="a shadow's error"):
        call(shadowed)
