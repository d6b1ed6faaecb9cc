"""A plan as a boto3 script: the plan's request members as data, and the few calls that send them.

The script needs boto3 only and runs against AWS or against a Fourfold server (`AWS_ENDPOINT_URL`).
"""

from __future__ import annotations

import pprint

from fourfold.advisor import requests, workload
from fourfold.advisor.export.runs import schedule
from fourfold.advisor.search import Plan


def files(plan: Plan) -> dict[str, str]:
    title = f"{requests.name_of(plan.scenario)}: {plan.mode} inference, {plan.cost.total:,.2f} USD a month as planned"
    text = (BATCH if plan.mode == "batch" else ENDPOINT).replace("@TITLE@", title)
    text = text.replace("@PLAN@", pprint.pformat(plan.configuration, width=110, sort_dicts=False))
    text = text.replace("@SCHEDULE@", repr(schedule(workload.of(plan.scenario).runs_per_month)))
    return {"deploy.py": text}


ENDPOINT = '''\
"""@TITLE@.

    python deploy.py --model-data s3://BUCKET/model.tar.gz --image IMAGE --role-arn ROLE
    python deploy.py --delete

Needs boto3 and credentials; AWS_ENDPOINT_URL sends every call elsewhere. The role must be able to read the artifact
(and, for an asynchronous endpoint, the data bucket). The script may be run again: what is there is kept.
"""

import argparse
import sys

import boto3
from botocore.exceptions import ClientError

PLAN = @PLAN@

sagemaker = boto3.client("sagemaker")
scaling = boto3.client("application-autoscaling")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model-data", metavar="S3_URI", help="the model artifact, a tar.gz in S3")
    arguments.add_argument("--image", help="serving image in ECR")
    arguments.add_argument("--role-arn", help="role that the endpoint runs under")
    arguments.add_argument("--bucket", help="asynchronous: bucket for outputs instead of the plan's")
    arguments.add_argument("--success-topic", metavar="ARN", help="asynchronous: SNS topic for answers")
    arguments.add_argument("--error-topic", metavar="ARN", help="asynchronous: SNS topic for failures")
    arguments.add_argument("--delete", action="store_true", help="delete what the script made")
    options = arguments.parse_args()
    if options.delete:
        return delete()
    if not (options.model_data and options.role_arn):
        arguments.error("--model-data and --role-arn are needed, and on AWS --image")
    create_model(options.model_data, options.image, options.role_arn)
    create_endpoint(options)
    create_scaling()
    print(PLAN["CreateEndpoint"]["EndpointName"], "is in service")


def create_model(model_data: str, image: str | None, role_arn: str) -> None:
    name = PLAN["CreateEndpointConfig"]["ProductionVariants"][0]["ModelName"]
    container = {"ModelDataUrl": model_data, **({"Image": image} if image else {})}
    if not exists(sagemaker.describe_model, ModelName=name):
        sagemaker.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=role_arn)


def create_endpoint(options: argparse.Namespace) -> None:
    config, endpoint = PLAN["CreateEndpointConfig"], PLAN["CreateEndpoint"]
    if "AsyncInferenceConfig" in config:
        output = config["AsyncInferenceConfig"]["OutputConfig"]
        if options.bucket:
            output["S3OutputPath"] = f"s3://{options.bucket}/output/"
            output["S3FailurePath"] = f"s3://{options.bucket}/failure/"
        topics = {"SuccessTopic": options.success_topic, "ErrorTopic": options.error_topic}
        if any(topics.values()):
            output["NotificationConfig"] = {name: arn for name, arn in topics.items() if arn}
    if not exists(sagemaker.describe_endpoint_config, EndpointConfigName=config["EndpointConfigName"]):
        sagemaker.create_endpoint_config(**config)
    if not exists(sagemaker.describe_endpoint, EndpointName=endpoint["EndpointName"]):
        sagemaker.create_endpoint(**endpoint)
    waiter = sagemaker.get_waiter("endpoint_in_service")
    waiter.wait(EndpointName=endpoint["EndpointName"], WaiterConfig={"Delay": 3, "MaxAttempts": 1200})


def create_scaling() -> None:
    if "RegisterScalableTarget" not in PLAN:
        return
    scaling.register_scalable_target(**PLAN["RegisterScalableTarget"])
    policy = scaling.put_scaling_policy(**PLAN["PutScalingPolicy"])
    for action in PLAN.get("PutScheduledAction", []):
        scaling.put_scheduled_action(**action)
    if PLAN["RegisterScalableTarget"]["MinCapacity"] == 0:
        create_first_instance_alarm()
    print("scaling policy", policy["PolicyARN"])


def create_first_instance_alarm() -> None:
    """With no instance there is no metric per instance to track: a waiting backlog starts the first one."""
    target = {k: v for k, v in PLAN["RegisterScalableTarget"].items() if not k.endswith("Capacity")}
    step = {"MetricIntervalLowerBound": 0, "ScalingAdjustment": 1}
    policy = scaling.put_scaling_policy(
        **target,
        PolicyName="from-zero",
        PolicyType="StepScaling",
        StepScalingPolicyConfiguration={
            "AdjustmentType": "ChangeInCapacity",
            "MetricAggregationType": "Average",
            "Cooldown": 300,
            "StepAdjustments": [step],
        },
    )
    alarm = {
        "AlarmName": PLAN["CreateEndpoint"]["EndpointName"] + "-backlog-without-capacity",
        "Namespace": "AWS/SageMaker",
        "MetricName": "HasBacklogWithoutCapacity",
        "Dimensions": [{"Name": "EndpointName", "Value": PLAN["CreateEndpoint"]["EndpointName"]}],
        "Statistic": "Average",
        "Period": 60,
        "EvaluationPeriods": 2,
        "Threshold": 1,
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "TreatMissingData": "notBreaching",
        "AlarmActions": [policy["PolicyARN"]],
    }
    try:
        boto3.client("cloudwatch").put_metric_alarm(**alarm)
    except ClientError as error:  # a server without CloudWatch starts the first instance by itself
        print("no alarm for the first instance:", error, file=sys.stderr)


def delete() -> None:
    config, endpoint = PLAN["CreateEndpointConfig"], PLAN["CreateEndpoint"]
    if "RegisterScalableTarget" in PLAN:
        target = {k: v for k, v in PLAN["RegisterScalableTarget"].items() if not k.endswith("Capacity")}
        ignore_missing(scaling.deregister_scalable_target, **target)
    ignore_missing(sagemaker.delete_endpoint, EndpointName=endpoint["EndpointName"])
    ignore_missing(sagemaker.delete_endpoint_config, EndpointConfigName=config["EndpointConfigName"])
    ignore_missing(sagemaker.delete_model, ModelName=config["ProductionVariants"][0]["ModelName"])


def exists(describe, **name) -> bool:
    """SageMaker says ValidationException for what is not there."""
    try:
        describe(**name)
    except ClientError as error:
        if error.response["Error"]["Code"] in ("ValidationException", "ResourceNotFound"):
            return False
        raise
    return True


def ignore_missing(call, **name) -> None:
    try:
        call(**name)
    except ClientError as error:
        missing = ("ValidationException", "ResourceNotFound", "ObjectNotFoundException")
        if error.response["Error"]["Code"] not in missing:
            raise


if __name__ == "__main__":
    main()
'''

