"""What an Authorization header says beside its signature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from fourfold.errors import AuthenticationError

ALGORITHM = b"AWS4-HMAC-SHA256"
UNSIGNED = b"UNSIGNED-PAYLOAD"

_QUERY_SERVICES = ("sts", "iam", "sns", "s3")
_MOST_KEPT = 1024


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


class Claims:
    """Takes Authorization headers apart. All but the signature is the same all day, so that part is kept."""

    def __init__(self) -> None:
        self._kept: dict[bytes, Claim] = {}

    def read(self, authorization: bytes) -> tuple[bytes, Claim]:
        """The signature, and what is said beside it. Raises AuthenticationError."""
        start, found, signature = authorization.rpartition(b"Signature=")
        claim = self._kept.get(start) if found else None
        return self._parse(authorization) if claim is None else (signature.strip(), claim)

    def _parse(self, value: bytes) -> tuple[bytes, Claim]:
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
        scope, identity = scope_of(credential)
        claim = Claim(identity, scope, signed, tuple(signed.split(b";")))
        if b"host" not in claim.wanted:
            raise mismatch(identity, "The host header must be signed.")
        start = value.rpartition(b"Signature=")[0]
        if start + b"Signature=" + signature == value:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            self._kept[start] = claim
        return signature, claim


def scope_of(credential: bytes) -> tuple[bytes, Identity]:
    """`AKIA…/20260101/us-east-1/sagemaker/aws4_request`, taken apart."""
    parts = credential.split(b"/")
    if len(parts) != 5 or parts[4] != b"aws4_request":
        raise AuthenticationError(
            "IncompleteSignatureException", "Credential must be KEY/DATE/REGION/SERVICE/aws4_request."
        )
    identity = Identity(parts[0].decode("latin-1"), parts[3].decode("latin-1"), parts[2].decode("latin-1"))
    return credential[len(parts[0]) + 1 :], identity


def mismatch(identity: Identity, message: str) -> AuthenticationError:
    """A signature that is not right, with the code of the service that it is for."""
    code = "SignatureDoesNotMatch" if identity.service in _QUERY_SERVICES else "InvalidSignatureException"
    return AuthenticationError(code, message)
