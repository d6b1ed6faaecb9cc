"""Who sends a request: SigV4, header and presigned form, or a bearer token.

Written for the fast lane: a bearer token is one dictionary look-up; a SigV4 check is a few string joins and three
one-shot hashes, with the signing key of the day kept. S3 requests are checked by the S3 door, which streams.

Algorithm: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from calendar import timegm
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote_from_bytes, unquote_to_bytes, urlsplit

from fourfold.api.keys import Key, Keys
from fourfold.clock import Clock
from fourfold.errors import AuthenticationError

ALGORITHM = b"AWS4-HMAC-SHA256"
SAGEMAKER_TOKEN = b"Bearer sagemaker-api-key-"
"""What the sagemaker SDK's token generator makes: base64 of a presigned URL."""
LONGEST_PRESIGN = 7 * 24 * 3600
"""Seconds that a presigned URL may be valid, as in AWS."""

_QUERY_SERVICES = ("sts", "iam", "sns", "s3")
_SAFE = b"-_.~"
_PATH_SAFE = "/-_.~"
_MOST_SIGNING_KEYS = 1024

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Identity:
    """Whose key a request carries, and for which service and region it was signed (empty for a bearer token)."""

    access_key_id: str
    service: str = ""
    region: str = ""


class Verifier:
    """Checks the credentials of requests.

    Args:
        keys: the keys that may come in.
        clock: what time it is.
        clock_skew: seconds that a signature's time may be off.
    """

    def __init__(self, keys: Keys, clock: Clock, clock_skew: float = 300.0) -> None:
        self._keys = keys
        self._clock = clock
        self._skew = clock_skew
        self._signing_keys: dict[tuple[str, bytes], bytes] = {}
        self._looked_again = float("-inf")

    def admit(self, method: bytes, url: bytes, headers: Headers, body: bytes) -> None:
        """`verify` for the fast lane, which needs no identity."""
        for name, value in headers:
            if name == b"authorization":
                if self._keys.by_authorization(value) is not None:
                    return
                break
        self.verify(method, url, headers, body)

    def verify(self, method: bytes, url: bytes, headers: Headers, body: bytes) -> Identity:
        """The identity behind a request.

        Args:
            method: e.g. b"POST".
            url: path and query as they came.
            headers: all of them, names in lower case.
            body: the whole body.

        Raises:
            AuthenticationError: with AWS's code for the service that it was signed for.
        """
        for name, value in headers:
            if name == b"authorization":
                if value.startswith(b"Bearer "):
                    return self._bearer(value)
                if value.startswith(ALGORITHM):
                    return self._signed_header(method, url, headers, value, body)
                raise AuthenticationError(
                    "IncompleteSignatureException",
                    "Authorization must be AWS4-HMAC-SHA256 (AWS clients) or Bearer with an API key.",
                )
        if b"X-Amz-Signature=" in url:
            return self._presigned(method, url, headers, body)
        raise AuthenticationError(
            "MissingAuthenticationTokenException",
            'Request is missing Authentication Token. Set the credentials that `eval "$(fourfold env)"` gives, or send '
            "Authorization: Bearer with an API key.",
        )

    def _bearer(self, value: bytes) -> Identity:
        if value.startswith(SAGEMAKER_TOKEN):
            return self._sagemaker_token(value)
        key = self._keys.by_authorization(value)
        if key is None and self._look_again():
            key = self._keys.by_authorization(value)
        if key is None:
            raise AuthenticationError(
                "UnrecognizedClientException", "The API key in the request is invalid: see `fourfold keys list`."
            )
        return Identity(key.access_key_id)

    def _sagemaker_token(self, value: bytes) -> Identity:
        """A presigned URL as a bearer token, as SageMaker's OpenAI-compatible route takes it."""
        try:
            url = base64.b64decode(value[len(SAGEMAKER_TOKEN) :] + b"==").decode()
            parts = urlsplit(url)
        except (binascii.Error, UnicodeDecodeError, ValueError):
            raise AuthenticationError(
                "UnrecognizedClientException", "The SageMaker API key is not a presigned URL in base64."
            ) from None
        path = (parts.path or "/").encode() + b"?" + parts.query.encode()
        return self._presigned(b"GET", path, [(b"host", parts.netloc.encode())], b"")

    def _signed_header(self, method: bytes, url: bytes, headers: Headers, value: bytes, body: bytes) -> Identity:
        fields = _fields(value)
        try:
            credential, signed, signature = fields[b"Credential"], fields[b"SignedHeaders"], fields[b"Signature"]
        except KeyError as missing:
            name = missing.args[0].decode()
            raise AuthenticationError(
                "IncompleteSignatureException", f"Authorization header requires '{name}' parameter."
            ) from None
        key, scope, identity = self._scope(credential)
        wanted = signed.split(b";")
        values = _header_values(headers, wanted)
        stamp = values.get(b"x-amz-date") or _find(headers, b"x-amz-date")
        if stamp is None:
            raise AuthenticationError(
                "IncompleteSignatureException", "Authorization header requires existence of an 'X-Amz-Date' header."
            )
        if b"host" not in values:
            raise _mismatch(identity, "The host header must be signed.")
        self._check_time(stamp, scope, identity)
        path, _, query = url.partition(b"?")
        canonical = b"\n".join(
            (
                method,
                _canonical_path(path),
                _canonical_query(query) if query else b"",
                *[name + b":" + values[name] if name in values else name + b":" for name in wanted],
                b"",
                signed,
                hashlib.sha256(body).hexdigest().encode(),
            )
        )
        self._compare(key, stamp, scope, canonical, signature, identity)
        return identity

    def _presigned(self, method: bytes, url: bytes, headers: Headers, body: bytes) -> Identity:
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
        key, scope, identity = self._scope(credential)
        signed_at = _seconds(stamp, identity)
        if not 0 < expires <= LONGEST_PRESIGN:
            raise _mismatch(identity, "X-Amz-Expires must be between 1 second and 7 days.")
        now = self._clock.now()
        if now > signed_at + expires or now < signed_at - self._skew:
            raise _mismatch(identity, "The presigned request has expired, or is not valid yet.")
        wanted = signed.split(b";")
        values = _header_values(headers, wanted)
        kept = b"&".join(name + b"=" + value for name, value in pairs if name != b"X-Amz-Signature")
        digest = b"UNSIGNED-PAYLOAD" if identity.service == "s3" else hashlib.sha256(body).hexdigest().encode()
        canonical = b"\n".join(
            (
                method,
                _canonical_path(path),
                _canonical_query(kept),
                *[name + b":" + values.get(name, b"") for name in wanted],
                b"",
                signed,
                digest,
            )
        )
        self._compare(key, stamp, scope, canonical, signature, identity)
        return identity

    def _scope(self, credential: bytes) -> tuple[Key, bytes, Identity]:
        """`AKIA…/20260101/us-east-1/sagemaker/aws4_request`, taken apart."""
        parts = credential.split(b"/")
        if len(parts) != 5 or parts[4] != b"aws4_request":
            raise AuthenticationError(
                "IncompleteSignatureException",
                "Credential must be KEY/DATE/REGION/SERVICE/aws4_request.",
            )
        access_key_id = parts[0].decode("latin-1")
        identity = Identity(access_key_id, parts[3].decode("latin-1"), parts[2].decode("latin-1"))
        key = self._keys.by_id(access_key_id)
        if key is None and self._look_again():
            key = self._keys.by_id(access_key_id)
        if key is None:
            code = "InvalidClientTokenId" if identity.service in _QUERY_SERVICES else "UnrecognizedClientException"
            raise AuthenticationError(
                code, "The security token included in the request is invalid: see `fourfold keys list`."
            )
        return key, credential[len(parts[0]) + 1 :], identity

    def _check_time(self, stamp: bytes, scope: bytes, identity: Identity) -> None:
        now = self._clock.now()
        signed_at = _seconds(stamp, identity)
        if stamp[:8] != scope[:8]:
            raise _mismatch(identity, "Date in Credential scope does not match YYYYMMDD from X-Amz-Date.")
        if abs(now - signed_at) <= self._skew:
            return
        text, limit = stamp.decode("latin-1"), f"{self._skew / 60:g} min."
        if signed_at < now:
            earlier = _stamp(now - self._skew)
            raise _mismatch(
                identity, f"Signature expired: {text} is now earlier than {earlier} ({_stamp(now)} - {limit})"
            )
        later = _stamp(now + self._skew)
        raise _mismatch(
            identity, f"Signature not yet current: {text} is still later than {later} ({_stamp(now)} + {limit})"
        )

    def _compare(
        self, key: Key, stamp: bytes, scope: bytes, canonical: bytes, signature: bytes, identity: Identity
    ) -> None:
        to_sign = b"\n".join((ALGORITHM, stamp, scope, hashlib.sha256(canonical).hexdigest().encode()))
        expected = hmac.digest(self._signing_key(key, scope), to_sign, "sha256").hex().encode()
        if not hmac.compare_digest(expected, signature):
            raise _mismatch(
                identity,
                "The request signature we calculated does not match the signature you provided. Check your AWS Secret "
                "Access Key and signing method.",
            )

    def _signing_key(self, key: Key, scope: bytes) -> bytes:
        cached = self._signing_keys.get((key.secret_access_key, scope))
        if cached is None:
            cached = b"AWS4" + key.secret_access_key.encode()
            for part in scope.split(b"/"):
                cached = hmac.digest(cached, part, "sha256")
            if len(self._signing_keys) >= _MOST_SIGNING_KEYS:
                self._signing_keys.clear()
            self._signing_keys[(key.secret_access_key, scope)] = cached
        return cached

    def _look_again(self) -> bool:
        """A key that is not known may be new: read the file again, but not more than once in half a second."""
        now = self._clock.monotonic()
        if now - self._looked_again < 0.5:
            return False
        self._looked_again = now
        return self._keys.refresh()