BATCH = '''\
"""@TITLE@.

    python deploy.py --model-data s3://BUCKET/model.tar.gz --image IMAGE --role-arn ROLE --bucket DATA_BUCKET
    python deploy.py ... --schedule-role-arn ROLE     runs on the plan's schedule instead of once, now
    python deploy.py --delete

Needs boto3 and credentials; AWS_ENDPOINT_URL sends every call elsewhere. The role must be able to read the artifact and
the data bucket's input/, and to write its output/.
"""

import argparse
import json
import sys
import time

import boto3
from botocore.exceptions import ClientError

PLAN = @PLAN@
SCHEDULE = @SCHEDULE@
RUNNING = ("InProgress", "Stopping")

sagemaker = boto3.client("sagemaker")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model-data", metavar="S3_URI", help="the model artifact, a tar.gz in S3")
    arguments.add_argument("--image", help="serving image in ECR")
    arguments.add_argument("--role-arn", help="role that the job runs under")
    arguments.add_argument("--bucket", help="bucket with input/ and output/ instead of the plan's")
    arguments.add_argument("--schedule-role-arn", help="role under which EventBridge Scheduler starts the job")
    arguments.add_argument("--delete", action="store_true", help="delete the model and the schedule")
    options = arguments.parse_args()
    if options.delete:
        return delete()
    if not (options.model_data and options.role_arn):
        arguments.error("--model-data and --role-arn are needed, and on AWS --image")
    create_model(options.model_data, options.image, options.role_arn)
    job = PLAN["CreateTransformJob"]
    if options.bucket:
        job["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"] = f"s3://{options.bucket}/input/"
        job["TransformOutput"]["S3OutputPath"] = f"s3://{options.bucket}/output/"
    if options.schedule_role_arn:
        create_schedule(job, options.schedule_role_arn)
    else:
        run(job)


def create_model(model_data: str, image: str | None, role_arn: str) -> None:
    container = {"ModelDataUrl": model_data, **({"Image": image} if image else {})}
    name = PLAN["CreateTransformJob"]["ModelName"]
    try:
        sagemaker.describe_model(ModelName=name)
    except ClientError as error:
        if error.response["Error"]["Code"] != "ValidationException":
            raise
        sagemaker.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=role_arn)


def run(job: dict) -> None:
    name = f"{job['TransformJobName'][:50]}-{int(time.time())}"
    sagemaker.create_transform_job(**{**job, "TransformJobName": name})
    while (job := sagemaker.describe_transform_job(TransformJobName=name))["TransformJobStatus"] in RUNNING:
        time.sleep(3)
    print(name, job["TransformJobStatus"])
    if job["TransformJobStatus"] != "Completed":
        sys.exit(job.get("FailureReason"))


def create_schedule(job: dict, role_arn: str) -> None:
    scheduler = boto3.client("scheduler")
    unique = {**job, "TransformJobName": f"{job['TransformJobName'][:26]}-<aws.scheduler.execution-id>"}
    schedule = {
        "Name": job["TransformJobName"],
        "ScheduleExpression": SCHEDULE,
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "Target": {
            "Arn": "arn:aws:scheduler:::aws-sdk:sagemaker:createTransformJob",
            "RoleArn": role_arn,
            "Input": json.dumps(unique),
        },
    }
    try:
        scheduler.create_schedule(**schedule)
    except scheduler.exceptions.ConflictException:  # the script ran before
        scheduler.update_schedule(**schedule)
    print(job["TransformJobName"], "is scheduled:", SCHEDULE)


def delete() -> None:
    job = PLAN["CreateTransformJob"]
    for service, call, name in (
        ("scheduler", "delete_schedule", {"Name": job["TransformJobName"]}),
        ("sagemaker", "delete_model", {"ModelName": job["ModelName"]}),
    ):
        try:
            getattr(boto3.client(service), call)(**name)
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("ValidationException", "ResourceNotFoundException"):
                raise


if __name__ == "__main__":
    main()
'''
