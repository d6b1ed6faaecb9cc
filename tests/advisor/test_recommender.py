"""Inference recommendations jobs: real load on real workers, asked for with boto3."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from fourfold.advisor.prices import shipped
from fourfold.advisor.recommender.configurations import configurations
from fourfold.advisor.recommender.figures import scaling
from fourfold.advisor.recommender.traffic import steps
from fourfold.errors import ValidationException
from tests.server import LiveServer, alive

ROLE = "arn:aws:iam::123456789012:role/recommend"
QUICK = {"TrafficType": "STAIRS", "Stairs": {"DurationInSeconds": 1, "NumberOfSteps": 2, "UsersPerStep": 2}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, onnx_model: Path) -> Iterator[LiveServer]:
    live = LiveServer(tmp_path_factory.mktemp("recommender") / "data")
    live.deploy("sums", onnx_model, endpoint=False)
    yield live
    live.stop()


@pytest.fixture
def sagemaker(server: LiveServer) -> Any:
    return server.client("sagemaker")


def request(name: str, **members: Any) -> dict[str, Any]:
    config = {
        "ModelName": "sums",
        "TrafficPattern": QUICK,
        "EndpointConfigurations": [{"InstanceType": "ml.m5.large"}],
        **members.pop("InputConfig", {}),
    }
    return {"JobName": name, "JobType": "Advanced", "RoleArn": ROLE, "InputConfig": config, **members}


def ended(sagemaker: Any, name: str, seconds: float = 60) -> dict[str, Any]:
    """The job, once it has ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        job: dict[str, Any] = sagemaker.describe_inference_recommendations_job(JobName=name)
        if job["Status"] in ("COMPLETED", "FAILED", "STOPPED"):
            return job
        time.sleep(0.1)
    raise AssertionError(f"{name} is {job['Status']} after {seconds} s")


def code(error: pytest.ExceptionInfo[ClientError]) -> tuple[str, str]:
    said = error.value.response["Error"]
    return said["Code"], said["Message"]


def test_a_job_measures_each_configuration_and_ranks_them_by_cost(sagemaker: Any) -> None:
    serverless = {"ServerlessConfig": {"MemorySizeInMB": 2048, "MaxConcurrency": 2}}
    tried = {"EndpointConfigurations": [{"InstanceType": "ml.m5.large"}, serverless]}
    asked = request("both", InputConfig=tried, JobDescription="which", Tags=[{"Key": "team", "Value": "risk"}])
    arn = sagemaker.create_inference_recommendations_job(**asked)["JobArn"]
    assert arn == "arn:aws:sagemaker:us-east-1:123456789012:inference-recommendations-job/both"
    job = ended(sagemaker, "both")
    assert job["Status"] == "COMPLETED", job
    assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "team", "Value": "risk"}]
    found = job["InferenceRecommendations"]
    assert {"InstanceType" in one["EndpointConfiguration"] for one in found} == {True, False}
    each = [one["Metrics"]["CostPerInference"] for one in found]
    assert each == sorted(each)
    for one in found:
        seen = one["Metrics"]
        assert seen["MaxInvocations"] > 600
        assert seen["ModelLatency"] >= 1
        assert seen["CpuUtilization"] > 0
        assert 0 < seen["MemoryUtilization"] < 100
        assert seen["CostPerInference"] == pytest.approx(seen["CostPerHour"] / 60 / seen["MaxInvocations"], rel=1e-4)
        assert one["InvocationStartTime"] <= one["InvocationEndTime"]
        assert ("ModelSetupTime" in seen) is ("ServerlessConfig" in one["EndpointConfiguration"])
    instance = next(one for one in found if "InstanceType" in one["EndpointConfiguration"])
    assert instance["Metrics"]["CostPerHour"] == pytest.approx(0.115)

    advised = sagemaker.get_scaling_configuration_recommendation(
        InferenceRecommendationsJobName="both",
        RecommendationId=instance["RecommendationId"],
        TargetCpuUtilizationPerCore=40,
        ScalingPolicyObjective={"MinInvocationsPerMinute": 1, "MaxInvocationsPerMinute": 100_000_000},
    )
    assert advised["Metric"]["InvocationsPerInstance"] == instance["Metrics"]["MaxInvocations"]
    rule = advised["DynamicScalingConfiguration"]
    target = rule["ScalingPolicies"][0]["TargetTracking"]["TargetValue"]
    assert 0 < target <= instance["Metrics"]["MaxInvocations"]
    assert rule["MinCapacity"] == 1
    assert (rule["MaxCapacity"] - 1) * target < 100_000_000 <= rule["MaxCapacity"] * target


