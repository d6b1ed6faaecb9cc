"""The operations of S3 over folders. Told apart as AWS does: by method, by bucket and key in the path, by query.

The head of a request is checked against its signature before its body is read; the body goes to a file as it comes and
becomes an object, by rename, when it has been checked too. What touches the disk runs in threads.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote

from starlette.datastructures import QueryParams
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from fourfold.api.canonical import Headers
from fourfold.api.fastlane import request_id
from fourfold.api.s3 import xml
from fourfold.api.s3.bodies import receive_into, receive_whole
from fourfold.api.signatures import ObjectClaim
from fourfold.errors import AuthenticationError, FourfoldError, S3Error
from fourfold.storage.buckets import CHUNK, Buckets, Keys
from fourfold.storage.objects import About, Location

log = logging.getLogger(__name__)

LARGEST_OBJECT = 5 * 1024**3
"""Bytes of one PutObject or UploadPart, as in AWS."""
LARGEST_DOCUMENT = 2 * 1024**2
PAGE = 1000
"""Most entries of a list, as in AWS."""

_KEPT_HEADERS = ("cache-control", "content-disposition", "content-encoding", "content-language", "expires")
_SPAN = re.compile(r"bytes=(\d*)-(\d*)")


class Guard(Protocol):
    """Checks the credentials of a request to S3 (`signatures`)."""

    def verify_object(self, method: bytes, url: bytes, headers: Headers) -> ObjectClaim:
        """Who asks, and what is claimed of the body. Raises AuthenticationError."""


class Ask:
    """One request, its signature checked."""

    def __init__(self, scope: Scope, receive: Receive, claim: ObjectClaim) -> None:
        self.method: str = scope["method"]
        path = unquote(scope["raw_path"].decode("latin-1"), errors="surrogateescape")
        self.bucket, _, self.key = path[1:].partition("/")
        self.query = QueryParams(scope["query_string"])
        self.headers: Mapping[str, str] = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        self.receive = receive
        self.claim = claim

    def number(self, name: str, default: int, most: int) -> int:
        """A number of the query. Raises S3Error where it is none."""
        text = self.query.get(name, str(default))
        if not text.isascii() or not text.isdecimal():
            raise S3Error("InvalidArgument", f"Provided {name} not an integer or within integer range: {text!r}")
        return min(int(text), most)


Handler = Callable[["S3", Ask], Awaitable[Response]]
OPERATIONS: dict[str, Handler] = {}
"""What is here, by AWS's name."""


def _operation(name: str) -> Callable[[Handler], Handler]:
    def mark(handler: Handler) -> Handler:
        OPERATIONS[name] = handler
        return handler

    return mark


class S3:
    """ASGI application for S3.

    Args:
        buckets: the folder of buckets.
        guard: checks credentials.
        region: what GetBucketLocation answers.
    """

    def __init__(self, buckets: Path, guard: Guard, region: str) -> None:
        self.buckets = Buckets(buckets)
        self.region = region
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        id = request_id().decode()
        try:
            query: bytes = scope["query_string"]
            url = scope["raw_path"] + (b"?" + query if query else b"")
            claim = self._guard.verify_object(scope["method"].encode(), url, scope["headers"])
            ask = Ask(scope, receive, claim)
            answer = await OPERATIONS[_name(ask)](self, ask)
        except (S3Error, AuthenticationError) as error:
            answer = _failed(error, scope, id)
        except OSError as error:  # a full disk, a name too long for the file system
            log.exception("request to S3 failed", extra={"request": id})
            answer = _failed(S3Error("InternalError", f"{error.strerror}: see the server's log.", 500), scope, id)
        answer.headers["x-amz-request-id"] = id
        await answer(scope, receive, send)


def _name(ask: Ask) -> str:
    """The operation that a request asks for. Raises S3Error where it is not here."""
    queries = set(ask.query) & _KNOWN_QUERIES
    for method, level, wanted, name in _ROUTES:
        if method == ask.method and level == _level(ask) and wanted <= queries and not (queries - wanted):
            return name if name != "PutObject" else _kind_of_put(ask, "CopyObject", name)
    if {"partNumber", "uploadId"} == queries and ask.method == "PUT":
        return _kind_of_put(ask, "UploadPartCopy", "UploadPart")
    if queries:
        what = ", ".join(f"?{name}" for name in sorted(queries))
        raise S3Error("NotImplemented", f"Fourfold does not implement {ask.method} {what} of S3.", 501)
    raise S3Error("MethodNotAllowed", "The specified method is not allowed against this resource.", 405)


