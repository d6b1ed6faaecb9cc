"""What `fourfold batch run` asks of the server, from what is said on the command line."""

from __future__ import annotations

import json as json_
from pathlib import Path
from typing import Any

from fourfold.cli.client import CommandError, Server, is_missing
from fourfold.cli.files import CONTENT_TYPES, data_files, holds_data, keys, upload_model
from fourfold.cli.values import stamped

Document = dict[str, Any]

PARQUET = "application/vnd.apache.parquet"
MOST_MEGABYTES = 100
"""The API's limit on payload times parallel requests."""


def job_name(text: str) -> str:
    """A name that is new, of letters, digits and hyphens."""
    return stamped("-".join("".join(c if c.isascii() and c.isalnum() else " " for c in text).split()) or "batch")


def model_name(server: Server, sagemaker: Any, model: str, job: str) -> str:
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


def kind(server: Server, source: str, manifest: bool) -> tuple[str, bool]:
    """The content type that all inputs' suffixes agree on, and whether they are packed with gzip."""
    kinds = {(_suffix(name), is_gzip(name)) for name in _names(server, source, manifest)}
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


def is_gzip(name: str) -> bool:
    return name.endswith(".gz")


def answered(media: str) -> str:
    """What answers are written as where --format is not given: as the input; Arrow becomes Parquet."""
    return PARQUET if media.startswith("application/vnd.apache.") else media


def sizes(workers: int | None, megabytes: int | None) -> Document:
    """Both limits as the API wants them: their product is bounded, so many workers get smaller requests."""
    if workers is None:
        return {} if megabytes is None else {"MaxPayloadInMB": megabytes}
    if megabytes is None and workers * 6 > MOST_MEGABYTES:
        megabytes = MOST_MEGABYTES // workers
    return {"MaxConcurrentTransforms": workers} | ({} if megabytes is None else {"MaxPayloadInMB": megabytes})


def processing(filter: str | None, output_filter: str | None, join: str | None) -> Document:
    wanted = {"InputFilter": filter, "OutputFilter": output_filter, "JoinSource": "Input" if join else None}
    given = {member: value for member, value in wanted.items() if value is not None}
    return {"DataProcessing": given} if given else {}
