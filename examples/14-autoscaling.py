"""Calls set off an alarm, a step policy adds workers; a scheduled action takes them away again."""

from __future__ import annotations

import tarfile
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
from shared import server

HANDLER = """
def model_fn(model_dir):
    return None

def transform_fn(model, body, content_type, accept):
    return "hello", "text/plain"
"""
TARGET = {
    "ServiceNamespace": "sagemaker",
    "ResourceId": "endpoint/shop/variant/all",
    "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, server():
        sagemaker, scaling = boto3.client("sagemaker"), boto3.client("application-autoscaling")
        deploy(sagemaker, Path(folder))
        scaling.register_scalable_target(**TARGET, MinCapacity=1, MaxCapacity=3)
        policy = scaling.put_scaling_policy(
            **TARGET,
            PolicyName="more",
            PolicyType="StepScaling",
            StepScalingPolicyConfiguration={
                "AdjustmentType": "ChangeInCapacity",
                "StepAdjustments": [{"MetricIntervalLowerBound": 0, "ScalingAdjustment": 2}],
                "Cooldown": 60,
            },
        )
        boto3.client("cloudwatch").put_metric_alarm(
            AlarmName="busy",
            Namespace="AWS/SageMaker",
            MetricName="Invocations",
            Dimensions=[{"Name": "EndpointName", "Value": "shop"}, {"Name": "VariantName", "Value": "all"}],
            Statistic="Sum",
            Period=10,
            EvaluationPeriods=1,
            Threshold=50,
            ComparisonOperator="GreaterThanThreshold",
            AlarmActions=[policy["PolicyARN"]],
        )

        done = threading.Event()
        caller = threading.Thread(target=call_until, args=(done,))
        caller.start()
        began = time.monotonic()
        until(sagemaker, 3)
        print(f"3 workers after {time.monotonic() - began:.0f} s of load")
        done.set()
        caller.join()

        soon = datetime.now(UTC) + timedelta(seconds=2)
        scaling.put_scheduled_action(
            **TARGET,
            ScheduledActionName="night",
            Schedule=f"at({soon:%Y-%m-%dT%H:%M:%S})",
            ScalableTargetAction={"MinCapacity": 1, "MaxCapacity": 1},
        )
        until(sagemaker, 1)
        for activity in scaling.describe_scaling_activities(ServiceNamespace="sagemaker")["ScalingActivities"][::-1]:
            print(activity["Description"], "Cause:", activity["Cause"])


def deploy(sagemaker, folder: Path) -> None:
    handler = folder / "inference.py"
    handler.write_text(HANDLER)
    with tarfile.open(folder / "model.tar.gz", "w:gz") as archive:
        archive.add(handler, "code/inference.py")
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="models")
    s3.upload_file(str(folder / "model.tar.gz"), "models", "model.tar.gz")
    sagemaker.create_model(ModelName="shop", PrimaryContainer={"ModelDataUrl": "s3://models/model.tar.gz"})
    variant = {"VariantName": "all", "ModelName": "shop", "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
    sagemaker.create_endpoint_config(EndpointConfigName="shop", ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName="shop", EndpointConfigName="shop")
    sagemaker.get_waiter("endpoint_in_service").wait(EndpointName="shop", WaiterConfig={"Delay": 1})


def until(sagemaker, count: int) -> None:
    """Wait until the endpoint has so many workers."""
    end = time.monotonic() + 90
    while sagemaker.describe_endpoint(EndpointName="shop")["ProductionVariants"][0]["CurrentInstanceCount"] != count:
        if time.monotonic() > end:
            raise SystemExit(f"there are not {count} workers after 90 s")
        time.sleep(0.2)


def call_until(done: threading.Event) -> None:
    runtime = boto3.client("sagemaker-runtime")
    while not done.is_set():
        runtime.invoke_endpoint(EndpointName="shop", ContentType="text/csv", Body="hello")
        time.sleep(0.02)


if __name__ == "__main__":
    main()
