"""`JoinSource` Input: each prediction beside the input that it came from, as AWS joins them.

A CSV row gets the predicted cells at its end. A JSON object gets the member `SageMakerOutput`; any other JSON value
becomes `{"SageMakerInput": ..., "SageMakerOutput": ...}`.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import Any

import msgspec

INPUT = "SageMakerInput"
OUTPUT = "SageMakerOutput"

_NEEDS_QUOTES = re.compile(r'[,"\r\n]')


def join_json(given: Any, predicted: Any) -> dict[str, Any]:
    """One decoded input and one decoded prediction as the object that AWS writes."""
    if isinstance(given, dict):
        return given | {OUTPUT: predicted}
    return {INPUT: given, OUTPUT: predicted}


def decode(text: bytes) -> Any:
    """A JSON value. Raises ValueError where there is none."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"no JSON: {error}") from None


def join_rows(given: bytes, predicted: bytes) -> bytes:
    """One CSV row and the predicted cells, neither with its newline."""
    return given + b"," + predicted


def cells(row: bytes) -> list[str]:
    """The cells of one CSV row. A quoted cell may hold newlines. Raises ValueError where the row is no CSV."""
    if b'"' not in row:
        return row.decode().split(",")
    try:
        rows = list(csv.reader(io.StringIO(row.decode(), newline=""), strict=True))
    except csv.Error as error:
        raise ValueError(f"no CSV row: {error}") from None
    if len(rows) != 1:
        raise ValueError(f"no CSV row: {len(rows)} rows where one was expected")
    return rows[0]


def row(values: Sequence[str]) -> bytes:
    """Cells as one CSV row without a newline; those that need quotes get them."""
    return ",".join(map(_cell, values)).encode()


def _cell(value: str) -> str:
    return '"' + value.replace('"', '""') + '"' if _NEEDS_QUOTES.search(value) else value
