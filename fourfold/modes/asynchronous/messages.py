"""What topics are told of asynchronous calls, in AWS's form."""

from __future__ import annotations

import base64
from typing import Any, Protocol

from fourfold.clock import iso
from fourfold.modes.asynchronous.orders import Request, Verdict, to_json
from fourfold.store.queue import Publication

MOST_RESPONSE = 128 * 1024
"""A response is put into a message up to this size, bytes."""
SOURCE = {"eventVersion": "1.0", "eventSource": "aws:sagemaker"}


class Notifier(Protocol):
    """Topics that somebody may have subscribed to."""

    async def publish(self, topic: str, subject: str, message: str) -> object:
        """Hand a message over to a topic, by its ARN; when this returns, it is kept until it is delivered.

        Raises:
            ResourceNotFound: there is no such topic.
        """


def test_notification() -> tuple[str, str]:
    """Subject and message that an endpoint's topics get when it is created or updated."""
    return "SageMaker asynchronous inference test notification", _text({**SOURCE, "eventName": "TestNotification"})


def result(
    call: Publication, request: Request, verdict: Verdict, now: float, region: str, response: bytes | None
) -> tuple[str, str]:
    """Subject and message of an outcome.

    Args:
        now: when it came about, seconds since the epoch.
        response: the output, where the endpoint's config wants it in the message and it is small enough.
    """
    completed = verdict.outcome == "completed"
    asked = {"contentType": request.content_type or "application/octet-stream", "endpointName": call.token.endpoint}
    if request.input:
        asked["inputLocation"] = request.input
    message: dict[str, Any] = {
        "awsRegion": region,
        "eventTime": iso(now, "milliseconds"),
        "receivedTime": iso(call.accepted_at, "milliseconds"),
        "invocationStatus": "Completed" if completed else "Failed",
        **({} if completed else {"failureReason": f"{verdict.code}: {verdict.message}"}),
        "requestParameters": asked,
        "responseParameters": (
            {"contentType": verdict.content_type, "outputLocation": call.output}
            if completed
            else {"failureLocation": call.failure}
        ),
        "inferenceId": call.inference_id,
        **SOURCE,
        "eventName": "InferenceResult",
    }
    if response is not None:
        message["responseBody"] = {"content": base64.b64encode(response).decode(), "encoding": "BASE64"}
    return f"SageMaker asynchronous inference {'completed' if completed else 'failed'}", _text(message)


def _text(message: dict[str, Any]) -> str:
    return to_json(message).decode()
