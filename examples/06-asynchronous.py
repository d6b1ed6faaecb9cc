"""Calls that are accepted at once and answered into a bucket, one of which fails."""

from __future__ import annotations

import json
import os
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import boto3
from shared import packed, server

CODE = """
import time


def model_fn(model_dir):
    return None


def transform_fn(model, data, content_type, accept):
    time.sleep(0.05)
    if not data:
        raise ValueError("an empty clip")
    return f"{len(data):,} bytes seen", "text/plain"
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, server() as url:
        s3, sagemaker, runtime = (boto3.client(name) for name in ("s3", "sagemaker", "sagemaker-runtime"))
        s3.create_bucket(Bucket="clips")
        s3.upload_file(str(packed(CODE, Path(folder))), "clips", "model.tar.gz")
        sagemaker.create_model(ModelName="clips", PrimaryContainer={"ModelDataUrl": "s3://clips/model.tar.gz"})
        variant = {"VariantName": "a", "ModelName": "clips", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
        sagemaker.create_endpoint_config(
            EndpointConfigName="clips",
            ProductionVariants=[variant],
            AsyncInferenceConfig={"OutputConfig": {"S3OutputPath": "s3://clips/seen"}},
        )
        sagemaker.create_endpoint(EndpointName="clips", EndpointConfigName="clips")
        while sagemaker.describe_endpoint(EndpointName="clips")["EndpointStatus"] == "Creating":
            time.sleep(0.05)

        sent = []
        for number, size in enumerate((500_000, 2_000_000, 0)):
            s3.put_object(Bucket="clips", Key=f"in/{number}.bin", Body=b"\\0" * size)
            sent.append(
                runtime.invoke_endpoint_async(
                    EndpointName="clips",
                    InputLocation=f"s3://clips/in/{number}.bin",
                    ContentType="application/octet-stream",
                )
            )
        print(f"{len(sent)} calls accepted")
        for call in sent:
            record = wait(url, call["InferenceId"])
            where = record["output_location" if record["status"] == "completed" else "failure_location"]
            bucket, _, key = where.removeprefix("s3://").partition("/")
            text = s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode()
            print(f"{record['status']:10} {text if record['status'] == 'completed' else json.loads(text)['message']}")


def wait(url: str, inference_id: str) -> dict[str, Any]:
    """Ask Fourfold's own route until the call has ended."""
    while True:
        request = urllib.request.Request(f"{url}/fourfold/async/clips/{inference_id}", headers=authorization())
        with urllib.request.urlopen(request) as answer:
            record: dict[str, Any] = json.load(answer)
        if record["status"] not in ("queued", "running"):
            return record
        time.sleep(0.02)


def authorization() -> dict[str, str]:
    return {"Authorization": f"Bearer {os.environ['FOURFOLD_API_KEY']}"}


if __name__ == "__main__":
    main()
