"""Schedules through boto3's `scheduler` client against a real server: each run calls an operation of that server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.server import LiveServer

ROLE = "arn:aws:iam::123456789012:role/scheduler"
ADD_TAGS = "arn:aws:scheduler:::aws-sdk:sagemaker:addTags"
DEAD = "arn:aws:sqs:us-east-1:123456789012:dead"


@pytest.fixture(scope="module")
def scheduler(server: LiveServer) -> Any:
    return server.client("scheduler")


def schedule(name: str, expression: str, target: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {
        "Name": name,
        "ScheduleExpression": expression,
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "Target": {"RoleArn": ROLE} | target,
    } | members


def at(seconds: float) -> str:
    """An expression for so many seconds from now."""
    return f"at({datetime.now(UTC) + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S})"


def wait_for(look: Callable[[], Any], seconds: float = 30) -> Any:
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, "nothing came of it"
        time.sleep(0.02)
    return found


def runs(server: LiveServer, name: str, group: str = "default") -> dict[str, Any]:
    return json.loads(server.get(f"/fourfold/schedules/{group}/{name}"))


def test_a_run_makes_a_transform_job_with_a_name_and_an_output_of_its_own(
    server: LiveServer, scheduler: Any, onnx_model: Any
) -> None:
    server.deploy("night", onnx_model, endpoint=False)
    s3, sagemaker = server.client("s3"), server.client("sagemaker")
    s3.put_object(Bucket="test-models", Key="in/a.csv", Body=b"1,2,3,4\n")
    job = {
        "TransformJobName": "night-<aws.scheduler.scheduled-time>",
        "ModelName": "night",
        "TransformInput": {
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://test-models/in/"}},
            "ContentType": "text/csv",
            "SplitType": "Line",
        },
        "TransformOutput": {"S3OutputPath": "s3://test-models/<aws.scheduler.execution-id>/", "AssembleWith": "Line"},
        "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
    }
    target = {"Arn": "arn:aws:scheduler:::aws-sdk:sagemaker:createTransformJob", "Input": json.dumps(job)}
    scheduler.create_schedule(**schedule("night", "rate(1 hours)", target))
    last = wait_for(lambda: runs(server, "night")["LastRun"])
    name = last["Answer"]["TransformJobArn"].rpartition("/")[2]
    assert name == f"night-{last['ScheduledTime']}".replace(":", "-")
    assert last["Renamed"] == {f"night-{last['ScheduledTime']}": name}
    described = wait_for(
        lambda: (
            (found := sagemaker.describe_transform_job(TransformJobName=name))
            and found["TransformJobStatus"] not in ("InProgress", "Stopping")
            and found
        )
    )
    assert described["TransformJobStatus"] == "Completed"
    prefix = described["TransformOutput"]["S3OutputPath"].removeprefix("s3://test-models/")
    assert s3.get_object(Bucket="test-models", Key=f"{prefix}a.csv.out")["Body"].read().count(b"\n") == 1
    next_run = datetime.fromisoformat(runs(server, "night")["NextRun"])
    assert next_run == datetime.fromisoformat(last["ScheduledTime"]) + timedelta(hours=1)


def test_schedules_are_kept_listed_changed_and_deleted(scheduler: Any) -> None:
    target = {"Arn": ADD_TAGS, "Input": "{}"}
    scheduler.create_schedule_group(Name="team", Tags=[{"Key": "a", "Value": "b"}])
    members = {
        "GroupName": "team",
        "ScheduleExpressionTimezone": "Europe/Rome",
        "FlexibleTimeWindow": {"Mode": "FLEXIBLE", "MaximumWindowInMinutes": 10},
        "StartDate": datetime(2030, 1, 1, tzinfo=UTC),
        "EndDate": datetime(2031, 1, 1, tzinfo=UTC),
        "Description": "each night",
        "Target": {
            "RoleArn": ROLE,
            "RetryPolicy": {"MaximumRetryAttempts": 3, "MaximumEventAgeInSeconds": 600},
            "DeadLetterConfig": {"Arn": DEAD},
            **target,
        },
    }
    wanted = schedule("kept", "cron(0 2 * * ? *)", target, **members)
    arn = scheduler.create_schedule(**wanted)["ScheduleArn"]
    found = scheduler.get_schedule(GroupName="team", Name="kept")
    assert {member: found[member] for member in wanted} == wanted
    assert (found["Arn"], found["State"]) == (arn, "ENABLED")
    scheduler.update_schedule(**wanted | {"State": "DISABLED"})
    pages = scheduler.get_paginator("list_schedules").paginate(GroupName="team", State="DISABLED")
    assert [one["Name"] for page in pages for one in page["Schedules"]] == ["kept"]
    assert scheduler.list_schedules(NamePrefix="ke", State="ENABLED")["Schedules"] == []
    group = scheduler.get_schedule_group(Name="team")["Arn"]
    assert scheduler.list_tags_for_resource(ResourceArn=group)["Tags"] == [{"Key": "a", "Value": "b"}]
    scheduler.delete_schedule(GroupName="team", Name="kept")
    with pytest.raises(scheduler.exceptions.ResourceNotFoundException):
        scheduler.get_schedule(GroupName="team", Name="kept")
    scheduler.delete_schedule_group(Name="team")
    assert [one["Name"] for one in scheduler.list_schedule_groups()["ScheduleGroups"]] == ["default"]


def test_what_cannot_be_delivered_becomes_a_dead_letter(server: LiveServer, scheduler: Any) -> None:
    job = json.dumps({"TransformJobName": "x"})
    target = {"Arn": "arn:aws:scheduler:::aws-sdk:sagemaker:createTransformJob", "Input": job}
    target |= {"DeadLetterConfig": {"Arn": DEAD}}  # type: ignore[dict-item]
    scheduler.create_schedule(**schedule("broken", "rate(1 days)", target))
    scheduler.create_schedule(**schedule("unknown", "rate(1 days)", {"Arn": f"{ADD_TAGS}Soon"}))
    [letter] = wait_for(lambda: runs(server, "broken")["DeadLetters"])
    assert (letter["QueueArn"], letter["Body"]) == (DEAD, job)
    assert letter["Attributes"]["ERROR_CODE"] == "ValidationException"
    assert letter["Attributes"]["RETRY_ATTEMPTS"] == "0"
    last = wait_for(lambda: runs(server, "unknown")["LastRun"])
    assert "no operation" in last["Error"]


def test_a_completed_schedule_deletes_itself(server: LiveServer, scheduler: Any) -> None:
    scheduler.create_schedule(
        **schedule("once", at(1), {"Arn": ADD_TAGS, "Input": "{}"}, ActionAfterCompletion="DELETE")
    )

    def gone() -> bool:
        return all(one["Name"] != "once" for one in scheduler.list_schedules()["Schedules"])

    wait_for(gone)


@pytest.mark.parametrize(
    "members",
    [
        {"ScheduleExpression": "cron(0 2 * * *)"},
        {"ScheduleExpression": "every night"},
        {"ScheduleExpressionTimezone": "Mars/Olympus"},
        {"FlexibleTimeWindow": {"Mode": "FLEXIBLE"}},
        {"EndDate": datetime(2020, 1, 1, tzinfo=UTC)},
    ],
)
def test_nonsense_is_refused(scheduler: Any, members: dict[str, Any]) -> None:
    with pytest.raises(scheduler.exceptions.ValidationException):
        scheduler.create_schedule(**schedule("no", "rate(1 days)", {"Arn": ADD_TAGS}, **members))


def test_names_are_unique_in_their_group(scheduler: Any) -> None:
    wanted = schedule("twice", "rate(1 days)", {"Arn": ADD_TAGS}, State="DISABLED")
    scheduler.create_schedule(**wanted)
    with pytest.raises(scheduler.exceptions.ConflictException):
        scheduler.create_schedule(**wanted)
    with pytest.raises(ClientError, match="does not exist"):
        scheduler.create_schedule(**wanted | {"GroupName": "nowhere"})


def test_a_run_that_was_due_while_the_server_was_down_is_run_once(own_server: LiveServer) -> None:
    own_server.client("s3").create_bucket(Bucket="any")
    arn = own_server.client("sagemaker").create_model(
        ModelName="m", PrimaryContainer={"ModelDataUrl": "s3://any/model.onnx"}
    )["ModelArn"]
    tag = json.dumps({"ResourceArn": arn, "Tags": [{"Key": "ran", "Value": "<aws.scheduler.attempt-number>"}]})
    own_server.client("scheduler").create_schedule(**schedule("missed", at(2), {"Arn": ADD_TAGS, "Input": tag}))
    due = time.time() + 3
    own_server.kill()
    time.sleep(max(due - time.time(), 0))
    own_server.start()
    sagemaker = own_server.client("sagemaker")
    assert wait_for(lambda: sagemaker.list_tags(ResourceArn=arn)["Tags"]) == [{"Key": "ran", "Value": "1"}]
