"""Commands about transform jobs: `fourfold batch run`, list, show, stop, resume, errors. Clients of the HTTP API.

`run` takes files of this machine, too: it brings them to the account's bucket, and the answers back.
"""

from __future__ import annotations

import json as json_
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fourfold.cli import app
from fourfold.cli.client import DATA_DIR, URL, CommandError, DataDir, Json, Server, Url, is_missing
from fourfold.cli.files import (
    CONTENT_TYPES,
    account_bucket,
    data_files,
    download_data,
    holds_data,
    keys,
    remove_data,
    upload_data,
    upload_model,
)
from fourfold.cli.output import cell, print_json, print_table, without_metadata

if TYPE_CHECKING:
    from rich.progress import Progress

batch = typer.Typer(help="Transform jobs: a data set in, a data set out.", no_args_is_help=True)
app.add_typer(batch, name="batch")

Document = dict[str, Any]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the job.")]

PARQUET = "application/vnd.apache.parquet"
FORMATS = {"csv": "text/csv", "jsonl": "application/jsonlines", "json": "application/json", "parquet": PARQUET}
"""`--format` to the type that the model's answers are written in."""
SPLITS = {"none": "None", "line": "Line", "recordio": "RecordIO", "tfrecord": "TFRecord"}
STRATEGIES = {"multi": "MultiRecord", "single": "SingleRecord"}
BY_LINE = ("text/csv", "application/jsonlines")
"""Types whose records are lines, where --split does not say otherwise."""
ERRORS = "_errors/"
"""Folder of an output that holds the bad records."""
MOST_MEGABYTES = 100
"""The API's limit on payload times parallel requests."""
RUNNING = ("InProgress", "Stopping")
LOOK_SECONDS = 0.2
"""How often the progress is asked for."""


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
    _check_places(source, output, manifest, wait)
    server = Server(url, data_dir)
    sagemaker = server.client("sagemaker")
    job = name or _stamped(Path(model).stem if "/" in model else model)
    found_type, zipped = _kind(server, source, manifest) if content_type is None else (content_type, _is_gzip(source))
    media = found_type.partition(";")[0]
    request: Document = {
        "TransformJobName": job,
        "ModelName": _model_name(server, sagemaker, model, job),
        "TransformInput": {
            "DataSource": {"S3DataSource": {"S3DataType": "ManifestFile" if manifest else "S3Prefix"}},
            "ContentType": f"{media}; header=present" if header else found_type,
            "SplitType": SPLITS[split or ("line" if media in BY_LINE else "none")],
            "CompressionType": "Gzip" if zipped else "None",
        },
        "TransformOutput": {"Accept": FORMATS[format] if format else _answered(media)},
        "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
        "Environment": {**_pairs(env or []), **({} if on_error == "fail" else {"FOURFOLD_ON_ERROR": on_error})},
    }
    if request["TransformInput"]["SplitType"] == "Line":
        request["TransformOutput"]["AssembleWith"] = "Line"
    request |= {"BatchStrategy": STRATEGIES[strategy]} if strategy else {}
    request |= _sizes(workers, max_payload)
    request |= _processing(filter, output_filter, join)
    with _places(server, job, source, output, wait) as (read_from, written_to):
        request["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"] = read_from
        request["TransformOutput"]["S3OutputPath"] = written_to
        sagemaker.create_transform_job(**request)
        if wait:
            _follow(server, job)
    _tell(server, job, output, wait, json)


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
    progress = _progress(server, name)
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
    progress = _progress(server, name)
    while wait and progress["TransformJobStatus"] in RUNNING:
        time.sleep(0.05)
        progress = _progress(server, name)
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
        _follow(server, name)
    described = server.client("sagemaker").describe_transform_job(TransformJobName=name)
    _tell(server, name, described["TransformOutput"]["S3OutputPath"], wait, json)


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


# What a job is made of