def _kind_of_put(ask: Ask, copy: str, plain: str) -> str:
    return copy if "x-amz-copy-source" in ask.headers else plain


def _level(ask: Ask) -> str:
    return "key" if ask.key else "bucket" if ask.bucket else "service"


_KNOWN_QUERIES = frozenset(
    (
        "acl", "accelerate", "analytics", "attributes", "cors", "delete", "encryption", "intelligent-tiering",
        "inventory", "legal-hold", "lifecycle", "list-type", "location", "logging", "metrics", "notification",
        "object-lock", "ownershipControls", "partNumber", "policy", "policyStatus", "publicAccessBlock", "replication",
        "requestPayment", "restore", "retention", "select", "tagging", "torrent", "uploadId", "uploads", "versioning",
        "versions", "website",
    )
)  # fmt: skip
"""Queries that choose an operation."""

_ROUTES: tuple[tuple[str, str, frozenset[str], str], ...] = tuple(
    (method, level, frozenset(queries.split()), name)
    for method, level, queries, name in (
        ("GET", "service", "", "ListBuckets"),
        ("PUT", "bucket", "", "CreateBucket"),
        ("HEAD", "bucket", "", "HeadBucket"),
        ("DELETE", "bucket", "", "DeleteBucket"),
        ("GET", "bucket", "location", "GetBucketLocation"),
        ("GET", "bucket", "versioning", "GetBucketVersioning"),
        ("GET", "bucket", "uploads", "ListMultipartUploads"),
        ("GET", "bucket", "list-type", "ListObjectsV2"),
        ("GET", "bucket", "", "ListObjects"),
        ("POST", "bucket", "delete", "DeleteObjects"),
        ("GET", "key", "", "GetObject"),
        ("HEAD", "key", "", "HeadObject"),
        ("PUT", "key", "", "PutObject"),
        ("DELETE", "key", "", "DeleteObject"),
        ("POST", "key", "uploads", "CreateMultipartUpload"),
        ("POST", "key", "uploadId", "CompleteMultipartUpload"),
        ("DELETE", "key", "uploadId", "AbortMultipartUpload"),
        ("GET", "key", "uploadId", "ListParts"),
    )
)


# Buckets


@_operation("ListBuckets")
async def _list_buckets(s3: S3, ask: Ask) -> Response:
    names = await asyncio.to_thread(s3.buckets.names)
    listed = [("Bucket", [("Name", name), ("CreationDate", xml.moment(at))]) for name, at in names]
    owner = [("ID", "fourfold"), ("DisplayName", "fourfold")]
    return _document("ListAllMyBucketsResult", ("Owner", owner), ("Buckets", listed))


@_operation("CreateBucket")
async def _create_bucket(s3: S3, ask: Ask) -> Response:
    await receive_whole(ask.receive, LARGEST_DOCUMENT)  # it may name a region; there is one
    if not await asyncio.to_thread(s3.buckets.create, ask.bucket) and s3.region != "us-east-1":
        raise S3Error(  # in us-east-1 AWS answers 200
            "BucketAlreadyOwnedByYou",
            "Your previous request to create the named bucket succeeded and you already own it.",
            409,
            ask.bucket,
        )
    return Response(headers={"location": f"/{ask.bucket}"})


@_operation("HeadBucket")
async def _head_bucket(s3: S3, ask: Ask) -> Response:
    await asyncio.to_thread(s3.buckets.check, ask.bucket)
    return Response(headers={"x-amz-bucket-region": s3.region})


@_operation("DeleteBucket")
async def _delete_bucket(s3: S3, ask: Ask) -> Response:
    await asyncio.to_thread(s3.buckets.remove, ask.bucket)
    return Response(status_code=204)


@_operation("GetBucketLocation")
async def _get_bucket_location(s3: S3, ask: Ask) -> Response:
    await asyncio.to_thread(s3.buckets.check, ask.bucket)
    place = "" if s3.region == "us-east-1" else s3.region
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<LocationConstraint xmlns="{xml.NAMESPACE}">{place}'
    return Response(f"{text}</LocationConstraint>", media_type="application/xml")


