"""Models that are data and nothing else share a process: one dies with the others, none twice, memory comes back."""

from __future__ import annotations

import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from botocore.exceptions import ClientError
from onnx import TensorProto, helper, numpy_helper

from tests.composites.test_multi_model import BUCKET, create, figure, loaded
from tests.server import LiveServer, alive
from tests.test_serve import eventually


@pytest.fixture
def onnx_models(server):
    """Makes a multi-model endpoint with so many ONNX models, `m0.onnx` and so on; model n answers n."""
    s3 = server.client("s3")
    if not any(one["Name"] == BUCKET for one in s3.list_buckets()["Buckets"]):
        s3.create_bucket(Bucket=BUCKET)

    def make(name: str, count: int = 3, megabytes: float = 0.01, instances: int = 1, **environment: str) -> str:
        for number in range(count):
            s3.put_object(Bucket=BUCKET, Key=f"{name}/m{number}.onnx", Body=ballast(number, megabytes))
        container = {"Mode": "MultiModel", "ModelDataUrl": f"s3://{BUCKET}/{name}/", "Environment": environment}
        create(server, name, {"PrimaryContainer": container}, instances)
        return name

    return make


def ballast(answer: int, megabytes: float) -> bytes:
    """A model of that size which answers the mean of its weights: always `answer`."""
    weights = np.full((1, int(megabytes * 2**18)), answer, np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("ReduceMean", ["y"], ["z"], axes=[1])]
    graph = helper.make_graph(
        nodes,
        "ballast",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def ask(server: LiveServer, name: str, model: int) -> float:
    runtime = server.client("sagemaker-runtime")
    answer = runtime.invoke_endpoint(
        EndpointName=name, TargetModel=f"m{model}.onnx", ContentType="text/csv", Accept="text/csv", Body="1"
    )
    return float(answer["Body"].read())


def pids(server: LiveServer, name: str) -> set[int]:
    text = server.get("/metrics").decode()
    return set(map(int, re.findall(rf'^fourfold_worker_memory_bytes{{endpoint="{name}".*pid="(\d+)"', text, re.M)))


def test_all_live_in_one_process_and_a_call_gets_its_own_models_answer(server, onnx_models):
    name = onnx_models("flat", 8)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: ask(server, name, number % 8), range(64)))
    assert answers == [number % 8 for number in range(64)]
    assert loaded(server, name) == 8
    assert len(pids(server, name)) == 1


def test_one_that_brings_code_stays_outside(server, onnx_models, handler):
    name = onnx_models("mixed", 2)
    code = "def model_fn(folder):\n    return 7\ndef transform_fn(model, data, kind, accept):\n    return '7'\n"
    server.client("s3").upload_file(str(handler(code)), BUCKET, f"{name}/m7.onnx")
    assert [ask(server, name, model) for model in (0, 1, 7)] == [0, 1, 7]
    assert len(pids(server, name)) == 2


def test_when_their_process_is_killed_all_come_back_but_not_beside_the_one_at_work(server, onnx_models):
    name = onnx_models("mortal-data")
    for model in range(3):
        ask(server, name, model)
    (process,) = pids(server, name)
    os.kill(process, signal.SIGSTOP)
    with ThreadPoolExecutor() as pool:
        at_work = pool.submit(ask, server, name, 0)
        eventually(lambda: figure(server, "fourfold_model_cache_hits_total", name) == 1)
        os.kill(process, signal.SIGKILL)
        with pytest.raises(ClientError, match="ended while it was answering"):
            at_work.result()
    eventually(lambda: [ask(server, name, model) for model in range(3)] == [0, 1, 2])
    assert not alive(process)
    assert len(pids(server, name)) == 2


def test_what_is_unloaded_gives_its_memory_back(server, onnx_models):
    name = onnx_models("tight", 12, megabytes=16, FOURFOLD_MULTI_MODEL_MEMORY_MB="128")
    for model in (*range(12), *range(12)):
        assert ask(server, name, model) == model
        assert loaded(server, name) <= 7
    assert loaded(server, name) >= 2
    (process,) = pids(server, name)
    eventually(lambda: private_mb(process) <= 160)


def test_instances_are_processes(server, onnx_models):
    name = onnx_models("wide", 6, instances=2)
    for model in range(6):
        ask(server, name, model)
    assert len(pids(server, name)) == 2
    server.client("sagemaker").update_endpoint_weights_and_capacities(
        EndpointName=name,
        DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredInstanceCount": 1}],
    )
    server.wait(name)
    eventually(lambda: len(pids(server, name)) == 1)
    assert [ask(server, name, model) for model in range(6)] == list(range(6))
    assert len(pids(server, name)) == 1


def test_a_broken_file_is_told_to_its_callers_and_the_others_live(server, onnx_models):
    name = onnx_models("spoilt", 2)
    ask(server, name, 0)
    before = pids(server, name)
    server.client("s3").put_object(Bucket=BUCKET, Key=f"{name}/m1.onnx", Body=ballast(1, 0.1)[:-1000])
    with pytest.raises(ClientError, match="cannot be loaded"):
        ask(server, name, 1)
    assert ask(server, name, 0) == 0
    assert pids(server, name) == before


def private_mb(pid: int) -> float:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(map(int, re.findall(r"^Private_\w+:\s+(\d+)", text, re.M))) / 1024


def test_invocations_per_instance_do_not_depend_on_how_many_models_are_loaded(server, onnx_models):
    name = onnx_models("counted", 4)
    for model in range(4):
        ask(server, name, model)
    dimensions = [{"Name": "EndpointName", "Value": name}, {"Name": "VariantName", "Value": "AllTraffic"}]

    def counted() -> float:
        now = datetime.now(UTC)
        answer = server.client("cloudwatch").get_metric_statistics(
            Namespace="AWS/SageMaker",
            MetricName="InvocationsPerInstance",
            Dimensions=dimensions,
            StartTime=now - timedelta(minutes=10),
            EndTime=now + timedelta(minutes=1),
            Period=60,
            Statistics=["Sum"],
        )
        return sum(point["Sum"] for point in answer["Datapoints"])

    eventually(lambda: counted() == 4, 40)
