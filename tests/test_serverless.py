"""Serverless endpoints on a real server: from zero, one call a worker, bounded, metered, gone when idle."""

from __future__ import annotations

import json
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from botocore.exceptions import ClientError

from fourfold.scaling import serverless_starts, serverless_surplus
from tests.server import LiveServer
from tests.test_serve import SLEEPY, eventually, invoke

ROW = json.dumps({"instances": [[0.1, 0.2, 0.3, 0.4]]}).encode()

GREEDY = """
import os

def model_fn(model_dir):
    if os.environ.get("EAT_WHEN_LOADING"):
        return bytearray(3 * 1024**3)

def predict_fn(data, model):
    return len(bytearray(3 * 1024**3))
"""

EARLY = """
import sys

early = "joblib" in sys.modules
import joblib

def model_fn(model_dir):
    return early

def predict_fn(data, model):
    return [model]
"""

FORKABLE = """
import os

FORKABLE = True

def model_fn(model_dir):
    return os.getpid()

def predict_fn(data, model):
    return [model]
"""

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


BOUNDS = {"MemorySizeInMB": 1024, "MaxConcurrency": 5}


def state(server: LiveServer, name: str) -> dict:
    """What the native route tells about a serverless endpoint."""
    return json.loads(server.get(f"/fourfold/endpoints/{name}"))["Variants"][0]["Serverless"]


def stored_calls(server: LiveServer) -> int:
    """Calls that have been written to the store of a server, looked at from outside."""
    with closing(sqlite3.connect(server.folder / "fourfold.db")) as db:
        return db.execute("SELECT coalesce(sum(calls), 0) FROM serverless_usage").fetchone()[0]


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


@pytest.mark.parametrize("idle_seconds", ["0", "0.2"])  # 0: gone with the answer; else the control loop ends it
def test_from_zero_to_an_answer_and_back_to_zero(server, onnx_model, idle_seconds):
    name = f"shop-{idle_seconds.replace('.', '-')}"
    deploy(server, name, onnx_model, FOURFOLD_IDLE_SECONDS=idle_seconds)
    for _ in range(2):
        eventually(lambda: workers(server, name) == 0)
        time.sleep(0.25)  # now the control loop looks at it no more, until it is called
        assert cold(server, name)
    eventually(lambda: workers(server, name) == 0)


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
    eventually(lambda: state(server, "hungry")["Invocations"] == 1)  # it is billed, too


def test_one_allocation_far_over_the_memory_is_refused_before_the_machine_feels_it(server, handler):
    before = set(server.worker_pids())
    deploy(server, "greedy", handler(GREEDY), memory=1024)
    pids = set(server.worker_pids()) - before
    for _ in range(2):  # the second call gets a worker of its own
        with pytest.raises(ClientError, match=r"MB of memory were in use .* MemorySizeInMB of the endpoint is 1,024"):
            invoke(server, "greedy", b"[1]")
    eventually(lambda: not pids & set(server.worker_pids()))


def test_a_model_that_needs_more_memory_to_load_says_so(server, handler):
    server.deploy("heavy", handler(GREEDY), endpoint=False, EAT_WHEN_LOADING="1")
    sagemaker = server.client("sagemaker")
    variant = {"VariantName": "a", "ModelName": "heavy", "ServerlessConfig": BOUNDS}
    sagemaker.create_endpoint_config(EndpointConfigName="heavy", ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName="heavy", EndpointConfigName="heavy")
    reason = server.wait("heavy", "Failed")["FailureReason"]
    assert "MemorySizeInMB of the endpoint is 1,024" in reason


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


def test_usage_outlives_kill_9(own_server, handler):
    deploy(own_server, "billed", handler(SLEEPY), memory=2048)
    invoke(own_server, "billed", b"sleep 0.3", "text/plain")
    eventually(lambda: stored_calls(own_server) == 1)
    before = state(own_server, "billed")["GBSeconds"]["processing"]
    assert 0.6 <= before < 2
    own_server.kill()
    own_server.start()
    own_server.wait("billed")
    after = state(own_server, "billed")
    assert (after["Invocations"], after["GBSeconds"]["processing"]) == (1, before)
    metric = 'fourfold_billed_gb_seconds_total{endpoint="billed",kind="processing",variant="AllTraffic"}'
    assert f"{metric} {before}" in own_server.get("/metrics").decode()


