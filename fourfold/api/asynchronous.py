"""Asynchronous calls, as people see them. They come in by the fast lane (`fastlane.py`).

GET  /fourfold/async/{endpoint}                             its calls: ?status=failed&limit=100&before=…
GET  /fourfold/async/{endpoint}/{InferenceId}               one call: status, place in the queue, times, locations
POST /fourfold/async/{endpoint}/{InferenceId}/cancel        end it, queued or running
POST /fourfold/async/{endpoint}/{InferenceId}/retry         once more, where it failed, expired or was cancelled
"""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from fourfold.api.native import Handler, parts
from fourfold.errors import ValidationException
from fourfold.modes.asynchronous.records import Records


def async_routes(records: Records) -> dict[str, Handler]:
    """The native routes, for the gateway."""

    async def look(request: Request) -> Response:
        match parts(request):
            case [endpoint]:
                query = request.query_params
                return _json(
                    await records.list(
                        endpoint,
                        [status for status in query.get("status", "").split(",") if status],
                        _number(query.get("limit", "100"), "limit"),
                        _number(query["before"], "before") if "before" in query else None,
                    )
                )
            case [endpoint, inference_id]:
                return _json(await records.describe(endpoint, inference_id))
        raise _unknown()

    async def act(request: Request) -> Response:
        match parts(request):
            case [endpoint, inference_id, "cancel"]:
                return _json(await records.cancel(endpoint, inference_id))
            case [endpoint, inference_id, "retry"]:
                return _json(await records.retry(endpoint, inference_id))
        raise _unknown()

    return {"GET async": look, "POST async": act}


def _number(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValidationException(f"{name} must be a whole number, not {text!r}.")
    return int(text)


def _unknown() -> ValidationException:
    return ValidationException(
        "The native routes of asynchronous calls are GET /fourfold/async/{endpoint}, GET "
        "/fourfold/async/{endpoint}/{InferenceId}, and POST /fourfold/async/{endpoint}/{InferenceId}/cancel or /retry."
    )


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
