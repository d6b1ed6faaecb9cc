"""Transform jobs through boto3 against a real server: every option of the request, and what becomes of odd inputs."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import struct
import time
import urllib.request
from collections.abc import Callable
from datetime import UTC
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError

from fourfold.modes.batch.split.tfrecord import masked_crc
from tests.server import LiveServer

BUCKET = "data"

SHOUT = """
import json, os


def model_fn(model_dir):
    return None


def transform_fn(model, body, content_type, accept):
    text = body if isinstance(body, str) else bytes(body).decode()
    if "die" in text and os.environ.get("MAY_DIE") == "yes":
        os._exit(3)
    if "refuse" in text:
        raise ValueError("the model refuses this")
    if "where" in text:
        names = ("SAGEMAKER_BATCH", "SAGEMAKER_BATCH_STRATEGY", "SAGEMAKER_MAX_PAYLOAD_IN_MB", "COLOUR")
        return json.dumps({name: os.environ.get(name) for name in names}), accept
    if "sleep" in text:
        import time
        time.sleep(60)
    print("shouting", flush=True)
    return f"<{text.upper()}>", accept
"""
"""A handler that brackets what it gets in one call, so that a test sees what one call got."""


WHISPER = """
import asyncio


def model_fn(model_dir):
    return asyncio.Semaphore(1000)


async def transform_fn(model, body, content_type, accept):
    async with model:
        await asyncio.sleep(0.01)
    text = body if isinstance(body, str) else bytes(body).decode()
    if "refuse" in text:
        raise ValueError("the model refuses this")
    return text.lower(), accept
