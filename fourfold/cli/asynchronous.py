"""Commands about asynchronous calls: `fourfold async submit`, list, show, wait, cancel, retry. Clients of the HTTP API.

`submit` takes files of this machine: small ones travel in the call, larger ones through the account's bucket.
"""

from __future__ import annotations

import hashlib
import json as json_
import mimetypes
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fourfold.cli import app
from fourfold.cli.client import DATA_DIR, URL, CommandError, DataDir, Json, Server, Url
from fourfold.cli.files import CONTENT_TYPES, account_bucket
from fourfold.cli.output import cell, print_json, print_table

if TYPE_CHECKING:
    from rich.progress import Progress

calls = typer.Typer(help="Asynchronous calls: accepted at once, answered into a bucket.", no_args_is_help=True)
app.add_typer(calls, name="async")

Document = dict[str, Any]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the endpoint.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The call's inference id.")]
Ids = Annotated[list[str], typer.Argument(metavar="ID…", help="Inference ids.")]

INLINE = 128_000
"""Bytes up to which an input travels in the call."""
AT_ONCE = 8
"""Files that are sent side by side."""
PENDING = ("queued", "running")
FIRST_LOOK = 0.01
LAST_LOOK = 0.5
"""Seconds between two looks at the calls that are waited for: from the first to the longest."""


@calls.command()
def submit(
    name: Name,
    files: Annotated[list[str], typer.Argument(metavar="FILE|s3://…", help="Inputs, a call each.")],
    content_type: Annotated[str | None, typer.Option(help="By each file's suffix if not given.")] = None,
    accept: Annotated[str | None, typer.Option(help="Content type of the answers.")] = None,
    timeout: Annotated[int | None, typer.Option(help="Seconds that the model may take; 900.", min=1, max=3600)] = None,
    ttl: Annotated[int | None, typer.Option(help="Seconds that a call may wait; 21600.", min=60, max=21_600)] = None,
    save: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Bring the answers here.")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until every call has ended.")] = True,
    json: Json = False,
    url: Url = URL,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Send files to an asynchronous endpoint, and wait for their answers with a progress bar.

    Exits with 1 where a call did not complete.
    """
    if save is not None and not wait:
        raise typer.BadParameter("answers can be saved only when they are waited for", param_hint="--save")
    missing = [file for file in files if not file.startswith("s3://") and not Path(file).is_file()]
    if missing:
        raise CommandError(f"there is no file {missing[0]}")
    server = Server(url, data_dir)
    more: Document = {"Accept": accept, "InvocationTimeoutSeconds": timeout, "RequestTTLSeconds": ttl}
    sender = _Sender(server, name, content_type, {key: value for key, value in more.items() if value is not None})
    with _bar() as bar, ThreadPoolExecutor(AT_ONCE) as threads:
        sending = bar.add_task("sending", total=len(files))
        sent = []
        for record in threads.map(sender.send, files):
            sent.append(record)
            bar.advance(sending)
        if wait:
            ended = _wait_for(server, name, [record["inference_id"] for record in sent], bar)
            sent = [record | end for record, end in zip(sent, ended, strict=True)]
    if save is not None:
        _save(server, sent, save)
    if json:
        print_json(sent)
    elif wait:
        print_table(("FILE", "STATUS", "OBJECT", "REASON"), [(one["file"], *_end(one)) for one in sent])
    else:
        print_table(
            ("FILE", "ID", "OUTPUT"), [(one["file"], one["inference_id"], one["output_location"]) for one in sent]
        )
    if any(one.get("status", "completed") != "completed" for one in sent):
        raise typer.Exit(1)


@calls.command("list")
def list_calls(
    name: Name,
    status: Annotated[
        list[str] | None,
        typer.Option(help="queued, running, completed, failed, expired or cancelled; repeat. All if not given."),
    ] = None,
    limit: Annotated[int, typer.Option(help="The newest so many calls.", min=1)] = 100,
    json: Json = False,
    url: Url = URL,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """List an endpoint's calls, the newest first."""
    server = Server(url, data_dir)
    found: list[Document] = []
    query: Document = {"status": ",".join(status or [])}
    while len(found) < limit:
        page = _get(server, name, **query, limit=min(1000, limit - len(found)))
        found += page["calls"]
        if page["next"] is None:
            break
        query["before"] = page["next"]
    if json:
        print_json({"counts": page["counts"], "calls": found})
        return
    print("   ".join(f"{count:,} {state}" for state, count in page["counts"].items() if count) or "no calls")
    print_table(
        ("ID", "STATUS", "ACCEPTED", "ENDED", "ATTEMPTS", "REASON"),
        [
            (one["inference_id"], one["status"], _time(one["accepted_at"]), _time(one["ended_at"]), one["attempts"],
             _short(one["reason"]))
            for one in found
        ],
    )  # fmt: skip