def test_steps_and_lists_are_paged(sagemaker: Any) -> None:
    ranges = {"CategoricalParameterRanges": [{"Name": "FOURFOLD_MAX_BATCH", "Value": ["1", "8"]}]}
    tried = [{"InstanceType": "ml.c5.large", "EnvironmentParameterRanges": ranges}]
    sagemaker.create_inference_recommendations_job(**request("ranges", InputConfig={"EndpointConfigurations": tried}))
    assert ended(sagemaker, "ranges")["Status"] == "COMPLETED"
    pages = sagemaker.get_paginator("list_inference_recommendations_job_steps").paginate(
        JobName="ranges", PaginationConfig={"PageSize": 1}
    )
    steps = [step for page in pages for step in page["Steps"]]
    values = [s["InferenceBenchmark"]["ModelConfiguration"]["EnvironmentParameters"][0]["Value"] for s in steps]
    assert values == ["1", "8"]
    assert {step["Status"] for step in steps} == {"COMPLETED"}
    named = sagemaker.list_inference_recommendations_jobs(NameContains="range", ModelNameEquals="sums")
    assert [job["JobName"] for job in named["InferenceRecommendationsJobs"]] == ["ranges"]


def test_a_list_is_filtered_before_it_is_paged(server: LiveServer, sagemaker: Any, onnx_model: Path) -> None:
    server.deploy("others", onnx_model, endpoint=False)
    for number in range(3):
        for model in ("sums", "others"):
            name = f"listed-{model}-{number}"
            sagemaker.create_inference_recommendations_job(**request(name, InputConfig={"ModelName": model}))
            sagemaker.stop_inference_recommendations_job(JobName=name)
            assert ended(sagemaker, name)["Status"] == "STOPPED"

    def pages(**wanted: Any) -> list[list[str]]:
        paginator = sagemaker.get_paginator("list_inference_recommendations_jobs")
        found = paginator.paginate(NameContains="listed", PaginationConfig={"PageSize": 2}, **wanted)
        return [[job["JobName"] for job in page["InferenceRecommendationsJobs"]] for page in found]

    order = {"SortBy": "Name", "SortOrder": "Ascending"}
    assert pages(ModelNameEquals="others", **order) == [["listed-others-0", "listed-others-1"], ["listed-others-2"]]
    assert pages(ModelNameEquals="nobody") == [[]]
    assert pages(StatusEquals="COMPLETED") == [[]]
    stopped = [name for page in pages(StatusEquals="STOPPED", SortBy="CreationTime") for name in page]
    assert stopped == [f"listed-{model}-{number}" for number in (2, 1, 0) for model in ("others", "sums")]
    assert [len(page) for page in pages(SortBy="Status")] == [2, 2, 2]


def test_a_default_job_takes_a_sample_payload(server: LiveServer, sagemaker: Any) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        body = b"[[1, 2, 3, 4]]"
        member = tarfile.TarInfo("sample.json")
        member.size = len(body)
        archive.addfile(member, io.BytesIO(body))
    server.client("s3").put_object(Bucket="test-models", Key="samples/payload.tar.gz", Body=packed.getvalue())
    container = {
        "SupportedInstanceTypes": ["ml.c5.large"],
        "PayloadConfig": {
            "SamplePayloadUrl": "s3://test-models/samples/payload.tar.gz",
            "SupportedContentTypes": ["application/json"],
        },
    }
    asked = request("sampled", JobType="Default", StoppingConditions={"MaxInvocations": 1})
    asked["InputConfig"] = {"ModelName": "sums", "ContainerConfig": container, "TrafficPattern": QUICK}
    sagemaker.create_inference_recommendations_job(**asked)
    job = ended(sagemaker, "sampled")
    assert job["Status"] == "COMPLETED", job
    assert job["InferenceRecommendations"][0]["EndpointConfiguration"]["InstanceType"] == "ml.c5.large"


def test_a_model_package_is_measured_before_it_is_approved(sagemaker: Any) -> None:
    sagemaker.create_model_package_group(ModelPackageGroupName="scores")
    data = sagemaker.describe_model(ModelName="sums")["PrimaryContainer"]["ModelDataUrl"]
    arn = sagemaker.create_model_package(
        ModelPackageGroupName="scores",
        ModelApprovalStatus="PendingManualApproval",
        InferenceSpecification={
            "Containers": [{"Image": "fourfold/onnx:latest", "ModelDataUrl": data}],
            "SupportedContentTypes": ["application/json"],
            "SupportedResponseMIMETypes": ["application/json"],
        },
    )["ModelPackageArn"]
    asked = request("packaged")
    del asked["InputConfig"]["ModelName"]
    asked["InputConfig"]["ModelPackageVersionArn"] = arn
    sagemaker.create_inference_recommendations_job(**asked)
    job = ended(sagemaker, "packaged")
    assert job["Status"] == "COMPLETED", job
    assert job["InputConfig"]["ModelPackageVersionArn"] == arn


def test_a_payload_that_the_model_refuses_fails_the_job_with_its_words(server: LiveServer, sagemaker: Any) -> None:
    server.client("s3").put_object(Bucket="test-models", Key="samples/bad.json", Body=b"not a number")
    payload = {"SamplePayloadUrl": "s3://test-models/samples/bad.json", "SupportedContentTypes": ["application/json"]}
    asked = request("refused", InputConfig={"ContainerConfig": {"PayloadConfig": payload}})
    sagemaker.create_inference_recommendations_job(**asked)
    job = ended(sagemaker, "refused")
    assert job["Status"] == "FAILED"
    assert "refuses the sample payload" in job["FailureReason"]
    with pytest.raises(ClientError) as refused:
        sagemaker.get_scaling_configuration_recommendation(InferenceRecommendationsJobName="refused")
    assert code(refused)[0] == "ValidationException"


