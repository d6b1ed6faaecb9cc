"""Commands about the server itself: run it, print the environment of its clients, keep its keys."""

from __future__ import annotations

import errno
import re
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from fourfold.cli import app
from fourfold.cli.client import DATA_DIR, CommandError, DataDir, Json, environment, is_address, region
from fourfold.cli.output import print_json, print_table
from fourfold.config import MIB, Limits, Settings
from fourfold.records import ACCOUNT_ID, Partition

if TYPE_CHECKING:
    from fourfold.api.keys import Key, Keys

DEFAULT = Settings()
LARGEST_PAYLOAD = 25 * MIB

keys = typer.Typer(help="Make, list and delete access keys.", no_args_is_help=True)
app.add_typer(keys, name="keys")


def size(text: str) -> int:
    """Bytes of `6MiB`, `512KiB` or `6291456`; a bare number that is too small to be bytes (`25`) counts MiB."""
    lowered = text.strip().lower().removesuffix("b").removesuffix("i")
    unit = {"k": 1024, "m": MIB}.get(lowered[-1:], 0)
    digits = lowered[:-1] if unit else lowered
    if not (digits.isascii() and digits.isdecimal()):
        raise typer.BadParameter(f"{text!r} is no size: write 6MiB or 6291456", param_hint="--max-payload")
    number = int(digits)
    count = number * (unit or (MIB if number <= LARGEST_PAYLOAD // MIB else 1))
    if not 1024 <= count <= LARGEST_PAYLOAD:
        raise typer.BadParameter(f"{text!r} is outside of 1KiB to 25MiB", param_hint="--max-payload")
    return count


def _address(text: str) -> str:
    if text and not is_address(text):
        raise typer.BadParameter(f"{text!r} is no address: write http://host:port")
    return text


def _account(text: str) -> str:
    if not re.fullmatch(r"[0-9]{12}", text):
        raise typer.BadParameter(f"{text!r} is no account id: it has 12 digits")
    return text


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = DEFAULT.host,
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535)] = DEFAULT.port,
    data_dir: DataDir = DATA_DIR,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = DEFAULT.log_level,
    grace: Annotated[
        float, typer.Option(help="Seconds that calls in flight get to finish after SIGTERM.", min=0)
    ] = DEFAULT.grace_seconds,
    max_payload: Annotated[str, typer.Option(help="Largest request body: 6MiB, up to 25MiB.", metavar="SIZE")] = "6MiB",
    max_backlog: Annotated[
        int, typer.Option(help="Asynchronous calls of one endpoint that may be queued.", min=1)
    ] = DEFAULT.max_backlog,
    async_retention: Annotated[
        float, typer.Option(help="Seconds for which records of ended asynchronous calls are kept.", min=0)
    ] = DEFAULT.async_retention_seconds,
    metrics_seconds: Annotated[
        float, typer.Option(help="How often what was measured becomes metrics, in seconds.", min=1, max=10)
    ] = DEFAULT.metrics_seconds,
    capture_seconds: Annotated[
        float, typer.Option(help="Seconds within which a captured call is written to its bucket.", min=0.01)
    ] = DEFAULT.capture_seconds,
    trusted_only: Annotated[
        bool, typer.Option("--trusted-only", help="Refuse models whose loading executes code they bring.")
    ] = False,
    public_url: Annotated[
        str,
        typer.Option(
            help="Address under which others reach the server, for links in what it sends.", callback=_address
        ),
    ] = DEFAULT.public_url,
    sqs_endpoint: Annotated[
        str, typer.Option(help="Address of an SQS endpoint whose queues may subscribe to topics.", callback=_address)
    ] = DEFAULT.sqs_endpoint,
    warm_workers: Annotated[
        int | None,
        typer.Option(
            help="From so many serverless workers on, the longest idle one goes; else when memory is short.", min=1
        ),
    ] = None,
    account: Annotated[str, typer.Option(help="Account id in ARNs.", metavar="ID", callback=_account)] = ACCOUNT_ID,
) -> None:
    """Serve until SIGTERM. Prints `ready http://HOST:PORT` when it answers.

    The region is AWS_DEFAULT_REGION, or us-east-1.
    """
    from fourfold.app import run

    if log_level not in LOG_LEVELS:
        raise typer.BadParameter(f"{log_level!r} is not one of {', '.join(LOG_LEVELS)}", param_hint="--log-level")
    settings = Settings(
        data_dir=data_dir,
        host=host,
        port=port,
        log_level=log_level,
        grace_seconds=grace,
        max_backlog=max_backlog,
        async_retention_seconds=async_retention,
        metrics_seconds=metrics_seconds,
        capture_seconds=capture_seconds,
        trusted_only=trusted_only,
        public_url=public_url,
        sqs_endpoint=sqs_endpoint,
        partition=Partition(region(), account),
        limits=Limits(payload_bytes=size(max_payload), warm_workers=warm_workers),
    )
    try:
        run(settings)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
            raise
        option = "--port" if error.errno == errno.EADDRINUSE else "--host"
        raise CommandError(f"cannot listen on {host} port {port}: {error.strerror}. Choose another {option}") from None