"""
"""A handler whose calls overlap."""


class Site:
    """A server with two models, `sum` (rows of three floats) and `shout` (a handler), and a bucket."""

    def __init__(self, server: LiveServer) -> None:
        self.server = server
        self.connect()
        self.jobs = 0

    def connect(self) -> None:
        self.s3 = self.server.client("s3")
        self.sagemaker = self.server.client("sagemaker")

    def put(self, **objects: bytes) -> None:
        """Objects of this job's input; `__` in a name stands for a slash and `_` for a dot."""
        for name, content in objects.items():
            self.write(name.replace("__", "/").replace("_", "."), content)

    def write(self, name: str, content: bytes) -> None:
        self.s3.put_object(Bucket=BUCKET, Key=f"{self.folder}/in/{name}", Body=content)

    @property
    def folder(self) -> str:
        return f"t{self.jobs}"

    def request(self, model: str = "sum", **changes: Any) -> dict[str, Any]:
        """A job over the test's folder. `input` and `output` are added to those members."""
        source = {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/{self.folder}/in/"}
        text = "text/csv" if model == "sum" else "text/plain"
        given = {"DataSource": {"S3DataSource": source}, "ContentType": text, "SplitType": "Line"}
        wanted = {"S3OutputPath": f"s3://{BUCKET}/{self.folder}/out", "AssembleWith": "Line", "Accept": text}
        return {
            "TransformJobName": f"job-{self.jobs}",
            "ModelName": model,
            "TransformInput": given | changes.pop("input", {}),
            "TransformOutput": wanted | changes.pop("output", {}),
            "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
        } | changes

    def run(self, model: str = "sum", **changes: Any) -> dict[str, Any]:
        """A job from its start to its end: its description."""
        request = self.request(model, **changes)
        self.sagemaker.create_transform_job(**request)
        return self.until(request["TransformJobName"])

    def until(self, name: str, *statuses: str, seconds: float = 60) -> dict[str, Any]:
        """The job's description when it has ended, or has one of these statuses."""
        end = time.monotonic() + seconds
        while True:
            job = self.sagemaker.describe_transform_job(TransformJobName=name)
            if job["TransformJobStatus"] in (statuses or ("Completed", "Failed", "Stopped")):
                return job
            assert time.monotonic() < end, job
            time.sleep(0.01)

    def progress(self, name: str) -> dict[str, Any]:
        return json.loads(self.server.get(f"/fourfold/batch/{name}"))

    def out(self, name: str) -> bytes | None:
        """An object of the output; None where there is none."""
        try:
            return self.s3.get_object(Bucket=BUCKET, Key=f"{self.folder}/out/{name}")["Body"].read()
        except self.s3.exceptions.NoSuchKey:
            return None

    def outs(self) -> list[str]:
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{self.folder}/out/")
        return [entry["Key"].partition("/out/")[2] for page in pages for entry in page.get("Contents", [])]


def furnish(server: LiveServer, sum_model: Path, shout: Path) -> Site:
    server.deploy("sum", sum_model / "model.onnx", endpoint=False)
    server.deploy("shout", shout, endpoint=False)
    server.client("s3").create_bucket(Bucket=BUCKET)
    return Site(server)


@pytest.fixture(scope="module")
def shared(server: LiveServer, sum_model: Path, handler: Callable[..., Path]) -> Site:
    return furnish(server, sum_model, handler(SHOUT))


@pytest.fixture
def site(shared: Site) -> Site:
    shared.jobs += 1
    return shared


@pytest.fixture
def own_site(own_server: LiveServer, sum_model: Path, handler: Callable[..., Path]) -> Site:
    """One whose server may be killed."""
    return furnish(own_server, sum_model, handler(SHOUT))


def numbers(count: int) -> bytes:
    """Rows of 200 bytes and more."""
    return b"".join(b"%d,%d,0.5%s\n" % (i, i, b"0" * 200) for i in range(count))


def sums(count: int) -> bytes:
    return b"".join(b"%.1f\n" % (2 * i + 0.5) for i in range(count))


# The operations


def test_a_job_is_described_as_it_was_asked_for(site: Site) -> None:
    site.put(a_csv=b"1,2,3\n4,5,6\n")
    request = site.request(
        MaxConcurrentTransforms=2,
        MaxPayloadInMB=5,
        BatchStrategy="MultiRecord",
        Environment={"COLOUR": "red"},
        ModelClientConfig={"InvocationsTimeoutInSeconds": 30, "InvocationsMaxRetries": 1},
        DataProcessing={"InputFilter": "$", "OutputFilter": "$", "JoinSource": "None"},
        Tags=[{"Key": "team", "Value": "marketing"}],
        ExperimentConfig={"TrialComponentDisplayName": "night"},
    )
    arn = site.sagemaker.create_transform_job(**request)["TransformJobArn"]
    assert arn == f"arn:aws:sagemaker:us-east-1:123456789012:transform-job/job-{site.jobs}"
    waiter = site.sagemaker.get_waiter("transform_job_completed_or_stopped")
    waiter.wait(TransformJobName=request["TransformJobName"], WaiterConfig={"Delay": 1, "MaxAttempts": 60})
    job = site.sagemaker.describe_transform_job(TransformJobName=request["TransformJobName"])
    assert job["TransformJobStatus"] == "Completed"
    assert job["CreationTime"] <= job["TransformStartTime"] <= job["TransformEndTime"]
    tags = request.pop("Tags")
    request["TransformInput"]["CompressionType"] = job["TransformInput"].get("CompressionType", "None")
    assert {member: job[member] for member in request if member != "TransformInput"} == {
        member: value for member, value in request.items() if member != "TransformInput"
    }
    assert site.out("a.csv.out") == b"6.0\n15.0\n"

    assert site.sagemaker.list_tags(ResourceArn=arn)["Tags"] == tags
    site.sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": "night", "Value": "1"}])
    site.sagemaker.delete_tags(ResourceArn=arn, TagKeys=["team"])
    assert site.sagemaker.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "night", "Value": "1"}]


