"""Bodies of S3 requests on their way to a file: unpacked, checked against their signature and checksums, bounded.

    x-amz-content-sha256                            the body is
    <hash>                                          plain; must hash to that
    UNSIGNED-PAYLOAD, or none (presigned)           plain
    STREAMING-AWS4-HMAC-SHA256-PAYLOAD[-TRAILER]    in chunks, each signed with the one before
    STREAMING-UNSIGNED-PAYLOAD-TRAILER              in chunks, a checksum in the trailer

    chunk = length in hex [;chunk-signature=…] CRLF bytes CRLF, the last of length 0; then the trailer's headers, CRLF

Format: https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping

from starlette.types import Receive

from fourfold.api.signatures.claims import ObjectClaim
from fourfold.errors import S3Error
from fourfold.storage.buckets import CHUNK, Incoming

LARGEST_DOCUMENT = 2 * 1024**2
"""Most bytes of an XML document."""

_EMPTY = hashlib.sha256(b"").hexdigest().encode()
_LONGEST_LINE = 16 * 1024


async def receive_whole(receive: Receive, limit: int) -> bytes:
    """A small body, e.g. an XML document. Raises S3Error where it is larger than `limit` bytes."""
    parts, size = [], 0
    async for data in _pieces(receive):
        size += len(data)
        if size > limit:
            raise S3Error("MaxMessageLengthExceeded", f"Your request was too big: the limit is {limit:,} bytes.")
        parts.append(data)
    return b"".join(parts)


async def receive_into(incoming: Incoming, receive: Receive, headers: Mapping[str, str], claim: ObjectClaim) -> None:
    """Write a body to where it waits to become an object. Raises S3Error; then `incoming` has been discarded."""
    try:
        trailer: dict[str, str] = {}
        if claim.digest.startswith(b"STREAMING-"):
            source = _unpacked(_pieces(receive), claim, trailer)
        else:
            source = _pieces(receive)
        gathered: list[bytes] = []
        size = 0
        async for data in source:
            gathered.append(data)
            size += len(data)
            if size >= CHUNK:  # a hop to a thread costs as much as hashing 50 KB
                await asyncio.to_thread(incoming.write, b"".join(gathered))
                gathered, size = [], 0
        await asyncio.to_thread(incoming.write, b"".join(gathered))
        _check(incoming, {**headers, **trailer}, claim)
    except BaseException:
        incoming.discard()
        raise


def _check(incoming: Incoming, headers: Mapping[str, str], claim: ObjectClaim) -> None:
    expected = headers.get("x-amz-decoded-content-length")
    if expected is not None and expected != str(incoming.size):
        raise S3Error(
            "IncompleteBody", f"The body has {incoming.size:,} bytes, not the {expected} that were announced."
        )
    if len(claim.digest) == 64 and claim.digest != incoming.sha256.encode():
        raise S3Error(
            "XAmzContentSHA256Mismatch",
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
        )
    wanted = {"md5": headers.get("content-md5")}
    wanted |= {name: headers.get(f"x-amz-checksum-{name}") for name in ("crc32", "sha256")}
    for algorithm, value in wanted.items():
        if value is not None and value != incoming.checksum(algorithm):
            raise S3Error("BadDigest", f"The {algorithm.upper()} you specified did not match the calculated checksum.")


async def _pieces(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise S3Error("IncompleteBody", "The connection closed before the body had come.")
        if data := message.get("body", b""):
            yield data
        if not message.get("more_body"):
            return


async def _unpacked(pieces: AsyncIterator[bytes], claim: ObjectClaim, trailer: dict[str, str]) -> AsyncIterator[bytes]:
    """The bytes inside of chunks; the trailer's headers go to `trailer`."""
    reader = _Reader(pieces)
    is_signed = b"AWS4-HMAC" in claim.digest
    before = claim.signature
    while True:
        size, signature = _chunk_head(await reader.line())
        hasher = hashlib.sha256()
        async for data in reader.exactly(size):
            hasher.update(data)
            yield data
        if is_signed:
            text = (b"AWS4-HMAC-SHA256-PAYLOAD", claim.stamp, claim.scope, before, _EMPTY, hasher.hexdigest().encode())
            if claim.sign is None or claim.sign(b"\n".join(text)).encode() != signature:
                raise S3Error("SignatureDoesNotMatch", "The signature of a chunk does not match.", 403)
            before = signature
        if size == 0:
            break
        if await reader.line():
            raise _malformed()
    while line := await reader.line(may_end=True):
        name, _, value = line.decode("latin-1").partition(":")
        trailer[name.strip().lower()] = value.strip()


def _chunk_head(line: bytes) -> tuple[int, bytes]:
    size, _, extension = line.partition(b";")
    try:
        if not size.isalnum() or len(size) > 16:
            raise ValueError
        return int(size, 16), extension.partition(b"chunk-signature=")[2].strip()
    except ValueError:
        raise _malformed() from None


def _malformed() -> S3Error:
    return S3Error("InvalidRequest", "The chunks of the body are malformed (Content-Encoding: aws-chunked).")


class _Reader:
    """Lines and runs of bytes out of pieces of any size."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._held = b""

    async def line(self, *, may_end: bool = False) -> bytes:
        """The next line without its CRLF. `may_end`: an end of the body is an empty line."""
        while b"\r\n" not in self._held:
            more = await anext(self._pieces, None)
            if more is None and may_end:
                return b""
            if more is None or len(self._held) > _LONGEST_LINE:
                raise _malformed()
            self._held += more
        line, _, self._held = self._held.partition(b"\r\n")
        return line

    async def exactly(self, size: int) -> AsyncIterator[bytes]:
        """The next bytes, in pieces."""
        while size:
            if not self._held:
                more = await anext(self._pieces, None)
                if more is None:
                    raise _malformed()
                self._held = more
            data, self._held = self._held[:size], self._held[size:]
            size -= len(data)
            yield data
