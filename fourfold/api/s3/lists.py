"""Lists of the objects in a bucket."""

from __future__ import annotations

import asyncio
import base64
import binascii

from starlette.responses import Response

from fourfold.api.s3 import xml
from fourfold.api.s3.answers import document
from fourfold.api.s3.ask import PAGE, Ask
from fourfold.api.s3.routes import operation
from fourfold.errors import S3Error
from fourfold.storage.buckets import Keys


@operation("ListObjectsV2")
async def _list_objects_v2(ask: Ask) -> Response:
    token, start = ask.query.get("continuation-token"), ask.query.get("start-after")
    page, most = await _page(ask, _after(token) if token is not None else start or "")
    encoding = ask.query.get("encoding-type")
    return document(
        "ListBucketResult",
        ("KeyCount", len(page.entries) + len(page.prefixes)),
        ("ContinuationToken", token),
        ("NextContinuationToken", _token(page.last) if page.last else None),
        ("StartAfter", None if start is None else xml.shown(start, encoding)),
        *_listed(ask, page, most),
    )


@operation("ListObjects")
async def _list_objects(ask: Ask) -> Response:
    marker = ask.query.get("marker", "")
    page, most = await _page(ask, marker)
    encoding = ask.query.get("encoding-type")
    return document(
        "ListBucketResult",
        ("Marker", xml.shown(marker, encoding)),
        ("NextMarker", xml.shown(page.last, encoding) if page.last else None),
        *_listed(ask, page, most),
    )


async def _page(ask: Ask, after: str) -> tuple[Keys, int]:
    most = ask.number("max-keys", PAGE, PAGE)
    prefix, delimiter = ask.query.get("prefix", ""), ask.query.get("delimiter", "")
    page = await asyncio.to_thread(ask.buckets.page, ask.bucket, prefix, delimiter, after, most)
    return page, most


def _listed(ask: Ask, page: Keys, most: int) -> list[xml.Element]:
    """What both lists have."""
    encoding, delimiter = ask.query.get("encoding-type"), ask.query.get("delimiter")
    contents = [
        ("Contents", [
            ("Key", xml.shown(one.key, encoding)), ("LastModified", xml.moment(one.modified_at)),
            ("ETag", f'"{one.etag}"'), ("Size", one.size), ("StorageClass", "STANDARD"),
        ])
        for one in page.entries
    ]  # fmt: skip
    return [
        ("Name", ask.bucket),
        ("Prefix", xml.shown(ask.query.get("prefix", ""), encoding)),
        ("Delimiter", None if delimiter is None else xml.shown(delimiter, encoding)),
        ("MaxKeys", most),
        ("EncodingType", encoding),
        ("IsTruncated", bool(page.last)),
        *contents,
        *(("CommonPrefixes", [("Prefix", xml.shown(one, encoding))]) for one in page.prefixes),
    ]


def _token(last: str) -> str:
    return base64.urlsafe_b64encode(last.encode("utf-8", "surrogateescape")).decode()


def _after(token: str) -> str:
    try:
        return base64.urlsafe_b64decode(token).decode("utf-8", "surrogateescape")
    except (binascii.Error, ValueError):
        raise S3Error("InvalidArgument", "The continuation token provided is incorrect") from None
