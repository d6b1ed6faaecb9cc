"""Who sends a request: SigV4, header and presigned form, or a bearer token.

Written for the fast lane: a bearer token is one dictionary look-up; a SigV4 check is a few string joins and three
one-shot hashes, with the signing key of the day kept, and for a head like the one before with the text that was signed
then. Of a request to S3 the head is checked here; its body comes as a
stream and is checked by the S3 door.

Algorithm: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from calendar import timegm
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from fourfold.api.canonical import Headers, canonical_head, canonical_path, canonical_query, joined, object_path
from fourfold.api.keys import BEARER, Key, Keys
from fourfold.clock import Clock
from fourfold.errors import AuthenticationError

ALGORITHM = b"AWS4-HMAC-SHA256"
SAGEMAKER_TOKEN = b"Bearer sagemaker-api-key-"
"""What the sagemaker SDK's token generator makes: base64 of a presigned URL, without its scheme."""
TOKEN_ACTION = b"CallWithBearerToken"
"""The only action for which a presigned URL is also a token: a link to an object opens just that object."""
LONGEST_TOKEN = 12 * 3600
"""Seconds that such a token may be valid, as in SageMaker."""
LONGEST_PRESIGN = 7 * 24 * 3600
"""Seconds that a presigned URL may be valid, as in AWS."""

HOLE = b"\0"
"""What no header has."""
UNSIGNED = b"UNSIGNED-PAYLOAD"
OBJECT_SKEW = 900.0
"""Seconds that a signature for S3 may be off, as in AWS."""

_QUERY_SERVICES = ("sts", "iam", "sns", "s3")
_UNKNOWN_KEY = {**dict.fromkeys(_QUERY_SERVICES, "InvalidClientTokenId"), "s3": "InvalidAccessKeyId"}
_WRONG_SIGNATURE = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key "
    "and signing method."
)
_SUBRESOURCES = frozenset(
    (
        b"acl", b"cors", b"delete", b"lifecycle", b"location", b"logging", b"notification", b"partNumber", b"policy",
        b"requestPayment", b"response-cache-control", b"response-content-disposition", b"response-content-encoding",
        b"response-content-language", b"response-content-type", b"response-expires", b"restore", b"tagging", b"torrent",
        b"uploadId", b"uploads", b"versionId", b"versioning", b"versions", b"website",
    )
)  # fmt: skip
"""Parts of the query that version 2 signs."""
_MOST_SIGNING_KEYS = 1024
_MOST_CLAIMS = 1024


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose key a request carries, and for which service and region it was signed (empty for a bearer token)."""

    access_key_id: str
    service: str = ""
    region: str = ""


class Claim(NamedTuple):
    """What an Authorization header says beside its signature."""

    identity: Identity
    scope: bytes
    signed: bytes
    wanted: tuple[bytes, ...]


class ObjectClaim(NamedTuple):
    """Who sends a request to S3, and what is needed to check its body as it comes.

    Attributes:
        identity: whose key it is.
        digest: x-amz-content-sha256: the body's hash, or how it is sent (UNSIGNED-PAYLOAD, STREAMING-…).
        signature, stamp, scope: of the head; the first chunk's signature is made with them.
        sign: the signature of a text under the day's key. None where the request is not signed.
    """

    identity: Identity
    digest: bytes = UNSIGNED
    signature: bytes = b""
    stamp: bytes = b""
    scope: bytes = b""
    sign: Callable[[bytes], str] | None = None


class Hmac:
    """HMAC-SHA256 under one key (RFC 2104) with both pads hashed beforehand: half the time of `hmac.digest`."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        block = key.ljust(64, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def hexdigest(self, message: bytes) -> str:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.hexdigest()


class KnownToken:
    """The check of requests that carry one bearer token."""

    __slots__ = ("_authorization", "_keys")

    def __init__(self, keys: Keys, authorization: bytes) -> None:
        self._keys = keys
        self._authorization = authorization

    def admit(self, data: bytes, body: bytes) -> None:
        if self._keys.by_authorization(self._authorization) is None:
            raise _unknown_token()


