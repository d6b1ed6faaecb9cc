"""Plain data as HashiCorp's configuration language: just enough for the Terraform export.

A block's members are a mapping; a member that is a `Block`, or a list of them, becomes nested blocks; `Raw` is an
expression as it stands; everything else is a literal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Raw:
    """An expression, e.g. `aws_sagemaker_model.this.name`."""

    text: str


@dataclass(frozen=True)
class Block:
    """Members inside braces, without an equals sign."""

    members: Mapping[str, Any]


def block(head: str, members: Mapping[str, Any]) -> str:
    """A top-level block, e.g. `block('resource "aws_sns_topic" "alarm"', {})`."""
    return f"{head} {{\n{_body(members, 1)}}}\n"


def jsonencode(value: object) -> Raw:
    """`value` as HCL inside `jsonencode`, so that references in it are resolved."""
    return Raw(f"jsonencode({_value(value, 0)})")


def _body(members: Mapping[str, Any], depth: int) -> str:
    pad = "  " * depth
    lines = []
    for name, value in members.items():
        blocks = value if isinstance(value, list) and value and isinstance(value[0], Block) else [value]
        for each in blocks:
            if isinstance(each, Block):
                lines.append(f"{pad}{name} {{\n{_body(each.members, depth + 1)}{pad}}}\n")
            else:
                lines.append(f"{pad}{name} = {_value(value, depth)}\n")
    return "".join(lines)


def _value(value: object, depth: int) -> str:
    pad = "  " * (depth + 1)
    end = "  " * depth
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, Mapping):
        if not value:
            return "{}"
        rows = "".join(f"{pad}{_key(str(k))} = {_value(v, depth + 1)}\n" for k, v in value.items())
        return f"{{\n{rows}{end}}}"
    if isinstance(value, (list, tuple)):
        if all(isinstance(v, (str, int, float, bool, Raw)) for v in value):
            return "[" + ", ".join(_value(v, depth) for v in value) + "]"
        rows = "".join(f"{pad}{_value(v, depth + 1)},\n" for v in value)
        return f"[\n{rows}{end}]"
    return json.dumps(value, ensure_ascii=False)


def _key(name: str) -> str:
    return name if name.replace("_", "").isalnum() and not name[0].isdigit() else json.dumps(name)
