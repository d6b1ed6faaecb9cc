"""Deploys a scaled-down plan on the server and measures it: single requests first, then its arrivals. For `verify`.

An endpoint of instances, a serverless one, an asynchronous one or a transform job; each is removed afterwards.
"""

from __future__ import annotations

import asyncio
import io
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fourfold.advisor.arrivals import Times
from fourfold.advisor.replay import Replay, replay
from fourfold.advisor.verify import Alone, Trial, Used
from fourfold.cli.client import Server
from fourfold.errors import ValidationException

NAME = "fourfold-verify"
ROLE = "arn:aws:iam::123456789012:role/fourfold"
SINGLE = 25
"""Requests that never meet each other, before the replay."""
COLD = 3
"""Of them, those that find nothing there."""
SHARD_BYTES = 16 * 2**20
"""A transform job's data is cut into parts of this size (docs/reference/batch.md); a part is one worker's."""
LOOK_S = 0.02
SCALED = {"ServiceNamespace": "sagemaker", "ScalableDimension": "sagemaker:variant:DesiredInstanceCount"}
TARGET = {**SCALED, "ResourceId": f"endpoint/{NAME}/variant/AllTraffic"}

Document = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """What is deployed, and a request for it."""

    source: Path
    body: bytes
    content_type: str


@dataclass(frozen=True)
class Measured:
    """What was seen."""

    alone: Alone
    replay: Replay
    used: Used


def rehearse(server: Server, test: Trial, subject: Subject, tell: Callable[[str], None]) -> Measured:
    """Deploy, measure, clear away.

    Args:
        tell: is told what is being done.

    Raises:
        ValidationException: the model answers nothing.
    """
    run = _job if test.plan.mode == "batch" else _endpoint
    with _artifact(server, subject.source) as (bucket, url):
        return run(server, test, subject, bucket, url, tell)


@contextmanager
def _artifact(server: Server, source: Path) -> Iterator[tuple[str, str]]:
    """A bucket with the model in it, for as long as the block lasts."""
    from fourfold.cli.artifact import packed

    s3 = server.client("s3")
    if all(bucket["Name"] != NAME for bucket in s3.list_buckets()["Buckets"]):
        s3.create_bucket(Bucket=NAME)
    try:
        with packed(source) as artifact:
            key = f"model/{artifact.digest[:16]}/{artifact.name}"
            s3.upload_file(str(artifact.path), NAME, key)
        yield NAME, f"s3://{NAME}/{key}"
    finally:
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=NAME):
            for found in page.get("Contents", ()):
                s3.delete_object(Bucket=NAME, Key=found["Key"])
        s3.delete_bucket(Bucket=NAME)


# Endpoints


def _endpoint(
    server: Server, test: Trial, subject: Subject, bucket: str, url: str, tell: Callable[[str], None]
) -> Measured:
    mode = test.plan.mode
    suffix = "async-invocations" if mode == "asynchronous" else "invocations"
    target = f"{server.url}/endpoints/{NAME}/{suffix}"
    named = "X-Amzn-SageMaker-Content-Type" if mode == "asynchronous" else "Content-Type"
    headers = {"Authorization": f"Bearer {server.api_key()}", named: subject.content_type}

    def send(times: Times) -> Replay:
        seen = asyncio.run(replay(target, headers, subject.body, times))
        return _answers(server, seen, times) if mode == "asynchronous" else seen

    with _deployed(server, test, bucket, url):
        tell("measuring one request at a time")
        alone = _alone(test, send)
        tell(f"replaying {len(test.arrivals):,} requests")
        if test.to_zero:
            time.sleep(test.kept_s + 0.5)
        before = _state(server)
        with _watched(server, test) as up:
            seen = send(test.arrivals)
        return Measured(alone, seen, _used(test, seen, before, _state(server), up))


def _alone(test: Trial, send: Callable[[Times], Replay]) -> Alone:
    """Medians of requests that never meet each other; the first ones meet no worker either, where there may be none."""
    cold = []
    for _ in range(COLD if test.to_zero else 0):
        time.sleep(test.kept_s + 0.5)
        cold.append(_median(send(np.zeros(1))))
    apart = 2 * test.service_s + 0.02
    warm = _median(send(np.arange(SINGLE, dtype=np.float64) * min(apart, max(test.kept_s / 2, 1.2 * test.service_s))))
    return Alone(warm, max(statistics.median(cold) - warm, 0.0) if cold else 0.0)


def _median(seen: Replay) -> float:
    answered = seen.latency_s[~np.isnan(seen.latency_s)]
    if not len(answered):
        raise ValidationException(f"model: no request was answered; statuses {seen.statuses}")
    return float(np.median(answered))


