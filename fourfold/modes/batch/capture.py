"""`DataCaptureConfig`: which objects went in and which came out, as manifests that monitoring jobs read.

    <destination>/input/2026/12/24/18/<id>.json     [{"prefix": "s3://bucket/"}, "in/a.csv", …]
    <destination>/output/2026/12/24/18/<id>.json    [{"prefix": "s3://bucket/"}, "out/a.csv.out", …]

The hour is the one in which the job started, UTC, so that a job that ends twice (the server was killed in between)
writes the same two objects.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from fourfold.storage.captures import hour_folder
from fourfold.storage.objects import Objects, parse_location

_IDS = uuid.UUID("0c5b6f2e-3f0b-4a7e-9a55-3d2f0b1a9c11")
"""Namespace of the manifests' ids."""


def write(objects: Objects, destination: str, job: str, started: float, rows: Sequence[Any]) -> None:
    """Write both manifests; blocking.

    Args:
        objects: the buckets.
        destination: the address under which they go.
        job: the job's ARN.
        started: when it started, seconds since the epoch.
        rows: its objects that are done, rows of `transform_objects` in order.
    """
    for kind, urls in (("input", [row.url for row in rows]), ("output", [row.output for row in rows])):
        url = f"{destination.rstrip('/')}/{kind}/{hour_folder(started)}/{uuid.uuid5(_IDS, f'{job}#{kind}')}.json"
        objects.put(parse_location(url), msgspec.json.encode(list(_manifest(urls))))


def _manifest(urls: Iterable[str]) -> Iterable[dict[str, str] | str]:
    """The bucket as the prefix, and the keys."""
    for number, url in enumerate(urls):
        location = parse_location(url)
        if number == 0:
            yield {"prefix": f"s3://{location.bucket}/"}
        yield location.key
