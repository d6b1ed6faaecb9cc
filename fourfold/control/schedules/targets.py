"""What a run calls: a universal target's operation, and its input with EventBridge's placeholders filled."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import msgspec

from fourfold.clock import iso
from fourfold.errors import ValidationException

Document = dict[str, Any]

UNIVERSAL = "arn:aws:scheduler:::aws-sdk:"
"""Beginning of a target that is any operation of any service: `…aws-sdk:sagemaker:createTransformJob`."""


def operation_of(arn: str) -> tuple[str, str] | None:
    """The service and operation of a universal target; None for any other target."""
    service, _, operation = arn.removeprefix(UNIVERSAL).partition(":")
    if not arn.startswith(UNIVERSAL) or not operation:
        return None
    return service, operation[:1].upper() + operation[1:]


def filled(text: str, arn: str, scheduled: float, attempt: int) -> tuple[Document, dict[str, str]]:
    """A target's input with EventBridge's placeholders replaced.

    Where a placeholder puts into a name what a name may not hold (the colons of a time), hyphens take its place.

    Returns:
        the members, and the names that were changed, as they were to as they are.

    Raises:
        ValidationException: it is no JSON object.
    """
    values = {
        "<aws.scheduler.schedule-arn>": arn,
        "<aws.scheduler.scheduled-time>": iso(scheduled),
        "<aws.scheduler.execution-id>": execution_id(arn, scheduled),
        "<aws.scheduler.attempt-number>": str(attempt),
    }
    pattern = re.compile("|".join(map(re.escape, values)))
    try:
        template = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise ValidationException(f"The target's Input is no JSON: {error}") from None
    if not isinstance(template, dict):
        raise ValidationException("The target's Input must be a JSON object: the members of the operation.")
    changed: dict[str, str] = {}

    def fill(value: Any, member: str) -> Any:
        if isinstance(value, dict):
            return {key: fill(inner, key) for key, inner in value.items()}
        if isinstance(value, list):
            return [fill(inner, "") for inner in value]
        if not isinstance(value, str) or not pattern.search(value):
            return value
        text = pattern.sub(lambda match: values[match[0]], value)
        if member.endswith("Name") and text != (name := _as_name(text)):
            changed[text] = name
            return name
        return text

    return fill(template, ""), changed


def _as_name(text: str) -> str:
    """Letters, digits and single hyphens, at most 63 characters; what is cut off leaves a trace, so that it differs."""
    name = re.sub(r"[^a-zA-Z0-9]+", "-", text).strip("-")
    if len(name) > 63:
        name = f"{name[:54].rstrip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return name


def execution_id(arn: str, scheduled: float) -> str:
    """The id of a run: the same for every attempt, so that a target that knows it can tell a repetition."""
    return hashlib.sha256(f"{arn}@{scheduled}".encode()).hexdigest()[:16]