def test_jobs_are_listed_filtered_and_paged(site: Site) -> None:
    site.put(a_csv=b"1,2,3\n")
    names = [f"list-{letter}" for letter in "abc"]
    for name in names:
        site.sagemaker.create_transform_job(**site.request(TransformJobName=name))
        site.until(name)
    site.sagemaker.create_transform_job(**site.request(TransformJobName="list-bad", input={"ContentType": "x/y"}))
    assert site.until("list-bad")["TransformJobStatus"] == "Failed"
    paginator = site.sagemaker.get_paginator("list_transform_jobs")

    def listed(**wanted: Any) -> list[str]:
        pages = paginator.paginate(**wanted, PaginationConfig={"PageSize": 2})
        return [job["TransformJobName"] for page in pages for job in page["TransformJobSummaries"]]

    assert listed(NameContains="list-", StatusEquals="Completed", SortBy="Name", SortOrder="Ascending") == names
    assert listed(NameContains="list-b")[0] == "list-bad"
    assert listed(NameContains="list-", StatusEquals="Stopped") == []
    created = site.sagemaker.describe_transform_job(TransformJobName="list-b")["CreationTime"]
    assert "list-c" in listed(CreationTimeAfter=created, NameContains="list-")
    assert "list-a" not in listed(CreationTimeAfter=created, NameContains="list-")


def test_what_cannot_be_is_refused_at_once(site: Site) -> None:
    site.put(a_csv=b"1,2,3\n")
    site.run()
    refused: list[tuple[dict[str, Any], str, str]] = [
        ({}, "ResourceInUse", "must be unique"),
        ({"TransformJobName": "new", "ModelName": "none"}, "ValidationException", "Could not find model"),
        ({"TransformJobName": "new", "MaxPayloadInMB": 60, "MaxConcurrentTransforms": 2}, "ValidationException", "100"),
        ({"TransformJobName": "new", "DataProcessing": {"InputFilter": "nonsense"}}, "ValidationException", "filter"),
        ({"TransformJobName": "new", "BatchStrategy": "Many"}, "ValidationException", "MultiRecord"),
        ({"TransformJobName": "-"}, "ValidationException", "transformJobName"),
    ]
    for changes, code, message in refused:
        with pytest.raises(ClientError, match=message) as caught:
            site.sagemaker.create_transform_job(**site.request(**changes))
        assert caught.value.response["Error"]["Code"] == code
    for call in (site.sagemaker.describe_transform_job, site.sagemaker.stop_transform_job):
        with pytest.raises(ClientError, match="Could not find requested job") as caught:
            call(TransformJobName="none")
        assert caught.value.response["Error"]["Code"] == "ResourceNotFound"


# What goes in


def test_a_prefix_takes_everything_below_it(site: Site) -> None:
    site.put(a_csv=b"1,2,3\n", sub__b_csv=b"4,5,6\n", sub__deep__c=b"7,8,9\n")
    assert site.run()["TransformJobStatus"] == "Completed"
    assert site.outs() == ["a.csv.out", "sub/b.csv.out", "sub/deep/c.out"]
    assert site.out("sub/deep/c.out") == b"24.0\n"


def test_a_manifest_names_the_objects(site: Site) -> None:
    site.put(a_csv=b"1,2,3\n", b_csv=b"4,5,6\n")
    manifest = [{"prefix": f"s3://{BUCKET}/{site.folder}/in/"}, "b.csv"]
    site.s3.put_object(Bucket=BUCKET, Key=f"{site.folder}/list.json", Body=json.dumps(manifest).encode())
    source = {"S3DataType": "ManifestFile", "S3Uri": f"s3://{BUCKET}/{site.folder}/list.json"}
    job = site.run(input={"DataSource": {"S3DataSource": source}})
    assert job["TransformJobStatus"] == "Completed"
    assert site.outs() == ["b.csv.out"]


def test_an_empty_prefix_fails_with_aws_s_words(site: Site) -> None:
    job = site.run()
    assert job["TransformJobStatus"] == "Failed"
    assert "No S3 objects found under S3 URL" in job["FailureReason"]


