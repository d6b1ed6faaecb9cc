"""S3's documents: elements from tuples and dictionaries, and the two documents that clients send."""

from __future__ import annotations

from collections.abc import Sequence
from email.utils import formatdate
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from fourfold.clock import iso
from fourfold.errors import S3Error

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'

Element = tuple[str, Any]
"""A tag, and its text, or the elements inside of it."""


def document(tag: str, *children: Element) -> bytes:
    """A whole document. Children that are None are left out."""
    inner = "".join(map(_element, children))
    return f'{_HEAD}<{tag} xmlns="{NAMESPACE}">{inner}</{tag}>'.encode("utf-8", "replace")


def error(code: str, message: str, resource: str, request_id: str) -> bytes:
    """S3's error document, which has no namespace."""
    fields = (("Code", code), ("Message", message), ("Resource", resource), ("RequestId", request_id))
    return f"{_HEAD}<Error>{''.join(map(_element, fields))}</Error>".encode("utf-8", "replace")


def moment(seconds: float) -> str:
    """A time as documents have it."""
    return iso(seconds, "milliseconds")


def http_date(seconds: float) -> str:
    """A time as headers have it."""
    return formatdate(seconds, usegmt=True)


def shown(key: str, encoding: str | None) -> str:
    """A key in a document: percent-encoded where the client asked for that."""
    return quote(key, safe="/-_.~*!'()", errors="surrogateescape") if encoding == "url" else key


def parts_to_complete(body: bytes) -> list[tuple[int, str]]:
    """Number and ETag of each part of a CompleteMultipartUpload document."""
    found = []
    for part in _read(body, "CompleteMultipartUpload").iterfind("{*}Part"):
        number, etag = part.findtext("{*}PartNumber", "").strip(), part.findtext("{*}ETag", "")
        if not number.isascii() or not number.isdecimal():
            raise _malformed("every Part needs a PartNumber and an ETag")
        found.append((int(number), etag.strip().strip('"')))
    return found


def keys_to_delete(body: bytes) -> tuple[list[str], bool]:
    """The keys of a Delete document, and whether the answer shall be quiet."""
    root = _read(body, "Delete")
    keys: Sequence[str] = [one.findtext("{*}Key", "") for one in root.iterfind("{*}Object")]
    if not 1 <= len(keys) <= 1000:
        raise _malformed("a Delete names 1 to 1,000 objects")
    return list(keys), root.findtext("{*}Quiet", "").strip().lower() == "true"


def _read(body: bytes, tag: str) -> ElementTree.Element:
    if b"<!DOCTYPE" in body or b"<!ENTITY" in body:  # neither belongs there, and entities can grow without bound
        raise _malformed("it may not define entities")
    try:
        root = ElementTree.fromstring(body)  # noqa: S314 - entities have been refused
    except (ElementTree.ParseError, ValueError) as problem:
        raise _malformed(str(problem)) from None
    if root.tag.rpartition("}")[2] != tag:
        raise _malformed(f"it must be a {tag}")
    return root


def _malformed(why: str) -> S3Error:
    return S3Error(
        "MalformedXML", f"The XML you provided was not well-formed or did not validate against our schema: {why}."
    )


def _element(element: Element) -> str:
    tag, value = element
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return f"<{tag}>{''.join(map(_element, value))}</{tag}>"
    if isinstance(value, bool):
        value = "true" if value else "false"
    return f"<{tag}>{escape(_clean(str(value)))}</{tag}>"


def _clean(text: str) -> str:
    """XML 1.0 has no way to write most control characters."""
    return "".join(c if c >= " " or c in "\t\n\r" else "\ufffd" for c in text)
