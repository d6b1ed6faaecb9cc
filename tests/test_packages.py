"""The model registry through boto3: groups, versions, approval, lists, and endpoints made of a package's ARN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.server import LiveServer

ROLE = "arn:aws:iam::123456789012:role/test"
PREFIX = "arn:aws:sagemaker:us-east-1:123456789012:model-package"


@pytest.fixture(scope="module")
def sagemaker(server: LiveServer) -> Any:
    return server.client("sagemaker")


@pytest.fixture(scope="module")
def artifact(server: LiveServer, onnx_model: Path) -> str:
    s3 = server.client("s3")
    s3.create_bucket(Bucket="registry")
    s3.upload_file(str(onnx_model), "registry", "model.onnx")
    return "s3://registry/model.onnx"


def specification(url: str = "s3://registry/model.onnx", **environment: str) -> dict[str, Any]:
    container = {"Image": "fourfold/onnx:latest", "ModelDataUrl": url, "Environment": environment}
    return {
        "Containers": [container],
        "SupportedContentTypes": ["text/csv"],
        "SupportedResponseMIMETypes": ["text/csv"],
    }


def version(sagemaker: Any, group: str, **more: Any) -> str:
    request = {"ModelPackageGroupName": group, "InferenceSpecification": specification()} | more
    return sagemaker.create_model_package(**request)["ModelPackageArn"]


def refused(call: Any, code: str = "ValidationException", **arguments: Any) -> str:
    with pytest.raises(ClientError) as error:
        call(**arguments)
    assert error.value.response["Error"]["Code"] == code
    return error.value.response["Error"]["Message"]


def test_a_group_and_its_versions(sagemaker: Any) -> None:
    made = sagemaker.create_model_package_group(
        ModelPackageGroupName="fraud", ModelPackageGroupDescription="d", Tags=[{"Key": "team", "Value": "risk"}]
    )
    assert made["ModelPackageGroupArn"] == f"{PREFIX}-group/fraud"
    assert sagemaker.list_tags(ResourceArn=made["ModelPackageGroupArn"])["Tags"] == [{"Key": "team", "Value": "risk"}]
    assert "already exists" in refused(sagemaker.create_model_package_group, ModelPackageGroupName="fraud")
    described = sagemaker.describe_model_package_group(ModelPackageGroupName=made["ModelPackageGroupArn"])
    assert (described["ModelPackageGroupStatus"], described["ModelPackageGroupDescription"]) == ("Completed", "d")
    arns = [version(sagemaker, "fraud") for _ in range(2)]
    assert arns == [f"{PREFIX}/fraud/1", f"{PREFIX}/fraud/2"]
    sagemaker.delete_model_package(ModelPackageName=arns[1])
    assert version(sagemaker, "fraud").endswith("/3"), "a version does not come again"
    first = sagemaker.describe_model_package(ModelPackageName=arns[0])
    assert first["ModelApprovalStatus"] == "PendingManualApproval"
    assert (first["ModelPackageVersion"], first["ModelPackageStatus"]) == (1, "Completed")
    assert first["InferenceSpecification"]["Containers"][0]["Image"] == "fourfold/onnx:latest"
    assert "LastModifiedTime" not in first
    message = refused(sagemaker.delete_model_package_group, "ConflictException", ModelPackageGroupName="fraud")
    assert "still contains" in message
    for number in (1, 3):
        sagemaker.delete_model_package(ModelPackageName=f"{PREFIX}/fraud/{number}")
    sagemaker.delete_model_package_group(ModelPackageGroupName="fraud")
    assert "does not exist" in refused(sagemaker.describe_model_package_group, ModelPackageGroupName="fraud")
    assert "does not exist" in refused(sagemaker.describe_model_package, ModelPackageName=arns[0])


def test_the_same_token_makes_one_version(sagemaker: Any) -> None:
    sagemaker.create_model_package_group(ModelPackageGroupName="tokens")
    arns = {version(sagemaker, "tokens", ClientToken="t-1") for _ in range(2)}
    assert arns == {f"{PREFIX}/tokens/1"}
    assert version(sagemaker, "tokens", ClientToken="t-2").endswith("/2")


def test_updates(sagemaker: Any) -> None:
    sagemaker.create_model_package_group(ModelPackageGroupName="updates")
    arn = version(sagemaker, "updates", CustomerMetadataProperties={"a": "1", "b": "2"})
    sagemaker.update_model_package(
        ModelPackageArn=arn,
        ModelApprovalStatus="Approved",
        ApprovalDescription="good",
        CustomerMetadataProperties={"c": "3"},
        CustomerMetadataPropertiesToRemove=["a"],
        AdditionalInferenceSpecificationsToAdd=[{"Name": "gpu", **specification()}],
    )
    found = sagemaker.describe_model_package(ModelPackageName=arn)
    assert (found["ModelApprovalStatus"], found["ApprovalDescription"]) == ("Approved", "good")
    assert found["CustomerMetadataProperties"] == {"b": "2", "c": "3"}
    assert [one["Name"] for one in found["AdditionalInferenceSpecifications"]] == ["gpu"]
    assert found["LastModifiedTime"] > found["CreationTime"]
    message = refused(sagemaker.update_model_package, ModelPackageArn=f"{PREFIX}/updates/9")
    assert "does not exist" in message


def test_lists_and_batches(sagemaker: Any) -> None:
    for group in ("list-a", "list-ab"):
        sagemaker.create_model_package_group(ModelPackageGroupName=group)
    arns = [version(sagemaker, "list-a", ModelApprovalStatus=status) for status in ("Approved", "Rejected", "Approved")]
    version(sagemaker, "list-ab")
    sagemaker.create_model_package(ModelPackageName="list-alone", InferenceSpecification=specification())

    def listed(**filters: Any) -> list[str]:
        pages = sagemaker.get_paginator("list_model_packages").paginate(
            SortOrder="Ascending", PaginationConfig={"PageSize": 2}, **filters
        )
        return [one["ModelPackageArn"] for page in pages for one in page["ModelPackageSummaryList"]]

    assert listed(ModelPackageGroupName="list-a") == arns
    assert listed(ModelPackageGroupName=f"{PREFIX}-group/list-a", ModelApprovalStatus="Approved") == arns[::2]
    assert listed(NameContains="list-") == [f"{PREFIX}/list-alone"], "without a group: those without versions"
    assert listed(NameContains="list-", ModelPackageType="Versioned") == [*arns, f"{PREFIX}/list-ab/1"]
    assert len(listed(NameContains="list-", ModelPackageType="Both")) == 5
    groups = sagemaker.list_model_package_groups(NameContains="list-a", SortBy="Name", SortOrder="Descending")
    names = [group["ModelPackageGroupName"] for group in groups["ModelPackageGroupSummaryList"]]
    assert names == ["list-ab", "list-a"]
    answer = sagemaker.batch_describe_model_package(ModelPackageArnList=[arns[1], f"{PREFIX}/list-a/9"])
    assert answer["ModelPackageSummaries"][arns[1]]["ModelApprovalStatus"] == "Rejected"
    assert list(answer["BatchDescribeModelPackageErrorMap"]) == [f"{PREFIX}/list-a/9"]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"InferenceSpecification": specification()}, "exactly one of"),
        ({"ModelPackageName": "a", "ModelPackageGroupName": "b", "SourceUri": "s3://x"}, "exactly one of"),
        ({"ModelPackageName": "empty"}, "Specify InferenceSpecification"),
        ({"ModelPackageGroupName": "nowhere", "InferenceSpecification": specification()}, "does not exist"),
        (
            {"ModelPackageGroupName": "x", "SourceUri": "s3://x", "Tags": [{"Key": "a", "Value": "b"}]},
            "tag its group",
        ),
    ],
)
def test_what_cannot_be_registered(sagemaker: Any, request_: dict[str, Any], expected: str) -> None:
    assert expected in refused(sagemaker.create_model_package, **request_)


def test_an_endpoint_of_a_packages_arn(server: LiveServer, sagemaker: Any, artifact: str) -> None:
    sagemaker.create_model_package_group(ModelPackageGroupName="deployed")
    arn = version(sagemaker, "deployed", InferenceSpecification=specification(FOURFOLD_OUTPUTS="label"))
    container = {"ModelPackageName": arn, "Environment": {"FOURFOLD_MAX_BATCH": "4"}}
    model = {"ModelName": "deployed", "ExecutionRoleArn": ROLE, "PrimaryContainer": container}
    assert "only Approved ones" in refused(sagemaker.create_model, **model)
    sagemaker.update_model_package(ModelPackageArn=arn, ModelApprovalStatus="Approved")
    sagemaker.create_model(**model)
    assert sagemaker.describe_model(ModelName="deployed")["PrimaryContainer"] == container
    sagemaker.delete_model_package(ModelPackageName=arn)
    variant = {"VariantName": "v", "ModelName": "deployed", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    sagemaker.create_endpoint_config(EndpointConfigName="deployed", ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName="deployed", EndpointConfigName="deployed")
    server.wait("deployed")
    runtime = server.client("sagemaker-runtime")
    body = runtime.invoke_endpoint(EndpointName="deployed", ContentType="text/csv", Body=b"1,2,3,4")["Body"].read()
    assert body.strip() in (b"0", b"1", b"False", b"True"), "FOURFOLD_OUTPUTS of the package holds"
    assert "does not exist" in refused(sagemaker.create_model, **model | {"ModelName": "again"})
    assert sagemaker.list_models(NameContains="again")["Models"] == []
