"""The command line. Each command is a client of the server's own HTTP API, except `serve` and the advisor's."""

from __future__ import annotations

import typer

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


def main() -> None:
    app()
