"""Signatures in the query of a URL."""

from __future__ import annotations

import base64
import hmac
from urllib.parse import unquote_to_bytes

from fourfold.api.canonical import Headers, canonical_path, canonical_query, joined, object_path
from fourfold.api.signatures.checks import WRONG_SIGNATURE, Checks, seconds_of, sha256
from fourfold.api.signatures.claims import UNSIGNED, Identity, mismatch, scope_of
from fourfold.errors import AuthenticationError

LONGEST_PRESIGN = 7 * 24 * 3600
"""Seconds that a presigned URL may be valid, as in AWS."""

_SUBRESOURCES = frozenset(
    (
        b"acl", b"cors", b"delete", b"lifecycle", b"location", b"logging", b"notification", b"partNumber", b"policy",
        b"requestPayment", b"response-cache-control", b"response-content-disposition", b"response-content-encoding",
        b"response-content-language", b"response-content-type", b"response-expires", b"restore", b"tagging", b"torrent",
        b"uploadId", b"uploads", b"versionId", b"versioning", b"versions", b"website",
    )
)  # fmt: skip
"""Parts of the query that version 2 signs."""


def presigned(checks: Checks, method: bytes, url: bytes, headers: Headers, body: bytes) -> Identity:
    """Who signed a URL with version 4. Raises AuthenticationError."""
    path, _, query = url.partition(b"?")
    pairs = [pair.partition(b"=")[::2] for pair in query.split(b"&")]
    fields = {name: unquote_to_bytes(value) for name, value in pairs}
    try:
        credential, signature = fields[b"X-Amz-Credential"], fields[b"X-Amz-Signature"]
        stamp, signed = fields[b"X-Amz-Date"], fields[b"X-Amz-SignedHeaders"]
        expires = int(fields.get(b"X-Amz-Expires", b"300"))
    except (KeyError, ValueError):
        raise AuthenticationError(
            "IncompleteSignatureException", "A presigned request needs X-Amz-Credential, -Date, -Expires, "
            "-SignedHeaders and -Signature in its query.",
        ) from None  # fmt: skip
    scope, identity = scope_of(credential)
    key = checks.key_of(identity)
    signed_at = seconds_of(stamp, identity)
    if not 0 < expires <= LONGEST_PRESIGN:
        raise mismatch(identity, "X-Amz-Expires must be between 1 second and 7 days.")
    now = checks.clock.now()
    if now > signed_at + expires or now < signed_at - checks.skew:
        if identity.service == "s3":
            raise AuthenticationError("AccessDenied", "Request has expired, or is not valid yet.")
        raise mismatch(identity, "The presigned request has expired, or is not valid yet.")
    wanted = signed.split(b";")
    values = joined(headers)
    kept = b"&".join(name + b"=" + value for name, value in pairs if name != b"X-Amz-Signature")
    digest = UNSIGNED if identity.service == "s3" else sha256(body)
    canonical = b"\n".join(
        (
            method,
            object_path(path) if identity.service == "s3" else canonical_path(path),
            canonical_query(kept),
            *[name + b":" + values.get(name, b"") for name in wanted],
            b"",
            signed,
            digest,
        )
    )
    checks.compare(key, stamp, scope, canonical, signature, identity)
    return identity


def presigned_v2(checks: Checks, method: bytes, url: bytes, values: dict[bytes, bytes]) -> Identity:
    """Signature version 2 in the query: what boto3 still makes of generate_presigned_url unless told otherwise.

    Raises:
        AuthenticationError: with S3's code; there is no other service for it.
    """
    path, _, query = url.partition(b"?")
    pairs = [(name, unquote_to_bytes(value)) for name, _, value in (p.partition(b"=") for p in query.split(b"&"))]
    fields = dict(pairs)
    identity = Identity(fields[b"AWSAccessKeyId"].decode("latin-1"), "s3")
    key = checks.key_of(identity)
    expires = fields.get(b"Expires", b"")
    if not expires.isdigit() or checks.clock.now() > int(expires):
        raise AuthenticationError("AccessDenied", "Request has expired")
    resource = sorted((name, value) for name, value in pairs if name in _SUBRESOURCES)
    canonical = path + (b"?" if resource else b"") + b"&".join(
        name + (b"=" + value if value else b"") for name, value in resource
    )  # fmt: skip
    amz = b"".join(name + b":" + value + b"\n" for name, value in sorted(values.items()) if name.startswith(b"x-amz-"))
    md5, content_type = values.get(b"content-md5", b""), values.get(b"content-type", b"")
    text = b"\n".join((method, md5, content_type, expires, amz + canonical))
    expected = base64.b64encode(hmac.digest(key.secret_access_key.encode(), text, "sha1"))
    if not hmac.compare_digest(expected, fields.get(b"Signature", b"")):
        raise mismatch(identity, WRONG_SIGNATURE)
    return identity
