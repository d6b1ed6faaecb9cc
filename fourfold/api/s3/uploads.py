"""Operations on uploads in parts."""

from __future__ import annotations

import asyncio
import time

from starlette.responses import Response

from fourfold.api.s3 import xml
from fourfold.api.s3.answers import document
from fourfold.api.s3.ask import PAGE, Ask
from fourfold.api.s3.bodies import LARGEST_DOCUMENT, receive_into, receive_whole
from fourfold.api.s3.objects import about_of, check_size
from fourfold.api.s3.routes import operation
from fourfold.errors import S3Error


@operation("CreateMultipartUpload")
async def _create_multipart_upload(ask: Ask) -> Response:
    upload = await asyncio.to_thread(ask.buckets.begin, ask.bucket, ask.key, about_of(ask), time.time())
    return document("InitiateMultipartUploadResult", ("Bucket", ask.bucket), ("Key", ask.key), ("UploadId", upload.id))


@operation("UploadPart")
async def _upload_part(ask: Ask) -> Response:
    check_size(ask)
    number = part_number(ask)
    await asyncio.to_thread(ask.buckets.parts, ask.bucket, ask.query["uploadId"])
    incoming = await asyncio.to_thread(ask.buckets.incoming, ask.bucket)
    await receive_into(incoming, ask.receive, ask.headers, ask.claim)
    etag = await asyncio.to_thread(ask.buckets.add_part, ask.bucket, ask.query["uploadId"], number, incoming)
    return Response(headers={"etag": f'"{etag}"'})


def part_number(ask: Ask) -> int:
    number = ask.number("partNumber", 0, 10_001)
    if not 1 <= number <= 10_000:
        raise S3Error("InvalidArgument", "Part number must be an integer between 1 and 10000, inclusive")
    return number


@operation("ListParts")
async def _list_parts(ask: Ask) -> Response:
    upload, after = ask.query["uploadId"], ask.number("part-number-marker", 0, 10_000)
    most = ask.number("max-parts", PAGE, PAGE)
    found = [one for one in await asyncio.to_thread(ask.buckets.parts, ask.bucket, upload) if one.number > after]
    parts = [
        ("Part", [
            ("PartNumber", one.number), ("LastModified", xml.moment(one.modified_at)), ("ETag", f'"{one.etag}"'),
            ("Size", one.size),
        ])
        for one in found[:most]
    ]  # fmt: skip
    more = len(found) > most
    return document(
        "ListPartsResult", ("Bucket", ask.bucket), ("Key", ask.key), ("UploadId", upload),
        ("PartNumberMarker", after), ("NextPartNumberMarker", found[most - 1].number if more and most else None),
        ("MaxParts", most), ("IsTruncated", more), *parts,
    )  # fmt: skip


@operation("ListMultipartUploads")
async def _list_multipart_uploads(ask: Ask) -> Response:
    prefix = ask.query.get("prefix", "")
    found = [one for one in await asyncio.to_thread(ask.buckets.uploads, ask.bucket) if one.key.startswith(prefix)]
    uploads = [
        ("Upload", [("Key", one.key), ("UploadId", one.id), ("Initiated", xml.moment(one.began_at))])
        for one in found[:PAGE]
    ]  # fmt: skip
    return document(
        "ListMultipartUploadsResult", ("Bucket", ask.bucket), ("MaxUploads", PAGE),
        ("IsTruncated", len(found) > PAGE), *uploads,
    )  # fmt: skip


@operation("CompleteMultipartUpload")
async def _complete_multipart_upload(ask: Ask) -> Response:
    parts = xml.parts_to_complete(await receive_whole(ask.receive, LARGEST_DOCUMENT))
    done = await asyncio.to_thread(ask.buckets.complete, ask.bucket, ask.key, ask.query["uploadId"], parts)
    return document(
        "CompleteMultipartUploadResult", ("Location", f"/{ask.bucket}/{ask.key}"), ("Bucket", ask.bucket),
        ("Key", ask.key), ("ETag", f'"{done.etag}"'),
    )  # fmt: skip


@operation("AbortMultipartUpload")
async def _abort_multipart_upload(ask: Ask) -> Response:
    await asyncio.to_thread(ask.buckets.abort, ask.bucket, ask.query["uploadId"])
    return Response(status_code=204)