def test_a_second_cold_start_forks_the_loaded_model(server, onnx_model):
    deploy(server, "template", onnx_model, FOURFOLD_IDLE_SECONDS="0")

    def starts_without_load() -> int:
        cold(server, "template")
        eventually(lambda: workers(server, "template") == 0)
        return state(server, "template")["ColdStartsWithoutLoad"]

    eventually(lambda: starts_without_load() > 0)
    parts = state(server, "template")["ColdMillisecondsByPart"]
    assert set(parts) == {"queue", "fork", "load", "first_call"}
    assert all(value is not None for value in parts.values())


def test_a_model_that_has_threads_is_loaded_each_time(server, onnx_model):
    deploy(server, "threads", onnx_model, FOURFOLD_IDLE_SECONDS="0", FOURFOLD_THREADS="2")
    for _ in range(4):
        eventually(lambda: workers(server, "threads") == 0)
        assert cold(server, "threads")
        time.sleep(0.3)  # a template would be there by now
    assert state(server, "threads")["ColdStartsWithoutLoad"] == 0


def test_what_a_handler_imports_is_there_before_its_worker_is_forked(server, handler):
    deploy(server, "imports", handler(EARLY), FOURFOLD_IDLE_SECONDS="0")
    assert invoke(server, "imports", b"[1]") == b"[true]"


def test_a_handler_that_says_so_is_forked_loaded(server, handler):
    deploy(server, "forkable", handler(FORKABLE), FOURFOLD_IDLE_SECONDS="0")
    answers = []

    def twice_the_same() -> bool:
        answers.append(invoke(server, "forkable", b"[1]"))
        eventually(lambda: workers(server, "forkable") == 0)
        return len(answers) > len(set(answers))

    eventually(twice_the_same)


def test_warm_workers_give_way_to_the_calls_of_others(tmp_path, onnx_model):
    server = LiveServer(tmp_path / "data", "--warm-workers", "2")
    try:
        for name in ("first", "second", "third"):
            deploy(server, name, onnx_model)
        for name in ("first", "second", "third", "first"):
            cold(server, name)
        eventually(lambda: [workers(server, name) for name in ("first", "second", "third")] == [1, 0, 1])
    finally:
        server.stop()


def test_provisioned_concurrency_changes_at_once_and_keeps_what_runs(server, onnx_model):
    deploy(server, "growing", onnx_model, provisioned=1)
    sagemaker = server.client("sagemaker")

    def resize(**bounds: int) -> None:
        change = {"VariantName": "AllTraffic", "ServerlessUpdateConfig": bounds}
        sagemaker.update_endpoint_weights_and_capacities(EndpointName="growing", DesiredWeightsAndCapacities=[change])
        server.wait("growing")

    resize(MaxConcurrency=7, ProvisionedConcurrency=3)
    eventually(lambda: workers(server, "growing") == 3)
    now = server.wait("growing")["ProductionVariants"][0]["CurrentServerlessConfig"]
    assert now == {"MemorySizeInMB": 1024, "MaxConcurrency": 7, "ProvisionedConcurrency": 3}
    assert not cold(server, "growing")
    with pytest.raises(ClientError, match="ProvisionedConcurrency 8 cannot be greater than MaxConcurrency 7"):
        resize(ProvisionedConcurrency=8)
    for bad in ({"DesiredInstanceCount": 2}, {"DesiredInstanceCount": 2, "ServerlessUpdateConfig": {}}):
        with pytest.raises(ClientError, match="serverless: it has no instances"):
            sagemaker.update_endpoint_weights_and_capacities(
                EndpointName="growing", DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", **bad}]
            )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"PrimaryContainer": {"ModelDataUrl": "s3://b/models/", "Mode": "MultiModel"}}, "multi-model"),
        ({"Containers": [{"ModelDataUrl": "s3://b/1.onnx"}, {"ModelDataUrl": "s3://b/2.onnx"}]}, "pipeline"),
        ({"PrimaryContainer": {"ModelDataUrl": "s3://b/1.onnx"}, "EnableNetworkIsolation": True}, "network isolation"),
    ],
)
def test_models_that_serverless_endpoints_do_not_take(server, model, message):
    sagemaker = server.client("sagemaker")
    sagemaker.create_model(ModelName="unfit", ExecutionRoleArn="arn:aws:iam::123456789012:role/test", **model)
    variant = {"VariantName": "a", "ModelName": "unfit", "ServerlessConfig": BOUNDS}
    with pytest.raises(ClientError, match=f"{message}.* is not supported for serverless endpoints") as error:
        sagemaker.create_endpoint_config(EndpointConfigName="unfit", ProductionVariants=[variant])
    assert error.value.response["Error"]["Code"] == "ValidationException"
    sagemaker.delete_model(ModelName="unfit")


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
