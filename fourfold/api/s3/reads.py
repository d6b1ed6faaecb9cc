"""Operations that read an object, or what is known of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import NamedTuple

from starlette.responses import Response, StreamingResponse

from fourfold.api.s3 import xml
from fourfold.api.s3.ask import Ask
from fourfold.api.s3.ranges import span_of
from fourfold.api.s3.routes import operation
from fourfold.storage.buckets import CHUNK
from fourfold.storage.objects import About

_OVERRIDDEN = (
    "content-type", "content-language", "expires", "cache-control", "content-disposition", "content-encoding",
)  # fmt: skip
"""Headers of the answer that `response-…` in the query may set."""


class _View(NamedTuple):
    """What a request gets to see of an object. With status 304 and 412 nothing of its bytes."""

    status: int
    headers: dict[str, str]
    path: Path
    first: int = 0
    length: int = 0


@operation("GetObject")
async def _get_object(ask: Ask) -> Response:
    view = await _view(ask)
    if view.status in (304, 412):
        return Response(status_code=view.status, headers=view.headers)
    return StreamingResponse(_read(view.path, view.first, view.length), view.status, view.headers)


@operation("HeadObject")
async def _head_object(ask: Ask) -> Response:
    view = await _view(ask)
    return Response(status_code=view.status, headers=view.headers)


async def _view(ask: Ask) -> _View:
    path, about = await asyncio.to_thread(ask.buckets.head, ask.bucket, ask.key)
    headers = _headers(ask, about)
    status = _condition(ask, about)
    if status != 200:
        return _View(status, headers if status == 304 else {}, path)
    span = span_of(ask.headers.get("range"), about.size)
    first, last = span or (0, about.size - 1)
    headers["content-length"] = str(last - first + 1)
    if span is None:
        return _View(200, headers, path, first, last - first + 1)
    headers["content-range"] = f"bytes {first}-{last}/{about.size}"
    return _View(206, headers, path, first, last - first + 1)


def _headers(ask: Ask, about: About) -> dict[str, str]:
    """Header values in HTTP's character set; metadata that came in another goes out as it came."""
    headers = {
        "etag": f'"{about.etag}"',
        "last-modified": xml.http_date(about.modified_ns / 1e9),
        "accept-ranges": "bytes",
        "content-type": about.content_type,
        **about.headers,
        **{f"x-amz-meta-{name}": value for name, value in about.metadata.items()},
        **{name: ask.query[f"response-{name}"] for name in _OVERRIDDEN if f"response-{name}" in ask.query},
    }
    return {name: value.encode("latin-1", "replace").decode("latin-1") for name, value in headers.items()}


def _condition(ask: Ask, about: About) -> int:
    """200, 304 or 412, by the request's If-… headers. HTTP dates have whole seconds."""
    match, none = ask.headers.get("if-match"), ask.headers.get("if-none-match")
    modified = about.modified_ns // 10**9
    since, unless = _when(ask.headers.get("if-modified-since")), _when(ask.headers.get("if-unmodified-since"))
    if match is not None and match.strip('"') not in ("*", about.etag):
        return 412
    if match is None and unless is not None and modified > unless:
        return 412
    if none is not None and none.strip('"') in ("*", about.etag):
        return 304
    if none is None and since is not None and modified <= since:
        return 304
    return 200


def _when(text: str | None) -> float | None:
    try:
        return None if text is None else parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None


async def _read(path: Path, start: int, length: int) -> AsyncIterator[bytes]:
    file = await asyncio.to_thread(path.open, "rb")
    try:
        await asyncio.to_thread(file.seek, start)
        while length > 0:
            data = await asyncio.to_thread(file.read, min(CHUNK, length))
            if not data:
                raise OSError("the object became shorter while it was read")
            length -= len(data)
            yield data
    finally:
        file.close()
