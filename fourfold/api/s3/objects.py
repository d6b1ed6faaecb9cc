"""Operations that put and delete objects."""

from __future__ import annotations

import asyncio

from starlette.responses import Response

from fourfold.api.s3 import xml
from fourfold.api.s3.answers import document
from fourfold.api.s3.ask import Ask
from fourfold.api.s3.bodies import LARGEST_DOCUMENT, receive_into, receive_whole
from fourfold.api.s3.routes import operation
from fourfold.errors import S3Error
from fourfold.storage.buckets import Buckets
from fourfold.storage.objects import About

LARGEST_OBJECT = 5 * 1024**3
"""Bytes of one PutObject or UploadPart, as in AWS."""

_KEPT_HEADERS = ("cache-control", "content-disposition", "content-encoding", "content-language", "expires")


@operation("PutObject")
async def _put_object(ask: Ask) -> Response:
    check_size(ask)
    if ask.headers.get("if-none-match") == "*":
        await _must_be_new(ask)
    if ask.key.endswith("/") and ask.headers.get("content-length") == "0":
        await asyncio.to_thread(ask.buckets.check, ask.bucket)
        return Response()  # what consoles put to show a folder; here folders show themselves
    incoming = await asyncio.to_thread(ask.buckets.incoming, ask.bucket, ask.key)
    await receive_into(incoming, ask.receive, ask.headers, ask.claim)
    about = await asyncio.to_thread(ask.buckets.put, ask.bucket, ask.key, incoming, about_of(ask))
    return Response(headers={"etag": f'"{about.etag}"'})


async def _must_be_new(ask: Ask) -> None:
    try:
        await asyncio.to_thread(ask.buckets.head, ask.bucket, ask.key)
    except S3Error:
        return
    raise S3Error("PreconditionFailed", "At least one of the pre-conditions you specified did not hold", 412)


def check_size(ask: Ask) -> None:
    length = ask.headers.get("x-amz-decoded-content-length") or ask.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > LARGEST_OBJECT:
        raise S3Error("EntityTooLarge", "Your proposed upload exceeds the maximum allowed size of 5 GiB: use parts.")


def about_of(ask: Ask) -> About:
    """What a request says of the object that it makes."""
    headers = {name: ask.headers[name] for name in _KEPT_HEADERS if name in ask.headers}
    encodings = [one.strip() for one in headers.pop("content-encoding", "").split(",")]
    kept = ",".join(one for one in encodings if one and one != "aws-chunked")
    if kept:
        headers["content-encoding"] = kept
    prefix = "x-amz-meta-"
    return About(
        content_type=ask.headers.get("content-type", "binary/octet-stream"),
        headers=headers,
        metadata={name[len(prefix) :]: value for name, value in ask.headers.items() if name.startswith(prefix)},
    )


@operation("DeleteObject")
async def _delete_object(ask: Ask) -> Response:
    await asyncio.to_thread(ask.buckets.delete, ask.bucket, ask.key)
    return Response(status_code=204)


@operation("DeleteObjects")
async def _delete_objects(ask: Ask) -> Response:
    keys, quiet = xml.keys_to_delete(await receive_whole(ask.receive, LARGEST_DOCUMENT))
    outcome = await asyncio.to_thread(_delete_all, ask.buckets, ask.bucket, keys)
    return document("DeleteResult", *(one for one in outcome if one[0] == "Error" or not quiet))


def _delete_all(buckets: Buckets, bucket: str, keys: list[str]) -> list[xml.Element]:
    buckets.check(bucket)
    outcome: list[xml.Element] = []
    for key in keys:
        try:
            buckets.delete(bucket, key)
            outcome.append(("Deleted", [("Key", key)]))
        except S3Error as error:
            outcome.append(("Error", [("Key", key), ("Code", error.code), ("Message", error.message)]))
    return outcome