def records(*bodies: bytes) -> dict[str, bytes]:
    """The same records in every framing."""
    framed = b"".join(struct.pack("<II", 0xCED7230A, len(b)) + b + b"\0" * (-len(b) % 4) for b in bodies)
    checked = b""
    for body in bodies:
        length = struct.pack("<Q", len(body))
        checked += length + struct.pack("<I", masked_crc(length)) + body + struct.pack("<I", masked_crc(body))
    return {"Line": b"\n".join(bodies), "RecordIO": framed, "TFRecord": checked, "None": b"".join(bodies)}


@pytest.mark.parametrize("split", ["None", "Line", "RecordIO", "TFRecord"])
def test_every_split_type_with_single_records(site: Site, split: str) -> None:
    site.write("a", records(b"one", b"two")[split])
    job = site.run("shout", input={"SplitType": split}, BatchStrategy="SingleRecord")
    assert job["TransformJobStatus"] == "Completed", job
    assert site.out("a.out") == (b"<ONETWO>\n" if split == "None" else b"<ONE>\n<TWO>\n")


def test_many_records_share_a_request_up_to_the_payload_limit(site: Site) -> None:
    site.write("a", b"one\ntwo\nthree\n")
    assert site.run("shout")["TransformJobStatus"] == "Completed"
    assert site.out("a.out") == b"<ONE\nTWO\nTHREE>\n"
    site.jobs += 1
    line = b"x" * 600_000
    site.write("a", b"\n".join([line, line, line]))
    assert site.run("shout", MaxPayloadInMB=1)["TransformJobStatus"] == "Completed"
    assert (site.out("a.out") or b"").count(b"<") == 3


def test_assemble_with_none_puts_answers_back_to_back(site: Site) -> None:
    site.write("a", b"one\ntwo\n")
    site.run("shout", BatchStrategy="SingleRecord", output={"AssembleWith": "None"})
    assert site.out("a.out") == b"<ONE><TWO>"


def test_gzip_members_are_unpacked_as_one_text(site: Site) -> None:
    site.write("a.csv.gz", gzip.compress(b"1,2,3\n4,") + gzip.compress(b"5,6\n"))
    job = site.run(input={"CompressionType": "Gzip"})
    assert job["TransformJobStatus"] == "Completed", job
    assert site.out("a.csv.gz.out") == b"6.0\n15.0\n"


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        (b"", b""),
        (b"1,2,3", b"6.0\n"),
        (b"1,2,3\r\n4,5,6\r\n", b"6.0\n15.0\n"),
        (b"\xef\xbb\xbf1,2,3\n", b"6.0\n"),
        (b'"1","2","3"\n4,5,6\n', b"6.0\n15.0\n"),
        (b"1,2,3\n\n\n4,5,6\n", b"6.0\n15.0\n"),
    ],
    ids=["empty", "no final newline", "CRLF", "byte order mark", "quotes", "blank lines"],
)
def test_the_odd_shapes_of_text(site: Site, content: bytes, answer: bytes) -> None:
    site.write("a.csv", content)
    assert site.run()["TransformJobStatus"] == "Completed"
    assert site.out("a.csv.out") == answer


def test_a_quoted_newline_belongs_to_its_record(site: Site) -> None:
    site.write("a.csv", b'a,"first\nsecond"\nb,c\n')
    site.run("shout", input={"ContentType": "text/csv"}, output={"Accept": "text/csv"}, BatchStrategy="SingleRecord")
    assert site.out("a.csv.out") == b'<A,"FIRST\nSECOND">\n<B,C>\n'


def test_a_line_of_many_megabytes(site: Site) -> None:
    site.write("a", b"x" * 9_000_000 + b"\nshort\n")
    job = site.run("shout", MaxPayloadInMB=10, BatchStrategy="SingleRecord")
    assert job["TransformJobStatus"] == "Completed"
    assert len(site.out("a.out") or b"") == 9_000_000 + 3 + len(b"<SHORT>\n")
    site.jobs += 1
    site.write("a", b"x" * 9_000_000 + b"\nshort\n")
    job = site.run("shout", MaxPayloadInMB=1)
    assert job["TransformJobStatus"] == "Failed"
    assert "MaxPayloadInMB" in job["FailureReason"]


