"""Request bodies that clients compress: boto3 does so with PutMetricData over 10 kB, KServe's clients where asked."""

from __future__ import annotations

import zlib

from fourfold.errors import PayloadTooLarge, ValidationError


def unpack(body: bytes, encoding: str, limit: int) -> bytes:
    """The body without its compression. Raises ValidationError, or PayloadTooLarge where it grows past the limit."""
    if encoding not in ("gzip", "deflate"):
        raise ValidationError(f"A body may be compressed with gzip or deflate, not {encoding!r}.")
    inflating = zlib.decompressobj(wbits=47)  # takes the headers of both
    try:
        unpacked = inflating.decompress(body, limit + 1)
    except zlib.error as error:
        raise ValidationError(f"The body is not compressed with {encoding}: {error}.") from None
    if len(unpacked) > limit:
        raise PayloadTooLarge(f"The body has more than {limit:,} bytes when it is unpacked.")
    if not inflating.eof:
        raise ValidationError(f"The body, compressed with {encoding}, is cut off.")
    return unpacked
