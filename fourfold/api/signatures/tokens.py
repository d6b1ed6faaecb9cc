"""Bearer tokens: API keys, and what the sagemaker SDK's token generator makes."""

from __future__ import annotations

import base64
import binascii

from fourfold.api.keys import BEARER
from fourfold.api.signatures.checks import Checks
from fourfold.api.signatures.claims import Identity, mismatch
from fourfold.api.signatures.presigned import presigned
from fourfold.errors import AuthenticationError

SAGEMAKER_TOKEN = b"Bearer sagemaker-api-key-"
"""What the sagemaker SDK's token generator makes: base64 of a presigned URL, without its scheme."""
TOKEN_ACTION = b"CallWithBearerToken"
"""The only action for which a presigned URL is also a token: a link to an object opens just that object."""
LONGEST_TOKEN = 12 * 3600
"""Seconds that such a token may be valid, as in SageMaker."""


def bearer_token(authorization: bytes) -> bytes | None:
    """The header as keys know it, where it bears a token. The scheme's case does not matter (RFC 9110)."""
    scheme, token = authorization[: len(BEARER)], authorization[len(BEARER) :]
    return BEARER + token.strip() if scheme.lower() == BEARER.lower() else None


def bearer(checks: Checks, authorization: bytes) -> Identity:
    """Whose token it is. Raises AuthenticationError."""
    if authorization.startswith(SAGEMAKER_TOKEN):
        return _sagemaker_token(checks, authorization)
    key = checks.keys.by_authorization(authorization)
    if key is None:
        raise unknown_token()
    return Identity(key.access_key_id)


def _sagemaker_token(checks: Checks, value: bytes) -> Identity:
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
        raise AuthenticationError("UnrecognizedClientException", "A SageMaker API key is valid for 12 hours at most.")
    identity = presigned(checks, b"POST", slash + path + b"?" + signed, [(b"host", host)], b"")
    if identity.service != "sagemaker":
        raise mismatch(identity, "A SageMaker API key must be signed for the service sagemaker.")
    return identity


def unknown_token() -> AuthenticationError:
    """No key has this token."""
    return AuthenticationError(
        "UnrecognizedClientException", "The API key in the request is invalid: see `fourfold keys list`."
    )
