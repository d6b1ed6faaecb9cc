"""Commands about transform jobs: `fourfold batch run`, list, show, stop, resume, errors. Clients of the HTTP API.

`run` takes files of this machine, too: it brings them to the account's bucket, and the answers back.
"""

from __future__ import annotations

import json as json_
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fourfold.cli import app
from fourfold.cli.client import DATA_DIR, URL, DataDir, Json, Server, Url
from fourfold.cli.output import cell, print_json, print_table, without_metadata
from fourfold.cli.transform_places import check_places, places
from fourfold.cli.transform_progress import RUNNING, follow, progress_of, tell
from fourfold.cli.transform_request import (
    PARQUET,
    answered,
    is_gzip,
    job_name,
    kind,
    model_name,
    processing,
    sizes,
)
from fourfold.cli.values import key_values

batch = typer.Typer(help="Transform jobs: a data set in, a data set out.", no_args_is_help=True)
app.add_typer(batch, name="batch")

Document = dict[str, Any]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the job.")]

FORMATS = {"csv": "text/csv", "jsonl": "application/jsonlines", "json": "application/json", "parquet": PARQUET}
"""`--format` to the type that the model's answers are written in."""
SPLITS = {"none": "None", "line": "Line", "recordio": "RecordIO", "tfrecord": "TFRecord"}
STRATEGIES = {"multi": "MultiRecord", "single": "SingleRecord"}
BY_LINE = ("text/csv", "application/jsonlines")
"""Types whose records are lines, where --split does not say otherwise."""


@batch.command()
def run(
    model: Annotated[
        str, typer.Option(metavar="NAME|PATH|s3://…", help="A model, the endpoint that serves it, or its artifact.")
    ],
    source: Annotated[
        str, typer.Option("--input", metavar="s3://…|PATH", help="Objects below a prefix, or a file or folder here.")
    ],
    output: Annotated[str, typer.Option(metavar="s3://…|PATH", help="Where the answers go.")],
    name: Annotated[str | None, typer.Option(help="Name of the job; made from the model's if not given.")] = None,
    manifest: Annotated[bool, typer.Option("--manifest", help="The input is a manifest that names objects.")] = False,
    content_type: Annotated[str | None, typer.Option(help="What the input is; by its suffix if not given.")] = None,
    header: Annotated[
        bool, typer.Option("--header", help="The first line of each CSV file names its columns.")
    ] = False,
    split: Annotated[
        Literal["none", "line", "recordio", "tfrecord"] | None,
        typer.Option(help="How a file becomes records: lines of CSV and JSON Lines, else the whole file."),
    ] = None,
    strategy: Annotated[
        Literal["multi", "single"] | None, typer.Option(help="Many records in one request to the model, or one.")
    ] = None,
    format: Annotated[
        Literal["csv", "jsonl", "json", "parquet"] | None,
        typer.Option(help="What the answers are written as; as the input if not given."),
    ] = None,
    join: Annotated[Literal["input"] | None, typer.Option(help="Put each answer beside its input.")] = None,
    filter: Annotated[
        str | None, typer.Option(metavar="JSONPATH", help="What of a record goes to the model: $[1:], $['a','b'], …")
    ] = None,
    output_filter: Annotated[
        str | None, typer.Option(metavar="JSONPATH", help="What of a (joined) answer is written.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that work at once; every core if not given.", min=1, max=100)
    ] = None,
    max_payload: Annotated[
        int | None, typer.Option(metavar="MB", help="Longest request to the model; 0 sets no limit.", min=0, max=100)
    ] = None,
    on_error: Annotated[
        Literal["fail", "skip", "record"],
        typer.Option(help="A bad record fails its object, or is left out and reported in _errors/ (skip, record)."),
    ] = "fail",
    env: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="The job's Environment; repeat.")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the job has ended.")] = True,
    json: Json = False,
    url: Url = URL,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Run a model over a data set, and wait with a progress bar.

    The content type comes from the input's suffix: .csv, .jsonl, .json, .parquet, .arrow, .arrows, .npy; also with .gz.
    """
    check_places(source, output, manifest, wait)
    server = Server(url, data_dir)
    sagemaker = server.client("sagemaker")
    job = name or job_name(Path(model).stem if "/" in model else model)
    found_type, zipped = kind(server, source, manifest) if content_type is None else (content_type, is_gzip(source))
    media = found_type.partition(";")[0]
    request: Document = {
        "TransformJobName": job,
        "ModelName": model_name(server, sagemaker, model, job),
        "TransformInput": {
            "DataSource": {"S3DataSource": {"S3DataType": "ManifestFile" if manifest else "S3Prefix"}},
            "ContentType": f"{media}; header=present" if header else found_type,
            "SplitType": SPLITS[split or ("line" if media in BY_LINE else "none")],
            "CompressionType": "Gzip" if zipped else "None",
        },
        "TransformOutput": {"Accept": FORMATS[format] if format else answered(media)},
        "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
        "Environment": {
            **key_values(env or [], "--env"),
            **({} if on_error == "fail" else {"FOURFOLD_ON_ERROR": on_error}),
        },
    }
    if request["TransformInput"]["SplitType"] == "Line":
        request["TransformOutput"]["AssembleWith"] = "Line"
    request |= {"BatchStrategy": STRATEGIES[strategy]} if strategy else {}
    request |= sizes(workers, max_payload)
    request |= processing(filter, output_filter, join)
    with places(server, job, source, output, wait) as (read_from, written_to):
        request["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"] = read_from
        request["TransformOutput"]["S3OutputPath"] = written_to
        sagemaker.create_transform_job(**request)
        if wait:
            follow(server, job)
    tell(server, job, output, wait, json)


@batch.command("list")
def list_jobs(
    status: Annotated[
        Literal["InProgress", "Completed", "Failed", "Stopping", "Stopped"] | None,
        typer.Option(help="Only jobs with this status."),
    ] = None,
    limit: Annotated[int, typer.Option(help="Most jobs to list.", min=1)] = 100,
    json: Json = False,
    url: Url = URL,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """List transform jobs, the newest first."""
    paginator = Server(url, data_dir).client("sagemaker").get_paginator("list_transform_jobs")
    wanted = {"StatusEquals": status} if status else {}
    pages = paginator.paginate(**wanted, PaginationConfig={"MaxItems": limit})
    jobs = [job for page in pages for job in page["TransformJobSummaries"]]
    if json:
        print_json(jobs)
        return
    columns = ("TransformJobName", "TransformJobStatus", "CreationTime", "TransformEndTime", "FailureReason")
    rows = [[job.get(column) for column in columns] for job in jobs]
    print_table(("NAME", "STATUS", "CREATED", "ENDED", "REASON"), rows)


@batch.command()
def show(name: Name, json: Json = False, url: Url = URL, data_dir: DataDir = DATA_DIR) -> None:
    """Show a job: what it is to do, and how far it is."""
    server = Server(url, data_dir)
    described = without_metadata(server.client("sagemaker").describe_transform_job(TransformJobName=name))
    progress = progress_of(server, name)
    if json:
        print_json(described | {"Progress": progress})
        return
    print_table(("", name), _rows(described, progress))


@batch.command()
def stop(
    name: Name,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it has stopped.")] = True,
    json: Json = False,
    url: Url = URL,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Stop a job. What is done stays done: `fourfold batch resume` goes on with the rest."""
    server = Server(url, data_dir)
    server.client("sagemaker").stop_transform_job(TransformJobName=name)
    progress = progress_of(server, name)
    while wait and progress["TransformJobStatus"] in RUNNING:
        time.sleep(0.05)
        progress = progress_of(server, name)
    if json:
        print_json(progress)
    else:
        print(f"{name} is {progress['TransformJobStatus']}")


