"""Serverless endpoints on a real server: from zero, one call a worker, bounded, metered, gone when idle."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from botocore.exceptions import ClientError

from fourfold.scaling import serverless_starts, serverless_surplus
from tests.server import LiveServer
from tests.test_serve import SLEEPY, eventually, invoke

ROW = json.dumps({"instances": [[0.1, 0.2, 0.3, 0.4]]}).encode()

HUNGRY = """
import time

def model_fn(model_dir):
    return []

def predict_fn(data, model):
    for _ in range(200):
        model.append(b"x" * (20 * 1024 * 1024))
        time.sleep(0.01)
    return data
"""


def deploy(server: LiveServer, name: str, artifact, *, concurrency=5, provisioned=None, memory=1024, **environment):
    """A serverless endpoint of one model."""
    server.deploy(name, artifact, endpoint=False, **environment)
    serverless = {"MemorySizeInMB": memory, "MaxConcurrency": concurrency}
    if provisioned is not None:
        serverless["ProvisionedConcurrency"] = provisioned
    sagemaker = server.client("sagemaker")
    variant = {"VariantName": "AllTraffic", "ModelName": name, "ServerlessConfig": serverless}
    sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    server.wait(name)


def workers(server: LiveServer, name: str) -> int:
    prefix = f'fourfold_workers{{endpoint="{name}"'
    line = next(line for line in server.get("/metrics").decode().splitlines() if line.startswith(prefix))
    return int(float(line.split()[-1]))


def cold(server: LiveServer, name: str, body: bytes = ROW, content_type: str = "application/json") -> bool:
    """Call, and tell whether the call waited for a worker to start."""
    runtime = server.client("sagemaker-runtime")
    answer = runtime.invoke_endpoint(EndpointName=name, ContentType=content_type, Body=body)
    answer["Body"].read()
    return answer["ResponseMetadata"]["HTTPHeaders"].get("x-fourfold-cold-start") == "1"


def test_from_zero_to_an_answer_and_back_to_zero(server, onnx_model):
    deploy(server, "shop", onnx_model, FOURFOLD_IDLE_SECONDS="0")
    eventually(lambda: workers(server, "shop") == 0)
    assert cold(server, "shop")
    eventually(lambda: workers(server, "shop") == 0)
    assert cold(server, "shop")


def test_a_worker_that_is_still_there_answers_without_a_cold_start(server, onnx_model):
    deploy(server, "warm", onnx_model)
    assert [cold(server, "warm") for _ in range(3)] == [False, False, False]
    assert workers(server, "warm") == 1


def test_calls_at_once_get_a_worker_each_and_more_are_throttled(server, handler):
    deploy(server, "busy", handler(SLEEPY), concurrency=2)

    def status(_: int) -> int:
        try:
            invoke(server, "busy", b"sleep 1", "text/plain")
            return 200
        except server.client("sagemaker-runtime").exceptions.ClientError as error:
            return error.response["ResponseMetadata"]["HTTPStatusCode"]

    with ThreadPoolExecutor(6) as pool:
        statuses = sorted(pool.map(status, range(6)))
    assert statuses[:2] == [200, 200]
    assert statuses[2:].count(429) >= 3
    assert workers(server, "busy") == 2


def test_provisioned_workers_stay(server, onnx_model):
    deploy(server, "provisioned", onnx_model, provisioned=2, FOURFOLD_IDLE_SECONDS="0")
    eventually(lambda: workers(server, "provisioned") == 2)
    assert not cold(server, "provisioned")
    time.sleep(0.3)
    assert workers(server, "provisioned") == 2


def test_a_worker_over_its_memory_is_ended_and_others_live(server, handler, onnx_model):
    deploy(server, "bystander", onnx_model)
    deploy(server, "hungry", handler(HUNGRY), memory=1024)
    with pytest.raises(ClientError, match=r"MB of memory; MemorySizeInMB of the endpoint is 1,024"):
        invoke(server, "hungry", b"[1]")
    assert not cold(server, "bystander")


def test_a_payload_over_4_mb_is_refused(server, onnx_model):
    deploy(server, "small", onnx_model)
    with pytest.raises(ClientError, match="4,194,304 at most"):
        invoke(server, "small", b" " * (4 * 1024 * 1024 + 1))


def test_a_model_that_stops_loading_tells_its_callers_why_and_backs_off(server, handler, tmp_path):
    switch = tmp_path / "broken"
    code = f"""
import os

