"""The S3 door: nanio over the data folder's buckets, with our keys.

Buckets are folders, objects are plain files, also those copied in by hand. nanio checks SigV4 itself, header and
presigned form, chunk by chunk where a body is signed so; a bearer token is checked here. What nanio leaves open is
closed by the wrappers below.
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from nanio.app import build_app
from nanio.config import Settings
from nanio.errors import S3Error
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fourfold.api.keys import Keys

OPERATIONS = (
    "AbortMultipartUpload", "CompleteMultipartUpload", "CopyObject", "CreateBucket", "CreateMultipartUpload",
    "DeleteBucket", "DeleteObject", "DeleteObjects", "GetBucketLocation", "GetObject", "HeadBucket", "HeadObject",
    "ListBuckets", "ListMultipartUploads", "ListObjects", "ListObjectsV2", "ListParts", "PutObject", "UploadPart",
)  # fmt: skip
"""What nanio answers and our tests try; its members are nanio's own affair."""

_UNHASHED = (b"UNSIGNED-PAYLOAD", b"STREAMING-")


class KeyResolver:
    """Our keys in the form that nanio asks for."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def resolve(self, access_key: str) -> str | None:
        key = self._keys.by_id(access_key)
        return None if key is None else key.secret_access_key

    def access_keys(self) -> list[str]:
        return [key.access_key_id for key in self._keys.list()]


class BodyChanged(S3Error):  # type: ignore[misc]  # nanio has no types
    """The body is not the one that was signed."""

    code = "XAmzContentSHA256Mismatch"
    message = "The provided 'x-amz-content-sha256' header does not match what was computed."
    http_status = 400


def s3_app(buckets: Path, keys: Keys, region: str) -> ASGIApp:
    """The S3 API over a folder of buckets.

    Args:
        buckets: the folder; made where it is missing.
        keys: who may come in.
        region: what GetBucketLocation answers.
    """
    buckets.mkdir(parents=True, exist_ok=True)
    signed = build_app(Settings(data_dir=buckets, region=region, credentials=KeyResolver(keys)))
    trusted = build_app(Settings(data_dir=buckets, region=region, credentials=KeyResolver(keys), auth_disabled=True))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        authorization = headers.get(b"authorization", b"")
        scope = {**scope, "app": None}
        if authorization.startswith(b"Bearer "):
            if keys.by_authorization(authorization) is None:
                await _refused()(scope, receive, send)
                return
            await trusted(scope, receive, send)
            return
        digest = headers.get(b"x-amz-content-sha256", b"")
        if digest and not digest.startswith(_UNHASHED):
            receive = _checked(receive, digest)
        await signed(scope, receive, send)

    return app


def _checked(receive: Receive, digest: bytes) -> Receive:
    """Hash the body as it streams; the last piece is withheld, by an error, where the hash is another."""
    seen = hashlib.sha256()

    async def checked() -> Message:
        message = await receive()
        if message["type"] == "http.request":
            seen.update(message.get("body", b""))
            if not message.get("more_body") and not hmac.compare_digest(seen.hexdigest().encode(), digest):
                raise BodyChanged
        return message

    return checked


def _refused() -> Response:
    body = (
        "<Error><Code>InvalidAccessKeyId</Code><Message>The API key you provided does not exist in our records."
        "</Message></Error>"
    )
    return Response(body, 403, media_type="application/xml")
