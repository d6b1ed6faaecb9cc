"""Multi-model endpoints on a real server: loaded when called, unloaded when there is no room, AWS's errors."""

from __future__ import annotations

import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from botocore.exceptions import ClientError

from tests.server import LiveServer, alive
from tests.test_serve import eventually

BUCKET = "test-models"
WHO = """
import os, time

def model_fn(model_dir):
    {load}
    return {name!r}

def input_fn(data, content_type):
    return data.decode()

def predict_fn(data, model):
    if data.startswith("sleep"):
        time.sleep(float(data.split()[1]))
    if data == "die":
        os._exit(9)
    return model + " " + str(os.getpid())

def output_fn(prediction, accept):
    return prediction
"""


@pytest.fixture
def fleet_of_models(server, handler):
    """Makes a multi-model endpoint with so many models, `m0.tar.gz` and so on."""
    s3 = server.client("s3")
    if not any(one["Name"] == BUCKET for one in s3.list_buckets()["Buckets"]):
        s3.create_bucket(Bucket=BUCKET)

    def make(name: str, count: int = 3, cache: str = "", load: str = "pass", instances: int = 1, **environment: str):
        for number in range(count):
            artifact = handler(WHO.format(name=f"m{number}", load=load))
            s3.upload_file(str(artifact), BUCKET, f"{name}/m{number}.tar.gz")
        container = {"Mode": "MultiModel", "ModelDataUrl": f"s3://{BUCKET}/{name}/", "Environment": environment}
        if cache:
            container["MultiModelConfig"] = {"ModelCacheSetting": cache}
        create(server, name, {"PrimaryContainer": container}, instances)
        return name

    return make


def create(server: LiveServer, name: str, model: dict, instances: int = 1) -> None:
    """Model, config and endpoint of one name, in service."""
    sagemaker = server.client("sagemaker")
    sagemaker.create_model(ModelName=name, ExecutionRoleArn="arn:aws:iam::123456789012:role/test", **model)
    variant = {"VariantName": "AllTraffic", "ModelName": name, "InstanceType": "ml.m5.large"}
    sagemaker.create_endpoint_config(
        EndpointConfigName=name, ProductionVariants=[variant | {"InitialInstanceCount": instances}]
    )
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    server.wait(name)


def ask(server: LiveServer, name: str, target: str | None, body: str = "x", **more: str) -> tuple[str, int]:
    """Which model answered, and in which process."""
    given = {} if target is None else {"TargetModel": target}
    runtime = server.client("sagemaker-runtime")
    answer = runtime.invoke_endpoint(EndpointName=name, ContentType="text/plain", Body=body, **given, **more)
    model, pid = answer["Body"].read().decode().split()
    return model, int(pid)


def figure(server: LiveServer, metric: str, name: str) -> float:
    lines = server.get("/metrics").decode().splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f'{metric}{{endpoint="{name}"'))


def loaded(server: LiveServer, name: str) -> int:
    return int(figure(server, "fourfold_loaded_models", name))


def test_a_model_is_loaded_when_it_is_called_and_stays(server, fleet_of_models):
    name = fleet_of_models("zoo")
    assert loaded(server, name) == 0
    first = ask(server, name, "m0.tar.gz")
    assert first[0] == "m0"
    assert ask(server, name, "m1.tar.gz")[0] == "m1"
    assert ask(server, name, "m0.tar.gz") == first
    assert loaded(server, name) == 2
    assert figure(server, "fourfold_model_cache_hits_total", name) == 1
    assert figure(server, "fourfold_model_cache_misses_total", name) == 2


def test_a_session_is_refused_rather_than_forgotten(server, fleet_of_models):
    name = fleet_of_models("visits")
    with pytest.raises(ClientError, match="keeps no sessions") as error:
        ask(server, name, "m0.tar.gz", SessionId="NEW_SESSION")
    assert error.value.response["Error"]["Code"] == "ValidationError"


