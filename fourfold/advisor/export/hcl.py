"""Plain data as HashiCorp's configuration language: just enough for the Terraform export.

A block's members are a mapping; a member that is a `Block`, or a list of them, becomes nested blocks; `Raw` is an
expression as it stands; everything else is a literal.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
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


@dataclass(frozen=True)
class Encoded:
    """A value inside `jsonencode`, so that references in it are resolved."""

    value: object


def _body(members: Mapping[str, Any], depth: int) -> str:
    pad = "  " * depth
    text = ""
    pairs: list[tuple[str, str]] = []
    for name, value in members.items():
        blocks = value if isinstance(value, list) and value and isinstance(value[0], Block) else [value]
        for each in blocks:
            if isinstance(each, Block):
                text += _assignments(pairs, pad) + f"{pad}{name} {{\n{_body(each.members, depth + 1)}{pad}}}\n"
                pairs = []
            else:
                pairs.append((name, _value(value, depth)))
    return text + _assignments(pairs, pad)


def _assignments(pairs: Iterable[tuple[str, str]], pad: str) -> str:
    """As `terraform fmt` has it: the equals signs of neighbours in a column, but for values of several lines."""
    text = ""
    for long, group in itertools.groupby(pairs, key=lambda pair: "\n" in pair[1]):
        some = list(group)
        width = 0 if long else max(len(name) for name, _ in some)
        text += "".join(f"{pad}{name.ljust(width)} = {value}\n" for name, value in some)
    return text


def _value(value: object, depth: int) -> str:
    pad = "  " * (depth + 1)
    end = "  " * depth
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, Encoded):
        return f"jsonencode({_value(value.value, depth)})"
    if isinstance(value, Mapping):
        if not value:
            return "{}"
        rows = _assignments([(_key(str(k)), _value(v, depth + 1)) for k, v in value.items()], pad)
        return f"{{\n{rows}{end}}}"
    if isinstance(value, (list, tuple)):
        if all(isinstance(v, (str, int, float, bool, Raw)) for v in value):
            return "[" + ", ".join(_value(v, depth) for v in value) + "]"
        rows = "".join(f"{pad}{_value(v, depth + 1)},\n" for v in value)
        return f"[\n{rows}{end}]"
    return json.dumps(value, ensure_ascii=False)


def _key(name: str) -> str:
    return name if name.replace("_", "").isalnum() and not name[0].isdigit() else json.dumps(name)