def test_many_tiny_objects_each_have_their_output(site: Site) -> None:
    folder = site.server.folder / "buckets" / BUCKET / site.folder / "in"
    folder.mkdir(parents=True)
    for i in range(2000):
        (folder / f"{i:05d}.csv").write_bytes(b"%d,0,0\n" % i)
    job = site.run()
    assert job["TransformJobStatus"] == "Completed"
    assert len(site.outs()) == 2000
    assert site.out("01999.csv.out") == b"1999.0\n"


def test_an_object_that_cannot_be_read_fails_alone(site: Site) -> None:
    site.put(a_csv=b"1,2,3\n")
    manifest = [{"prefix": f"s3://{BUCKET}/{site.folder}/in/"}, "a.csv", "gone.csv"]
    site.s3.put_object(Bucket=BUCKET, Key=f"{site.folder}/list.json", Body=json.dumps(manifest).encode())
    source = {"S3DataType": "ManifestFile", "S3Uri": f"s3://{BUCKET}/{site.folder}/list.json"}
    job = site.run(input={"DataSource": {"S3DataSource": source}})
    assert job["TransformJobStatus"] == "Failed"
    assert "gone.csv" in job["FailureReason"]
    assert site.outs() == ["a.csv.out"]


def test_an_output_that_exists_is_replaced_as_a_whole(site: Site) -> None:
    site.put(a_csv=b"1,2,3\n", b_csv=b"bad\n")
    for name in ("a.csv.out", "b.csv.out"):
        site.s3.put_object(Bucket=BUCKET, Key=f"{site.folder}/out/{name}", Body=b"old")
    assert site.run()["TransformJobStatus"] == "Failed"
    assert site.out("a.csv.out") == b"6.0\n"
    assert site.out("b.csv.out") == b"old"


def test_a_bucket_that_is_not_there(site: Site) -> None:
    site.put(a_csv=b"1,2,3\n")
    job = site.run(output={"S3OutputPath": "s3://no-such-bucket/out"})
    assert job["TransformJobStatus"] == "Failed"
    assert "no-such-bucket" in job["FailureReason"]


# What comes out


def test_filters_and_join_on_csv(site: Site) -> None:
    site.put(a_csv=b"id1,1,2,3\nid2,4,5,6\n")
    job = site.run(DataProcessing={"InputFilter": "$[1:]", "JoinSource": "Input", "OutputFilter": "$[0,-1]"})
    assert job["TransformJobStatus"] == "Completed", job
    assert site.out("a.csv.out") == b"id1,6.0\nid2,15.0\n"


def test_filters_and_join_on_json_lines(site: Site) -> None:
    site.write("a.jsonl", b'{"id": 1, "x": [1, 2, 3]}\n{"id": 2, "x": [4, 5, 6]}\n')
    job = site.run(
        input={"ContentType": "application/jsonlines"},
        output={"Accept": "application/jsonlines"},
        DataProcessing={"InputFilter": "$.x", "JoinSource": "Input", "OutputFilter": "$['id','SageMakerOutput']"},
    )
    assert job["TransformJobStatus"] == "Completed", job
    lines = [json.loads(line) for line in (site.out("a.jsonl.out") or b"").splitlines()]
    assert [line["id"] for line in lines] == [1, 2]
    assert [np.ravel(line["SageMakerOutput"]).tolist() for line in lines] == [[6.0], [15.0]]


def table(rows: int, group: int = 1000) -> bytes:
    columns = {name: np.arange(rows, dtype=np.float32) for name in "abc"}
    sink = io.BytesIO()
    pq.write_table(pa.table(columns | {"id": np.arange(rows)}), sink, row_group_size=group)
    return sink.getvalue()