@_operation("GetBucketVersioning")
async def _get_bucket_versioning(s3: S3, ask: Ask) -> Response:
    await asyncio.to_thread(s3.buckets.check, ask.bucket)
    return _document("VersioningConfiguration")


# Lists


@_operation("ListObjectsV2")
async def _list_objects_v2(s3: S3, ask: Ask) -> Response:
    token, start = ask.query.get("continuation-token"), ask.query.get("start-after")
    page, most = await _page(s3, ask, _after(token) if token is not None else start or "")
    encoding = ask.query.get("encoding-type")
    return _document(
        "ListBucketResult",
        ("KeyCount", len(page.entries) + len(page.prefixes)),
        ("ContinuationToken", token),
        ("NextContinuationToken", _token(page.last) if page.last else None),
        ("StartAfter", None if start is None else xml.shown(start, encoding)),
        *_listed(ask, page, most),
    )


@_operation("ListObjects")
async def _list_objects(s3: S3, ask: Ask) -> Response:
    marker = ask.query.get("marker", "")
    page, most = await _page(s3, ask, marker)
    encoding = ask.query.get("encoding-type")
    return _document(
        "ListBucketResult",
        ("Marker", xml.shown(marker, encoding)),
        ("NextMarker", xml.shown(page.last, encoding) if page.last else None),
        *_listed(ask, page, most),
    )


async def _page(s3: S3, ask: Ask, after: str) -> tuple[Keys, int]:
    most = ask.number("max-keys", PAGE, PAGE)
    prefix, delimiter = ask.query.get("prefix", ""), ask.query.get("delimiter", "")
    page = await asyncio.to_thread(s3.buckets.page, ask.bucket, prefix, delimiter, after, most)
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


# Objects


@_operation("GetObject")
async def _get_object(s3: S3, ask: Ask) -> Response:
    return await _object(s3, ask, with_body=True)


@_operation("HeadObject")
async def _head_object(s3: S3, ask: Ask) -> Response:
    return await _object(s3, ask, with_body=False)


async def _object(s3: S3, ask: Ask, *, with_body: bool) -> Response:
    path, about = await asyncio.to_thread(s3.buckets.head, ask.bucket, ask.key)
    headers = {
        "etag": f'"{about.etag}"',
        "last-modified": xml.http_date(about.modified_ns / 1e9),
        "accept-ranges": "bytes",
        "content-type": about.content_type,
        **about.headers,
        **{f"x-amz-meta-{name}": value for name, value in about.metadata.items()},
    }
    for name in ("content-type", "content-language", "expires", *_KEPT_HEADERS[:3]):
        if f"response-{name}" in ask.query:
            headers[name] = ask.query[f"response-{name}"]
    status = _condition(ask, about)
    if status != 200:
        return Response(status_code=status, headers=headers if status == 304 else {})
    span = _span(ask.headers.get("range"), about.size)
    first, last = span or (0, about.size - 1)
    if span is not None:
        headers["content-range"] = f"bytes {first}-{last}/{about.size}"
    headers["content-length"] = str(last - first + 1)
    if not with_body:
        return Response(status_code=206 if span else 200, headers=_latin(headers))
    return StreamingResponse(_read(path, first, last - first + 1), 206 if span else 200, _latin(headers))


def _condition(ask: Ask, about: About) -> int:
    """200, 304 or 412, by the request's If-… headers. HTTP dates have whole seconds."""
    match, none = ask.headers.get("if-match"), ask.headers.get("if-none-match")
    modified = about.modified_ns // 10**9
    since, unless = _when(ask.headers.get("if-modified-since")), _when(ask.headers.get("if-unmodified-since"))
    if match is not None and match.strip('"') not in ("*", about.etag):
        return 412
    if match is None and unless is not None and modified > unless:
        return 412
    if none is not None and none.strip('"') in ("*", about.etag):
        return 304
    if none is None and since is not None and modified <= since:
        return 304
    return 200


def _when(text: str | None) -> float | None:
    try:
        return None if text is None else parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None


def _span(text: str | None, size: int) -> tuple[int, int] | None:
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


async def _read(path: Path, start: int, length: int) -> AsyncIterator[bytes]:
    file = await asyncio.to_thread(path.open, "rb")
    try:
        await asyncio.to_thread(file.seek, start)
        while length > 0:
            data = await asyncio.to_thread(file.read, min(CHUNK, length))
            if not data:
                raise OSError("the object became shorter while it was read")
            length -= len(data)
            yield data
    finally:
        file.close()


