"""Which operation a request asks for, as AWS tells them apart: by method, by bucket and key in the path, by query."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.responses import Response

from fourfold.api.s3.ask import Ask
from fourfold.errors import S3Error

Handler = Callable[[Ask], Awaitable[Response]]
OPERATIONS: dict[str, Handler] = {}
"""What is here, by AWS's name."""


def operation(name: str) -> Callable[[Handler], Handler]:
    """Marks the implementation of an operation."""

    def mark(handler: Handler) -> Handler:
        OPERATIONS[name] = handler
        return handler

    return mark


def operation_of(ask: Ask) -> str:
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