def test_parquet_in_parquet_out_with_the_other_columns_kept(site: Site) -> None:
    site.write("t.parquet", table(5000))
    job = site.run(
        input={"ContentType": "application/vnd.apache.parquet", "SplitType": "None"},
        output={"Accept": "application/vnd.apache.parquet", "AssembleWith": "None"},
        DataProcessing={"InputFilter": "$['a','b','c']", "JoinSource": "Input"},
    )
    assert job["TransformJobStatus"] == "Completed", job
    out = pq.read_table(pa.BufferReader(site.out("t.parquet.out") or b""))
    assert out.column_names == ["a", "b", "c", "id", "sum"]
    assert out["sum"].to_pylist() == [3.0 * i for i in range(5000)]


def test_arrow_in_and_csv_in_parquet_out(site: Site) -> None:
    sink = io.BytesIO()
    source = pa.table({name: [1.0, 2.0] for name in "abc"})
    with pa.ipc.new_file(sink, source.schema) as writer:
        writer.write_table(source)
    site.write("t.arrow", sink.getvalue())
    job = site.run(
        input={"ContentType": "application/vnd.apache.arrow.file", "SplitType": "None"},
        output={"Accept": "application/vnd.apache.parquet", "AssembleWith": "None"},
    )
    assert job["TransformJobStatus"] == "Completed", job
    assert pq.read_table(pa.BufferReader(site.out("t.arrow.out") or b"")).to_pydict() == {"sum": [3.0, 6.0]}
    site.jobs += 1
    site.write("t.csv", b"1,2,3\n4,5,6\n")
    job = site.run(output={"Accept": "application/vnd.apache.parquet"})
    assert job["TransformJobStatus"] == "Completed", job
    assert pq.read_table(pa.BufferReader(site.out("t.csv.out") or b"")).to_pydict() == {"sum": [6.0, 15.0]}


def test_data_capture_writes_manifests_and_inference_ids(site: Site) -> None:
    site.put(a_csv=b"1,2,3\n", b_csv=b"4,5,6\n")
    where = f"s3://{BUCKET}/{site.folder}/captured"
    job = site.run(DataCaptureConfig={"DestinationS3Uri": where, "GenerateInferenceId": True})
    assert job["TransformJobStatus"] == "Completed", job
    hour = job["TransformStartTime"].astimezone(UTC).strftime("%Y/%m/%d/%H")
    found = site.s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{site.folder}/captured/")["Contents"]
    keys = [entry["Key"].partition("/captured/")[2] for entry in found]
    assert [key.rpartition("/")[0] for key in keys] == [f"input/{hour}", f"output/{hour}"]
    manifests = [json.loads(site.s3.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read()) for entry in found]
    assert manifests[0] == [{"prefix": f"s3://{BUCKET}/"}, f"{site.folder}/in/a.csv", f"{site.folder}/in/b.csv"]
    assert manifests[1][1:] == [f"{site.folder}/out/a.csv.out", f"{site.folder}/out/b.csv.out"]
    row = (site.out("a.csv.out") or b"").decode().strip().split(",")
    assert row[0] == "6.0"
    assert len(row[1]) == 36


def test_the_environment_reaches_the_model_and_its_words_the_log(site: Site) -> None:
    site.write("a", b"where\n")
    job = site.run("shout", Environment={"COLOUR": "red"}, MaxPayloadInMB=3, BatchStrategy="SingleRecord")
    assert job["TransformJobStatus"] == "Completed", job
    assert json.loads(site.out("a.out") or b"") == {
        "SAGEMAKER_BATCH": "true",
        "SAGEMAKER_BATCH_STRATEGY": "SINGLE_RECORD",
        "SAGEMAKER_MAX_PAYLOAD_IN_MB": "3",
        "COLOUR": "red",
    }
    site.jobs += 1
    site.write("a", b"one\n")
    site.run("shout")
    logs = site.server.folder / "logs" / "transform-jobs" / f"job-{site.jobs}"
    assert "shouting" in "".join(path.read_text() for path in logs.glob("*.log"))


# What goes wrong


