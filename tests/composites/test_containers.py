"""Serial pipelines and containers called by name, on a real server."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from botocore.exceptions import ClientError

from fourfold.control.models import primary_container
from fourfold.errors import ModelLoadError
from tests.composites.test_multi_model import BUCKET, create
from tests.server import LiveServer, alive
from tests.test_serve import eventually

STAGE = """
import json, os, time

def model_fn(model_dir):
    {load}
    return {name!r}

def transform_fn(model, data, content_type, accept):
    data = json.loads(data)
    if data.get("break") == model:
        raise ValueError("no, said " + model)
    if data.get("die") == model:
        os._exit(9)
    if data.get("sleep") == model:
        time.sleep(1)
    data.setdefault("seen", []).append([model, content_type, accept, os.getpid()])
    return json.dumps(data), "application/x-" + model
"""
STREAM = """
def model_fn(model_dir):
    return None

def transform_fn(model, data, content_type, accept):
    yield data
    yield "end"
"""


@pytest.fixture
def container(server, handler):
    """Makes a container: uploads a handler and says where it is."""
    s3 = server.client("s3")
    if not any(one["Name"] == BUCKET for one in s3.list_buckets()["Buckets"]):
        s3.create_bucket(Bucket=BUCKET)

    def make(endpoint: str, name: str, code: str = STAGE, load: str = "pass", **more: object) -> dict:
        key = f"{endpoint}/{name}.tar.gz"
        s3.upload_file(str(handler(code.replace("{load}", load).replace("{name!r}", repr(name)))), BUCKET, key)
        return {"ModelDataUrl": f"s3://{BUCKET}/{key}", "ContainerHostname": name, **more}

    return make


def ask(server: LiveServer, name: str, body: dict | None = None, **more: str) -> dict:
    runtime = server.client("sagemaker-runtime")
    answer = runtime.invoke_endpoint(
        EndpointName=name, ContentType="application/json", Body=json.dumps(body or {}), **more
    )
    return json.loads(answer["Body"].read()) | {"content_type": answer["ContentType"]}


def test_the_answer_of_one_is_the_request_of_the_next(server, container):
    create(server, "line", {"Containers": [container("line", name) for name in ("a", "b", "c")]})
    answer = ask(server, "line", {"x": 1}, Accept="application/x-mine")
    assert answer["x"] == 1
    assert [entry[:2] for entry in answer["seen"]] == [
        ["a", "application/json"], ["b", "application/x-a"], ["c", "application/x-b"],
    ]  # fmt: skip
    assert answer["seen"][2][2] == "application/x-mine"
    assert answer["seen"][0][2] != "application/x-mine"
    assert answer["content_type"] == "application/x-c"
    assert len({entry[3] for entry in answer["seen"]}) == 3

    images = server.client("sagemaker").describe_endpoint(EndpointName="line")["ProductionVariants"][0]
    assert len(images["DeployedImages"]) == 3


def test_an_error_in_the_middle_says_where_and_goes_no_further(server, container):
    create(server, "faulty", {"Containers": [container("faulty", name) for name in ("a", "b", "c")]})
    with pytest.raises(ClientError, match="no, said b") as error:
        ask(server, "faulty", {"break": "b"})
    assert error.value.response["Error"]["Code"] == "ModelError"
    assert "In container 2 of 3 (b)." in error.value.response["OriginalMessage"]
    with pytest.raises(ClientError, match="ended while it was answering"):
        ask(server, "faulty", {"die": "c"})
    eventually(lambda: len(server.client("sagemaker").describe_endpoint(EndpointName="faulty")) and works(server))


def works(server: LiveServer) -> bool:
    try:
        return bool(ask(server, "faulty"))
    except ClientError:
        return False


def test_stages_work_on_different_calls_at_the_same_time(server, container):
    create(server, "belt", {"Containers": [container("belt", name) for name in ("a", "b")]})
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(ask, server, "belt", {"sleep": "b"})
        fast = pool.submit(ask, server, "belt", {"sleep": "a"})
        assert slow.result()["seen"][1][0] == fast.result()["seen"][1][0] == "b"


def test_the_last_stage_may_stream(server, container):
    model = {"Containers": [container("flow", "a"), container("flow", "b", STREAM)]}
    create(server, "flow", model)
    runtime = server.client("sagemaker-runtime")
    answer = runtime.invoke_endpoint_with_response_stream(EndpointName="flow", Body=b'{"x": 1}')
    parts = [event["PayloadPart"]["Bytes"] for event in answer["Body"]]
    assert json.loads(parts[0])["x"] == 1
    assert parts[1] == b"end"
    with pytest.raises(ClientError, match="no, said a"):
        runtime.invoke_endpoint_with_response_stream(EndpointName="flow", Body=b'{"break": "a"}')


def test_a_stage_may_have_many_models(server, container, handler):
    for name in ("one", "two"):
        container("mixed", name)
    models = {"Mode": "MultiModel", "ModelDataUrl": f"s3://{BUCKET}/mixed/", "ContainerHostname": "many"}
    create(server, "mixed", {"Containers": [container("mixed-first", "a"), models]})
    assert [entry[0] for entry in ask(server, "mixed", TargetModel="two.tar.gz")["seen"]] == ["a", "two"]
    with pytest.raises(ClientError, match="TargetModel is needed"):
        ask(server, "mixed")


def test_a_container_that_cannot_be_loaded_fails_the_endpoint(server, container):
    bad = container("broken-line", "b", load="raise RuntimeError('no licence')")
    with pytest.raises(AssertionError, match="no licence"):
        create(server, "broken-line", {"Containers": [container("broken-line", "a"), bad]})


def test_fifteen_containers_and_no_more(server, container):
    containers = [container("long", f"c{number}") for number in range(15)]
    create(server, "long", {"Containers": containers})
    assert len(ask(server, "long")["seen"]) == 15
    with pytest.raises(ClientError, match="15"):
        server.client("sagemaker").create_model(ModelName="longer", Containers=[*containers, container("long", "c15")])
    pids = server.worker_pids()
    server.client("sagemaker").delete_endpoint(EndpointName="long")
    eventually(lambda: sum(map(alive, pids)) <= len(pids) - 15)


def test_a_call_names_its_container(server, container):
    execution = {"Mode": "Direct"}
    containers = [container("choice", name) for name in ("first", "second")]
    create(server, "choice", {"Containers": containers, "InferenceExecutionConfig": execution})
    for name in ("first", "second"):
        assert [entry[0] for entry in ask(server, "choice", TargetContainerHostname=name)["seen"]] == [name]
    for wrong, message in (({}, "TargetContainerHostname is needed"), ({"TargetContainerHostname": "third"}, "third")):
        with pytest.raises(ClientError, match=message) as error:
            ask(server, "choice", **wrong)
        assert error.value.response["Error"]["Code"] == "ValidationError"
        assert "first, second" in error.value.response["Error"]["Message"]


@pytest.mark.parametrize(
    ("hostnames", "execution", "message"),
    [
        (("a", "a"), "Serial", "unique"),
        (("a", None), "Direct", "ContainerHostname"),
        (("a",), "Direct", "several containers"),
    ],
)
def test_containers_that_make_no_sense_are_refused(server, hostnames, execution, message):
    containers = [
        {"ModelDataUrl": "s3://b/m.tar.gz"} | ({"ContainerHostname": name} if name else {}) for name in hostnames
    ]
    with pytest.raises(ClientError, match=message):
        server.client("sagemaker").create_model(
            ModelName="senseless", Containers=containers, InferenceExecutionConfig={"Mode": execution}
        )


@pytest.mark.parametrize("model", [{"Containers": [{}, {}]}, {"PrimaryContainer": {"Mode": "MultiModel"}}])
def test_other_modes_say_that_they_cannot_serve_such_models(model):
    with pytest.raises(ModelLoadError, match="real-time endpoints only"):
        primary_container(model)


def test_an_update_to_a_pipeline_fails_no_request(server, container):
    create(server, "update", {"PrimaryContainer": container("update", "a")})
    sagemaker = server.client("sagemaker")
    sagemaker.create_model(ModelName="update-2", Containers=[container("update", name) for name in ("a", "b")])
    variant = {"VariantName": "AllTraffic", "ModelName": "update-2", "InstanceType": "ml.m5.large"}
    sagemaker.create_endpoint_config(
        EndpointConfigName="update-2", ProductionVariants=[variant | {"InitialInstanceCount": 1}]
    )
    sagemaker.update_endpoint(EndpointName="update", EndpointConfigName="update-2")
    lengths = set()
    while server.client("sagemaker").describe_endpoint(EndpointName="update")["EndpointStatus"] != "InService":
        lengths.add(len(ask(server, "update")["seen"]))
    assert lengths <= {1, 2}
    assert len(ask(server, "update")["seen"]) == 2
    weights = [{"VariantName": "AllTraffic", "DesiredInstanceCount": 2}]
    sagemaker.update_endpoint_weights_and_capacities(EndpointName="update", DesiredWeightsAndCapacities=weights)
    server.wait("update")
    assert len(ask(server, "update")["seen"]) == 2


def test_a_pipeline_comes_back_after_a_kill_even_when_its_artifacts_are_gone(own_server, handler):
    s3 = own_server.client("s3")
    s3.create_bucket(Bucket=BUCKET)
    containers = []
    for name in ("a", "b"):
        code = STAGE.replace("{load}", "pass").replace("{name!r}", repr(name))
        s3.upload_file(str(handler(code)), BUCKET, f"{name}.tar.gz")
        containers.append({"ModelDataUrl": f"s3://{BUCKET}/{name}.tar.gz"})
    create(own_server, "again", {"Containers": containers})
    for name in ("a", "b"):
        s3.delete_object(Bucket=BUCKET, Key=f"{name}.tar.gz")
    own_server.kill()
    own_server.start()
    own_server.wait("again")
    assert len(ask(own_server, "again")["seen"]) == 2
