"""Answers: a document, or what went wrong."""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import Scope

from fourfold.api.s3 import xml
from fourfold.errors import FourfoldError


def document(tag: str, *children: xml.Element) -> Response:
    """An answer of 200 with this element."""
    return Response(xml.document(tag, *children), media_type="application/xml")


def failed(error: FourfoldError, scope: Scope, id: str) -> Response:
    """An answer that says what went wrong, in the form of S3."""
    resource = getattr(error, "resource", "") or scope["path"]
    body = b"" if scope["method"] == "HEAD" else xml.error(error.code, error.message, resource, id)
    return Response(body, error.status, media_type="application/xml")
