"""The command line. Each command is a client of the server's own HTTP API, except `serve` and the advisor's.

A module beside this one holds the commands of one subject and registers them on `app` when it is imported. What is slow
to import (boto3, the server, numpy) is imported inside the command that needs it, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from fourfold import __version__

app = typer.Typer(
    help="One model artifact, four ways to serve it, behind the Amazon SageMaker API.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"fourfold {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """What stands before the command."""


# The commands use `app`, hence after it. Their order here is their order in --help.
from fourfold.cli import server  # noqa: E402, F401, I001
from fourfold.cli import endpoints  # noqa: E402, F401
from fourfold.cli import batch  # noqa: E402, F401
from fourfold.cli import asynchronous  # noqa: E402, F401
from fourfold.cli import schedule  # noqa: E402, F401
from fourfold.cli import topics  # noqa: E402, F401
from fourfold.cli import run  # noqa: E402, F401
from fourfold.cli import cost  # noqa: E402, F401
from fourfold.cli import profile  # noqa: E402, F401
from fourfold.cli import verify  # noqa: E402, F401
from fourfold.cli import advise  # noqa: E402, F401


def main() -> None:
    """Run a command; what went wrong is one line on standard error and exit code 1."""
    try:
        app()
    except Exception as error:
        from fourfold.cli.client import explain

        message = explain(error)
        if message is None:
            raise
        print(f"fourfold: {message}", file=sys.stderr)
        sys.exit(1)
