"""Operations that copy an object: to another, or to a part of an upload."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from urllib.parse import unquote

from starlette.responses import Response

from fourfold.api.s3 import xml
from fourfold.api.s3.answers import document
from fourfold.api.s3.ask import Ask
from fourfold.api.s3.objects import about_of
from fourfold.api.s3.ranges import copied_span
from fourfold.api.s3.routes import operation
from fourfold.api.s3.uploads import part_number
from fourfold.errors import S3Error
from fourfold.storage.objects import Location


@operation("CopyObject")
async def _copy_object(ask: Ask) -> Response:
    source = _source(ask)
    replace = ask.headers.get("x-amz-metadata-directive", "COPY").upper() == "REPLACE"
    if source == Location(ask.bucket, ask.key) and not replace:
        raise S3Error(
            "InvalidRequest",
            "This copy request is illegal because it is trying to copy an object to itself without changing the "
            "object's metadata, storage class, website redirect location or encryption attributes.",
        )
    about = about_of(ask) if replace else None
    done = await asyncio.to_thread(ask.buckets.copy, source, ask.bucket, ask.key, about)
    return _copied("CopyObjectResult", done.etag, done.modified_ns / 1e9)


@operation("UploadPartCopy")
async def _upload_part_copy(ask: Ask) -> Response:
    number, source = part_number(ask), _source(ask)
    text = ask.headers.get("x-amz-copy-source-range")
    span = None if text is None else copied_span(text)
    copy = partial(ask.buckets.copy_part, ask.bucket, ask.query["uploadId"], number, source, span)
    return _copied("CopyPartResult", await asyncio.to_thread(copy), time.time())


def _source(ask: Ask) -> Location:
    """The object that `x-amz-copy-source` names: bucket/key, percent-encoded."""
    text = unquote(ask.headers["x-amz-copy-source"].partition("?versionId=")[0], errors="surrogateescape")
    bucket, _, key = text.removeprefix("/").partition("/")
    if not bucket or not key:
        raise S3Error("InvalidArgument", "Copy Source must mention the source bucket and key: sourcebucket/sourcekey")
    return Location(bucket, key)


def _copied(tag: str, etag: str, modified_at: float) -> Response:
    return document(tag, ("ETag", f'"{etag}"'), ("LastModified", xml.moment(modified_at)))