@contextmanager
def _deployed(server: Server, test: Trial, bucket: str, url: str) -> Iterator[None]:
    """The plan's endpoint on the trial's workers, for as long as the block lasts."""
    sagemaker, scaling = server.client("sagemaker"), server.client("application-autoscaling")
    environment = {"FOURFOLD_IDLE_SECONDS": f"{test.kept_s:.6f}"}
    config: Document = {"EndpointConfigName": NAME, "ProductionVariants": [_variant(test)]}
    if test.plan.mode == "asynchronous":
        output = {"S3OutputPath": f"s3://{bucket}/out/", "S3FailurePath": f"s3://{bucket}/failed/"}
        config["AsyncInferenceConfig"] = {"OutputConfig": output}
    try:
        container = {"ModelDataUrl": url, "Environment": environment}
        sagemaker.create_model(ModelName=NAME, ExecutionRoleArn=ROLE, PrimaryContainer=container)
        sagemaker.create_endpoint_config(**config)
        sagemaker.create_endpoint(EndpointName=NAME, EndpointConfigName=NAME)
        _wait_for(sagemaker)
        if test.plan.mode == "asynchronous" and test.to_zero:
            _to_zero(sagemaker, scaling)
        yield
    finally:
        if scaling.describe_scalable_targets(**SCALED, ResourceIds=[TARGET["ResourceId"]])["ScalableTargets"]:
            scaling.deregister_scalable_target(**TARGET)
        _remove(sagemaker)


def _variant(test: Trial) -> Document:
    variant: Document = {"VariantName": "AllTraffic", "ModelName": NAME}
    if test.plan.mode != "serverless":
        return variant | {"InstanceType": "ml.m5.large", "InitialInstanceCount": test.workers}
    assert test.plan.sizing is not None
    config = {"MemorySizeInMB": test.plan.sizing.memory_mb, "MaxConcurrency": test.workers}
    if test.provisioned:
        config["ProvisionedConcurrency"] = test.provisioned
    return variant | {"ServerlessConfig": config}


def _to_zero(sagemaker: Any, scaling: Any) -> None:
    scaling.register_scalable_target(**TARGET, MinCapacity=0, MaxCapacity=1)
    weights = [{"VariantName": "AllTraffic", "DesiredInstanceCount": 0}]
    sagemaker.update_endpoint_weights_and_capacities(EndpointName=NAME, DesiredWeightsAndCapacities=weights)
    _wait_for(sagemaker)


def _wait_for(sagemaker: Any) -> None:
    waiter = sagemaker.get_waiter("endpoint_in_service")
    waiter.wait(EndpointName=NAME, WaiterConfig={"Delay": 1, "MaxAttempts": 600})


def _remove(sagemaker: Any) -> None:
    from botocore.exceptions import ClientError

    for call, member in (
        (sagemaker.delete_endpoint, "EndpointName"),
        (sagemaker.delete_endpoint_config, "EndpointConfigName"),
        (sagemaker.delete_model, "ModelName"),
    ):
        try:
            call(**{member: NAME})
        except ClientError as error:
            if error.response["Error"]["Code"] != "ValidationException":
                raise


def _answers(server: Server, seen: Replay, times: Times) -> Replay:
    """What became of the calls that were accepted: seconds from when each was due to when its answer was there."""
    calls = _calls(server, len(times))
    while any(call["status"] in ("queued", "running") for call in calls):
        time.sleep(0.1)
        calls = _calls(server, len(times))
    calls = sorted(calls, key=lambda call: float(call["accepted_at"]))
    ended = np.asarray([c["ended_at"] if c["status"] == "completed" else np.nan for c in calls], dtype=float)
    latency = np.full(len(times), np.nan)
    accepted = ~np.isnan(seen.latency_s)
    latency[accepted] = ended - (seen.began_at + times[accepted])
    answered = int(np.count_nonzero(~np.isnan(latency)))
    if calls and not answered:
        raise ValidationException(f"model: no call was completed; {calls[0]['reason']}")
    statuses = {status: count for status, count in seen.statuses.items() if not 200 <= status < 300}
    statuses |= {200: answered} | ({500: len(calls) - answered} if len(calls) > answered else {})
    span = float(np.nanmax(latency + times)) - float(times[0]) if answered else 0.0
    return Replay(latency, statuses, span, seen.began_at)


def _calls(server: Server, newest: int) -> list[Document]:
    found: list[Document] = []
    before: Document = {}
    while len(found) < newest:
        page = json.loads(server.get("async", NAME, limit=min(1000, newest - len(found)), **before))
        found += page["calls"]
        if page["next"] is None:
            break
        before = {"before": page["next"]}
    return found


