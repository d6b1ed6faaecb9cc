"""A model that nobody calls most of the time: no worker in between, one in milliseconds when it is called."""

from __future__ import annotations

import json
import os
import tempfile
import time
import urllib.request
from pathlib import Path

import boto3
import numpy as np
from shared import server
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, server() as url:
        artifact = Path(folder, "model.onnx")
        model = LogisticRegression(max_iter=500).fit(*load_iris(return_X_y=True))
        artifact.write_bytes(to_onnx(model, np.zeros((1, 4), np.float32)).SerializeToString())
        deploy(artifact)
        for pause in (0.0, 0.0, 1.5, 1.5):
            time.sleep(pause)
            call(f"after {pause:g} s")
        found = state(url)
        parts = ", ".join(
            f"{part} {ms:.1f} ms" for part, ms in found["ColdMillisecondsByPart"].items() if ms is not None
        )
        print(f"{found['ColdStarts']} cold starts: {parts}")
        used, workers = found["GBSeconds"]["processing"], found["Workers"]
        print(f"{found['Invocations']} calls, {used:.3f} GB-seconds, {workers} workers now")


def deploy(artifact: Path) -> None:
    s3, sagemaker = boto3.client("s3"), boto3.client("sagemaker")
    s3.create_bucket(Bucket="models")
    s3.upload_file(str(artifact), "models", "iris/model.onnx")
    container = {"ModelDataUrl": "s3://models/iris/model.onnx", "Environment": {"FOURFOLD_IDLE_SECONDS": "1"}}
    sagemaker.create_model(ModelName="iris", PrimaryContainer=container)
    bounds = {"MemorySizeInMB": 1024, "MaxConcurrency": 5}
    variant = {"VariantName": "v", "ModelName": "iris", "ServerlessConfig": bounds}
    sagemaker.create_endpoint_config(EndpointConfigName="iris", ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName="iris", EndpointConfigName="iris")
    sagemaker.get_waiter("endpoint_in_service").wait(EndpointName="iris", WaiterConfig={"Delay": 1})


def call(when: str) -> None:
    runtime = boto3.client("sagemaker-runtime")
    began = time.perf_counter()
    answer = runtime.invoke_endpoint(EndpointName="iris", ContentType="text/csv", Body="5.1,3.5,1.4,0.2")
    milliseconds = (time.perf_counter() - began) * 1000
    cold = "x-fourfold-cold-start" in answer["ResponseMetadata"]["HTTPHeaders"]
    print(f"{when:12} {milliseconds:6.1f} ms, {'cold' if cold else 'warm'}")


def state(url: str) -> dict:
    """What `fourfold describe --json` shows of the endpoint."""
    headers = {"Authorization": f"Bearer {os.environ['FOURFOLD_API_KEY']}"}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/fourfold/endpoints/iris", headers=headers)) as answer:
        return json.load(answer)["Variants"][0]["Serverless"]


if __name__ == "__main__":
    main()
