"""A new model takes a part of the traffic, fails, sets off an alarm, and the old one has it all again."""

from __future__ import annotations

import tarfile
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import boto3
from botocore.exceptions import ClientError
from shared import server

GOOD = """
def transform_fn(model, body, content_type, accept):
    return "good", "text/plain"

def model_fn(model_dir):
    return None
"""
BAD = GOOD.replace('return "good", "text/plain"', 'raise RuntimeError("a column is missing")')

CANARY = {
    "BlueGreenUpdatePolicy": {
        "TrafficRoutingConfiguration": {
            "Type": "CANARY",
            "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 20},
            "WaitIntervalInSeconds": 300,
        }
    },
    "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": "too-many-errors"}]},
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, server():
        sagemaker = boto3.client("sagemaker")
        boto3.client("s3").create_bucket(Bucket="models")
        for name, code in (("good", GOOD), ("bad", BAD)):
            create(sagemaker, name, code, Path(folder))
        sagemaker.create_endpoint(EndpointName="shop", EndpointConfigName="good")
        wait(sagemaker)
        watch()

        answers: Counter[str] = Counter()
        done = threading.Event()
        caller = threading.Thread(target=call_until, args=(done, answers))
        caller.start()
        began = time.monotonic()
        sagemaker.update_endpoint(EndpointName="shop", EndpointConfigName="bad", DeploymentConfig=CANARY)
        wait(sagemaker)
        seconds = time.monotonic() - began
        done.set()
        caller.join()
        endpoint = sagemaker.describe_endpoint(EndpointName="shop")

    print(f"back on {endpoint['EndpointConfigName']} after {seconds:.0f} s: {endpoint['FailureReason']}")
    share = answers["failed"] / answers.total()
    print(f"{answers.total()} calls, {share:.0%} of them met the new model")
    if endpoint["EndpointConfigName"] != "good" or share > 0.5:
        raise SystemExit("the update was not rolled back")


def watch() -> None:
    """An alarm that goes off when one of ten calls fails in the model."""
    boto3.client("cloudwatch").put_metric_alarm(
        AlarmName="too-many-errors",
        Namespace="AWS/SageMaker",
        MetricName="Invocation5XXErrors",
        Dimensions=[{"Name": "EndpointName", "Value": "shop"}, {"Name": "VariantName", "Value": "all"}],
        Statistic="Average",  # an error counts 1 and a success 0, so that the average is the error rate
        Period=10,
        EvaluationPeriods=1,
        Threshold=0.1,
        ComparisonOperator="GreaterThanThreshold",
        TreatMissingData="notBreaching",
    )


def create(sagemaker, name: str, code: str, folder: Path) -> None:
    """A model and an endpoint config of that name."""
    handler = folder / "inference.py"
    handler.write_text(code)
    with tarfile.open(folder / "model.tar.gz", "w:gz") as archive:
        archive.add(handler, "code/inference.py")
    boto3.client("s3").upload_file(str(folder / "model.tar.gz"), "models", f"{name}/model.tar.gz")
    sagemaker.create_model(ModelName=name, PrimaryContainer={"ModelDataUrl": f"s3://models/{name}/model.tar.gz"})
    variant = {"VariantName": "all", "ModelName": name, "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
    sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])


def wait(sagemaker) -> None:
    sagemaker.get_waiter("endpoint_in_service").wait(EndpointName="shop", WaiterConfig={"Delay": 1})


def call_until(done: threading.Event, answers: Counter[str]) -> None:
    runtime = boto3.client("sagemaker-runtime")
    while not done.is_set():
        try:
            runtime.invoke_endpoint(EndpointName="shop", ContentType="text/csv", Body="hello")
            answers["answered"] += 1
        except ClientError:
            answers["failed"] += 1
        time.sleep(0.01)


if __name__ == "__main__":
    main()
