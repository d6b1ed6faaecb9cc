"""Policy documents of IAM as plain data."""

from __future__ import annotations

from typing import Any


def allow(actions: str | list[str], resources: Any) -> dict[str, Any]:
    """A statement that allows actions on resources."""
    return {"Effect": "Allow", "Action": actions, "Resource": resources}


def document(statements: list[dict[str, Any]]) -> dict[str, Any]:
    """A policy of these statements."""
    return {"Version": "2012-10-17", "Statement": statements}


def trust(service: str) -> dict[str, Any]:
    """The policy of a role that a service of AWS may take on."""
    return document([{"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}])


def only_from(service: str, source: Any, statement: dict[str, Any]) -> dict[str, Any]:
    """A statement of a resource's own policy: for a service of AWS, when it acts for one other resource."""
    principal = {"Principal": {"Service": service}}
    return statement | principal | {"Condition": {"ArnEquals": {"aws:SourceArn": source}}}