@batch.command()
def resume(
    name: Name,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the job has ended.")] = True,
    json: Json = False,
    url: Url = URL,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Go on with a job that was stopped or has failed: what failed is tried again, what is done is not."""
    server = Server(url, data_dir)
    server.post("batch", name, "resume")
    if wait:
        follow(server, name)
    described = server.client("sagemaker").describe_transform_job(TransformJobName=name)
    tell(server, name, described["TransformOutput"]["S3OutputPath"], wait, json)


@batch.command()
def errors(
    name: Name,
    limit: Annotated[int, typer.Option(help="Most bad records to print of each object.", min=0)] = 20,
    json: Json = False,
    url: Url = URL,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Show the objects that failed, and the bad records that were left out."""
    server = Server(url, data_dir)
    found = json_.loads(server.get("batch", name, "errors"))
    s3 = server.client("s3")
    for entry in found:
        if "Report" in entry:
            entry["Records"] = _bad_records(s3, entry["Report"], limit)
    if json:
        print_json(found)
        return
    if not found:
        print(f"{name} has no errors")
    for entry in found:
        print(f"{entry['Object']}: {entry.get('Reason') or _reported(entry)}")
        if entry.get("Records"):
            columns = ("line", "offset", "reason", "input")
            print_table(columns, [[_short(record[column]) for column in columns] for record in entry["Records"]])


def _rows(job: Document, progress: Document) -> list[tuple[str, str]]:
    given, source = job["TransformInput"], job["TransformInput"]["DataSource"]["S3DataSource"]
    done = f"{progress['ObjectsDone']:,} of {progress['Objects']:,} objects, {progress['ObjectsFailed']:,} failed"
    rows = [
        ("status", job["TransformJobStatus"] + ", stands still" * progress["StandsStill"]),
        ("reason", job.get("FailureReason")),
        ("done", f"{done}; {progress['ShardsDone']:,} of {progress['Shards']:,} shards"),
        ("rows", f"{progress['Records']:,}, {progress['RecordsPerSecond']:,.0f} a second"),
        ("bad records", f"{progress['BadRecords']:,}"),
        ("model", job["ModelName"]),
        ("input", f"{source['S3Uri']} ({given.get('ContentType', 'no content type')})"),
        ("output", job["TransformOutput"]["S3OutputPath"]),
        ("created", job["CreationTime"]),
        ("started", job.get("TransformStartTime")),
        ("ended", job.get("TransformEndTime")),
    ]
    return [(label, cell(value)) for label, value in rows if value is not None]


def _bad_records(s3: Any, report: str, limit: int) -> list[Document]:
    """The first bad records of an object; none where they cannot be read any more: somebody has removed the report."""
    from itertools import islice

    from botocore.exceptions import ClientError

    bucket, _, key = report.removeprefix("s3://").partition("/")
    try:
        lines = s3.get_object(Bucket=bucket, Key=key)["Body"].iter_lines()
        return [json_.loads(line) for line in islice(lines, limit)]
    except ClientError:
        return []


def _reported(entry: Document) -> str:
    return f"{entry['BadRecords']:,} bad records, all of them in {entry['Report']}"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
