"""The check of further requests with the head of one that came in."""

from __future__ import annotations

from collections.abc import Mapping

from fourfold.api.keys import Keys
from fourfold.api.signatures.checks import Checks, sha256
from fourfold.api.signatures.claims import Claim
from fourfold.api.signatures.tokens import unknown_token

HOLE = b"\0"
"""What no header has."""


class KnownToken:
    """The check of requests that carry one bearer token."""

    __slots__ = ("_authorization", "_keys")

    def __init__(self, keys: Keys, authorization: bytes) -> None:
        self._keys = keys
        self._authorization = authorization

    def admit(self, data: bytes, body: bytes) -> None:
        if self._keys.by_authorization(self._authorization) is None:
            raise unknown_token()


class Seal:
    """The check of signed requests whose heads differ in a few places only: time, signature, length, invocation id.

    Args:
        text: the canonical request up to the body's hash, with `HOLE` where one of these stands.
        holes: where they stand in the bytes of a request, by the header's name; of `authorization` the signature.
    """

    __slots__ = ("_begin", "_checks", "_claim", "_rest", "_signature", "_stamp")

    def __init__(self, checks: Checks, claim: Claim, text: bytes, holes: Mapping[bytes, slice]) -> None:
        self._checks = checks
        self._claim = claim
        self._signature = holes[b"authorization"]
        self._stamp = holes[b"x-amz-date"]
        self._begin, *pieces = text.split(HOLE)
        self._rest = list(zip([holes[name] for name in claim.wanted if name in holes], pieces, strict=True))

    def admit(self, data: bytes, body: bytes) -> None:
        checks, claim, stamp = self._checks, self._claim, data[self._stamp]
        key = checks.key_of(claim.identity)
        checks.check_time(stamp, claim.scope, claim.identity)
        text = self._begin
        for hole, piece in self._rest:
            text += data[hole] + piece
        checks.compare(key, stamp, claim.scope, text + sha256(body), data[self._signature], claim.identity)
