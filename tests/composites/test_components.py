"""Inference components on a real server: copies, scaling to zero, updates, what stays when something fails."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from botocore.exceptions import ClientError

from fourfold.pool.processes import total_bytes
from tests.composites.test_multi_model import BUCKET, WHO
from tests.server import LiveServer, alive
from tests.test_serve import eventually

IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/sagemaker-scikit-learn:1.2-1-cpu-py3"
NEEDS = {"NumberOfCpuCoresRequired": 1, "MinMemoryRequiredInMb": 128}
ROLE = "arn:aws:iam::123456789012:role/test"


@pytest.fixture(scope="module")
def endpoint(server):
    """An endpoint without a model of its own."""
    return host(server, "shared")


@pytest.fixture
def model(server, handler):
    """Makes a model whose handler answers with its name and process id."""

    def make(name: str, load: str = "pass") -> str:
        upload(server, handler(WHO.format(name=name, load=load)), f"components/{name}.tar.gz")
        container = {"ModelDataUrl": f"s3://{BUCKET}/components/{name}.tar.gz"}
        server.client("sagemaker").create_model(ModelName=name, ExecutionRoleArn=ROLE, PrimaryContainer=container)
        return name

    return make


def upload(server: LiveServer, artifact, key: str) -> None:
    s3 = server.client("s3")
    if not any(one["Name"] == BUCKET for one in s3.list_buckets()["Buckets"]):
        s3.create_bucket(Bucket=BUCKET)
    s3.upload_file(str(artifact), BUCKET, key)


def host(server: LiveServer, name: str) -> str:
    sagemaker = server.client("sagemaker")
    variant = {"VariantName": "AllTraffic", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    sagemaker.create_endpoint_config(EndpointConfigName=name, ExecutionRoleArn=ROLE, ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    server.wait(name)
    return name


def create(server: LiveServer, name: str, endpoint: str, model: str, copies: int = 1, **needs: int) -> None:
    server.client("sagemaker").create_inference_component(
        InferenceComponentName=name,
        EndpointName=endpoint,
        VariantName="AllTraffic",
        Specification={"ModelName": model, "ComputeResourceRequirements": NEEDS | needs},
        RuntimeConfig={"CopyCount": copies},
    )


def wait(server: LiveServer, name: str, status: str = "InService") -> dict:
    sagemaker = server.client("sagemaker")
    end = time.monotonic() + 30
    while True:
        found = sagemaker.describe_inference_component(InferenceComponentName=name)
        if found["InferenceComponentStatus"] == status:
            return found
        assert found["InferenceComponentStatus"] in ("Creating", "Updating"), found
        assert time.monotonic() < end, found
        time.sleep(0.02)


def ask(server: LiveServer, endpoint: str, component: str | None, body: str = "x") -> tuple[str, int]:
    given = {} if component is None else {"InferenceComponentName": component}
    runtime = server.client("sagemaker-runtime")
    answer = runtime.invoke_endpoint(EndpointName=endpoint, ContentType="text/plain", Body=body, **given)
    name, pid = answer["Body"].read().decode().split()
    return name, int(pid)


def test_each_component_answers_its_own_calls(server, endpoint, model):
    for name in ("cat", "dog"):
        create(server, name, endpoint, model(name))
    for name in ("cat", "dog"):
        wait(server, name)
        assert ask(server, endpoint, name)[0] == name
    for wrong, message in ((None, "Inference Component Name header is required"), ("bird", "bird is not found")):
        with pytest.raises(ClientError, match=message) as error:
            ask(server, endpoint, wrong)
        assert error.value.response["Error"]["Code"] == "ValidationError"


def test_describe_and_list(server, endpoint, model):
    create(server, "listed", endpoint, model("listed"))
    found = wait(server, "listed")
    assert found["InferenceComponentArn"] == "arn:aws:sagemaker:us-east-1:123456789012:inference-component/listed"
    assert found["EndpointArn"].endswith(f"endpoint/{endpoint}")
    assert found["RuntimeConfig"] == {"DesiredCopyCount": 1, "CurrentCopyCount": 1}
    assert found["Specification"]["ComputeResourceRequirements"] == NEEDS
    sagemaker = server.client("sagemaker")
    names = [
        one["InferenceComponentName"]
        for one in sagemaker.list_inference_components(EndpointNameEquals=endpoint, MaxResults=100)[
            "InferenceComponents"
        ]
    ]
    assert "listed" in names
    assert sagemaker.list_inference_components(EndpointNameEquals="nowhere")["InferenceComponents"] == []
    tags = [{"Key": "a", "Value": "b"}]
    sagemaker.add_tags(ResourceArn=found["InferenceComponentArn"], Tags=tags)
    assert sagemaker.list_tags(ResourceArn=found["InferenceComponentArn"])["Tags"] == tags


def test_copies_come_and_go_down_to_zero(server, endpoint, model):
    create(server, "elastic", endpoint, model("elastic"), copies=2)
    wait(server, "elastic")
    sagemaker = server.client("sagemaker")

    def scale(copies: int) -> None:
        sagemaker.update_inference_component_runtime_config(
            InferenceComponentName="elastic", DesiredRuntimeConfig={"CopyCount": copies}
        )
        found = wait(server, "elastic")
        assert found["RuntimeConfig"] == {"DesiredCopyCount": copies, "CurrentCopyCount": copies}

    scale(0)
    with pytest.raises(ClientError, match="no capacity to process this request") as error:
        ask(server, endpoint, "elastic")
    assert error.value.response["Error"]["Code"] == "ValidationError"
    scale(3)
    assert ask(server, endpoint, "elastic")[0] == "elastic"
    pid = ask(server, endpoint, "elastic")[1]
    scale(0)
    eventually(lambda: not alive(pid))


def test_a_component_may_begin_with_no_copies(server, endpoint, model):
    create(server, "empty", endpoint, model("empty"), copies=0)
    assert wait(server, "empty")["RuntimeConfig"]["CurrentCopyCount"] == 0


def test_an_update_brings_the_new_model_and_fails_no_request(server, endpoint, model):
    create(server, "moving", endpoint, model("before"))
    wait(server, "moving")
    old = ask(server, endpoint, "moving")
    sagemaker = server.client("sagemaker")
    sagemaker.update_inference_component(
        InferenceComponentName="moving", Specification={"ModelName": model("after")}, RuntimeConfig={"CopyCount": 2}
    )
    seen = set()
    while sagemaker.describe_inference_component(InferenceComponentName="moving")["InferenceComponentStatus"] != (
        "InService"
    ):
        seen.add(ask(server, endpoint, "moving")[0])
    assert seen <= {"before", "after"}
    assert ask(server, endpoint, "moving")[0] == "after"
    eventually(lambda: not alive(old[1]))


def test_an_update_that_cannot_be_loaded_leaves_what_runs(server, endpoint, model):
    create(server, "steady", endpoint, model("steady"))
    wait(server, "steady")
    server.client("sagemaker").update_inference_component(
        InferenceComponentName="steady", Specification={"ModelName": model("worse", "raise RuntimeError('no luck')")}
    )
    found = wait(server, "steady")
    assert "no luck" in found["FailureReason"]
    assert found["Specification"]["ModelName"] == "steady"
    assert ask(server, endpoint, "steady")[0] == "steady"


def rolling(wait: int = 0, alarms: tuple[str, ...] = (), **size) -> dict:
    batch = size or {"Type": "COPY_COUNT", "Value": 1}
    config = {"RollingUpdatePolicy": {"MaximumBatchSize": batch, "WaitIntervalInSeconds": wait}}
    watched = {"AutoRollbackConfiguration": {"Alarms": [{"AlarmName": name} for name in alarms]}}
    return config | watched if alarms else config


def roll(server: LiveServer, component: str, model: str, copies: int, config: dict) -> None:
    server.client("sagemaker").update_inference_component(
        InferenceComponentName=component,
        Specification={"ModelName": model},
        RuntimeConfig={"CopyCount": copies},
        DeploymentConfig=config,
    )


@contextmanager
def asked_all_the_time(server: LiveServer, endpoint: str, component: str):
    """Clients that call meanwhile; yields the answers so far. No call may fail."""
    answers: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        done = threading.Event()

        def call() -> None:
            while not done.is_set():
                answers.append(ask(server, endpoint, component)[0])

        clients = [pool.submit(call) for _ in range(2)]
        try:
            yield answers
        finally:
            done.set()
        for client in clients:
            client.result()


def test_a_rolling_update_replaces_copy_by_copy_and_fails_no_request(server, endpoint, model):
    create(server, "rolled", endpoint, model("rolled"), copies=2)
    wait(server, "rolled")
    with asked_all_the_time(server, endpoint, "rolled") as answers:
        roll(server, "rolled", model("rolled-2"), 2, rolling(wait=2))
        eventually(lambda: set(answers[-60:]) == {"rolled", "rolled-2"})  # one copy of each
        found = wait(server, "rolled")
        eventually(lambda: set(answers[-20:]) == {"rolled-2"})
    assert found["RuntimeConfig"] == {"DesiredCopyCount": 2, "CurrentCopyCount": 2}
    assert found["LastDeploymentConfig"] == rolling(wait=2)
    assert "FailureReason" not in found


def test_an_alarm_or_copies_that_do_not_start_roll_an_update_back_and_no_request_fails(server, endpoint, model):
    create(server, "calm", endpoint, model("calm"), copies=2)
    wait(server, "calm")
    cloudwatch = server.client("cloudwatch")
    cloudwatch.put_metric_alarm(
        AlarmName="hot", Namespace="shop", MetricName="Heat", Statistic="Sum", Period=60, EvaluationPeriods=1,
        Threshold=1, ComparisonOperator="GreaterThanThreshold", TreatMissingData="notBreaching",
    )  # fmt: skip
    with asked_all_the_time(server, endpoint, "calm") as answers:
        roll(server, "calm", model("heated"), 4, rolling(60, ("hot",), Type="CAPACITY_PERCENT", Value=50))
        eventually(lambda: set(answers[-60:]) == {"calm", "heated"})
        assert server.client("sagemaker").describe_inference_component(InferenceComponentName="calm")[
            "InferenceComponentStatus"
        ] == ("Updating")
        cloudwatch.set_alarm_state(AlarmName="hot", StateValue="ALARM", StateReason="a drill")
        found = wait(server, "calm")
        eventually(lambda: set(answers[-20:]) == {"calm"})
        assert "hot" in found["FailureReason"]
        roll(server, "calm", model("crashing", "raise RuntimeError('no luck')"), 2, rolling())
        found = wait(server, "calm")
    assert "no luck" in found["FailureReason"]
    assert found["Specification"]["ModelName"] == "calm"
    assert found["RuntimeConfig"] == {"DesiredCopyCount": 2, "CurrentCopyCount": 2}
    for config, told in (
        (rolling(Type="CAPACITY_PERCENT", Value=60), "5% to 50%"),
        (rolling(alarms=("nowhere",)), 'Could not find alarm "nowhere"'),
    ):
        with pytest.raises(ClientError, match=told):
            roll(server, "calm", "calm", 2, config)


def test_a_rolling_update_may_be_deleted_and_begins_again_after_a_kill(own_server, handler):
    host(own_server, "roller")
    for name in ("one", "two"):
        upload(own_server, handler(WHO.format(name=name, load="pass")), f"{name}.tar.gz")
        container = {"ModelDataUrl": f"s3://{BUCKET}/{name}.tar.gz"}
        own_server.client("sagemaker").create_model(ModelName=name, PrimaryContainer=container)
    create(own_server, "roller", "roller", "one", copies=2)
    wait(own_server, "roller")
    roll(own_server, "roller", "two", 2, rolling(wait=3600))

    def seen() -> set[str]:
        try:
            return {ask(own_server, "roller", "roller")[0] for _ in range(12)}
        except ClientError:  # it is not there yet
            return set()

    eventually(lambda: seen() == {"one", "two"})
    own_server.kill()
    own_server.start()
    own_server.wait("roller")
    eventually(lambda: seen() == {"one", "two"})
    workers = own_server.worker_pids()
    own_server.client("sagemaker").delete_inference_component(InferenceComponentName="roller")
    eventually(lambda: not any(map(alive, workers)))


def test_a_component_that_cannot_be_loaded_fails_alone(server, endpoint, model):
    create(server, "bad", endpoint, model("bad", "raise RuntimeError('no luck')"))
    assert "no luck" in wait(server, "bad", "Failed")["FailureReason"]
    assert server.client("sagemaker").describe_endpoint(EndpointName=endpoint)["EndpointStatus"] == "InService"


def test_copies_that_need_more_than_there_is_fail(server, model):
    endpoint, most = host(server, "narrow"), total_bytes() // 2**20
    create(server, "half", endpoint, model("half"), MinMemoryRequiredInMb=most * 2 // 3)
    wait(server, "half")
    create(server, "other-half", endpoint, model("other-half"), copies=2, MinMemoryRequiredInMb=most // 4)
    assert "those of other components" in wait(server, "other-half", "Failed")["FailureReason"]
    create(server, "broad", endpoint, model("broad"), NumberOfCpuCoresRequired=3)
    assert "an ml.m5.large has 2" in wait(server, "broad", "Failed")["FailureReason"]


def test_a_container_in_place_of_a_model(server, endpoint, handler):
    upload(server, handler(WHO.format(name="box", load="pass")), "components/box.tar.gz")
    server.client("sagemaker").create_inference_component(
        InferenceComponentName="box",
        EndpointName=endpoint,
        VariantName="AllTraffic",
        Specification={
            "Container": {"Image": IMAGE, "ArtifactUrl": f"s3://{BUCKET}/components/box.tar.gz"},
            "ComputeResourceRequirements": NEEDS,
        },
        RuntimeConfig={"CopyCount": 1},
    )
    container = wait(server, "box")["Specification"]["Container"]
    assert container["DeployedImage"]["SpecifiedImage"] == IMAGE
    assert ask(server, endpoint, "box")[0] == "box"


def test_an_endpoint_update_leaves_its_components(server, model):
    name = host(server, "kept")
    create(server, "kept", name, model("kept"))
    wait(server, "kept")
    before = ask(server, name, "kept")
    sagemaker = server.client("sagemaker")
    variant = {"VariantName": "AllTraffic", "InstanceType": "ml.m5.xlarge", "InitialInstanceCount": 2}
    sagemaker.create_endpoint_config(EndpointConfigName="kept-2", ExecutionRoleArn=ROLE, ProductionVariants=[variant])
    sagemaker.update_endpoint(EndpointName=name, EndpointConfigName="kept-2")
    server.wait(name)
    assert ask(server, name, "kept") == before


def test_an_endpoint_goes_after_its_components(server, model):
    name = host(server, "going")
    create(server, "going", name, model("going"))
    wait(server, "going")
    pid = ask(server, name, "going")[1]
    sagemaker = server.client("sagemaker")
    with pytest.raises(ClientError, match="hosts inference components"):
        sagemaker.delete_endpoint(EndpointName=name)
    sagemaker.delete_inference_component(InferenceComponentName="going")
    eventually(lambda: not alive(pid))

    def gone() -> bool:
        try:
            sagemaker.describe_inference_component(InferenceComponentName="going")
        except ClientError as error:
            return "Could not find" in str(error)
        return False

    eventually(gone)
    sagemaker.delete_endpoint(EndpointName=name)


def test_components_that_make_no_sense_are_refused(server, endpoint, model, onnx_model):
    server.deploy("own-model", onnx_model)
    sensible = {
        "InferenceComponentName": "senseless",
        "EndpointName": endpoint,
        "VariantName": "AllTraffic",
        "Specification": {"ModelName": model("sensible"), "ComputeResourceRequirements": NEEDS},
        "RuntimeConfig": {"CopyCount": 1},
    }
    for change, message in (
        ({"EndpointName": "nowhere"}, "Could not find endpoint"),
        ({"VariantName": "other"}, "Could not find variant"),
        ({"EndpointName": "own-model"}, "has a model of its own"),
        ({"Specification": {"ModelName": "missing"}}, "Could not find model"),
        ({"Specification": {"ComputeResourceRequirements": NEEDS}}, "exactly one of ModelName and Container"),
        ({"Specification": {"ModelName": "sensible", "BaseInferenceComponentName": "x"}}, "not supported"),
        ({"RuntimeConfig": {"CopyCount": 10**9}}, "256 copies at most"),
        (
            {
                "Specification": {
                    "ModelName": "sensible",
                    "ComputeResourceRequirements": {"MinMemoryRequiredInMb": 512, "MaxMemoryRequiredInMb": 256},
                }
            },
            "must not be more than",
        ),
    ):
        with pytest.raises(ClientError, match=message):
            server.client("sagemaker").create_inference_component(**(sensible | change))
    for operation in ("describe_inference_component", "delete_inference_component"):
        with pytest.raises(ClientError, match="Could not find inference component"):
            getattr(server.client("sagemaker"), operation)(InferenceComponentName="missing")


def test_components_come_back_after_a_kill_even_when_their_artifacts_are_gone(own_server, handler):
    upload(own_server, handler(WHO.format(name="back", load="pass")), "back.tar.gz")
    host(own_server, "back")
    container = {"ModelDataUrl": f"s3://{BUCKET}/back.tar.gz"}
    own_server.client("sagemaker").create_model(ModelName="back", PrimaryContainer=container)
    create(own_server, "back", "back", "back")
    wait(own_server, "back")
    own_server.client("s3").delete_object(Bucket=BUCKET, Key="back.tar.gz")
    own_server.kill()
    own_server.start()
    own_server.wait("back")
    wait(own_server, "back")
    assert ask(own_server, "back", "back")[0] == "back"


def test_application_autoscaling_moves_copies_from_zero(server, endpoint, model):
    create(server, "scaled", endpoint, model("scaled"), copies=0)
    wait(server, "scaled")
    scaling = server.client("application-autoscaling")
    target = {
        "ServiceNamespace": "sagemaker",
        "ResourceId": "inference-component/scaled",
        "ScalableDimension": "sagemaker:inference-component:DesiredCopyCount",
    }
    scaling.register_scalable_target(**target, MinCapacity=1, MaxCapacity=2)
    sagemaker = server.client("sagemaker")

    def copies() -> int:
        found = sagemaker.describe_inference_component(InferenceComponentName="scaled")
        return found["RuntimeConfig"]["CurrentCopyCount"]

    eventually(lambda: copies() == 1)
    assert ask(server, endpoint, "scaled")[0] == "scaled"
    scaling.deregister_scalable_target(**target)


def test_calls_without_capacity_are_a_metric(server, endpoint, model):
    create(server, "wanting", endpoint, model("wanting"), copies=0)
    wait(server, "wanting")
    with pytest.raises(ClientError, match="no capacity"):
        ask(server, endpoint, "wanting")
    cloudwatch = server.client("cloudwatch")
    dimensions = [{"Name": "InferenceComponentName", "Value": "wanting"}]

    def counted() -> bool:
        names = {one["MetricName"] for one in cloudwatch.list_metrics(Dimensions=dimensions)["Metrics"]}
        return {"NoCapacityInvocationFailures", "ConcurrentRequestsPerCopy"} <= names

    eventually(counted, 40)
