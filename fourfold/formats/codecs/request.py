"""What a decoded call is, and how decoding fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fourfold.formats.base import Arrays, Tensor

Body = bytes | bytearray | memoryview
Parameters = Mapping[str, str]
"""Of a media type: `header=present` in `text/csv; header=present`."""


class BadRequest(Exception):
    """A call that costs only itself. `status`: 400 content, 406 Accept, 415 content type."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """One call's arrays, checked against the model's inputs."""

    arrays: Arrays
    by_column: bool = False
    """JSON only. True: asked as `{"inputs": …}`, so that the answer is `{"outputs": …}`, whole arrays by name."""
    note: Any = None
    """Whatever the codec that decoded it has to remember for the answer."""


Decode = Callable[[Body, Parameters, tuple[Tensor, ...]], Request]
Encode = Callable[[Arrays, Request, Parameters], bytes | tuple[bytes, dict[str, str]]]
"""A body, or a body and headers of the answer."""


def text(body: Body) -> str:
    """The body as UTF-8, a byte order mark left out. Raises BadRequest naming the byte that is not."""
    try:
        return str(body, "utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise BadRequest(
            f"The body must be UTF-8 text; byte {error.start} is 0x{bytes(body)[error.start]:02x} ({error.reason})."
        ) from None