def model_fn(model_dir):
    if os.path.exists({str(switch)!r}):
        raise RuntimeError("the licence has run out")

def predict_fn(data, model):
    return data
"""
    deploy(server, "fickle", handler(code), FOURFOLD_IDLE_SECONDS="0")
    eventually(lambda: workers(server, "fickle") == 0)
    switch.touch()
    for _ in range(3):
        with pytest.raises(ClientError, match="the licence has run out") as error:
            invoke(server, "fickle", b"[1]")
        assert error.value.response["Error"]["Code"] == "ModelError"
    switch.unlink()

    def works() -> bool:
        try:
            return bool(invoke(server, "fickle", b"[1]"))
        except ClientError:
            return False

    eventually(works)


def test_streams_start_from_zero_too(server, handler):
    code = "def model_fn(d):\n    return None\ndef transform_fn(m, data, c, a):\n    yield 'a'\n    yield 'b'\n"
    deploy(server, "stream", handler(code), FOURFOLD_IDLE_SECONDS="0")
    eventually(lambda: workers(server, "stream") == 0)
    answer = server.client("sagemaker-runtime").invoke_endpoint_with_response_stream(EndpointName="stream", Body=b"x")
    assert [event["PayloadPart"]["Bytes"] for event in answer["Body"]] == [b"a", b"b"]


def test_after_a_restart_serverless_endpoints_are_there_without_a_worker(own_server, onnx_model):
    deploy(own_server, "idle", onnx_model)
    own_server.kill()
    own_server.start()
    own_server.wait("idle")
    assert workers(own_server, "idle") == 0
    assert cold(own_server, "idle")


def test_the_rules_of_serverless_configs(server, onnx_model):
    server.deploy("rules", onnx_model, endpoint=False)
    sagemaker = server.client("sagemaker")

    def config(serverless: dict, **more) -> None:
        variant = {"VariantName": "a", "ModelName": "rules", "ServerlessConfig": serverless}
        sagemaker.create_endpoint_config(EndpointConfigName="rules", ProductionVariants=[variant], **more)

    good = {"MemorySizeInMB": 2048, "MaxConcurrency": 5}
    for serverless, more, message in (
        (good | {"MemorySizeInMB": 1500}, {}, "MemorySizeInMB must be"),
        (good | {"MemorySizeInMB": 7168}, {}, "less than or equal to 6144"),
        (good | {"MaxConcurrency": 201}, {}, "less than or equal to 200"),
        (good | {"ProvisionedConcurrency": 6}, {}, "ProvisionedConcurrency cannot be greater"),
        (
            good,
            {"AsyncInferenceConfig": {"OutputConfig": {"S3OutputPath": "s3://b/p"}}},
            "not supported for serverless",
        ),
    ):
        with pytest.raises(ClientError, match=message):
            config(serverless, **more)


def test_an_endpoint_with_instances_cannot_become_serverless_but_the_other_way_round(server, onnx_model):
    deploy(server, "to-instances", onnx_model)
    server.deploy("instances", onnx_model)
    sagemaker = server.client("sagemaker")
    with pytest.raises(ClientError, match="serverless"):
        sagemaker.update_endpoint(EndpointName="instances", EndpointConfigName="to-instances")
    sagemaker.update_endpoint(EndpointName="to-instances", EndpointConfigName="instances")
    server.wait("to-instances")
    assert invoke(server, "to-instances")


@pytest.mark.parametrize(
    ("waiting", "starting", "workers", "most", "starts"),
    [(0, 0, 0, 5, 0), (1, 0, 0, 5, 1), (3, 1, 0, 5, 2), (3, 0, 4, 5, 1), (3, 3, 0, 5, 0), (9, 0, 5, 5, 0)],
)
def test_one_start_for_each_call_that_no_starting_worker_will_take(waiting, starting, workers, most, starts):
    assert serverless_starts(waiting=waiting, starting=starting, workers=workers, max_concurrency=most) == starts


@pytest.mark.parametrize(
    ("idle", "workers", "provisioned", "surplus"),
    [([], 3, 0, 0), ([61, 10], 2, 0, 1), ([61, 62], 2, 1, 1), ([61, 62, 63], 4, 4, 0), ([60], 1, 0, 1)],
)
def test_idle_workers_go_but_provisioned_ones_stay(idle, workers, provisioned, surplus):
    assert serverless_surplus(idle_seconds=idle, limit=60, workers=workers, provisioned=provisioned) == surplus