LOG_LEVELS = ("debug", "info", "warning", "error")


@app.command()
def env(
    data_dir: DataDir = DATA_DIR,
    host: Annotated[str | None, typer.Option(help="Where the server listens; as it does, or 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="The server's port; as it is, or 4004.", min=1, max=65535)] = None,
) -> None:
    """Print what a client needs as lines for sh: eval "$(fourfold env)".

    Makes the data folder's first key where there is none yet, so that it may run before the server does.
    """
    key = _keys(data_dir).first()
    for name, value in environment(_address_of(data_dir, host, port), key).items():
        print(f"export {name}={shlex.quote(value)}")


def _address_of(data_dir: Path, host: str | None, port: int | None) -> str:
    """What is given, else what the folder's server has left there, else the defaults of `serve`."""
    file = Settings(data_dir).address_file
    known = urlsplit(file.read_text() if file.exists() else DEFAULT.address)
    return Settings(host=host or known.hostname or DEFAULT.host, port=port or known.port or DEFAULT.port).address


@keys.command("create")
def create_key(data_dir: DataDir = DATA_DIR, json: Json = False) -> None:
    """Make a key. A running server knows it at once."""
    key = _keys(data_dir).create()
    if json:
        print_json(
            {
                "access_key_id": key.access_key_id,
                "secret_access_key": key.secret_access_key,
                "api_key": key.api_key,
            }
        )
    else:
        print(f"access key id      {key.access_key_id}")
        print(f"secret access key  {key.secret_access_key}")
        print(f"API key (bearer)   {key.api_key}")


@keys.command("list")
def list_keys(data_dir: DataDir = DATA_DIR, json: Json = False) -> None:
    """List the ids of the keys; secrets stay in the data folder."""
    found = _keys_of_server(data_dir).list()
    if json:
        print_json([{"access_key_id": key.access_key_id, "created_at": _when(key)} for key in found])
    else:
        print_table(("ACCESS KEY ID", "CREATED"), [(key.access_key_id, _when(key)) for key in found])


@keys.command("delete")
def delete_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The access key id.")],
    data_dir: DataDir = DATA_DIR,
    json: Json = False,
) -> None:
    """Delete a key. A running server refuses it from then on."""
    if not _keys_of_server(data_dir).delete(key_id):
        raise CommandError(f"there is no key {key_id} in {data_dir}: see fourfold keys list")
    if json:
        print_json({"access_key_id": key_id, "deleted": True})
    else:
        print(f"deleted {key_id}")


def _when(key: Key) -> datetime:
    return datetime.fromtimestamp(key.created_at, UTC)


def _keys(data_dir: Path) -> Keys:
    from fourfold.api.keys import Keys

    return Keys(data_dir)


def _keys_of_server(data_dir: Path) -> Keys:
    """The keys of a data folder, which is not made. Raises CommandError where there is none."""
    if not data_dir.is_dir():
        raise CommandError(f"there is no folder {data_dir}: name the server's with --data-dir")
    return _keys(data_dir)
