"""What the wire and the services give each other: calls, and the operations that answer them.

A service is a class whose methods are marked with `@operation("CreateModel")`; parsing and writing need no code of its
own (`contract`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Awaitable[dict[str, Any]]])


@dataclass(frozen=True)
class ApiCall:
    """One call of an AWS API, parsed and validated."""

    service: str
    operation: str
    params: dict[str, Any] = field(default_factory=dict)
    region: str = ""
    request_id: str = ""
    access_key_id: str = ""
    """Of whoever calls."""


class HttpRequest(NamedTuple):
    """What the parser needs of an HTTP request."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


class HttpAnswer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Operation:
    """An operation that is implemented, and what the page of compatibility cannot read from its code.

    Attributes:
        name: as in AWS's service model.
        kept: members (dotted paths, without list marks, `*` for any text) that are accepted and have no effect,
            although code names them.
        refused: members that are answered with an error, written alike.
    """

    name: str
    kept: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


class _Marked(Protocol):
    """A function that bears what `@operation` says about it."""

    operation: Operation


def operation(name: str, *, kept: tuple[str, ...] = (), refused: tuple[str, ...] = ()) -> Callable[[F], F]:
    """Marks a method `async def f(self, call: ApiCall) -> dict` as the implementation of an `Operation`."""

    def mark(method: F) -> F:
        cast("_Marked", method).operation = Operation(name, kept, refused)
        return method

    return mark


def operations(service: object) -> dict[str, Callable[[ApiCall], Awaitable[dict[str, Any]]]]:
    """The operations that an object (or a class) implements, by name."""
    methods = (getattr(service, name) for name in dir(service) if not name.startswith("__"))
    return {marked(method).name: method for method in methods if hasattr(method, "operation")}


def marked(method: Callable[..., object]) -> Operation:
    """What `@operation` says about a method."""
    return cast("_Marked", method).operation
