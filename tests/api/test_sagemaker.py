"""The control plane of SageMaker as boto3 sees it: models, endpoint configs, endpoints, tags, lists, waiters."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, WaiterError

from tests.server import LiveServer

ROLE = "arn:aws:iam::123456789012:role/any"
ARN = "arn:aws:sagemaker:us-east-1:123456789012:"


@pytest.fixture(scope="module")
def sagemaker(server) -> Any:
    return server.client("sagemaker")


@pytest.fixture(scope="module")
def unchecked(server) -> Any:
    """A client that sends whatever it is given, so that the server has to check."""
    return server.client("sagemaker", parameter_validation=False)


@pytest.fixture(scope="module")
def live(server, onnx_model) -> str:
    """An endpoint in service; its config and model have its name."""
    server.deploy("live", onnx_model)
    return "live"


def variant(model: str, **members: Any) -> dict[str, Any]:
    given = {"VariantName": "AllTraffic", "ModelName": model, "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    return {name: value for name, value in (given | members).items() if value is not None}


def refused(call: Any, *, code: str = "ValidationException", **members: Any) -> str:
    """The message with which a call is refused."""
    with pytest.raises(ClientError) as error:
        call(**members)
    answer = error.value.response
    assert answer["Error"]["Code"] == code, answer
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 400
    return answer["Error"]["Message"]


# What comes in comes back


def test_a_model_is_described_as_it_was_created_also_in_what_has_no_meaning_here(sagemaker):
    given = {
        "ModelName": "described",
        "ExecutionRoleArn": ROLE,
        "PrimaryContainer": {
            "Image": "fourfold/onnx:latest",
            "ModelDataUrl": "s3://bucket/model.onnx",
            "Environment": {"KEY": "välue"},
            "ContainerHostname": "one",
            "ImageConfig": {"RepositoryAccessMode": "Platform"},
        },
        "VpcConfig": {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1"]},
        "EnableNetworkIsolation": True,
    }
    before = datetime.now(UTC).timestamp()
    made = sagemaker.create_model(**given)
    assert made["ModelArn"] == ARN + "model/described"
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", made["ResponseMetadata"]["RequestId"])
    described = sagemaker.describe_model(ModelName="described")
    assert {name: described[name] for name in given} == given
    assert described["ModelArn"] == made["ModelArn"]
    assert before - 1 <= described["CreationTime"].timestamp() <= datetime.now(UTC).timestamp() + 1


def test_a_config_is_described_with_its_defaults(sagemaker):
    sagemaker.create_model(ModelName="plain", PrimaryContainer={"ModelDataUrl": "s3://b/k"})
    capture = {
        "EnableCapture": True,
        "InitialSamplingPercentage": 20,
        "DestinationS3Uri": "s3://bucket/captured",
        "CaptureOptions": [{"CaptureMode": "Input"}],
    }
    made = sagemaker.create_endpoint_config(
        EndpointConfigName="plain",
        ProductionVariants=[variant("plain")],
        DataCaptureConfig=capture,
        KmsKeyId="key",
        Tags=[{"Key": "team", "Value": "risk"}],
    )
    assert made["EndpointConfigArn"] == ARN + "endpoint-config/plain"
    described = sagemaker.describe_endpoint_config(EndpointConfigName="plain")
    assert described["ProductionVariants"] == [variant("plain", InitialVariantWeight=1.0)]
    assert described["DataCaptureConfig"] == capture
    assert described["KmsKeyId"] == "key"
    assert "Tags" not in described
    assert sagemaker.list_tags(ResourceArn=made["EndpointConfigArn"])["Tags"] == [{"Key": "team", "Value": "risk"}]


def test_an_endpoint_in_service_says_what_runs(sagemaker, live):
    described = sagemaker.describe_endpoint(EndpointName=live)
    assert described["EndpointArn"] == ARN + "endpoint/live"
    assert described["EndpointStatus"] == "InService"
    assert described["EndpointConfigName"] == live
    assert "FailureReason" not in described
    assert described["CreationTime"] <= described["LastModifiedTime"]
    (running,) = described["ProductionVariants"]
    assert running["VariantName"] == "AllTraffic"
    assert (running["CurrentWeight"], running["DesiredWeight"]) == (1.0, 1.0)
    assert (running["CurrentInstanceCount"], running["DesiredInstanceCount"]) == (1, 1)
    assert "onnx" in running["DeployedImages"][0]["SpecifiedImage"] + running["DeployedImages"][0]["ResolvedImage"]


# Missing and taken names


@pytest.mark.parametrize(
    ("operation", "member", "words"),
    [
        ("describe_model", "ModelName", 'model "' + ARN + 'model/none"'),
        ("delete_model", "ModelName", 'model "' + ARN + 'model/none"'),
        ("describe_endpoint_config", "EndpointConfigName", 'endpoint configuration "' + ARN + 'endpoint-config/none"'),
        ("delete_endpoint_config", "EndpointConfigName", 'endpoint configuration "' + ARN + 'endpoint-config/none"'),
        ("describe_endpoint", "EndpointName", 'endpoint "' + ARN + 'endpoint/none"'),
        ("delete_endpoint", "EndpointName", 'endpoint "' + ARN + 'endpoint/none"'),
    ],
)
def test_what_is_missing_could_not_be_found(sagemaker, operation, member, words):
    assert refused(getattr(sagemaker, operation), **{member: "none"}) == f"Could not find {words}."


def test_what_a_request_refers_to_must_exist(sagemaker, live):
    message = refused(sagemaker.create_endpoint_config, EndpointConfigName="new", ProductionVariants=[variant("none")])
    assert message == f'Could not find model "{ARN}model/none".'
    words = f'Could not find endpoint configuration "{ARN}endpoint-config/none".'
    assert refused(sagemaker.create_endpoint, EndpointName="new", EndpointConfigName="none") == words
    assert refused(sagemaker.update_endpoint, EndpointName=live, EndpointConfigName="none") == words
    words = f'Could not find endpoint "{ARN}endpoint/none".'
    assert refused(sagemaker.update_endpoint, EndpointName="none", EndpointConfigName=live) == words
    change = [{"VariantName": "none", "DesiredWeight": 1.0}]
    message = refused(
        sagemaker.update_endpoint_weights_and_capacities, EndpointName=live, DesiredWeightsAndCapacities=change
    )
    assert message.startswith('Could not find variant "none"')
    assert "AllTraffic" in message


def test_a_name_can_be_taken_once(sagemaker, live):
    for call, words in (
        (lambda: sagemaker.create_model(ModelName=live, PrimaryContainer={"ModelDataUrl": "s3://b/k"}), "model"),
        (
            lambda: sagemaker.create_endpoint_config(EndpointConfigName=live, ProductionVariants=[variant(live)]),
            "endpoint configuration",
        ),
        (lambda: sagemaker.create_endpoint(EndpointName=live, EndpointConfigName=live), "endpoint"),
    ):
        kind = words.replace(" configuration", "-config")
        assert refused(call) == f'Cannot create already existing {words} "{ARN}{kind}/{live}".'


def test_deleting_a_model_or_config_that_an_endpoint_uses_leaves_the_endpoint_alone(server, sagemaker, onnx_model):
    server.deploy("orphan", onnx_model)
    sagemaker.delete_endpoint_config(EndpointConfigName="orphan")
    sagemaker.delete_model(ModelName="orphan")
    assert sagemaker.describe_endpoint(EndpointName="orphan")["EndpointConfigName"] == "orphan"
    sagemaker.update_endpoint_weights_and_capacities(
        EndpointName="orphan", DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredInstanceCount": 2}]
    )
    description = server.wait("orphan")
    assert description["ProductionVariants"][0]["CurrentInstanceCount"] == 2
    sagemaker.delete_endpoint(EndpointName="orphan")
    sagemaker.get_waiter("endpoint_deleted").wait(EndpointName="orphan", WaiterConfig={"Delay": 1})


# Validation, as the server words it


def test_a_missing_member_is_null(unchecked):
    assert refused(unchecked.describe_model) == (
        "1 validation error detected: Value null at 'modelName' failed to satisfy constraint: Member must not be null"
    )


def test_every_failure_of_a_request_is_told_at_once(unchecked):
    message = refused(
        unchecked.create_endpoint_config,
        EndpointConfigName="under_score",
        ProductionVariants=[
            {"VariantName": "x" * 64, "InstanceType": "ml.none.large", "InitialInstanceCount": 0, "ModelName": "m"}
        ],
    )
    count, _, problems = message.partition(" validation errors detected: ")
    first = "productionVariants.1.member"
    for path, value, constraint in (
        ("endpointConfigName", "under_score", "Member must satisfy regular expression pattern: [a-zA-Z0-9]"),
        (f"{first}.variantName", "x" * 64, "Member must have length less than or equal to 63"),
        (f"{first}.instanceType", "ml.none.large", "Member must satisfy enum value set: ["),
        (f"{first}.initialInstanceCount", "0", "Member must have value greater than or equal to 1"),
    ):
        assert f"Value '{value}' at '{path}' failed to satisfy constraint: {constraint}" in problems
    assert int(count) == problems.count("failed to satisfy constraint")


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"MaxResults": 0}, "Value '0' at 'maxResults' failed to satisfy constraint: Member must have value greater"),
        ({"MaxResults": 101}, "Value '101' at 'maxResults' failed to satisfy constraint: Member must have value less"),
        ({"SortBy": "Colour"}, "enum value set: [Name, CreationTime]"),
        ({"NameContains": "ü"}, "regular expression pattern: [a-zA-Z0-9-]+"),
        ({"NextToken": "not one of ours"}, "Invalid NextToken"),
    ],
)
def test_lists_check_what_they_are_asked(unchecked, members, words):
    assert words in refused(unchecked.list_models, **members)


def test_a_member_of_another_type_cannot_be_converted(unchecked):
    message = refused(unchecked.list_models, code="SerializationException", NameContains={"a": 1})
    assert message == "START_OBJECT cannot be converted to string at 'nameContains'"
    message = refused(unchecked.list_models, code="SerializationException", MaxResults="many")
    assert message == "STRING_VALUE cannot be converted to integer at 'maxResults'"


def test_unknown_members_are_ignored(server):
    status, answer = post(server, "DescribeModel", b'{"ModelName": "none", "Colour": "blue"}')
    assert (status, answer["__type"]) == (400, "ValidationException")
    assert answer["message"].startswith("Could not find model")


def test_nothing_is_monitored_and_a_schedule_is_refused(server):
    sagemaker = server.client("sagemaker")
    assert sagemaker.list_monitoring_schedules(EndpointName="any")["MonitoringScheduleSummaries"] == []
    assert sagemaker.list_monitoring_executions(EndpointName="any")["MonitoringExecutionSummaries"] == []
    answer = post(server, "CreateMonitoringSchedule", b"{}")[1]
    assert answer["message"].startswith("Fourfold does not implement CreateMonitoringSchedule")


def test_what_is_not_json_or_no_operation_is_refused_in_aws_words(server):
    assert post(server, "DescribeModel", b"{")[1]["__type"] == "SerializationException"
    assert post(server, "DescribeModel", b"[]")[1]["__type"] == "SerializationException"
    assert post(server, "DescribeModel", b'{"ModelName": "\xff"}')[1]["__type"] == "SerializationException"
    status, answer = post(server, "CreateNotebookInstance", b"{}")
    assert (status, answer["__type"]) == (400, "UnknownOperationException")
    assert "CreateNotebookInstance" in answer["message"]
    assert post(server, "NoSuchThing", b"{}")[1]["__type"] == "UnknownOperationException"


@pytest.mark.parametrize(
    ("variants", "words"),
    [
        ([variant("live"), variant("live")], "Duplicate variant names"),
        ([variant("live", InitialVariantWeight=0.0)], "cannot all be 0"),
        ([variant("live", InstanceType=None)], "Specify InstanceType or ServerlessConfig"),
        ([variant("live", InitialInstanceCount=None)], "Specify InitialInstanceCount"),
        (
            [variant("live", ServerlessConfig={"MemorySizeInMB": 1024, "MaxConcurrency": 1})],
            "InstanceType and InitialInstanceCount do not go with it",
        ),
    ],
)
def test_variants_that_mean_nothing_are_refused(sagemaker, live, variants, words):
    assert words in refused(
        sagemaker.create_endpoint_config, EndpointConfigName="meaningless", ProductionVariants=variants
    )


def test_a_model_has_a_container_or_several(sagemaker):
    container = {"ModelDataUrl": "s3://b/k"}
    assert "exactly one" in refused(sagemaker.create_model, ModelName="none-given")
    assert "exactly one" in refused(
        sagemaker.create_model, ModelName="both", PrimaryContainer=container, Containers=[container]
    )
    source = {"S3DataSource": {"S3Uri": "s3://b/k", "S3DataType": "S3Object", "CompressionType": "None"}}
    assert "only one of ModelDataUrl and ModelDataSource" in refused(
        sagemaker.create_model, ModelName="twice", PrimaryContainer=container | {"ModelDataSource": source}
    )


# Lists


@pytest.fixture(scope="module")
def many(sagemaker) -> list[str]:
    """Twenty-five models, made one after the other, whose names are not in that order."""
    names = [f"listed-{number * 7 % 25:02}" for number in range(25)]
    for name in names:
        sagemaker.create_model(ModelName=name, PrimaryContainer={"ModelDataUrl": "s3://b/k"})
    return names


def listed(sagemaker: Any, **members: Any) -> list[str]:
    pages = sagemaker.get_paginator("list_models").paginate(NameContains="listed-", **members)
    return [model["ModelName"] for page in pages for model in page["Models"]]


def test_lists_sort_by_time_newest_first_unless_told_otherwise(sagemaker, many):
    assert listed(sagemaker) == many[::-1]
    assert listed(sagemaker, SortOrder="Ascending") == many
    assert listed(sagemaker, SortBy="Name", SortOrder="Ascending") == sorted(many)
    assert listed(sagemaker, SortBy="Name", SortOrder="Descending") == sorted(many, reverse=True)


def test_pages_have_ten_entries_unless_told_otherwise_and_a_token_while_more_follow(sagemaker, many):
    first = sagemaker.list_models(NameContains="listed-")
    assert len(first["Models"]) == 10
    assert first["NextToken"]
    sizes = [
        len(page["Models"])
        for page in sagemaker.get_paginator("list_models").paginate(
            NameContains="listed-", PaginationConfig={"PageSize": 7}
        )
    ]
    assert sizes == [7, 7, 7, 4]
    last = sagemaker.list_models(NameContains="listed-", MaxResults=25)
    assert "NextToken" not in last


def test_a_page_begins_where_the_last_one_ended_whatever_came_or_went(sagemaker):
    names = [f"moving-{number}" for number in range(6)]
    for name in names:
        sagemaker.create_model(ModelName=name, PrimaryContainer={"ModelDataUrl": "s3://b/k"})
    order = {"NameContains": "moving-", "SortBy": "Name", "SortOrder": "Ascending", "MaxResults": 3}
    first = sagemaker.list_models(**order)
    sagemaker.delete_model(ModelName="moving-2")
    sagemaker.create_model(ModelName="moving-0a", PrimaryContainer={"ModelDataUrl": "s3://b/k"})
    second = sagemaker.list_models(**order, NextToken=first["NextToken"])
    assert [model["ModelName"] for model in second["Models"]] == names[3:]


def test_lists_filter_by_time(sagemaker, many):
    middle = sagemaker.describe_model(ModelName=many[12])["CreationTime"]
    assert listed(sagemaker, CreationTimeAfter=middle, SortOrder="Ascending") in (many[13:], many[12:])
    before = listed(sagemaker, CreationTimeBefore=middle, SortOrder="Ascending")
    assert before in (many[:12], many[:13])


def test_endpoints_are_listed_by_status_and_by_change(server, sagemaker, live):
    found = sagemaker.list_endpoints(StatusEquals="InService", NameContains=live)["Endpoints"]
    assert [one["EndpointName"] for one in found] == [live]
    assert set(found[0]) == {"EndpointName", "EndpointArn", "CreationTime", "LastModifiedTime", "EndpointStatus"}
    assert sagemaker.list_endpoints(StatusEquals="Failed", NameContains=live)["Endpoints"] == []
    later = found[0]["LastModifiedTime"].timestamp() + 1
    assert sagemaker.list_endpoints(LastModifiedTimeAfter=later, NameContains=live)["Endpoints"] == []
    assert sagemaker.list_endpoints(LastModifiedTimeBefore=later, NameContains=live, SortBy="Status")["Endpoints"]


def test_endpoint_configs_are_listed_like_models(sagemaker, live):
    found = sagemaker.list_endpoint_configs(NameContains=live, SortBy="Name", SortOrder="Ascending")["EndpointConfigs"]
    assert [one["EndpointConfigName"] for one in found] == [live]
    assert set(found[0]) == {"EndpointConfigName", "EndpointConfigArn", "CreationTime"}


def test_name_contains_takes_no_wildcards(sagemaker, live, unchecked):
    assert sagemaker.list_endpoints(NameContains="iv")["Endpoints"]
    assert "regular expression" in refused(unchecked.list_endpoints, NameContains="l%")


# Tags


def test_tags_of_every_kind_of_resource(server, sagemaker, onnx_model):
    server.deploy("tagged", onnx_model, endpoint=False)
    for kind in ("model", "endpoint-config", "endpoint"):
        arn = f"{ARN}{kind}/tagged"
        given = [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": ""}]
        if kind == "endpoint-config":
            sagemaker.create_endpoint_config(
                EndpointConfigName="tagged", ProductionVariants=[variant("tagged")], Tags=given
            )
        elif kind == "endpoint":
            sagemaker.create_endpoint(EndpointName="tagged", EndpointConfigName="tagged", Tags=given)
        else:
            assert sagemaker.add_tags(ResourceArn=arn, Tags=given)["Tags"] == given
        assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == given
        sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": "a", "Value": "2"}])
        sagemaker.delete_tags(ResourceArn=arn, TagKeys=["b", "never there"])
        assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "a", "Value": "2"}]


def test_tags_go_with_their_resource(sagemaker):
    tags = [{"Key": "old", "Value": "1"}]
    container = {"ModelDataUrl": "s3://b/k"}
    arn = sagemaker.create_model(ModelName="again", PrimaryContainer=container, Tags=tags)["ModelArn"]
    sagemaker.delete_model(ModelName="again")
    assert "Could not find" in refused(sagemaker.list_tags, ResourceArn=arn)
    sagemaker.create_model(ModelName="again", PrimaryContainer=container)
    assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == []


def test_tags_have_limits(sagemaker, live):
    arn = f"{ARN}model/{live}"
    fifty = [{"Key": f"k{number:02}", "Value": "v"} for number in range(50)]
    sagemaker.add_tags(ResourceArn=arn, Tags=fifty)
    refused(sagemaker.add_tags, code="ResourceLimitExceeded", ResourceArn=arn, Tags=[{"Key": "one more", "Value": ""}])
    pages = list(sagemaker.get_paginator("list_tags").paginate(ResourceArn=arn, PaginationConfig={"PageSize": 50}))
    assert [tag for page in pages for tag in page["Tags"]] == fifty
    assert "reserved" in refused(sagemaker.add_tags, ResourceArn=arn, Tags=[{"Key": "aws:x", "Value": ""}])
    assert "Duplicate" in refused(sagemaker.add_tags, ResourceArn=arn, Tags=[fifty[0], fifty[0]])
    sagemaker.delete_tags(ResourceArn=arn, TagKeys=[tag["Key"] for tag in fifty])


# Updates


def test_weights_and_capacities_change_in_place(server, sagemaker, onnx_model):
    server.deploy("weighted", onnx_model, endpoint=False)
    two = [variant("weighted", VariantName=name, InitialVariantWeight=1.0) for name in ("a", "b")]
    sagemaker.create_endpoint_config(EndpointConfigName="weighted", ProductionVariants=two)
    sagemaker.create_endpoint(EndpointName="weighted", EndpointConfigName="weighted")
    server.wait("weighted")
    pids = set(server.worker_pids())
    answer = sagemaker.update_endpoint_weights_and_capacities(
        EndpointName="weighted",
        DesiredWeightsAndCapacities=[
            {"VariantName": "a", "DesiredWeight": 0.0},
            {"VariantName": "b", "DesiredInstanceCount": 2},
        ],
    )
    assert answer["EndpointArn"] == ARN + "endpoint/weighted"
    a, b = server.wait("weighted")["ProductionVariants"]
    assert (a["CurrentWeight"], a["DesiredWeight"], a["CurrentInstanceCount"]) == (0.0, 0.0, 1)
    assert (b["CurrentWeight"], b["CurrentInstanceCount"], b["DesiredInstanceCount"]) == (1.0, 2, 2)
    assert pids <= set(server.worker_pids()), "workers that need not change stay"
    message = refused(
        sagemaker.update_endpoint_weights_and_capacities,
        EndpointName="weighted",
        DesiredWeightsAndCapacities=[{"VariantName": "b", "DesiredWeight": 0.0}],
    )
    assert "cannot all be 0" in message


def test_there_is_a_bound_to_the_workers_that_one_variant_may_have(server, sagemaker, live):
    crowd = [variant("live", InitialInstanceCount=10**9)]
    sagemaker.create_endpoint_config(EndpointConfigName="crowd", ProductionVariants=crowd)
    limit = {"code": "ResourceLimitExceeded"}
    message = refused(sagemaker.create_endpoint, **limit, EndpointName="crowd", EndpointConfigName="crowd")
    assert "256 instances at most" in message
    refused(sagemaker.update_endpoint, **limit, EndpointName=live, EndpointConfigName="crowd")
    refused(
        sagemaker.update_endpoint_weights_and_capacities,
        **limit,
        EndpointName=live,
        DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredInstanceCount": 257}],
    )
    assert server.wait(live)["ProductionVariants"][0]["DesiredInstanceCount"] == 1


def test_an_update_may_retain_what_was_set_since(server, sagemaker, onnx_model):
    server.deploy("retained", onnx_model)
    sagemaker.update_endpoint_weights_and_capacities(
        EndpointName="retained",
        DesiredWeightsAndCapacities=[
            {"VariantName": "AllTraffic", "DesiredInstanceCount": 2, "DesiredWeight": 3.0},
        ],
    )
    server.wait("retained")
    sagemaker.create_endpoint_config(EndpointConfigName="retained-2", ProductionVariants=[variant("retained")])
    update = {"EndpointName": "retained", "EndpointConfigName": "retained-2"}
    sagemaker.update_endpoint(
        **update,
        RetainAllVariantProperties=True,
        ExcludeRetainedVariantProperties=[{"VariantPropertyType": "DesiredWeight"}],
    )
    described = server.wait("retained")
    (running,) = described["ProductionVariants"]
    assert described["EndpointConfigName"] == "retained-2"
    assert (running["CurrentInstanceCount"], running["CurrentWeight"]) == (2, 1.0)
    sagemaker.update_endpoint(**update)
    (running,) = server.wait("retained")["ProductionVariants"]
    assert running["CurrentInstanceCount"] == 1


def test_a_busy_endpoint_cannot_be_updated_but_deleted(server, sagemaker, handler, live):
    slow = handler("import time\n\ndef model_fn(model_dir):\n    time.sleep(60)\n")
    server.deploy("busy", slow, wait=False)
    described = sagemaker.describe_endpoint(EndpointName="busy")
    assert described["EndpointStatus"] == "Creating"
    message = refused(sagemaker.update_endpoint, EndpointName="busy", EndpointConfigName=live)
    assert message.startswith("Cannot update in-progress endpoint")
    sagemaker.delete_endpoint(EndpointName="busy")
    sagemaker.get_waiter("endpoint_deleted").wait(EndpointName="busy", WaiterConfig={"Delay": 1, "MaxAttempts": 20})


# Waiters


def test_waiters_end_when_the_endpoint_is_in_service_failed_or_gone(server, sagemaker, onnx_model, handler):
    server.deploy("awaited", onnx_model, wait=False)
    quick = {"Delay": 1, "MaxAttempts": 30}
    sagemaker.get_waiter("endpoint_in_service").wait(EndpointName="awaited", WaiterConfig=quick)
    sagemaker.delete_endpoint(EndpointName="awaited")
    sagemaker.get_waiter("endpoint_deleted").wait(EndpointName="awaited", WaiterConfig=quick)
    server.deploy("doomed", handler("def model_fn(model_dir):\n    raise RuntimeError('no')\n"), wait=False)
    with pytest.raises(WaiterError, match="terminal failure state"):
        sagemaker.get_waiter("endpoint_in_service").wait(EndpointName="doomed", WaiterConfig=quick)
    message = refused(sagemaker.update_endpoint, EndpointName="doomed", EndpointConfigName="live")
    assert "because it failed" in message


def test_in_service_within_a_second(server, sagemaker, onnx_model):
    """The contract is one second on a quiet machine; what is asserted here leaves room for a busy one."""
    server.deploy("quick", onnx_model, endpoint=False)
    sagemaker.create_endpoint_config(EndpointConfigName="quick", ProductionVariants=[variant("quick")])
    began = time.monotonic()
    sagemaker.create_endpoint(EndpointName="quick", EndpointConfigName="quick")
    server.wait("quick")
    assert time.monotonic() - began < 10


# Other services


def test_everybody_is_one_assumed_role(server):
    identity = server.client("sts").get_caller_identity()
    assert identity["Account"] == "123456789012"
    assert identity["Arn"].startswith("arn:aws:sts::123456789012:assumed-role/")


def test_a_profile_with_a_role_gets_credentials_that_work(server, monkeypatch, tmp_path):
    keys = server.keys
    (tmp_path / "config").write_text(
        "[profile team]\nrole_arn = arn:aws:iam::123456789012:role/Team\nsource_profile = default\nregion = us-east-1\n"
        f"[default]\naws_access_key_id = {keys['access_key_id']}\naws_secret_access_key = {keys['secret_access_key']}\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    session = boto3.Session(profile_name="team")
    assert session.client("sagemaker").list_models(MaxResults=1)["Models"]
    user = session.client("sts").assume_role(RoleArn="arn:aws:iam::1:role/path/Team", RoleSessionName="ada")
    assert user["AssumedRoleUser"]["Arn"] == "arn:aws:sts::123456789012:assumed-role/Team/ada"


def post(server: LiveServer, operation: str, body: bytes) -> tuple[int, dict[str, Any]]:
    """A call without a client in between."""
    import httpx

    headers = {
        "Authorization": f"Bearer {server.keys['api_key']}",
        "X-Amz-Target": f"SageMaker.{operation}",
        "Content-Type": "application/x-amz-json-1.1",
    }
    answer = httpx.post(server.url, content=body, headers=headers)
    return answer.status_code, answer.json()