def _fields(value: bytes) -> dict[bytes, bytes]:
    """`AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…`"""
    return {
        name.strip(): content.strip()
        for name, _, content in (field.partition(b"=") for field in value[len(ALGORITHM) :].split(b","))
    }


def _header_values(headers: Headers, wanted: list[bytes]) -> dict[bytes, bytes]:
    """Values of the signed headers, trimmed, runs of spaces made one, repeated headers joined."""
    values: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in wanted:
            if b"  " in value or value[:1] in b" \t" or value[-1:] in b" \t":
                value = b" ".join(value.split())
            values[name] = values[name] + b"," + value if name in values else value
    return values


def _find(headers: Headers, wanted: bytes) -> bytes | None:
    return next((value for name, value in headers if name == wanted), None)


def _canonical_path(path: bytes) -> bytes:
    """The path as it was sent, each part encoded once more, as every service but S3 wants it."""
    plain = path.replace(b"/", b"").replace(b"-", b"").isalnum() and b"//" not in path
    if plain or path == b"/":
        return path
    segments: list[bytes] = []
    for segment in path.split(b"/"):  # RFC 3986 dot segments and empty ones go, as botocore normalises them
        if segment == b"..":
            if segments:
                segments.pop()
        elif segment not in (b"", b"."):
            segments.append(segment)
    normal = b"/" + b"/".join(segments) + (b"/" if segments and path.endswith(b"/") else b"")
    return quote_from_bytes(normal, safe=_PATH_SAFE).encode()


def _canonical_query(query: bytes) -> bytes:
    pairs = []
    for pair in query.split(b"&"):
        if pair:
            name, _, value = pair.partition(b"=")
            pairs.append((_encode(name), _encode(value)))
    return b"&".join(name + b"=" + value for name, value in sorted(pairs))


def _encode(text: bytes) -> bytes:
    return quote_from_bytes(unquote_to_bytes(text), safe=_SAFE).encode()


def _seconds(stamp: bytes, identity: Identity) -> float:
    seconds = _parse_stamp(stamp)
    if seconds is None:
        raise _mismatch(identity, "Date must be in ISO-8601 'basic format', e.g. 20260101T120000Z.")
    return seconds


@lru_cache(maxsize=64)  # clients sign many requests in the same second
def _parse_stamp(stamp: bytes) -> float | None:
    try:
        return timegm(time.strptime(stamp.decode("latin-1"), "%Y%m%dT%H%M%SZ"))
    except ValueError:
        return None


def _stamp(seconds: float) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(seconds))


def _mismatch(identity: Identity, message: str) -> AuthenticationError:
    code = "SignatureDoesNotMatch" if identity.service in _QUERY_SERVICES else "InvalidSignatureException"
    return AuthenticationError(code, message)
