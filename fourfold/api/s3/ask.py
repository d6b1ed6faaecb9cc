"""One request to S3, its signature checked."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote

from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope

from fourfold.api.signatures.claims import ObjectClaim
from fourfold.errors import S3Error
from fourfold.storage.buckets import Buckets

PAGE = 1000
"""Most entries of a list, as in AWS."""


class Ask:
    """What is asked for, and of which buckets in which region."""

    def __init__(self, scope: Scope, receive: Receive, claim: ObjectClaim, buckets: Buckets, region: str) -> None:
        self.method: str = scope["method"]
        path = unquote(scope["raw_path"].decode("latin-1"), errors="surrogateescape")
        self.bucket, _, self.key = path[1:].partition("/")
        self.query = QueryParams(scope["query_string"])
        self.headers: Mapping[str, str] = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        self.receive = receive
        self.claim = claim
        self.buckets = buckets
        self.region = region

    def number(self, name: str, default: int, most: int) -> int:
        """A number of the query. Raises S3Error where it is none."""
        text = self.query.get(name, str(default))
        if not text.isascii() or not text.isdecimal():
            raise S3Error("InvalidArgument", f"Provided {name} not an integer or within integer range: {text!r}")
        return min(int(text), most)
