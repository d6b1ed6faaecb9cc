"""A shadow variant gets copies of calls, is measured, and never shows in an answer."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError

from tests.control.test_deployments import MODEL
from tests.test_serve import eventually

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


@pytest.fixture(scope="module")
def shadowed(server, handler):
    server.deploy("seen", handler(MODEL.format(name="seen", load="pass")), endpoint=False)
    server.deploy("hidden", handler(SHADOW), endpoint=False)
    variant = {"InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    server.client("sagemaker").create_endpoint_config(
        EndpointConfigName="pair",
        ProductionVariants=[variant | {"VariantName": "production", "ModelName": "seen"}],
        ShadowProductionVariants=[variant | {"VariantName": "shadow", "ModelName": "hidden"}],
    )
    server.client("sagemaker").create_endpoint(EndpointName="pair", EndpointConfigName="pair")
    server.wait("pair")
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
