"""A model for each of forty shops behind one endpoint with room for five: loaded when it is called."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import boto3
import numpy as np
from shared import server
from skl2onnx import to_onnx
from sklearn.linear_model import LinearRegression

SHOPS = 40
ROOM = 5
CALLS = 150


def main() -> None:
    with server():
        deploy()
        runtime = boto3.client("sagemaker-runtime")
        seconds: dict[str, list[float]] = {"first call": [], "again soon": []}
        recent: list[int] = []
        for shop in visits():
            began = time.perf_counter()
            request = {"ContentType": "text/csv", "Body": "10,0", "TargetModel": f"shop-{shop}.onnx"}
            answer = runtime.invoke_endpoint(EndpointName="shops", **request)["Body"].read()
            kind = "again soon" if shop in recent else "first call"
            seconds[kind].append(time.perf_counter() - began)
            recent = [shop, *(one for one in recent if one != shop)][:ROOM]
            assert abs(float(answer.strip(b"[]{}\n ").split(b",")[0]) - 10 * shop) < 0.1, answer
        for kind, found in seconds.items():
            print(f"{kind}: {len(found)} calls, half of them within {sorted(found)[len(found) // 2] * 1000:.1f} ms")
        missing()


def deploy() -> None:
    """Forty models under one prefix; the endpoint knows of none of them."""
    s3, sagemaker = boto3.client("s3"), boto3.client("sagemaker")
    s3.create_bucket(Bucket="models")
    x = np.random.default_rng(1).normal(size=(50, 2)).astype(np.float32)
    for shop in range(SHOPS):
        model = LinearRegression().fit(x, x @ [shop, 1.0])
        s3.put_object(Bucket="models", Key=f"shops/shop-{shop}.onnx", Body=to_onnx(model, x[:1]).SerializeToString())
    container = {
        "Mode": "MultiModel",
        "ModelDataUrl": "s3://models/shops/",
        "Environment": {"FOURFOLD_MULTI_MODEL_MAX_MODELS": str(ROOM)},
    }
    sagemaker.create_model(ModelName="shops", PrimaryContainer=container)
    variant = {"VariantName": "all", "ModelName": "shops", "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
    sagemaker.create_endpoint_config(EndpointConfigName="shops", ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName="shops", EndpointConfigName="shops")
    sagemaker.get_waiter("endpoint_in_service").wait(EndpointName="shops", WaiterConfig={"Delay": 1})


def visits() -> Iterator[int]:
    """Few shops are busy, many are quiet."""
    draw = random.Random(7)
    for _ in range(CALLS):
        yield min(int(draw.paretovariate(0.8)) - 1, SHOPS - 1)


def missing() -> None:
    """A model that is not there is the caller's mistake, and hurts nobody else."""
    runtime = boto3.client("sagemaker-runtime")
    try:
        runtime.invoke_endpoint(EndpointName="shops", Body=b"1,2", TargetModel="shop-99.onnx")
    except runtime.exceptions.ClientError as error:
        print(f"shop-99: {error.response['Error']['Message'][:60]}...")


if __name__ == "__main__":
    main()
