"""Ranges of bytes in headers."""

from __future__ import annotations

import re

from fourfold.errors import S3Error

_SPAN = re.compile(r"bytes=(\d*)-(\d*)")


def span_of(text: str | None, size: int) -> tuple[int, int] | None:
    """First and last byte of a Range header; None for all, as also where the header is none that HTTP knows.

    Raises:
        S3Error: nothing of the object lies in it.
    """
    found = _SPAN.fullmatch((text or "").strip())
    if found is None or found[1] == found[2] == "":
        return None
    if found[1]:
        first, last = int(found[1]), min(int(found[2] or size), size - 1)
        if found[2] and int(found[2]) < int(found[1]):
            return None
    else:
        first, last = max(0, size - int(found[2])), size - 1
    if first > last:
        raise S3Error("InvalidRange", "The requested range is not satisfiable", 416)
    return first, last


def copied_span(text: str) -> tuple[int, int]:
    """First and last byte of a x-amz-copy-source-range header. Raises S3Error where it does not name both."""
    found = _SPAN.fullmatch(text)
    if found is None or not (found[1] and found[2]):
        raise S3Error("InvalidArgument", "The x-amz-copy-source-range value must be of the form bytes=first-last.")
    return int(found[1]), int(found[2])
