"""What commands print: JSON for programs and tables for people on standard output, progress on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.status import Status


def print_json(value: object) -> None:
    """Print a value of plain data; times become ISO 8601."""
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2).decode())


def print_table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print rows under their headings, as wide as they need where the output is not a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(cell(value) for value in row))
    Console(width=None if sys.stdout.isatty() else 200, soft_wrap=not sys.stdout.isatty()).print(table)


def cell(value: object) -> str:
    """A value as a person reads it."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    return str(value)


@contextmanager
def progress(text: str) -> Iterator[Status]:
    """A line on standard error with a spinner; `.update(text)` changes it. Silent where that is no terminal."""
    from rich.console import Console

    with Console(stderr=True).status(text) as status:
        yield status


def without_metadata(answer: dict[str, Any]) -> dict[str, Any]:
    """A boto3 answer as the API documents it, without boto3's own notes on the transfer."""
    return {name: value for name, value in answer.items() if name != "ResponseMetadata"}