def test_a_bad_record_fails_its_object_and_the_job(site: Site) -> None:
    site.put(a_csv=b"1,2,3\n", b_csv=b"1,2,3\nx,2,3\n")
    job = site.run()
    assert job["TransformJobStatus"] == "Failed"
    assert "b.csv" in job["FailureReason"]
    assert "line 2" in job["FailureReason"]
    assert site.outs() == ["a.csv.out"]
    [error] = json.loads(site.server.get(f"/fourfold/batch/{job['TransformJobName']}/errors"))
    assert error["Object"].endswith("b.csv")


@pytest.mark.parametrize("on_error", ["skip", "record"])
def test_bad_records_can_be_reported_and_left_out(site: Site, on_error: str) -> None:
    site.put(a_csv=b"1,2,3\nx,2,3\n4,5,6\n1,2\n")
    job = site.run(Environment={"FOURFOLD_ON_ERROR": on_error})
    assert job["TransformJobStatus"] == "Completed"
    assert site.out("a.csv.out") == b"6.0\n15.0\n"
    reported = [json.loads(line) for line in (site.out("_errors/a.csv.jsonl") or b"").splitlines()]
    assert [(one["line"], one["offset"], one["input"]) for one in reported] == [(2, 6, "x,2,3"), (4, 18, "1,2")]
    assert all(one["object"] == f"s3://{BUCKET}/{site.folder}/in/a.csv" and one["reason"] for one in reported)
    assert site.progress(job["TransformJobName"])["BadRecords"] == 2


def test_a_refusal_of_the_model_is_found_among_many_records(site: Site) -> None:
    site.write("a", b"one\nrefuse\ntwo\n")
    job = site.run("shout", Environment={"FOURFOLD_ON_ERROR": "skip"})
    assert job["TransformJobStatus"] == "Completed"
    assert site.out("a.out") == b"<ONE>\n<TWO>\n"
    [reported] = [json.loads(line) for line in (site.out("_errors/a.jsonl") or b"").splitlines()]
    assert "the model refuses this" in reported["reason"]


def test_calls_to_an_asynchronous_handler_overlap(site: Site, handler: Callable[..., Path]) -> None:
    site.server.deploy("whisper", handler(WHISPER), endpoint=False)
    site.write("a", b"".join(b"LINE %d\n" % i for i in range(300)) + b"REFUSE refuse\n")
    job = site.run("whisper", BatchStrategy="SingleRecord", Environment={"FOURFOLD_ON_ERROR": "skip"})
    assert job["TransformJobStatus"] == "Completed", job
    assert site.out("a.out") == b"".join(b"line %d\n" % i for i in range(300))
    assert b"the model refuses this" in (site.out("_errors/a.jsonl") or b"")


@pytest.mark.parametrize("second", [SHOUT, WHISPER], ids=["plain", "async"])
def test_a_pipeline_s_containers_answer_one_after_the_other(
    site: Site, handler: Callable[..., Path], second: str
) -> None:
    """Sums go as CSV from the first container to the second; a record that the first one refuses goes no further."""
    name = f"pipeline-{site.jobs}"
    site.server.deploy(f"second-of-{name}", handler(second), endpoint=False)
    described = [site.sagemaker.describe_model(ModelName=model) for model in ("sum", f"second-of-{name}")]
    site.sagemaker.create_model(
        ModelName=name,
        ExecutionRoleArn="arn:aws:iam::123456789012:role/test",
        Containers=[model["PrimaryContainer"] for model in described],
    )
    site.write("a", b"1,2,3\n4,5,six\n7,8,9\n")
    csv = {"input": {"ContentType": "text/csv"}, "Environment": {"FOURFOLD_ON_ERROR": "skip"}}
    job = site.run(name, BatchStrategy="SingleRecord", **csv)
    assert job["TransformJobStatus"] == "Completed", job
    words = b"<6.0\n>\n<24.0\n>\n" if second == SHOUT else b"6.0\n24.0\n"
    assert (site.out("a.out") or b"").replace(b"\n\n", b"\n") == words
    assert b"'six'" in (site.out("_errors/a.jsonl") or b"")


