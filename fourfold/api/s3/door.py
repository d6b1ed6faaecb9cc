"""The S3 door: an ASGI application.

The head of a request is checked against its signature before its body is read; the body goes to a file as it comes and
becomes an object, by rename, when it has been checked too. What touches the disk runs in threads.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Protocol

from starlette.types import Receive, Scope, Send

from fourfold.api.canonical import Headers
from fourfold.api.fastlane import request_id
from fourfold.api.s3.answers import failed
from fourfold.api.s3.ask import Ask
from fourfold.api.s3.routes import OPERATIONS, operation_of
from fourfold.api.signatures.claims import ObjectClaim
from fourfold.errors import AuthenticationError, S3Error
from fourfold.storage.buckets import Buckets

log = logging.getLogger(__name__)


class Guard(Protocol):
    """Checks the credentials of a request to S3 (`signatures`)."""

    def verify_object(self, method: bytes, url: bytes, headers: Headers) -> ObjectClaim:
        """Who asks, and what is claimed of the body. Raises AuthenticationError."""


class S3:
    """ASGI application for S3.

    Args:
        buckets: the folder of buckets.
        guard: checks credentials.
        region: what GetBucketLocation answers.
    """

    def __init__(self, buckets: Path, guard: Guard, region: str) -> None:
        self._buckets = Buckets(buckets)
        self._region = region
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        id = request_id().decode()
        try:
            query: bytes = scope["query_string"]
            url = scope["raw_path"] + (b"?" + query if query else b"")
            claim = self._guard.verify_object(scope["method"].encode(), url, scope["headers"])
            ask = Ask(scope, receive, claim, self._buckets, self._region)
            answer = await OPERATIONS[operation_of(ask)](ask)
        except (S3Error, AuthenticationError) as error:
            answer = failed(error, scope, id)
        except OSError as error:  # a full disk, a name too long for the file system
            log.exception("request to S3 failed", extra={"request": id})
            answer = failed(S3Error("InternalError", f"{error.strerror}: see the server's log.", 500), scope, id)
        answer.headers["x-amz-request-id"] = id
        await answer(scope, receive, send)