def _state(server: Server) -> Document:
    found: Document = json.loads(server.get("endpoints", NAME))["Variants"][0]
    return found


@contextmanager
def _watched(server: Server, test: Trial) -> Iterator[list[bool]]:
    """Whether a worker was there at each look, while the block lasts; no looks where one always is."""
    seen: list[bool] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_S):
            seen.append(bool(_state(server)["Workers"]))

    if test.plan.mode != "asynchronous" or not test.to_zero:
        yield seen
        return
    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def _used(test: Trial, seen: Replay, before: Document, after: Document, up: list[bool]) -> Used:
    if test.plan.mode == "serverless":
        old, new = before["Serverless"], after["Serverless"]
        gb_seconds = sum(new["GBSeconds"][kind] - old["GBSeconds"][kind] for kind in ("processing", "provisioned"))
        return Used(gb_seconds / (new["MemorySizeInMB"] / 1024), new["ColdStarts"] - old["ColdStarts"])
    if up:
        starts = sum(now and not then for then, now in zip([False, *up], up, strict=False))
        return Used(seen.span_s * sum(up) / len(up), starts)
    return Used(seen.span_s)


# Transform jobs


def _job(server: Server, test: Trial, subject: Subject, bucket: str, url: str, tell: Callable[[str], None]) -> Measured:
    sagemaker, s3 = server.client("sagemaker"), server.client("s3")
    sagemaker.create_model(ModelName=NAME, ExecutionRoleArn=ROLE, PrimaryContainer={"ModelDataUrl": url})
    try:
        tell("measuring a job of one row")
        s3.put_object(Bucket=bucket, Key="one/rows.jsonl", Body=_row(subject))
        alone = statistics.median(_seconds(server, test, bucket, "one", number) for number in range(3))
        tell(f"running a job of {test.rows:,} rows")
        for worker in range(test.workers):
            rows = test.rows // test.workers + (worker < test.rows % test.workers)
            s3.put_object(Bucket=bucket, Key=f"all/{worker}.jsonl", Body=_rows(subject, rows))
        span = _seconds(server, test, bucket, "all", 0)
    finally:
        sagemaker.delete_model(ModelName=NAME)
    seen = Replay(np.full(test.rows, span), {200: test.rows}, span)
    return Measured(Alone(alone), seen, Used(span))


def _row(subject: Subject) -> bytes:
    """The request as one line of JSON."""
    if subject.content_type == "application/json":
        return b" ".join(subject.body.split()) + b"\n"
    found = np.load(io.BytesIO(subject.body))
    many = found if isinstance(found, np.ndarray) else {name: found[name] for name in found.files}
    row = (
        many[0].tolist() if isinstance(many, np.ndarray) else {name: value[0].tolist() for name, value in many.items()}
    )
    return json.dumps(row).encode() + b"\n"


def _rows(subject: Subject, rows: int) -> bytes:
    """Lines that fill a part each worker is given: spaces, which mean nothing in JSON, make up what is missing."""
    row = _row(subject)
    wide = max(len(row), SHARD_BYTES * 6 // 10 // max(rows, 1))
    return (row[:-1].ljust(wide - 1) + b"\n") * rows


def _seconds(server: Server, test: Trial, bucket: str, folder: str, number: int) -> float:
    """How long a job over a folder takes, from its start to its end."""
    sagemaker = server.client("sagemaker")
    name = f"{NAME}-{folder}-{number}-{time.time_ns()}"
    planned = test.plan.configuration["CreateTransformJob"]
    sagemaker.create_transform_job(
        TransformJobName=name,
        ModelName=NAME,
        MaxConcurrentTransforms=test.workers,
        MaxPayloadInMB=planned["MaxPayloadInMB"],
        BatchStrategy=planned["BatchStrategy"],
        TransformInput={
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{bucket}/{folder}/"}},
            "ContentType": "application/jsonlines",
            "SplitType": "Line",
        },
        TransformOutput={"S3OutputPath": f"s3://{bucket}/out-{folder}/", "Accept": "application/jsonlines"},
        TransformResources={"InstanceType": "ml.m5.large", "InstanceCount": 1},
    )
    while (job := sagemaker.describe_transform_job(TransformJobName=name))["TransformJobStatus"] == "InProgress":
        time.sleep(LOOK_S)
    if job["TransformJobStatus"] != "Completed":
        raise ValidationException(f"model: the job has {job['TransformJobStatus']}: {job.get('FailureReason')}")
    return float((job["TransformEndTime"] - job["TransformStartTime"]).total_seconds())
