"""What of AWS's API is here, operation by operation and member by member: works, kept or refused.

Nothing of this is a list kept by hand. The operations are those that classes of this package implement (`@operation`).
A member *works* where the code names it, and is *kept* (accepted, returned by Describe, without an effect) where no
code does. What that rule cannot tell stands beside the operation, `@operation(…, kept=…, refused=…)`: members that code
names only to pass them on, and members that it names to refuse them. `docs/generate.py` writes the page.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Literal

from botocore.model import ListShape, MapShape, OperationModel, Shape, StructureShape

from fourfold import api
from fourfold.api.contract import Contract
from fourfold.api.protocol import Operation, marked, operations

Status = Literal["works", "kept", "refused"]

RUNTIME = "sagemaker-runtime"
"""Its calls go through the fast lane and the gateway, so its operations are told by their paths."""

HEADERS = "x-amzn-sagemaker-"
"""What the names of its headers begin with; some code names only the rest."""

_PACKAGE = Path(__file__).resolve().parents[1]
_ELSEWHERE = ("advisor", "cli")
"""Packages that name members for other reasons than to serve them."""


@dataclass(frozen=True)
class Member:
    """One input member of an operation, e.g. `ProductionVariants[].ModelName`."""

    path: str
    status: Status


@cache
def implemented() -> dict[str, dict[str, Operation]]:
    """Every operation that a class of `fourfold.api` implements, by botocore's name of its service."""
    found: dict[str, dict[str, Operation]] = {}
    for module in pkgutil.iter_modules(api.__path__):
        for part in vars(importlib.import_module(f"fourfold.api.{module.name}")).values():
            service = getattr(part, "service", None)
            if isinstance(part, type) and isinstance(service, str):
                names = found.setdefault(service, {})
                names |= {name: marked(method) for name, method in operations(part).items()}
    return {service: dict(sorted(names.items())) for service, names in sorted(found.items()) if names}


def runtime_operations() -> list[str]:
    """The calls of sagemaker-runtime whose path the code answers."""
    contract = Contract(RUNTIME)
    paths = {name: _suffix(contract.operation(name)) for name in contract.model.operation_names}
    return sorted(name for name, path in paths.items() if path in _named())


def members(model: OperationModel, operation: Operation | None = None) -> list[Member]:
    """An operation's input members; those below a kept or refused one are left out."""
    if model.input_shape is None:
        return []
    return list(_members(model.input_shape, operation or Operation(model.name), "", frozenset()))


def _members(shape: StructureShape, operation: Operation, above: str, outer: frozenset[str]) -> Iterator[Member]:
    for name, member in shape.members.items():
        path = f"{above}{name}"
        is_payload = name == shape.serialization.get("payload")
        status = "works" if is_payload else _status(operation, path, member, name)
        yield Member(path, status)
        inner, marks = _structure(member)
        if status == "works" and inner is not None and inner.name not in outer:
            yield from _members(inner, operation, f"{path}{marks}.", outer | {inner.name})


def _status(operation: Operation, path: str, member: Shape, name: str) -> Status:
    status: Status
    plain = path.replace("[]", "").replace("{}", "")
    for status, declared in (("refused", operation.refused), ("kept", operation.kept)):
        if any(fnmatchcase(plain, pattern) for pattern in declared):
            return status
    match member.serialization.get("location"):
        case "uri":
            return "works"
        case "header":
            name = member.serialization["name"].lower()
    return "works" if {name, name.removeprefix(HEADERS)} & _named() else "kept"


def _structure(shape: Shape) -> tuple[StructureShape | None, str]:
    """The structure that a member holds, in lists and maps too, and how its path shows these."""
    marks = ""
    while isinstance(shape, ListShape | MapShape):
        marks += "[]" if isinstance(shape, ListShape) else "{}"
        shape = shape.member if isinstance(shape, ListShape) else shape.value
    return (shape if isinstance(shape, StructureShape) else None), marks


def _suffix(model: OperationModel) -> str:
    return str(model.http["requestUri"]).rpartition("}")[2]


@cache
def _named() -> frozenset[str]:
    """Every text that the serving code names, declarations of `@operation` apart."""
    found: set[str] = set()
    for file in _PACKAGE.rglob("*.py"):
        if file.relative_to(_PACKAGE).parts[0] not in _ELSEWHERE:
            found.update(_texts(ast.parse(file.read_text())))
    return frozenset(found)


def _texts(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "operation":
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
        yield node.value if isinstance(node.value, str) else node.value.decode("latin-1")
    for child in ast.iter_child_nodes(node):
        yield from _texts(child)
