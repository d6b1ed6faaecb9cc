"""Signature version 4 as the documentation has it, written a second time, so that the server is not its own judge."""

from __future__ import annotations

import hashlib
import hmac
import time
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

EMPTY = hashlib.sha256(b"").hexdigest()


@dataclass
class Signer:
    """Signs texts of one day, region and service."""

    secret: str
    stamp: str
    scope: str
    signature: str = ""

    def sign(self, text: str) -> str:
        key = f"AWS4{self.secret}".encode()
        for part in self.scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        return hmac.new(key, text.encode(), "sha256").hexdigest()

    def chunk(self, before: str, data: bytes) -> str:
        lines = ("AWS4-HMAC-SHA256-PAYLOAD", self.stamp, self.scope, before, EMPTY, hashlib.sha256(data).hexdigest())
        return self.sign("\n".join(lines))


def presigned(keys: dict[str, str], method: str, url: str, body: bytes, expires: int, at: float | None = None) -> str:
    """The address with its signature in the query, for the service `sagemaker`; the body is signed too."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at))
    signer = Signer(keys["secret_access_key"], stamp, f"{stamp[:8]}/us-east-1/sagemaker/aws4_request")
    parts = urlsplit(url)
    credential = quote(f"{keys['access_key_id']}/{signer.scope}", safe="")
    query = (
        f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={credential}&X-Amz-Date={stamp}&X-Amz-Expires={expires}"
        "&X-Amz-SignedHeaders=host"
    )
    digest = hashlib.sha256(body).hexdigest()
    lines = [method, quote(parts.path, safe="/-_.~"), query, f"host:{parts.netloc}", "", "host", digest]
    canonical = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    signature = signer.sign("\n".join(("AWS4-HMAC-SHA256", stamp, signer.scope, canonical)))
    return f"{url}?{query}&X-Amz-Signature={signature}"


def signed(
    keys: dict[str, str],
    method: str,
    url: str,
    *,
    body: bytes = b"",
    digest: str | None = None,
    service: str = "sagemaker",
    region: str = "us-east-1",
    at: float | None = None,
    more: dict[str, str] | None = None,
) -> tuple[dict[str, str], Signer]:
    """Headers of a signed request, and the signer for chunks that follow.

    Args:
        digest: x-amz-content-sha256; the body's hash where it is not given (S3: UNSIGNED-PAYLOAD).
        at: the time of the signature; now.
        more: further headers, signed too.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at))
    parts = urlsplit(url)
    digest = digest or ("UNSIGNED-PAYLOAD" if service == "s3" else hashlib.sha256(body).hexdigest())
    headers = {
        "host": parts.netloc,
        "x-amz-date": stamp,
        **{name.lower(): value for name, value in (more or {}).items()},
    }
    if service == "s3":
        headers["x-amz-content-sha256"] = digest
    names = sorted(headers)
    path = parts.path if service == "s3" else quote(parts.path, safe="/-_.~")
    query = "&".join(sorted(pair if "=" in pair else f"{pair}=" for pair in parts.query.split("&") if pair))
    lines = [method, path, query, *(f"{name}:{headers[name]}" for name in names), "", ";".join(names), digest]
    signer = Signer(keys["secret_access_key"], stamp, f"{stamp[:8]}/{region}/{service}/aws4_request")
    canonical = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    signer.signature = signer.sign("\n".join(("AWS4-HMAC-SHA256", stamp, signer.scope, canonical)))
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={keys['access_key_id']}/{signer.scope}, SignedHeaders={';'.join(names)}, "
        f"Signature={signer.signature}"
    )
    return headers, signer
