"""What every signature is checked for: its key, its time, itself."""

from __future__ import annotations

import hashlib
import hmac
import time
from calendar import timegm
from functools import lru_cache

from fourfold.api.keys import Key, Keys
from fourfold.api.signatures.claims import ALGORITHM, Identity, mismatch
from fourfold.clock import Clock
from fourfold.errors import AuthenticationError

OBJECT_SKEW = 900.0
"""Seconds that a signature for S3 may be off, as in AWS."""

WRONG_SIGNATURE = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key "
    "and signing method."
)
_UNKNOWN_KEY = {**dict.fromkeys(("sts", "iam", "sns"), "InvalidClientTokenId"), "s3": "InvalidAccessKeyId"}
_MOST_SIGNING_KEYS = 1024


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


class Checks:
    """The checks, and what they need.

    Args:
        keys: the keys that may come in.
        clock: what time it is.
        skew: seconds that a signature's time may be off.
    """

    def __init__(self, keys: Keys, clock: Clock, skew: float) -> None:
        self.keys = keys
        self.clock = clock
        self.skew = skew
        self._hmacs: dict[tuple[str, bytes], Hmac] = {}

    def key_of(self, identity: Identity) -> Key:
        """The key that a request says it is signed with. Raises AuthenticationError."""
        key = self.keys.by_id(identity.access_key_id)
        if key is None:
            code = _UNKNOWN_KEY.get(identity.service, "UnrecognizedClientException")
            raise AuthenticationError(
                code, "The security token included in the request is invalid: see `fourfold keys list`."
            )
        return key

    def check_time(self, stamp: bytes, scope: bytes, identity: Identity) -> None:
        """Raises AuthenticationError where a signature is too old or too new, or of another day than its scope."""
        now = self.clock.now()
        signed_at = seconds_of(stamp, identity)
        if stamp[:8] != scope[:8]:
            raise mismatch(identity, "Date in Credential scope does not match YYYYMMDD from X-Amz-Date.")
        if abs(now - signed_at) <= (OBJECT_SKEW if identity.service == "s3" else self.skew):
            return
        if identity.service == "s3":
            raise AuthenticationError(
                "RequestTimeTooSkewed", "The difference between the request time and the current time is too large."
            )
        text, limit = stamp.decode("latin-1"), f"{self.skew / 60:g} min."
        if signed_at < now:
            earlier = _stamp(now - self.skew)
            raise mismatch(
                identity, f"Signature expired: {text} is now earlier than {earlier} ({_stamp(now)} - {limit})"
            )
        later = _stamp(now + self.skew)
        raise mismatch(
            identity, f"Signature not yet current: {text} is still later than {later} ({_stamp(now)} + {limit})"
        )

    def compare(
        self, key: Key, stamp: bytes, scope: bytes, canonical: bytes, signature: bytes, identity: Identity
    ) -> None:
        """Sign a canonical request, too. Raises AuthenticationError where another signature comes out."""
        to_sign = b"\n".join((ALGORITHM, stamp, scope, sha256(canonical)))
        expected = self.hmac(key, scope).hexdigest(to_sign)
        if not hmac.compare_digest(expected.encode(), signature):
            raise mismatch(identity, WRONG_SIGNATURE)

    def hmac(self, key: Key, scope: bytes) -> Hmac:
        """What signs under the key of a day, region and service."""
        cached = self._hmacs.get((key.secret_access_key, scope))
        if cached is None:
            secret = b"AWS4" + key.secret_access_key.encode()
            for part in scope.split(b"/"):
                secret = hmac.digest(secret, part, "sha256")
            if len(self._hmacs) >= _MOST_SIGNING_KEYS:
                self._hmacs.clear()
            cached = self._hmacs[(key.secret_access_key, scope)] = Hmac(secret)
        return cached


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


def seconds_of(stamp: bytes, identity: Identity) -> float:
    seconds = _parse_stamp(stamp)
    if seconds is None:
        raise mismatch(identity, "Date must be in ISO-8601 'basic format', e.g. 20260101T120000Z.")
    return seconds


@lru_cache(maxsize=64)  # clients sign many requests in the same second
def _parse_stamp(stamp: bytes) -> float | None:
    try:
        return timegm(time.strptime(stamp.decode("latin-1"), "%Y%m%dT%H%M%SZ"))
    except ValueError:
        return None


def _stamp(seconds: float) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(seconds))