def _stamped(text: str) -> str:
    """A name that is new, of letters, digits and hyphens."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")[:-3]
    clean = "-".join("".join(c if c.isascii() and c.isalnum() else " " for c in text).split()) or "batch"
    return f"{clean[: 62 - len(stamp)].rstrip('-')}-{stamp}"  # names have at most 63 characters


def _model_name(server: Server, sagemaker: Any, model: str, job: str) -> str:
    """The model of that name, the one behind the endpoint of that name, or one made from the artifact."""
    if not model.startswith("s3://") and not Path(model).exists():
        return _known_model(sagemaker, model)
    location = model if model.startswith("s3://") else upload_model(server, Path(model), job)
    sagemaker.create_model(ModelName=job, PrimaryContainer={"ModelDataUrl": location})
    return job


def _known_model(sagemaker: Any, name: str) -> str:
    from botocore.exceptions import ClientError

    try:
        return str(sagemaker.describe_model(ModelName=name)["ModelName"])
    except ClientError as error:
        if not is_missing(error):
            raise
    try:
        config = sagemaker.describe_endpoint(EndpointName=name)["EndpointConfigName"]
    except ClientError as error:
        if not is_missing(error):
            raise
        raise CommandError(
            f"{name} is neither a model, nor an endpoint, nor a file of this machine. Endpoints: fourfold list"
        ) from None
    variants = sagemaker.describe_endpoint_config(EndpointConfigName=config)["ProductionVariants"]
    if len(variants) > 1:
        models = ", ".join(variant["ModelName"] for variant in variants)
        raise CommandError(f"the endpoint {name} has several models; name one of them: {models}")
    return str(variants[0]["ModelName"])


def _kind(server: Server, source: str, manifest: bool) -> tuple[str, bool]:
    """The content type that all inputs' suffixes agree on, and whether they are packed with gzip."""
    kinds = {(_suffix(name), _is_gzip(name)) for name in _names(server, source, manifest)}
    match list(kinds):
        case []:
            raise CommandError(f"there is nothing in {source}")
        case [(suffix, zipped)] if suffix in CONTENT_TYPES:
            return CONTENT_TYPES[suffix], zipped
    listed = ", ".join(sorted({suffix or "none" for suffix, _ in kinds}))
    raise CommandError(
        f"the names in {source} tell no content type (suffixes: {listed}): give --content-type, and one kind a job"
    )


def _names(server: Server, source: str, manifest: bool) -> list[str]:
    if not source.startswith("s3://"):
        path = Path(source)
        if not path.exists():
            raise CommandError(f"there is no file or folder {path}")
        return [file.name for file in data_files(path)]
    s3 = server.client("s3")
    bucket, _, key = source.removeprefix("s3://").partition("/")
    if not manifest:
        return [name for name in keys(s3, source) if not name.endswith("/") and holds_data(name.removeprefix(key))]
    entries = json_.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    return [entry for entry in entries if isinstance(entry, str)]


def _suffix(name: str) -> str:
    return Path(name.removesuffix(".gz")).suffix.lower()


def _is_gzip(name: str) -> bool:
    return name.endswith(".gz")


def _answered(media: str) -> str:
    """What answers are written as where --format is not given: as the input; Arrow becomes Parquet."""
    return PARQUET if media.startswith("application/vnd.apache.") else media


def _pairs(given: list[str]) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in given]
    if wrong := next(("".join(pair) for pair in pairs if not pair[0] or not pair[1]), None):
        raise typer.BadParameter(f"{wrong!r} is not KEY=VALUE", param_hint="--env")
    return {key: value for key, _, value in pairs}


def _sizes(workers: int | None, megabytes: int | None) -> Document:
    """Both limits as the API wants them: their product is bounded, so many workers get smaller requests."""
    if workers is None:
        return {} if megabytes is None else {"MaxPayloadInMB": megabytes}
    if megabytes is None and workers * 6 > MOST_MEGABYTES:
        megabytes = MOST_MEGABYTES // workers
    return {"MaxConcurrentTransforms": workers} | ({} if megabytes is None else {"MaxPayloadInMB": megabytes})


def _processing(filter: str | None, output_filter: str | None, join: str | None) -> Document:
    processing = {"InputFilter": filter, "OutputFilter": output_filter, "JoinSource": "Input" if join else None}
    given = {member: value for member, value in processing.items() if value is not None}
    return {"DataProcessing": given} if given else {}


