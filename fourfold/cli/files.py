"""Files of this machine on their way to the server's buckets and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fourfold.cli.client import CommandError, Server

CONTENT_TYPES = {
    ".json": "application/json",
    ".jsonl": "application/jsonlines",
    ".csv": "text/csv",
    ".npy": "application/x-npy",
    ".npz": "application/x-npz",
    ".parquet": "application/vnd.apache.parquet",
    ".arrow": "application/vnd.apache.arrow.file",
    ".arrows": "application/vnd.apache.arrow.stream",
}
"""What a file holds, by its suffix."""


def upload_model(server: Server, path: Path, name: str) -> str:
    """Put a file, or a folder as model.tar.gz, into the account's bucket under a key made of its content."""
    from fourfold.cli.artifact import packed

    s3 = server.client("s3")
    bucket = account_bucket(server, s3)
    with packed(path) as artifact:
        key = f"models/{name}/{artifact.digest[:16]}/{artifact.name}"
        s3.upload_file(str(artifact.path), bucket, key)
    return f"s3://{bucket}/{key}"


def upload_data(server: Server, path: Path, folder: str) -> str:
    """Put a file, or a folder's `data_files`, below `folder` in the account's bucket; returns the prefix of them all.

    Raises:
        CommandError: there is nothing to put there.
    """
    found = data_files(path)
    if not found:
        raise CommandError(f"there is no file or folder {path}, or nothing in it")
    s3 = server.client("s3")
    bucket = account_bucket(server, s3)
    base = path.parent if path.is_file() else path
    names = {file: f"{folder}/{file.relative_to(base).as_posix()}" for file in found}
    with _transfers(s3) as manager:
        _finish([manager.upload(str(file), bucket, key) for file, key in names.items()])
    return f"s3://{bucket}/{folder}/"


def data_files(path: Path) -> list[Path]:
    """The file, or those of a folder that hold data."""
    if path.is_file():
        return [path]
    return [
        file for file in sorted(path.rglob("*")) if file.is_file() and holds_data(file.relative_to(path).as_posix())
    ]


def holds_data(name: str) -> bool:
    """As Spark, Hive and Arrow have it, what begins with `_` or `.` does not: `_SUCCESS`, `.part-0.crc`."""
    return not any(part.startswith(("_", ".")) for part in name.split("/"))


def download_data(server: Server, prefix: str, folder: Path) -> None:
    """Bring every object below `prefix` into a folder of this machine."""
    s3 = server.client("s3")
    bucket, _, start = prefix.removeprefix("s3://").partition("/")
    targets = {key: folder / key.removeprefix(start) for key in keys(s3, prefix)}
    for parent in {target.parent for target in targets.values()}:
        parent.mkdir(parents=True, exist_ok=True)
    with _transfers(s3) as manager:
        _finish([manager.download(bucket, key, str(target)) for key, target in targets.items()])


def _transfers(s3: Any) -> Any:
    """What takes several files at once: most of a small file's time is waiting."""
    from boto3.s3.transfer import TransferConfig, create_transfer_manager

    return create_transfer_manager(s3, TransferConfig())


def _finish(transfers: list[Any]) -> None:
    for transfer in transfers:
        transfer.result()


def remove_data(server: Server, prefix: str, *, keep: str = "") -> None:
    """Delete every object below `prefix`, but for those below `keep`."""
    s3 = server.client("s3")
    bucket = prefix.removeprefix("s3://").partition("/")[0]
    for page in list(_pages(s3, prefix)):
        unwanted = [{"Key": key} for key in page if not keep or not f"s3://{bucket}/{key}".startswith(keep)]
        if unwanted:
            s3.delete_objects(Bucket=bucket, Delete={"Objects": unwanted, "Quiet": True})


def keys(s3: Any, prefix: str) -> Iterator[str]:
    """The keys of all objects whose address begins with `prefix`, page by page."""
    for page in _pages(s3, prefix):
        yield from page


def _pages(s3: Any, prefix: str) -> Iterator[list[str]]:
    """At most 1,000 keys each, which is as many as S3 deletes at once."""
    bucket, _, start = prefix.removeprefix("s3://").partition("/")
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=start):
        yield [entry["Key"] for entry in page.get("Contents", [])]


def account_bucket(server: Server, s3: Any) -> str:
    """The account's own bucket, made where there is none."""
    account = server.client("sts").get_caller_identity()["Account"]
    where = s3.meta.region_name
    bucket = f"fourfold-{where}-{account}"
    make_bucket(s3, bucket)
    return bucket


def make_bucket(s3: Any, bucket: str) -> None:
    """Make a bucket where there is none of that name."""
    if any(one["Name"] == bucket for one in s3.list_buckets()["Buckets"]):
        return
    where = s3.meta.region_name
    elsewhere = {} if where == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": where}}
    s3.create_bucket(Bucket=bucket, **elsewhere)