@calls.command()
def show(name: Name, id: Id, json: Json = False, url: Url = URL, data_dir: DataDir = DATA_DIR) -> None:
    """Show one call: status, place in the queue, times, locations, the reason where it failed."""
    record = _get(Server(url, data_dir), name, id)
    if json:
        print_json(record)
        return
    times = ("accepted_at", "started_at", "ended_at", "expires_at")
    rows = [(key, _time(value) if key in times else cell(value)) for key, value in record.items() if value is not None]
    print_table(("", id), rows)


@calls.command("wait")
def wait_for_calls(name: Name, ids: Ids, json: Json = False, url: Url = URL, data_dir: DataDir = DATA_DIR) -> None:
    """Wait until calls have ended. Exits with 1 where one did not complete."""
    with _bar() as bar:
        ended = _wait_for(Server(url, data_dir), name, ids, bar)
    if json:
        print_json(ended)
    else:
        print_table(("ID", "STATUS", "OBJECT", "REASON"), [(one["inference_id"], *_end(one)) for one in ended])
    if any(one["status"] != "completed" for one in ended):
        raise typer.Exit(1)


@calls.command()
def cancel(name: Name, ids: Ids, json: Json = False, url: Url = URL, data_dir: DataDir = DATA_DIR) -> None:
    """End calls that are queued or running."""
    _change(Server(url, data_dir), name, ids, "cancel", json)


@calls.command()
def retry(name: Name, ids: Ids, json: Json = False, url: Url = URL, data_dir: DataDir = DATA_DIR) -> None:
    """Queue calls again that failed, expired or were cancelled."""
    _change(Server(url, data_dir), name, ids, "retry", json)


class _Sender:
    """Sends one file as a call."""

    def __init__(self, server: Server, name: str, content_type: str | None, more: Document) -> None:
        self._name = name
        self._content_type = content_type
        self._more = more
        self._runtime = server.client("sagemaker-runtime")
        self._s3 = server.client("s3")
        self._bucket = account_bucket(server, self._s3)

    def send(self, file: str) -> Document:
        request: Document = {
            "EndpointName": self._name,
            "ContentType": self._content_type or _content_type(file),
            **self._input(file),
            **self._more,
        }
        answer = self._runtime.invoke_endpoint_async(**request)
        return {
            "file": file,
            "inference_id": answer["InferenceId"],
            "output_location": answer["OutputLocation"],
            "failure_location": answer["FailureLocation"],
        }

    def _input(self, file: str) -> Document:
        if file.startswith("s3://"):
            return {"InputLocation": file}
        path = Path(file)
        if 0 < path.stat().st_size <= INLINE:
            return {"Body": path.read_bytes()}
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        key = f"async-inputs/{self._name}/{digest[:16]}/{path.name}"
        self._s3.upload_file(str(path), self._bucket, key)
        return {"InputLocation": f"s3://{self._bucket}/{key}"}


def _content_type(file: str) -> str:
    suffix = Path(file).suffix.lower()
    return CONTENT_TYPES.get(suffix) or mimetypes.guess_type(file)[0] or "application/octet-stream"


def _wait_for(server: Server, name: str, ids: Sequence[str], bar: Progress) -> list[Document]:
    """The records of calls that have ended, in the order of their ids."""
    ended: dict[str, Document] = {}
    task = bar.add_task("answered", total=len(ids))
    pause = FIRST_LOOK
    while True:
        left = [id for id in dict.fromkeys(ids) if id not in ended]
        for id in left:
            record = _get(server, name, id)
            if record["status"] in PENDING:
                break  # first in, first out: those behind it can wait for the next look
            ended[id] = record
            bar.advance(task)
            pause = FIRST_LOOK
        else:
            return [ended[id] for id in ids]
        time.sleep(pause)
        pause = min(LAST_LOOK, pause * 1.5)


def _save(server: Server, sent: Iterable[Document], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    s3 = server.client("s3")
    for one in sent:
        location = one["output_location"] if one["status"] == "completed" else one["failure_location"]
        bucket, _, key = location.removeprefix("s3://").partition("/")
        one["saved"] = str(folder / f"{Path(one['file']).name}{'.out' if one['status'] == 'completed' else '.error'}")
        s3.download_file(bucket, key, one["saved"])


def _change(server: Server, name: str, ids: Iterable[str], action: str, json: bool) -> None:
    changed = [json_.loads(server.post("async", name, id, action)) for id in ids]
    if json:
        print_json(changed)
        return
    for one in changed:
        print(f"{one['inference_id']} is {one['status']}")


def _get(server: Server, *path: str, **query: object) -> Document:
    found: Document = json_.loads(server.get("async", *path, **query))
    return found


def _end(record: Document) -> tuple[str, str, str]:
    """Status, where the object is, and why."""
    completed = record["status"] == "completed"
    return (
        record["status"],
        record["output_location"] if completed else record["failure_location"],
        _short(record["reason"]),
    )


def _short(reason: str | None) -> str:
    return "" if reason is None else reason.splitlines()[0][:100]


def _time(moment: float | None) -> str:
    return cell(None if moment is None else datetime.fromtimestamp(moment, UTC))


@contextmanager
def _bar() -> Iterator[Progress]:
    """A progress bar on standard error, where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        yield bar
