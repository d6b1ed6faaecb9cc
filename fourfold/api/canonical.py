"""The canonical form of a request: the text whose hash a SigV4 signature covers.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from urllib.parse import quote_from_bytes, unquote_to_bytes

Headers = list[tuple[bytes, bytes]]

_SAFE = b"-_.~"
_PATH_SAFE = "/-_.~"
_BLANK = (b" ", b"\t")


def canonical_head(
    method: bytes, url: bytes, values: Mapping[bytes, bytes], signed: bytes, wanted: Sequence[bytes]
) -> bytes:
    """The canonical request of any service but S3, up to the body's hash.

    Args:
        method, url: as they came.
        values: headers by name in lower case.
        signed, wanted: names of the signed headers, joined by semicolons and apart.
    """
    path, _, query = url.partition(b"?")
    lines = [method, canonical_path(path), canonical_query(query) if query else b""]
    for name in wanted:
        content = values.get(name, b"")
        if b"  " in content or content[:1] in _BLANK or content[-1:] in _BLANK:
            content = b" ".join(content.split())
        lines.append(name + b":" + content)
    lines += (b"", signed, b"")
    return b"\n".join(lines)


def joined(headers: Headers) -> dict[bytes, bytes]:
    """Headers by name, those that come more than once joined by commas."""
    values: dict[bytes, bytes] = {}
    for name, value in headers:
        trimmed = b" ".join(value.split())
        values[name] = values[name] + b"," + trimmed if name in values else trimmed
    return values


@lru_cache(maxsize=1024)
def canonical_path(path: bytes) -> bytes:
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


@lru_cache(maxsize=1024)
def object_path(path: bytes) -> bytes:
    """The path for S3: each part encoded once, nothing normalised."""
    return quote_from_bytes(unquote_to_bytes(path), safe=_PATH_SAFE).encode()


def canonical_query(query: bytes) -> bytes:
    pairs = []
    for pair in query.split(b"&"):
        if pair:
            name, _, value = pair.partition(b"=")
            pairs.append((_encode(name), _encode(value)))
    return b"&".join(name + b"=" + value for name, value in sorted(pairs))


def _encode(text: bytes) -> bytes:
    return quote_from_bytes(unquote_to_bytes(text), safe=_SAFE).encode()
