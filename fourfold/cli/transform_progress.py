"""How far a transform job is, while it runs and when it has ended."""

from __future__ import annotations

import json as json_
import time
from typing import TYPE_CHECKING, Any

from fourfold.cli.client import CommandError, Server
from fourfold.cli.output import print_json, without_metadata

if TYPE_CHECKING:
    from rich.progress import Progress

Document = dict[str, Any]

RUNNING = ("InProgress", "Stopping")
LOOK_SECONDS = 0.2
"""How often the progress is asked for."""


def progress_of(server: Server, job: str) -> Document:
    """Counts and status, as the native API tells them."""
    found: Document = json_.loads(server.get("batch", job))
    return found


def follow(server: Server, job: str) -> None:
    """Show the progress until the job has ended. Ctrl-C ends the watching, not the job."""
    try:
        with _bar() as bar:
            task = bar.add_task(job, total=None, rows="0 rows", rate="", failed="")
            while (now := progress_of(server, job))["TransformJobStatus"] in RUNNING:
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


def tell(server: Server, job: str, output: str, wait: bool, json: bool) -> None:
    """The job's end, or that it is on its way. Raises CommandError where it did not complete."""
    progress = progress_of(server, job)
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