def test_a_model_that_is_uploaded_later_can_be_called(server, fleet_of_models, handler):
    name = fleet_of_models("later", 1)
    with pytest.raises(ClientError, match="Failed to download model data") as error:
        ask(server, name, "sub/new.tar.gz")
    assert error.value.response["Error"]["Code"] == "ValidationError"
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    server.client("s3").upload_file(str(handler(WHO.format(name="new", load="pass"))), BUCKET, "later/sub/new.tar.gz")
    assert ask(server, name, "sub/new.tar.gz")[0] == "new"
    assert ask(server, name, "/sub/new.tar.gz")[0] == "new"


def test_the_least_recently_called_goes_when_there_is_no_room(server, fleet_of_models):
    name = fleet_of_models("small", FOURFOLD_MULTI_MODEL_MAX_MODELS="2")
    first, second = ask(server, name, "m0.tar.gz"), ask(server, name, "m1.tar.gz")
    assert ask(server, name, "m0.tar.gz") == first
    ask(server, name, "m2.tar.gz")
    eventually(lambda: not alive(second[1]))
    assert alive(first[1])
    assert loaded(server, name) == 2
    assert ask(server, name, "m1.tar.gz")[1] != second[1]


def test_memory_decides_too(server, fleet_of_models):
    hold = "globals()['ballast'] = bytearray(os.urandom(1024)) * 1024 * 80"
    name = fleet_of_models("heavy", 3, load=hold, FOURFOLD_MULTI_MODEL_MEMORY_MB="200")
    pids = [ask(server, name, f"m{number}.tar.gz")[1] for number in range(3)]
    eventually(lambda: loaded(server, name) == 2)
    eventually(lambda: not alive(pids[0]))
    assert alive(pids[2])


def test_calls_at_once_to_a_model_that_is_not_loaded_load_it_once(server, fleet_of_models):
    name = fleet_of_models("burst")
    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(lambda _: ask(server, name, "m0.tar.gz"), range(16)))
    assert len(answers) == 1


def test_a_busy_model_is_not_unloaded(server, fleet_of_models):
    name = fleet_of_models("busy", 2, FOURFOLD_MULTI_MODEL_MAX_MODELS="1")
    ask(server, name, "m0.tar.gz")
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(ask, server, name, "m0.tar.gz", "sleep 0.5")
        time.sleep(0.2)
        assert ask(server, name, "m1.tar.gz")[0] == "m1"
        assert slow.result()[0] == "m0"


def test_without_a_cache_a_model_goes_after_its_call(server, fleet_of_models):
    name = fleet_of_models("forgetful", cache="Disabled")
    first = ask(server, name, "m0.tar.gz")
    eventually(lambda: not alive(first[1]))
    assert loaded(server, name) == 0
    assert ask(server, name, "m0.tar.gz")[1] != first[1]


def test_a_hot_model_gets_as_many_workers_as_there_are_instances(server, fleet_of_models):
    name = fleet_of_models("hot", 1, instances=2)
    ask(server, name, "m0.tar.gz")
    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(lambda _: ask(server, name, "m0.tar.gz", "sleep 0.4"), range(16)))
    assert len(answers) == 2


@pytest.mark.parametrize(
    ("target", "message", "code"),
    [
        (None, "TargetModel is needed", "ValidationError"),
        ("nothing.tar.gz", "Failed to download model data", "ValidationError"),
        ("../other/m0.tar.gz", "Failed to download model data", "ValidationError"),
    ],
)
def test_calls_that_name_no_model(server, fleet_of_models, target, message, code):
    name = "errors"
    if name not in [one["EndpointName"] for one in server.client("sagemaker").list_endpoints()["Endpoints"]]:
        fleet_of_models(name, 1)
    with pytest.raises(ClientError, match=message) as error:
        ask(server, name, target)
    assert error.value.response["Error"]["Code"] == code