def test_a_model_that_dies_fails_the_object_that_kills_it(site: Site) -> None:
    site.put(a=b"one\n", b=b"die\n", c=b"two\n")
    retries = {"InvocationsMaxRetries": 1, "InvocationsTimeoutInSeconds": 30}
    job = site.run("shout", ModelClientConfig=retries, Environment={"MAY_DIE": "yes"})
    assert job["TransformJobStatus"] == "Failed"
    assert "in/b" in job["FailureReason"]
    assert site.outs() == ["a.out", "c.out"]
    site.sagemaker.describe_transform_job(TransformJobName=job["TransformJobName"])


def test_a_model_that_hangs_is_ended_at_the_request_s_timeout(site: Site) -> None:
    site.put(a=b"sleep\n")
    hasty = {"InvocationsMaxRetries": 0, "InvocationsTimeoutInSeconds": 1}
    job = site.run("shout", ModelClientConfig=hasty)
    assert job["TransformJobStatus"] == "Failed"
    assert "did not answer within 1 s" in job["FailureReason"]


# Kills and stops


BIG = 150_000
"""Rows of an object in two shards."""


def until_shards(site: Site, name: str, count: int) -> None:
    end = time.monotonic() + 60
    while site.progress(name)["ShardsDone"] < count:
        assert time.monotonic() < end
        time.sleep(0.005)


def batch_workers(site: Site) -> list[int]:
    """Workers at the lowest priority."""
    found = []
    for pid in site.server.worker_pids():
        with contextlib.suppress(ProcessLookupError):  # it has ended since
            if os.getpriority(os.PRIO_PROCESS, pid) == 19:
                found.append(pid)
    return found


@pytest.fixture(scope="module")
def big() -> bytes:
    return numbers(BIG)


def test_kill_9_of_the_server_changes_no_byte(own_site: Site, big: bytes) -> None:
    site = own_site
    site.write("big.csv", big)
    site.write("small.csv", b"1,2,3\n")
    request = site.request(MaxConcurrentTransforms=1)
    site.sagemaker.create_transform_job(**request)
    until_shards(site, request["TransformJobName"], 1)
    site.server.kill()
    site.server.start()
    site.connect()
    job = site.until(request["TransformJobName"])
    assert job["TransformJobStatus"] == "Completed", job
    assert site.out("big.csv.out") == sums(BIG)
    assert site.out("small.csv.out") == b"6.0\n"
    assert not (site.server.folder / "buckets" / ".batch" / request["TransformJobName"]).exists()


def test_kill_9_of_workers_changes_no_byte_and_stop_is_prompt(own_site: Site, big: bytes) -> None:
    site = own_site
    site.write("big.csv", big)
    request = site.request()
    name = request["TransformJobName"]
    site.sagemaker.create_transform_job(**request)
    for _ in range(2):
        end = time.monotonic() + 30
        while not (workers := batch_workers(site)):
            assert time.monotonic() < end
            time.sleep(0.005)
        for pid in workers:
            os.kill(pid, 9)
        time.sleep(0.1)
    site.sagemaker.stop_transform_job(TransformJobName=name)
    site.until(name, "Stopped", seconds=5)
    assert site.outs() == []
    end = time.monotonic() + 30
    while batch_workers(site):
        assert time.monotonic() < end, "a worker of a stopped job lives on"
        time.sleep(0.01)
    resume(site, name)
    job = site.until(name)
    assert job["TransformJobStatus"] == "Completed", job
    assert site.out("big.csv.out") == sums(BIG)


def resume(site: Site, name: str) -> None:
    headers = {"Authorization": f"Bearer {site.server.keys['api_key']}"}
    url = f"{site.server.url}/fourfold/batch/{name}/resume"
    urllib.request.urlopen(urllib.request.Request(url, headers=headers, method="POST"), timeout=30).close()