@_operation("PutObject")
async def _put_object(s3: S3, ask: Ask) -> Response:
    _check_size(ask)
    if ask.headers.get("if-none-match") == "*":
        await _must_be_new(s3, ask)
    if ask.key.endswith("/") and ask.headers.get("content-length") == "0":
        await asyncio.to_thread(s3.buckets.check, ask.bucket)
        return Response()  # what consoles put to show a folder; here folders show themselves
    incoming = await asyncio.to_thread(s3.buckets.incoming, ask.bucket, ask.key)
    await receive_into(incoming, ask.receive, ask.headers, ask.claim)
    about = await asyncio.to_thread(s3.buckets.put, ask.bucket, ask.key, incoming, _about(ask))
    return Response(headers={"etag": f'"{about.etag}"'})


async def _must_be_new(s3: S3, ask: Ask) -> None:
    try:
        await asyncio.to_thread(s3.buckets.head, ask.bucket, ask.key)
    except S3Error:
        return
    raise S3Error("PreconditionFailed", "At least one of the pre-conditions you specified did not hold", 412)


def _check_size(ask: Ask) -> None:
    length = ask.headers.get("x-amz-decoded-content-length") or ask.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > LARGEST_OBJECT:
        raise S3Error("EntityTooLarge", "Your proposed upload exceeds the maximum allowed size of 5 GiB: use parts.")


def _about(ask: Ask) -> About:
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


@_operation("CopyObject")
async def _copy_object(s3: S3, ask: Ask) -> Response:
    source = _source(ask)
    replace = ask.headers.get("x-amz-metadata-directive", "COPY").upper() == "REPLACE"
    if source == Location(ask.bucket, ask.key) and not replace:
        raise S3Error(
            "InvalidRequest",
            "This copy request is illegal because it is trying to copy an object to itself without changing the "
            "object's metadata, storage class, website redirect location or encryption attributes.",
        )
    about = _about(ask) if replace else None
    done = await asyncio.to_thread(s3.buckets.copy, source, ask.bucket, ask.key, about)
    return _copied("CopyObjectResult", done.etag, done.modified_ns / 1e9)


def _source(ask: Ask) -> Location:
    """The object that `x-amz-copy-source` names: bucket/key, percent-encoded."""
    text = unquote(ask.headers["x-amz-copy-source"].partition("?versionId=")[0], errors="surrogateescape")
    bucket, _, key = text.removeprefix("/").partition("/")
    if not bucket or not key:
        raise S3Error("InvalidArgument", "Copy Source must mention the source bucket and key: sourcebucket/sourcekey")
    return Location(bucket, key)


def _copied(tag: str, etag: str, modified_at: float) -> Response:
    return _document(tag, ("ETag", f'"{etag}"'), ("LastModified", xml.moment(modified_at)))


@_operation("DeleteObject")
async def _delete_object(s3: S3, ask: Ask) -> Response:
    await asyncio.to_thread(s3.buckets.delete, ask.bucket, ask.key)
    return Response(status_code=204)


@_operation("DeleteObjects")
async def _delete_objects(s3: S3, ask: Ask) -> Response:
    keys, quiet = xml.keys_to_delete(await receive_whole(ask.receive, LARGEST_DOCUMENT))
    outcome = await asyncio.to_thread(_delete_all, s3.buckets, ask.bucket, keys)
    return _document("DeleteResult", *(one for one in outcome if one[0] == "Error" or not quiet))


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


# Uploads in parts


@_operation("CreateMultipartUpload")
async def _create_multipart_upload(s3: S3, ask: Ask) -> Response:
    upload = await asyncio.to_thread(s3.buckets.begin, ask.bucket, ask.key, _about(ask), time.time())
    return _document("InitiateMultipartUploadResult", ("Bucket", ask.bucket), ("Key", ask.key), ("UploadId", upload.id))


@_operation("UploadPart")
async def _upload_part(s3: S3, ask: Ask) -> Response:
    _check_size(ask)
    number = _part_number(ask)
    await asyncio.to_thread(s3.buckets.parts, ask.bucket, ask.query["uploadId"])
    incoming = await asyncio.to_thread(s3.buckets.incoming, ask.bucket)
    await receive_into(incoming, ask.receive, ask.headers, ask.claim)
    etag = await asyncio.to_thread(s3.buckets.add_part, ask.bucket, ask.query["uploadId"], number, incoming)
    return Response(headers={"etag": f'"{etag}"'})