def test_a_model_that_cannot_be_loaded_tells_its_callers_alone(server, fleet_of_models, handler):
    name = fleet_of_models("broken", 2, load="assert {name} != 'm0'".format(name="os.path.basename('m0')"))
    with pytest.raises(ClientError, match="cannot be loaded") as error:
        ask(server, name, "m0.tar.gz")
    assert error.value.response["Error"]["Code"] == "ModelError"
    assert server.client("sagemaker").describe_endpoint(EndpointName=name)["EndpointStatus"] == "InService"
    server.client("s3").upload_file(str(handler(WHO.format(name="mended", load="pass"))), BUCKET, f"{name}/m0.tar.gz")

    def mended() -> bool:
        try:
            return ask(server, name, "m0.tar.gz")[0] == "mended"
        except ClientError:
            return False

    eventually(mended)


def test_a_model_that_dies_is_loaded_again_and_others_live(server, fleet_of_models):
    name = fleet_of_models("mortal")
    bystander = ask(server, name, "m1.tar.gz")
    first = ask(server, name, "m0.tar.gz")
    with pytest.raises(ClientError, match="ended while it was answering"):
        ask(server, name, "m0.tar.gz", "die")
    assert ask(server, name, "m0.tar.gz")[1] != first[1]
    assert ask(server, name, "m1.tar.gz") == bystander


def test_a_stream_names_its_model(server, fleet_of_models, handler):
    code = "def model_fn(d):\n    return None\ndef transform_fn(m, data, c, a):\n    yield 'a'\n    yield 'b'\n"
    name = fleet_of_models("streams", 0)
    server.client("s3").upload_file(str(handler(code)), BUCKET, f"{name}/s.tar.gz")
    request = urllib.request.Request(
        f"{server.url}/endpoints/{name}/invocations-response-stream",
        b"x",
        {"Authorization": f"Bearer {server.keys['api_key']}", "X-Amzn-SageMaker-Target-Model": "s.tar.gz"},
    )
    with urllib.request.urlopen(request) as answer:
        body = answer.read()
    assert body.count(b"PayloadPart") == 2


def test_deleting_the_endpoint_ends_every_model(server, fleet_of_models):
    name = fleet_of_models("gone")
    pids = [ask(server, name, f"m{number}.tar.gz")[1] for number in range(3)]
    server.client("sagemaker").delete_endpoint(EndpointName=name)
    eventually(lambda: not any(map(alive, pids)))


def test_figures_have_sagemakers_names(server, fleet_of_models):
    name = fleet_of_models("figures")
    ask(server, name, "m0.tar.gz")
    ask(server, name, "m0.tar.gz")
    cloudwatch = server.client("cloudwatch")
    wanted = {"LoadedModelCount", "ModelCacheHit", "ModelLoadingTime", "ModelDownloadingTime", "ModelLoadingWaitTime"}

    def names() -> set[str]:
        dimensions = [{"Name": "EndpointName", "Value": name}]
        return {one["MetricName"] for one in cloudwatch.list_metrics(Dimensions=dimensions)["Metrics"]}

    eventually(lambda: wanted <= names(), 40)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"PrimaryContainer": {"Mode": "MultiModel"}}, "ModelDataUrl"),
        ({"PrimaryContainer": {"ModelDataUrl": "s3://b/p/", "MultiModelConfig": {}}}, "Mode MultiModel"),
    ],
)
def test_models_that_make_no_sense_are_refused(server, model, message):
    with pytest.raises(ClientError, match=message):
        server.client("sagemaker").create_model(ModelName="senseless", **model)


def test_after_a_restart_models_are_loaded_as_they_are_called(own_server, handler):
    s3 = own_server.client("s3")
    s3.create_bucket(Bucket=BUCKET)
    s3.upload_file(str(handler(WHO.format(name="m", load="pass"))), BUCKET, "restart/m.tar.gz")
    create(
        own_server, "restart", {"PrimaryContainer": {"Mode": "MultiModel", "ModelDataUrl": f"s3://{BUCKET}/restart"}}
    )
    ask(own_server, "restart", "m.tar.gz")
    own_server.kill()
    own_server.start()
    own_server.wait("restart")
    assert ask(own_server, "restart", "m.tar.gz")[0] == "m"
