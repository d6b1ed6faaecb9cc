"""Replace the model of an endpoint while it is being called: no call fails, and the answers change once."""

from __future__ import annotations

import tarfile
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import boto3
from shared import server

HANDLER = """
def model_fn(model_dir):
    return None


def transform_fn(model, body, content_type, accept):
    return "VERSION", "text/plain"
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, server():
        s3, sagemaker = boto3.client("s3"), boto3.client("sagemaker")
        s3.create_bucket(Bucket="models")
        for version in ("first", "second"):
            create(s3, sagemaker, version, Path(folder))
        sagemaker.create_endpoint(EndpointName="greeter", EndpointConfigName="first")
        wait(sagemaker)

        answers: list[str] = []
        done = threading.Event()
        caller = threading.Thread(target=call_until, args=(done, answers))
        caller.start()
        time.sleep(0.3)
        sagemaker.update_endpoint(EndpointName="greeter", EndpointConfigName="second")
        wait(sagemaker)
        time.sleep(0.3)
        done.set()
        caller.join()

    print(f"{len(answers)} calls, none failed: {dict(Counter(answers))}")
    if answers != sorted(answers) or set(answers) != {"first", "second"}:  # "first" sorts before "second"
        raise SystemExit("the answers did not change once from the first model to the second")


def create(s3, sagemaker, version: str, folder: Path) -> None:
    """A model and an endpoint config of that name. A file copied into the bucket's folder would do as well."""
    handler = folder / "inference.py"
    handler.write_text(HANDLER.replace("VERSION", version))
    with tarfile.open(folder / "model.tar.gz", "w:gz") as archive:
        archive.add(handler, "code/inference.py")
    s3.upload_file(str(folder / "model.tar.gz"), "models", f"{version}/model.tar.gz")
    location = f"s3://models/{version}/model.tar.gz"
    sagemaker.create_model(ModelName=version, PrimaryContainer={"ModelDataUrl": location})
    variant = {"VariantName": "all", "ModelName": version, "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
    sagemaker.create_endpoint_config(EndpointConfigName=version, ProductionVariants=[variant])


def wait(sagemaker) -> None:
    sagemaker.get_waiter("endpoint_in_service").wait(EndpointName="greeter", WaiterConfig={"Delay": 1})


def call_until(done: threading.Event, answers: list[str]) -> None:
    runtime = boto3.client("sagemaker-runtime")
    while not done.is_set():
        answer = runtime.invoke_endpoint(EndpointName="greeter", ContentType="text/csv", Body="hello")
        answers.append(answer["Body"].read().decode())


if __name__ == "__main__":
    main()