@_operation("UploadPartCopy")
async def _upload_part_copy(s3: S3, ask: Ask) -> Response:
    number, source = _part_number(ask), _source(ask)
    span = _SPAN.fullmatch(ask.headers.get("x-amz-copy-source-range", ""))
    if "x-amz-copy-source-range" in ask.headers and (span is None or not (span[1] and span[2])):
        raise S3Error("InvalidArgument", "The x-amz-copy-source-range value must be of the form bytes=first-last.")
    both = (int(span[1]), int(span[2])) if span is not None else None
    copy = partial(s3.buckets.copy_part, ask.bucket, ask.query["uploadId"], number, source, both)
    return _copied("CopyPartResult", await asyncio.to_thread(copy), time.time())


def _part_number(ask: Ask) -> int:
    number = ask.number("partNumber", 0, 10_001)
    if not 1 <= number <= 10_000:
        raise S3Error("InvalidArgument", "Part number must be an integer between 1 and 10000, inclusive")
    return number


@_operation("ListParts")
async def _list_parts(s3: S3, ask: Ask) -> Response:
    upload, after = ask.query["uploadId"], ask.number("part-number-marker", 0, 10_000)
    most = ask.number("max-parts", PAGE, PAGE)
    found = [one for one in await asyncio.to_thread(s3.buckets.parts, ask.bucket, upload) if one.number > after]
    parts = [
        ("Part", [
            ("PartNumber", one.number), ("LastModified", xml.moment(one.modified_at)), ("ETag", f'"{one.etag}"'),
            ("Size", one.size),
        ])
        for one in found[:most]
    ]  # fmt: skip
    more = len(found) > most
    return _document(
        "ListPartsResult", ("Bucket", ask.bucket), ("Key", ask.key), ("UploadId", upload),
        ("PartNumberMarker", after), ("NextPartNumberMarker", found[most - 1].number if more and most else None),
        ("MaxParts", most), ("IsTruncated", more), *parts,
    )  # fmt: skip


@_operation("ListMultipartUploads")
async def _list_multipart_uploads(s3: S3, ask: Ask) -> Response:
    prefix = ask.query.get("prefix", "")
    found = [one for one in await asyncio.to_thread(s3.buckets.uploads, ask.bucket) if one.key.startswith(prefix)]
    uploads = [
        ("Upload", [("Key", one.key), ("UploadId", one.id), ("Initiated", xml.moment(one.began_at))])
        for one in found[:PAGE]
    ]  # fmt: skip
    return _document(
        "ListMultipartUploadsResult", ("Bucket", ask.bucket), ("MaxUploads", PAGE),
        ("IsTruncated", len(found) > PAGE), *uploads,
    )  # fmt: skip


@_operation("CompleteMultipartUpload")
async def _complete_multipart_upload(s3: S3, ask: Ask) -> Response:
    parts = xml.parts_to_complete(await receive_whole(ask.receive, LARGEST_DOCUMENT))
    done = await asyncio.to_thread(s3.buckets.complete, ask.bucket, ask.key, ask.query["uploadId"], parts)
    return _document(
        "CompleteMultipartUploadResult", ("Location", f"/{ask.bucket}/{ask.key}"), ("Bucket", ask.bucket),
        ("Key", ask.key), ("ETag", f'"{done.etag}"'),
    )  # fmt: skip


@_operation("AbortMultipartUpload")
async def _abort_multipart_upload(s3: S3, ask: Ask) -> Response:
    await asyncio.to_thread(s3.buckets.abort, ask.bucket, ask.query["uploadId"])
    return Response(status_code=204)


# Answers


def _document(tag: str, *children: xml.Element) -> Response:
    return Response(xml.document(tag, *children), media_type="application/xml")


def _failed(error: FourfoldError, scope: Scope, id: str) -> Response:
    resource = getattr(error, "resource", "") or scope["path"]
    body = b"" if scope["method"] == "HEAD" else xml.error(error.code, error.message, resource, id)
    return Response(body, error.status, media_type="application/xml")


def _latin(headers: dict[str, Any]) -> dict[str, str]:
    """Header values in HTTP's character set; metadata that came in another goes out as it came."""
    return {name: str(value).encode("latin-1", "replace").decode("latin-1") for name, value in headers.items()}