def test_a_job_that_is_stopped_ends_its_load(server: LiveServer, sagemaker: Any) -> None:
    long = {"TrafficType": "PHASES", "Phases": [{"InitialNumberOfUsers": 1, "SpawnRate": 1, "DurationInSeconds": 600}]}
    sagemaker.create_inference_recommendations_job(**request("long", InputConfig={"TrafficPattern": long}))
    pids: list[int] = []
    until = time.monotonic() + 30
    while not pids and time.monotonic() < until:
        pids = [pid for pid in server.descendants() if "fourfold.advisor.benchmark" in _command(pid)]
        time.sleep(0.05)
    assert pids
    sagemaker.stop_inference_recommendations_job(JobName="long")
    assert ended(sagemaker, "long")["Status"] == "STOPPED"
    assert not any(alive(pid) for pid in pids)
    (step,) = sagemaker.list_inference_recommendations_job_steps(JobName="long")["Steps"]
    assert step["Status"] == "STOPPED"


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def test_a_job_goes_on_after_a_kill(tmp_path: Path, onnx_model: Path) -> None:
    live = LiveServer(tmp_path / "data")
    try:
        live.deploy("sums", onnx_model, endpoint=False)
        tried = [{"InstanceType": "ml.c5.large"}, {"InstanceType": "ml.m5.large"}]
        live.client("sagemaker").create_inference_recommendations_job(
            **request("cut", InputConfig={"EndpointConfigurations": tried})
        )
        live.kill()
        live.start()
        job = ended(live.client("sagemaker"), "cut")
        assert job["Status"] == "COMPLETED", job
        assert len(job["InferenceRecommendations"]) == 2
    finally:
        live.stop()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ModelName": "nobody"}, ("ValidationException", "Could not find model")),
        ({"EndpointConfigurations": [{"InstanceType": "ml.p5.48xlarge"}]}, ("ValidationException", "instance_type")),
        ({"EndpointConfigurations": [{}]}, ("ValidationException", "either an InstanceType or a ServerlessConfig")),
        ({"TrafficPattern": {"TrafficType": "STAIRS"}}, ("ValidationException", "Stairs is missing")),
        ({"JobDurationInSeconds": 20_000}, ("ValidationException", "at most 18000")),
        ({"Endpoints": [{"EndpointName": "there"}]}, ("ValidationException", "fourfold verify")),
    ],
)
def test_what_cannot_be_measured_is_refused(sagemaker: Any, change: dict[str, Any], said: tuple[str, str]) -> None:
    with pytest.raises(ClientError) as refused:
        sagemaker.create_inference_recommendations_job(**request("bad", InputConfig=change))
    kind, message = code(refused)
    assert kind == said[0]
    assert said[1] in message


def test_a_job_that_is_not_there_is_not_found(sagemaker: Any) -> None:
    for ask in (sagemaker.describe_inference_recommendations_job, sagemaker.stop_inference_recommendations_job):
        with pytest.raises(ClientError) as refused:
            ask(JobName="nobody")
        assert code(refused)[0] == "ResourceNotFound"


def test_a_pattern_becomes_steps_of_constant_users() -> None:
    phases = [
        {"InitialNumberOfUsers": 2, "SpawnRate": 3, "DurationInSeconds": 150},
        {"InitialNumberOfUsers": 1, "DurationInSeconds": 30},
    ]
    found = steps({"TrafficPattern": {"TrafficType": "PHASES", "Phases": phases}})
    assert [(step.users, step.seconds) for step in found] == [(2, 60), (5, 60), (8, 30), (1, 30)]
    assert [step.users for step in steps({"TrafficPattern": QUICK})] == [2, 4]


def test_combinations_beyond_the_limit_are_refused() -> None:
    ranges = [{"Name": name, "Value": ["1", "2", "3"]} for name in ("A", "B", "C")]
    one = {"InstanceType": "ml.c5.large", "EnvironmentParameterRanges": {"CategoricalParameterRanges": ranges}}
    asked = {"JobType": "Advanced", "InputConfig": {"ModelName": "m", "EndpointConfigurations": [one]}}
    with pytest.raises(ValidationException, match="27 configurations, and at most 10"):
        configurations(asked, shipped())


@given(st.integers(1, 10**7), st.floats(0, 400), st.integers(1, 100), st.integers(0, 10**8), st.integers(0, 10**8))
def test_scaling_covers_the_peak_and_never_asks_more_of_an_instance_than_it_bore(
    rate: int, cpu: float, percent: int, one: int, other: int
) -> None:
    least, most = sorted((one, other))
    rule = scaling({"result": {"per_minute": rate, "cpu_percent": cpu}}, percent, least, most)
    target = rule["ScalingPolicies"][0]["TargetTracking"]["TargetValue"]
    assert 1 <= target <= rate
    assert 1 <= rule["MinCapacity"] <= rule["MaxCapacity"]
    assert rule["MaxCapacity"] * target >= most
