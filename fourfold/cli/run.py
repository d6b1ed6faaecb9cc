"""`fourfold run`: start a script whose AWS calls come here, all of them, with nothing to set."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated
from urllib.request import Request

import typer

from fourfold.cli import app
from fourfold.cli.client import DATA_DIR, URL, CommandError, DataDir, Server, Url, environment, fetch

_INJECTED = Path(__file__).parent / "inject"
_LEADING_ELSEWHERE = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS")
"""Variables that would make a client go to AWS, or go here with another's credentials."""


@app.command(context_settings={"allow_interspersed_args": False})
def run(
    script: Annotated[Path, typer.Argument(help="A Python script.", metavar="SCRIPT.py")],
    arguments: Annotated[list[str] | None, typer.Argument(help="What the script gets.", metavar="[ARGS]...")] = None,
    python: Annotated[
        str, typer.Option(help="Its interpreter; the active virtual environment's, or else Fourfold's own.")
    ] = "",
    url: Url = URL,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Run a Python script with every AWS call sent to the server: boto3, and the sagemaker SDK's calls of STS.

    Sets what `fourfold env` prints. Options of `fourfold run` come before the script, what follows is the script's.
    """
    if not script.is_file():
        raise CommandError(f"there is no script {script}")
    fetch(Request(f"{url}/healthz"), 5)  # noqa: S310  # the user's own server
    program = python or _active_python()
    variables = _environment(Server(url, data_dir))
    try:
        os.execvpe(program, [program, str(script), *(arguments or [])], variables)  # noqa: S606  the user's script
    except FileNotFoundError:
        raise CommandError(f"there is no interpreter {program}: name another --python") from None


def _environment(server: Server) -> dict[str, str]:
    """What `fourfold env` sets, unless it has been set, without what leads elsewhere."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _LEADING_ELSEWHERE and not name.startswith("AWS_ENDPOINT_URL_")
    }
    path = os.pathsep.join(filter(None, (str(_INJECTED), os.environ.get("PYTHONPATH", ""))))
    ours = {"AWS_ENDPOINT_URL": server.url} if "FOURFOLD_API_KEY" in kept else environment(server.url, server.key())
    return kept | ours | {"PYTHONPATH": path}


def _active_python() -> str:
    folder = os.environ.get("VIRTUAL_ENV")
    python = Path(folder, "bin", "python") if folder else None
    return str(python) if python is not None and python.exists() else sys.executable
