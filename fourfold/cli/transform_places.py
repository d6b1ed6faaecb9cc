"""Where a transform job reads and writes, when files of this machine are its input or output."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from fourfold.cli.client import Server
from fourfold.cli.files import account_bucket, download_data, remove_data, upload_data
from fourfold.cli.transform_progress import progress_of

ERRORS = "_errors/"
"""Folder of an output that holds the bad records."""


def check_places(source: str, output: str, manifest: bool, wait: bool) -> None:
    if manifest and not source.startswith("s3://"):
        raise typer.BadParameter("a manifest is an object in a bucket: give s3://…", param_hint="--input")
    if output.startswith("s3://"):
        return
    if not wait:
        raise typer.BadParameter("with --no-wait the answers can only go to s3://…", param_hint="--output")
    if Path(output).is_file():
        raise typer.BadParameter(f"{output} is a file: the answers need a folder", param_hint="--output")


@contextmanager
def places(server: Server, job: str, source: str, output: str, wait: bool) -> Iterator[tuple[str, str]]:
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
    if wait and progress_of(server, job)["TransformJobStatus"] == "Completed":
        if here:
            remove_data(server, read_from)
        if written_to != output:
            remove_data(server, written_to, keep=f"{written_to}{ERRORS}")  # `errors` reads these
