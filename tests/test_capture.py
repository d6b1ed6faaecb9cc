"""Data capture as boto3 sees it: what is called is found in the bucket, and what is described is so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError

from tests.server import LiveServer
from tests.test_serve import eventually

ECHO = """
def model_fn(model_dir):
    return None

def transform_fn(model, data, content_type, accept):
    return data, accept
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory, handler):
    """A server that writes captured calls at once, with a model and a bucket."""
    server = LiveServer(tmp_path_factory.mktemp("server") / "data", "--capture-seconds", "0.05")
    server.deploy("echo", handler(ECHO), endpoint=False)
    server.client("s3").create_bucket(Bucket="kept")
    yield server
    assert server.stop() == 0


def configure(server: LiveServer, name: str, destination: str, **members: Any) -> None:
    """An endpoint config that captures every call, unless `capture` says something else."""
    capture = {
        "InitialSamplingPercentage": 100,
        "DestinationS3Uri": destination,
        "CaptureOptions": [{"CaptureMode": "InputAndOutput"}],
        "CaptureContentTypeHeader": {"CsvContentTypes": ["text/csv"], "JsonContentTypes": ["application/json"]},
    } | members.pop("capture", {})
    variant = {"VariantName": "blue", "ModelName": "echo", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    server.client("sagemaker").create_endpoint_config(
        EndpointConfigName=name, ProductionVariants=[variant], DataCaptureConfig=capture, **members
    )


def deploy(server: LiveServer, name: str, destination: str, **members: Any) -> None:
    configure(server, name, destination, **members)
    server.client("sagemaker").create_endpoint(EndpointName=name, EndpointConfigName=name)
    server.wait(name)


def update(server: LiveServer, name: str, config: str) -> None:
    server.client("sagemaker").update_endpoint(EndpointName=name, EndpointConfigName=config)
    server.wait(name)


def call(server: LiveServer, name: str, body: bytes, content_type: str = "text/csv", **members: str) -> None:
    runtime = server.client("sagemaker-runtime")
    answer = runtime.invoke_endpoint(
        EndpointName=name, Body=body, ContentType=content_type, Accept=content_type, **members
    )
    assert answer["Body"].read() == body


def captured(server: LiveServer, prefix: str) -> list[dict[str, Any]]:
    """The records of the objects below a prefix of the bucket."""
    s3 = server.client("s3")
    found = s3.list_objects_v2(Bucket="kept", Prefix=prefix).get("Contents", [])
    texts = [s3.get_object(Bucket="kept", Key=one["Key"])["Body"].read() for one in found]
    return [json.loads(line) for text in texts for line in text.splitlines()]


def inputs(server: LiveServer, prefix: str) -> list[str]:
    return sorted(record["captureData"]["endpointInput"]["data"] for record in captured(server, prefix))


def status(server: LiveServer, name: str) -> str:
    summary = server.client("sagemaker").describe_endpoint(EndpointName=name)["DataCaptureConfig"]
    assert summary["CurrentSamplingPercentage"] == 100
    return summary["CaptureStatus"]


def test_every_call_is_found_below_its_variant(site: LiveServer) -> None:
    shadow = {"VariantName": "dark", "ModelName": "echo", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    deploy(site, "shop", "s3://kept/all", ShadowProductionVariants=[shadow])
    assert status(site, "shop") == "Started"
    call(site, "shop", b"1,2", InferenceId="order-7", CustomAttributes="trace=9")
    call(site, "shop", b'{"a": 1}', "application/json")
    call(site, "shop", b"\xff\xfe", "image/png")
    sent = httpx.post(
        f"{site.url}/v2/models/shop/infer",
        headers={"Authorization": f"Bearer {site.keys['api_key']}"}, content=b'{"inputs": []}',
    )  # fmt: skip
    assert sent.status_code == 200
    eventually(lambda: len(captured(site, "all/shop/blue/20")) == len(captured(site, "all/shop/dark/20")) == 4)
    (record,) = (one for one in captured(site, "all/shop/blue") if "inferenceId" in one["eventMetadata"])
    assert record["captureData"] == {
        "endpointInput": {"observedContentType": "text/csv", "mode": "INPUT", "data": "1,2", "encoding": "CSV"},
        "endpointOutput": {"observedContentType": "text/csv", "mode": "OUTPUT", "data": "1,2", "encoding": "CSV"},
    }
    assert record["eventMetadata"]["inferenceId"] == "order-7"
    assert record["eventMetadata"]["customAttributes"] == ["trace=9"]
    assert inputs(site, "all/shop/dark") == ["//4=", "1,2", '{"a": 1}', '{"inputs": []}']
    eventually(lambda: b'fourfold_captured_calls_total{endpoint="shop",variant="blue"} 4.0' in site.get("/metrics"))


def test_capture_is_switched_by_updates(site: LiveServer) -> None:
    deploy(site, "switched", "s3://kept/first")
    call(site, "switched", b"1")
    configure(site, "switched-off", "s3://kept/first", capture={"EnableCapture": False})
    update(site, "switched", "switched-off")
    assert status(site, "switched") == "Stopped"
    call(site, "switched", b"2")
    configure(site, "switched-on", "s3://kept/second")
    update(site, "switched", "switched-on")
    assert status(site, "switched") == "Started"
    call(site, "switched", b"3")
    eventually(lambda: inputs(site, "second/") == ["3"])
    assert inputs(site, "first/") == ["1"]


def test_without_its_bucket_it_says_so_until_there_is_one(site: LiveServer) -> None:
    deploy(site, "lost", "s3://nowhere/x")
    call(site, "lost", b"1")
    assert status(site, "lost") == "Stopped"
    eventually(
        lambda: b'fourfold_capture_dropped_calls_total{endpoint="lost",variant="blue"} 1' in site.get("/metrics")
    )
    site.client("s3").create_bucket(Bucket="nowhere")
    assert status(site, "lost") == "Started"
    with pytest.raises(ClientError, match="is not the address of an object"):
        configure(site, "no-address", "https://example.com/x")


def test_an_asynchronous_endpoint_captures_nothing_and_says_so(site: LiveServer) -> None:
    deploy(site, "later", "s3://kept/later", AsyncInferenceConfig={"OutputConfig": {"S3OutputPath": "s3://kept/out"}})
    assert status(site, "later") == "Stopped"


def test_what_is_held_is_written_when_the_server_stops(handler: Any, tmp_path: Path) -> None:
    server = LiveServer(tmp_path / "data", "--capture-seconds", "3600")
    server.deploy("echo", handler(ECHO), endpoint=False)
    server.client("s3").create_bucket(Bucket="kept")
    deploy(server, "shop", "s3://kept/all")
    call(server, "shop", b"1,2")
    folder = server.folder / "buckets" / "kept" / "all" / "shop" / "blue"
    assert not folder.exists(), "it has an hour"
    assert server.stop() == 0
    (file,) = folder.rglob("*.jsonl")
    assert json.loads(file.read_text())["captureData"]["endpointInput"]["data"] == "1,2"
