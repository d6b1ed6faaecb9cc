"""What the tests of asynchronous calls share: an endpoint that does as its input says, and ways to look at outcomes."""

from __future__ import annotations

import http.client
import json
import time
from typing import Any
from urllib.parse import quote

import pytest

ECHO = """
import os
import time


def model_fn(model_dir):
    return None


def transform_fn(model, data, content_type, accept, context):
    text = bytes(data).decode()
    word, _, rest = text.partition(" ")
    if word == "sleep":
        time.sleep(float(rest))
    elif word == "fail":
        raise ValueError("asked to fail")
    elif word == "die":
        os._exit(1)
    elif word == "repeat":
        return b"x" * int(rest), "text/plain"
    elif word == "array":
        return b"x" * int(rest), "application/x-npy"
    headers = context.get_all_request_header()
    attributes = headers.get("x-amzn-sagemaker-custom-attributes")
    if attributes:
        return f"{text.upper()} {attributes} {headers['x-amzn-sagemaker-inference-id']}", "text/plain"
    return text.upper(), "text/plain"
"""


@pytest.fixture(scope="module")
def answers(server):
    """The bucket that answers go to."""
    server.client("s3").create_bucket(Bucket="answers")


@pytest.fixture(scope="module")
def echo(server, handler, answers):
    """The endpoint `echo`, which answers in capitals."""
    server.deploy("echo", handler(ECHO), endpoint=False)
    create(
        server,
        "echo",
        {"OutputConfig": {"S3OutputPath": "s3://answers/out", "S3FailurePath": "s3://answers/failed"}},
    )


def create(server, name: str, config: dict[str, Any]) -> None:
    """An asynchronous endpoint of the model of the same name."""
    variant = {"VariantName": "AllTraffic", "ModelName": name, "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    sagemaker = server.client("sagemaker")
    sagemaker.create_endpoint_config(
        EndpointConfigName=name, ProductionVariants=[variant], AsyncInferenceConfig=config
    )  # fmt: skip
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    server.wait(name)


def submit(server, name: str, body: bytes, **more: Any) -> dict[str, Any]:
    request = {"EndpointName": name, "Body": body, "ContentType": "text/plain"} | more
    return client(server, "sagemaker-runtime").invoke_endpoint_async(**request)


def client(server, service: str) -> Any:
    """A boto3 client, one a server and service: making one takes longer than many calls."""
    known = server.__dict__.setdefault("_known_clients", {})
    key = (service, server.url)
    if key not in known:
        known[key] = server.client(service)
    return known[key]


def route(server, method: str, path: str) -> tuple[int, Any]:
    """Call a native route: status and JSON."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30)
    try:
        connection.request(method, path, headers={"Authorization": f"Bearer {server.keys['api_key']}"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def describe(server, name: str, inference_id: str) -> dict[str, Any]:
    return route(server, "GET", f"/fourfold/async/{name}/{quote(inference_id, safe='')}")[1]


def wait_for(
    server, name: str, answer: dict[str, Any], status: str = "completed", seconds: float = 30
) -> dict[str, Any]:
    """Wait until a call has ended; its record."""
    end = time.monotonic() + seconds
    while (record := describe(server, name, answer["InferenceId"]))["status"] in ("queued", "running"):
        assert time.monotonic() < end, record
        time.sleep(0.01)
    assert record["status"] == status, record
    return record


def object_at(server, url: str) -> bytes | None:
    """The object of that address; None where there is none."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    s3 = client(server, "s3")
    try:
        return s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    except s3.exceptions.NoSuchKey:
        return None
