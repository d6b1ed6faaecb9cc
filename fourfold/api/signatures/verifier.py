"""The way in: finds what credentials a request carries, and who that is."""

from __future__ import annotations

from collections.abc import Mapping

from fourfold.api.canonical import Headers, canonical_head, canonical_query, joined, object_path
from fourfold.api.keys import BEARER, Keys
from fourfold.api.signatures.checks import Checks, sha256
from fourfold.api.signatures.claims import ALGORITHM, UNSIGNED, Claims, Identity, ObjectClaim
from fourfold.api.signatures.known import HOLE, KnownToken, Seal
from fourfold.api.signatures.presigned import presigned, presigned_v2
from fourfold.api.signatures.tokens import bearer, bearer_token
from fourfold.clock import Clock
from fourfold.errors import AuthenticationError


class Verifier:
    """Checks the credentials of requests.

    Args:
        keys: the keys that may come in.
        clock: what time it is.
        clock_skew: seconds that a signature's time may be off.
    """

    def __init__(self, keys: Keys, clock: Clock, clock_skew: float = 300.0) -> None:
        self._keys = keys
        self._checks = Checks(keys, clock, clock_skew)
        self._claims = Claims()

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
            _, claim = self._claims.read(authorization)
        except AuthenticationError:
            return None
        if b"authorization" in claim.wanted:
            return None
        values |= dict.fromkeys(holes, HOLE)
        return Seal(self._checks, claim, canonical_head(method, url, values, claim.signed, claim.wanted), holes)

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
                if value.startswith(ALGORITHM):
                    return self._signed_header(method, url, headers, value, body)
                if token := bearer_token(value):
                    return bearer(self._checks, token)
                raise AuthenticationError(
                    "IncompleteSignatureException",
                    "Authorization must be AWS4-HMAC-SHA256 (AWS clients) or Bearer with an API key.",
                )
        if b"X-Amz-Signature=" in url:
            return presigned(self._checks, method, url, headers, body)
        raise AuthenticationError(
            "MissingAuthenticationTokenException",
            'Request is missing Authentication Token. Set the credentials that `eval "$(fourfold env)"` gives, or send '
            "Authorization: Bearer with an API key.",
        )

    def verify_object(self, method: bytes, url: bytes, headers: Headers) -> ObjectClaim:
        """`verify` for S3, whose path is encoded once, and whose body has not come yet.

        Raises:
            AuthenticationError: with S3's code.
        """
        values = joined(headers)
        authorization = values.get(b"authorization", b"")
        digest = values.get(b"x-amz-content-sha256", UNSIGNED)
        if token := bearer_token(authorization):
            if self._keys.by_authorization(token) is None:
                raise AuthenticationError("InvalidAccessKeyId", "The API key you provided does not exist.")
            return ObjectClaim(Identity(""), UNSIGNED)
        if authorization.startswith(ALGORITHM):
            return self._signed_object(method, url, values, authorization, digest)
        if b"X-Amz-Signature=" in url:
            return ObjectClaim(presigned(self._checks, method, url, headers, b""), digest)
        if b"AWSAccessKeyId=" in url:
            return ObjectClaim(presigned_v2(self._checks, method, url, values), digest)
        raise AuthenticationError("AccessDenied", "Access Denied: the request has no credentials.")

    def _signed_object(
        self, method: bytes, url: bytes, values: dict[bytes, bytes], authorization: bytes, digest: bytes
    ) -> ObjectClaim:
        checks = self._checks
        signature, claim = self._claims.read(authorization)
        key = checks.key_of(claim.identity)
        stamp = values.get(b"x-amz-date", b"")
        checks.check_time(stamp, claim.scope, claim.identity)
        path, _, query = url.partition(b"?")
        lines = [method, object_path(path), canonical_query(query)]
        lines += [name + b":" + values.get(name, b"") for name in claim.wanted]
        lines += (b"", claim.signed, digest)
        checks.compare(key, stamp, claim.scope, b"\n".join(lines), signature, claim.identity)
        sign = checks.hmac(key, claim.scope).hexdigest
        return ObjectClaim(claim.identity, digest, signature, stamp, claim.scope, sign)

    def _signed_header(self, method: bytes, url: bytes, headers: Headers, value: bytes, body: bytes) -> Identity:
        checks = self._checks
        signature, claim = self._claims.read(value)
        key = checks.key_of(claim.identity)
        values = dict(headers)
        if len(values) < len(headers):
            values = joined(headers)
        stamp = values.get(b"x-amz-date", b"")
        checks.check_time(stamp, claim.scope, claim.identity)
        text = canonical_head(method, url, values, claim.signed, claim.wanted)
        checks.compare(key, stamp, claim.scope, text + sha256(body), signature, claim.identity)
        return claim.identity