def _check_places(source: str, output: str, manifest: bool, wait: bool) -> None:
    if manifest and not source.startswith("s3://"):
        raise typer.BadParameter("a manifest is an object in a bucket: give s3://…", param_hint="--input")
    if output.startswith("s3://"):
        return
    if not wait:
        raise typer.BadParameter("with --no-wait the answers can only go to s3://…", param_hint="--output")
    if Path(output).is_file():
        raise typer.BadParameter(f"{output} is a file: the answers need a folder", param_hint="--output")


@contextmanager
def _places(server: Server, job: str, source: str, output: str, wait: bool) -> Iterator[tuple[str, str]]:
    """Where the server reads and writes. Files of this machine are brought there, and the answers back."""
    here = not source.startswith("s3://")
    read_from = upload_data(server, Path(source), f"batch/{job}/input") if here else source
    if output.startswith("s3://"):
        written_to = output
    else:
        written_to = f"s3://{account_bucket(server, server.client('s3'))}/batch/{job}/output/"
    yield read_from, written_to
    if written_to != output:
        download_data(server, written_to, Path(output))
    if wait and _progress(server, job)["TransformJobStatus"] == "Completed":
        if here:
            remove_data(server, read_from)
        if written_to != output:
            remove_data(server, written_to, keep=f"{written_to}{ERRORS}")  # `errors` reads these


# While it runs and afterwards


def _progress(server: Server, job: str) -> Document:
    found: Document = json_.loads(server.get("batch", job))
    return found


def _follow(server: Server, job: str) -> None:
    """Show the progress until the job has ended. Ctrl-C ends the watching, not the job."""
    try:
        with _bar() as bar:
            task = bar.add_task(job, total=None, rows="0 rows", rate="", failed="")
            while (now := _progress(server, job))["TransformJobStatus"] in RUNNING:
                bar.update(task, **_shown(now))
                time.sleep(LOOK_SECONDS if now["Seconds"] > 1 else LOOK_SECONDS / 10)
            bar.update(task, **_shown(now))
    except KeyboardInterrupt:
        raise CommandError(
            f"the job {job} goes on without being watched. Look at it: fourfold batch show {job}. "
            f"End it: fourfold batch stop {job}"
        ) from None


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}% {task.fields[rows]}{task.fields[rate]}{task.fields[failed]}"),
        TimeRemainingColumn(compact=True),
        console=console,
        disable=not console.is_terminal,
    )


def _shown(progress: Document) -> Document:
    """The bar's fields: shards are what is counted, because nobody knows how many records there are."""
    failed = progress["ObjectsFailed"], progress["BadRecords"]
    return {
        "total": progress["Shards"] or None,
        "completed": progress["ShardsDone"],
        "rows": f"{progress['Records']:,} rows",
        "rate": _rate(progress),
        "failed": f", {failed[0]:,} objects and {failed[1]:,} records failed" if any(failed) else "",
    }


def _rate(progress: Document) -> str:
    if progress["StandsStill"]:
        return ", stands still while calls need the cores"
    return f", {progress['RecordsPerSecond']:,.0f} rows/s" if progress["Records"] else ""


def _tell(server: Server, job: str, output: str, wait: bool, json: bool) -> None:
    """The job's end, or that it is on its way. Raises CommandError where it did not complete."""
    progress = _progress(server, job)
    if json:
        described = without_metadata(server.client("sagemaker").describe_transform_job(TransformJobName=job))
        print_json(described | {"Progress": progress})
    if not wait:
        if not json:
            print(f"{job} is on its way. Look at it: fourfold batch show {job}")
        return
    if progress["TransformJobStatus"] != "Completed":
        reason = progress["FailureReason"] or "somebody stopped it"
        raise CommandError(
            f"{job} is {progress['TransformJobStatus']}: {reason}\n"
            f"More: fourfold batch errors {job}. Go on with the rest: fourfold batch resume {job}"
        )
    if not json:
        print(
            f"{job} has completed: {progress['Records']:,} rows of {progress['Objects']:,} objects in "
            f"{progress['Seconds']:.1f} s, {progress['RecordsPerSecond']:,.0f} rows/s. Answers: {output}"
        )
        if progress["BadRecords"]:
            print(f"{progress['BadRecords']:,} bad records were left out: fourfold batch errors {job}")


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
