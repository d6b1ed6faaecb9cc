"""How a command reaches the server: address, credentials, boto3 clients, a sentence for each error."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.error import HTTPError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import Request, urlopen

import typer

from fourfold.errors import FourfoldError

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

    from fourfold.api.keys import Key

DataDir = Annotated[
    Path,
    typer.Option(
        "--data-dir", envvar="FOURFOLD_DATA_DIR", help="The server's data folder.", show_default=True, file_okay=False
    ),
]
Url = Annotated[
    str,
    typer.Option(
        "--endpoint-url",
        envvar="AWS_ENDPOINT_URL",
        help="Address of the server.",
        show_default=True,
        callback=lambda url: url.rstrip("/"),
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]

DATA_DIR = Path(".fourfold")
URL = "http://127.0.0.1:4004"
START = "start it with fourfold serve"
LISTS = {
    r"Could not find endpoint ": "fourfold list",
    r"Could not find requested job ": "fourfold batch list",
    r"Schedule \S+ does not exist": "fourfold schedule list",
    r"Topic does not exist": "fourfold topics list",
}
"""How the API says that something is not there, and the command that shows what is."""


class CommandError(FourfoldError):
    """A command cannot go on; the message is all that the user sees."""


@dataclass(frozen=True)
class Server:
    """A server's address and where its keys are when the environment holds none."""

    url: str = URL
    data_dir: Path = DATA_DIR

    def __post_init__(self) -> None:
        """Raises CommandError where the address is none that HTTP can reach."""
        if not is_address(self.url):
            raise CommandError(f"{self.url!r} is no address of a server: write --endpoint-url {URL}")

    def client(self, service: str) -> Any:
        """A boto3 client of this server, never of AWS.

        Credentials are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or else the oldest key of the data folder.
        """
        import boto3
        from botocore.config import Config

        access, secret = self._credentials()
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name=region(),
            aws_access_key_id=access,
            aws_secret_access_key=secret,
            config=Config(
                connect_timeout=5,
                read_timeout=75,  # a little longer than an invocation may take
                retries={"total_max_attempts": 1},
                s3={"addressing_style": "path"},
            ),
        )

    def api_key(self) -> str:
        """The bearer token: FOURFOLD_API_KEY, or that of the data folder's oldest key."""
        return os.environ.get("FOURFOLD_API_KEY") or self.key().api_key

    def get(self, *path: str, **query: object) -> str:
        """The text that a native route answers: `get("topics", "a/b")` asks for /fourfold/topics/a%2Fb."""
        return self._native("GET", path, query)

    def post(self, *path: str) -> str:
        """The same for a native route that does something."""
        return self._native("POST", path, {})

    def _native(self, method: str, path: Iterable[str], query: Mapping[str, object]) -> str:
        url = "/".join([self.url, "fourfold", *(quote(part, safe="") for part in path)])
        headers = {"Authorization": f"Bearer {self.api_key()}"}
        request = Request(f"{url}?{urlencode(query)}" if query else url, headers=headers, method=method)  # noqa: S310
        return fetch(request, 30)

    def _credentials(self) -> tuple[str, str]:
        access, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
        if access and secret:
            return access, secret
        key = self.key()
        return key.access_key_id, key.secret_access_key

    def key(self) -> Key:
        """The oldest key of the data folder. Raises CommandError where there is none."""
        from fourfold.api.keys import Keys

        found = Keys(self.data_dir).list() if self.data_dir.is_dir() else []
        if not found:
            raise CommandError(
                f"no credentials: {self.data_dir} is not the data folder of a server. Run this beside the server, "
                'name the folder with --data-dir, or set the environment with: eval "$(fourfold env)"'
            )
        return found[0]


def is_address(url: str) -> bool:
    """Is this http://host or https://host, with a port or without?"""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none
        return False


def fetch(request: Request, seconds: float) -> str:
    """The text that the server answers within some seconds. Raises CommandError with its message where it refuses."""
    try:
        with urlopen(request, timeout=seconds) as answer:  # noqa: S310  # the user's own server
            return str(answer.read(), "utf-8", "replace")
    except HTTPError as error:
        raise CommandError(_told(error.read()) or _stranger(f"{error.code} {error.reason}")) from None
    except HTTPException as error:
        raise CommandError(_stranger(repr(error))) from None
    except OSError as error:
        tls = isinstance(getattr(error, "reason", error), ssl.SSLError)
        raise CommandError(_no_tls(request.full_url) if tls else _no_server(request.full_url)) from None


def _told(body: bytes) -> str:
    """The message of a JSON document; empty where it is none of the server's errors."""
    import json

    try:
        return str(json.loads(body)["message"])
    except (ValueError, TypeError, KeyError):
        return ""


def _stranger(answer: object) -> str:
    return f"what answers there ({answer}) is no Fourfold server: is --endpoint-url, or AWS_ENDPOINT_URL, right?"


def _no_tls(url: str) -> str:
    host = urlsplit(url).netloc
    return f"what answers at https://{host} speaks no TLS that is trusted here: is its address http://{host}?"


def _no_server(url: str) -> str:
    parts = urlsplit(url)
    return f"no server answers at {parts.scheme}://{parts.netloc}: {START}"


def environment(url: str, key: Key) -> dict[str, str]:
    """The environment variables that make any AWS client one of the server."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": key.access_key_id,
        "AWS_SECRET_ACCESS_KEY": key.secret_access_key,
        "AWS_DEFAULT_REGION": region(),
        "AWS_REGION": region(),
        "AWS_EC2_METADATA_DISABLED": "true",
        "FOURFOLD_API_KEY": key.api_key,
    }


def region() -> str:
    """The region that the server is in, too, when both have the same environment."""
    return os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"


def is_missing(error: ClientError) -> bool:
    """Does the error of a Describe operation say that there is no such resource?"""
    return "Could not find" in error.response["Error"]["Message"]  # AWS has no code of its own for it


def explain(error: Exception) -> str | None:
    """One line for an error that the user can act on; None for a bug, which deserves its traceback."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        ConnectTimeoutError,
        EndpointConnectionError,
        HTTPClientError,
        SSLError,
    )
    from botocore.parsers import ResponseParserError

    match error:
        case FourfoldError():
            return _with_next_step(error.message)
        case ClientError() if "RequestId" not in error.response["ResponseMetadata"]:
            return _stranger(error.response["ResponseMetadata"]["HTTPStatusCode"])
        case ClientError():
            answer = error.response["Error"]
            where = f": {answer['Resource']}" if answer.get("Resource") else ""  # S3's messages do not say it
            return _with_next_step(f"{answer['Code']}: {answer['Message']}{where}")
        case ResponseParserError():
            return _stranger("something else than the SageMaker API")
        case SSLError():
            return _no_tls(error.kwargs["endpoint_url"])
        case EndpointConnectionError() | ConnectTimeoutError():
            return _no_server(error.kwargs["endpoint_url"])
        case HTTPClientError():
            return f"the connection to the server broke: {error}. Look at the server's own messages"
        case OSError() if error.filename:
            return f"{error.filename}: {error.strerror}"
        case BotoCoreError() | Boto3Error():
            return str(error)
    return None


def _with_next_step(message: str) -> str:
    command = next((command for pattern, command in LISTS.items() if re.search(pattern, message)), None)
    return f"{message.removesuffix('.')}. What there is: {command}" if command else message
