"""How a command reaches the server: address, credentials, boto3 clients, a sentence for each error."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import typer

from fourfold.errors import FourfoldError

if TYPE_CHECKING:
    from fourfold.api.keys import Key

DataDir = Annotated[
    Path,
    typer.Option(
        "--data-dir", envvar="FOURFOLD_DATA_DIR", help="The server's data folder.", show_default=True, file_okay=False
    ),
]
Url = Annotated[
    str, typer.Option("--endpoint-url", envvar="AWS_ENDPOINT_URL", help="Address of the server.", show_default=True)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]

DATA_DIR = Path(".fourfold")
URL = "http://127.0.0.1:4004"
START = "start it with fourfold serve"


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

    def get(self, path: str) -> str:
        """The text that a native route (`/fourfold/...`, or `/metrics`) answers, with the bearer token."""
        return self._native("GET", path)

    def post(self, path: str) -> str:
        """The same for a native route that does something."""
        return self._native("POST", path)

    def _native(self, method: str, path: str) -> str:
        headers = {"Authorization": f"Bearer {self.api_key()}"}
        request = Request(self.url + path, headers=headers, method=method)  # noqa: S310
        try:
            with urlopen(request, timeout=30) as answer:  # noqa: S310  # the user's own server
                return str(answer.read(), "utf-8", "replace")
        except HTTPError as error:
            raise CommandError(_told(error.read()) or f"{path} answered {error.code}") from None
        except URLError as error:
            raise CommandError(f"no server answers at {self.url} ({error.reason}): {START}") from None

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


def _told(body: bytes) -> str:
    """What an error's body says: the message of a JSON document, or the text."""
    import json

    try:
        return str(json.loads(body)["message"])
    except (ValueError, TypeError, KeyError):
        return body.decode("utf-8", "replace").strip()


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


def explain(error: Exception) -> str | None:
    """One line for an error that the user can act on; None for a bug, which deserves its traceback."""
    from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError

    match error:
        case FourfoldError():
            return error.message
        case ClientError():
            answer = error.response.get("Error", {})
            return f"{answer.get('Code', 'Error')}: {answer.get('Message', error)}"
        case ConnectionError():
            return f"no server answers at {error.kwargs.get('endpoint_url', 'this address')}: {START}"
        case HTTPClientError():
            return f"the connection to the server broke: {error}. Look at the server's own messages"
        case OSError() if error.filename:
            return f"{error.filename}: {error.strerror}"
        case BotoCoreError():
            return str(error)
    return None