class Seal:
    """The check of signed requests whose heads differ in a few places only: time, signature, length, invocation id.

    Args:
        text: the canonical request up to the body's hash, with `HOLE` where one of these stands.
        holes: where they stand in the bytes of a request, by the header's name; of `authorization` the signature.
    """

    __slots__ = ("_begin", "_claim", "_rest", "_signature", "_stamp", "_verifier")

    def __init__(self, verifier: Verifier, claim: Claim, text: bytes, holes: Mapping[bytes, slice]) -> None:
        self._verifier = verifier
        self._claim = claim
        self._signature = holes[b"authorization"]
        self._stamp = holes[b"x-amz-date"]
        self._begin, *pieces = text.split(HOLE)
        self._rest = list(zip([holes[name] for name in claim.wanted if name in holes], pieces, strict=True))

    def admit(self, data: bytes, body: bytes) -> None:
        verifier, claim, stamp = self._verifier, self._claim, data[self._stamp]
        key = verifier.key_of(claim.identity)
        verifier.check_time(stamp, claim.scope, claim.identity)
        text = self._begin
        for hole, piece in self._rest:
            text += data[hole] + piece
        verifier.compare(key, stamp, claim.scope, text + sha256(body), data[self._signature], claim.identity)


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
        self._claims: dict[bytes, Claim] = {}
        self._hmacs: dict[tuple[str, bytes], Hmac] = {}

    def admit(self, authorization: bytes, method: bytes, url: bytes, headers: Headers, body: bytes) -> None:
        """`verify` for the fast lane, which has found the Authorization header already and needs no identity."""
        if authorization.startswith(b"Bearer ff_") and self._keys.by_authorization(authorization) is not None:
            return
        self.verify(method, url, headers, body)

    def known(
        self, method: bytes, url: bytes, headers: Headers, holes: Mapping[bytes, slice]
    ) -> KnownToken | Seal | None:
        """The check of further requests with the head of one that came in, but for the header values in `holes`.

        Each is checked as the first was: a key may go, a time pass, and a body be another. None where that takes
        reading the head again.
        """
        values = dict(headers)
        authorization = values.get(b"authorization", b"")
        if authorization.startswith(BEARER + b"ff_"):
            return KnownToken(self._keys, authorization)
        if not {b"authorization", b"x-amz-date"} <= holes.keys():
            return None
        try:
            _, _, claim = self._claim(authorization)
        except AuthenticationError:
            return None
        if b"authorization" in claim.wanted:
            return None
        values |= dict.fromkeys(holes, HOLE)
        return Seal(self, claim, canonical_head(method, url, values, claim.signed, claim.wanted), holes)

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
                if _is_bearer(value):
                    return self._bearer(BEARER + value[len(BEARER) :].strip())
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
        if key is None:
            raise _unknown_token()
        return Identity(key.access_key_id)

    def _sagemaker_token(self, value: bytes) -> Identity:
        """A presigned URL as a bearer token, as SageMaker's OpenAI-compatible route takes it."""
        try:
            url = base64.b64decode(value[len(SAGEMAKER_TOKEN) :] + b"==")
        except binascii.Error:
            url = b""
        host, slash, rest = url.removeprefix(b"https://").partition(b"/")
        path, _, query = rest.partition(b"?")
        pairs = query.split(b"&")
        signed = b"&".join(pair for pair in pairs if pair != b"Version=1")  # added after the signature was made
        expires = next((pair.partition(b"=")[2] for pair in pairs if pair.startswith(b"X-Amz-Expires=")), b"")
        if not slash or b"Action=" + TOKEN_ACTION not in pairs or not expires.isdigit():
            raise AuthenticationError(
                "UnrecognizedClientException",
                "The SageMaker API key is not base64 of a URL that was presigned for CallWithBearerToken.",
            )
        if int(expires) > LONGEST_TOKEN:
            raise AuthenticationError(
                "UnrecognizedClientException", "A SageMaker API key is valid for 12 hours at most."
            )
        identity = self._presigned(b"POST", slash + path + b"?" + signed, [(b"host", host)], b"")
        if identity.service != "sagemaker":
            raise _mismatch(identity, "A SageMaker API key must be signed for the service sagemaker.")
        return identity

    def verify_object(self, method: bytes, url: bytes, headers: Headers) -> ObjectClaim:
        """`verify` for S3, whose path is encoded once, and whose body has not come yet.

        Raises:
            AuthenticationError: with S3's code.
        """
        values = joined(headers)
        authorization = values.get(b"authorization", b"")
        digest = values.get(b"x-amz-content-sha256", UNSIGNED)
        if _is_bearer(authorization):
            if self._keys.by_authorization(BEARER + authorization[len(BEARER) :].strip()) is None:
                raise AuthenticationError("InvalidAccessKeyId", "The API key you provided does not exist.")
            return ObjectClaim(Identity(""), UNSIGNED)
        if authorization.startswith(ALGORITHM):
            return self._signed_object(method, url, values, authorization, digest)
        if b"X-Amz-Signature=" in url:
            return ObjectClaim(self._presigned(method, url, headers, b""), digest)
        if b"AWSAccessKeyId=" in url:
            return ObjectClaim(self._presigned_by_query(method, url, values), digest)
        raise AuthenticationError("AccessDenied", "Access Denied: the request has no credentials.")

    def _signed_object(
        self, method: bytes, url: bytes, values: dict[bytes, bytes], authorization: bytes, digest: bytes
    ) -> ObjectClaim:
        _, signature, claim = self._claim(authorization)
        key = self.key_of(claim.identity)
        stamp = values.get(b"x-amz-date", b"")
        self.check_time(stamp, claim.scope, claim.identity)
        path, _, query = url.partition(b"?")
        lines = [method, object_path(path), canonical_query(query)]
        lines += [name + b":" + values.get(name, b"") for name in claim.wanted]
        lines += (b"", claim.signed, digest)
        self.compare(key, stamp, claim.scope, b"\n".join(lines), signature.strip(), claim.identity)
        sign = self._hmac(key, claim.scope).hexdigest
        return ObjectClaim(claim.identity, digest, signature.strip(), stamp, claim.scope, sign)

    def _presigned_by_query(self, method: bytes, url: bytes, values: dict[bytes, bytes]) -> Identity:
        """Signature version 2 in the query: what boto3 still makes of generate_presigned_url unless told otherwise."""
        path, _, query = url.partition(b"?")
        pairs = [(name, unquote_to_bytes(value)) for name, _, value in (p.partition(b"=") for p in query.split(b"&"))]
        fields = dict(pairs)
        identity = Identity(fields[b"AWSAccessKeyId"].decode("latin-1"), "s3")
        key = self.key_of(identity)
        expires = fields.get(b"Expires", b"")
        if not expires.isdigit() or self._clock.now() > int(expires):
            raise AuthenticationError("AccessDenied", "Request has expired")
        resource = sorted((name, value) for name, value in pairs if name in _SUBRESOURCES)
        canonical = path + (b"?" if resource else b"") + b"&".join(
            name + (b"=" + value if value else b"") for name, value in resource
        )  # fmt: skip
        amz = b"".join(
            name + b":" + value + b"\n" for name, value in sorted(values.items()) if name.startswith(b"x-amz-")
        )
        md5, content_type = values.get(b"content-md5", b""), values.get(b"content-type", b"")
        text = b"\n".join((method, md5, content_type, expires, amz + canonical))
        expected = base64.b64encode(hmac.digest(key.secret_access_key.encode(), text, "sha1"))
        if not hmac.compare_digest(expected, fields.get(b"Signature", b"")):
            raise _mismatch(identity, _WRONG_SIGNATURE)
        return identity

    def _signed_header(self, method: bytes, url: bytes, headers: Headers, value: bytes, body: bytes) -> Identity:
        start, found, signature = value.rpartition(b"Signature=")
        claim = self._claims.get(start) if found else None
        if claim is None:
            start, signature, claim = self._claim(value)
        key = self.key_of(claim.identity)
        values = dict(headers)
        if len(values) < len(headers):
            values = joined(headers)
        stamp = values.get(b"x-amz-date", b"")
        self.check_time(stamp, claim.scope, claim.identity)
        text = canonical_head(method, url, values, claim.signed, claim.wanted)
        self.compare(key, stamp, claim.scope, text + sha256(body), signature.strip(), claim.identity)
        return claim.identity

    def _claim(self, value: bytes) -> tuple[bytes, bytes, Claim]:
        """Take an Authorization header apart. All but the signature is the same all day, so that part is kept."""
        fields = {
            name.strip(): content.strip()
            for name, _, content in (field.partition(b"=") for field in value[len(ALGORITHM) :].split(b","))
        }
        try:
            credential, signed, signature = fields[b"Credential"], fields[b"SignedHeaders"], fields[b"Signature"]
        except KeyError as missing:
            name = missing.args[0].decode()
            raise AuthenticationError(
                "IncompleteSignatureException", f"Authorization header requires '{name}' parameter."
            ) from None
        scope, identity = _scope(credential)
        claim = Claim(identity, scope, signed, tuple(signed.split(b";")))
        if b"host" not in claim.wanted:
            raise _mismatch(identity, "The host header must be signed.")
        start = value.rpartition(b"Signature=")[0]
        if start + b"Signature=" + signature == value:
            if len(self._claims) >= _MOST_CLAIMS:
                self._claims.clear()
            self._claims[start] = claim
        return start, signature, claim

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
        scope, identity = _scope(credential)
        key = self.key_of(identity)
        signed_at = _seconds(stamp, identity)
        if not 0 < expires <= LONGEST_PRESIGN:
            raise _mismatch(identity, "X-Amz-Expires must be between 1 second and 7 days.")
        now = self._clock.now()
        if now > signed_at + expires or now < signed_at - self._skew:
            if identity.service == "s3":
                raise AuthenticationError("AccessDenied", "Request has expired, or is not valid yet.")
            raise _mismatch(identity, "The presigned request has expired, or is not valid yet.")
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
        self.compare(key, stamp, scope, canonical, signature, identity)
        return identity

    def key_of(self, identity: Identity) -> Key:
        key = self._keys.by_id(identity.access_key_id)
        if key is None:
            code = _UNKNOWN_KEY.get(identity.service, "UnrecognizedClientException")
            raise AuthenticationError(
                code, "The security token included in the request is invalid: see `fourfold keys list`."
            )
        return key

    def check_time(self, stamp: bytes, scope: bytes, identity: Identity) -> None:
        now = self._clock.now()
        signed_at = _seconds(stamp, identity)
        if stamp[:8] != scope[:8]:
            raise _mismatch(identity, "Date in Credential scope does not match YYYYMMDD from X-Amz-Date.")
        if abs(now - signed_at) <= (OBJECT_SKEW if identity.service == "s3" else self._skew):
            return
        if identity.service == "s3":
            raise AuthenticationError(
                "RequestTimeTooSkewed", "The difference between the request time and the current time is too large."
            )
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

    def compare(
        self, key: Key, stamp: bytes, scope: bytes, canonical: bytes, signature: bytes, identity: Identity
    ) -> None:
        to_sign = b"\n".join((ALGORITHM, stamp, scope, sha256(canonical)))
        expected = self._hmac(key, scope).hexdigest(to_sign)
        if not hmac.compare_digest(expected.encode(), signature):
            raise _mismatch(identity, _WRONG_SIGNATURE)

    def _hmac(self, key: Key, scope: bytes) -> Hmac:
        cached = self._hmacs.get((key.secret_access_key, scope))
        if cached is None:
            secret = b"AWS4" + key.secret_access_key.encode()
            for part in scope.split(b"/"):
                secret = hmac.digest(secret, part, "sha256")
            if len(self._hmacs) >= _MOST_SIGNING_KEYS:
                self._hmacs.clear()
            cached = self._hmacs[(key.secret_access_key, scope)] = Hmac(secret)
        return cached


def _scope(credential: bytes) -> tuple[bytes, Identity]:
    """`AKIA…/20260101/us-east-1/sagemaker/aws4_request`, taken apart."""
    parts = credential.split(b"/")
    if len(parts) != 5 or parts[4] != b"aws4_request":
        raise AuthenticationError(
            "IncompleteSignatureException", "Credential must be KEY/DATE/REGION/SERVICE/aws4_request."
        )
    identity = Identity(parts[0].decode("latin-1"), parts[3].decode("latin-1"), parts[2].decode("latin-1"))
    return credential[len(parts[0]) + 1 :], identity


def _is_bearer(authorization: bytes) -> bool:
    """The scheme's case does not matter (RFC 9110)."""
    return authorization[: len(BEARER)].lower() == BEARER.lower()


def _unknown_token() -> AuthenticationError:
    return AuthenticationError(
        "UnrecognizedClientException", "The API key in the request is invalid: see `fourfold keys list`."
    )


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


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
