"""CBOR (RFC 8949), as far as the protocol `smithy-rpc-v2-cbor` needs it: AWS SDKs call CloudWatch in it.

A moment is a tag of its own there: `Moment` marks the seconds that are to be written so; read, it becomes a number.
"""

from __future__ import annotations

import struct
from typing import Any, Final

_MOST_DEPTH = 64
_MOMENT: Final = 1
_BREAK: Final = object()


class Moment(float):
    """Seconds since the epoch."""


class CborError(ValueError):
    """The bytes are not CBOR, or of a kind that no request holds."""


def encode(value: Any) -> bytes:
    """A value of dictionaries with text keys, lists, text, bytes, numbers, booleans, None and `Moment`."""
    out = bytearray()
    _encode(value, out)
    return bytes(out)


def _encode(value: Any, out: bytearray) -> None:
    match value:
        case None:
            out.append(0xF6)
        case bool():
            out.append(0xF5 if value else 0xF4)
        case Moment():
            out += b"\xc1\xfb" + struct.pack(">d", value)
        case float():
            out += b"\xfb" + struct.pack(">d", value)
        case int():
            _head(0 if value >= 0 else 1, value if value >= 0 else -1 - value, out)
        case bytes():
            _head(2, len(value), out)
            out += value
        case str():
            text = value.encode()
            _head(3, len(text), out)
            out += text
        case list() | tuple():
            _head(4, len(value), out)
            for item in value:
                _encode(item, out)
        case dict():
            _head(5, len(value), out)
            for key, item in value.items():
                _encode(key, out)
                _encode(item, out)
        case _:
            raise TypeError(f"a {type(value).__name__} has no CBOR form")


def _head(major: int, number: int, out: bytearray) -> None:
    if number < 24:
        out.append(major << 5 | number)
        return
    for more, form in ((24, ">B"), (25, ">H"), (26, ">I"), (27, ">Q")):
        if number < 1 << 8 * struct.calcsize(form):
            out.append(major << 5 | more)
            out += struct.pack(form, number)
            return
    raise OverflowError(f"{number} is too large for CBOR's integers")


def decode(data: bytes) -> Any:
    """The one value that the bytes are. Raises CborError."""
    reader = _Reader(data)
    try:
        value = reader.value(0)
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise CborError(f"the body is cut short or broken: {error}") from None
    if value is _BREAK or reader.at != len(data):
        raise CborError("the body is more than one value")
    return value


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def value(self, depth: int) -> Any:
        if depth > _MOST_DEPTH:
            raise CborError("the body is nested too deeply")
        first = self.data[self.at]
        self.at += 1
        major, more = first >> 5, first & 31
        if major == 7:
            return self._simple(more)
        length = None if more == 31 else self._number(more)
        match major:
            case 0 if length is not None:
                return length
            case 1 if length is not None:
                return -1 - length
            case 2:
                return b"".join(self._chunks(length, major))
            case 3:
                return b"".join(self._chunks(length, major)).decode()
            case 4:
                return list(self._items(length, depth))
            case 5:
                items = iter(self._items(None if length is None else 2 * length, depth))
                return self._pairs(items)
            case 6 if length is not None:
                inner = self.value(depth + 1)
                if length != _MOMENT or isinstance(inner, bool) or not isinstance(inner, int | float):
                    raise CborError(f"tag {length} is not known")
                return inner
        raise CborError(f"{first:#04x} begins nothing")

    def _pairs(self, items: Any) -> dict[str, Any]:
        found = {}
        for key in items:
            if not isinstance(key, str):
                raise CborError("a key is no text")
            value = next(items, _BREAK)
            if value is _BREAK:
                raise CborError("a key has no value")
            found[key] = value
        return found

    def _items(self, length: int | None, depth: int) -> Any:
        while length is None or length > 0:
            item = self.value(depth + 1)
            if item is _BREAK:
                if length is None:
                    return
                raise CborError("an end where none may be")
            yield item
            length = None if length is None else length - 1

    def _chunks(self, length: int | None, major: int) -> Any:
        if length is not None:
            yield self._take(length)
            return
        while (first := self.data[self.at]) != 0xFF:
            if first >> 5 != major or first & 31 == 31:
                raise CborError("a text or bytes in pieces has a piece of another kind")
            self.at += 1
            yield self._take(self._number(first & 31))
        self.at += 1

    def _number(self, more: int) -> int:
        if more < 24:
            return more
        if more > 27:
            raise CborError("a length is not one")
        return int.from_bytes(self._take(1 << more - 24))

    def _take(self, length: int) -> bytes:
        taken = self.data[self.at : self.at + length]
        if len(taken) < length:
            raise CborError("the body is cut short")
        self.at += length
        return taken

    def _simple(self, more: int) -> Any:
        match more:
            case 20 | 21:
                return more == 21
            case 22 | 23:
                return None
            case 25:
                return struct.unpack(">e", self._take(2))[0]
            case 26:
                return struct.unpack(">f", self._take(4))[0]
            case 27:
                return struct.unpack(">d", self._take(8))[0]
            case 31:
                return _BREAK
        raise CborError(f"the simple value {more} is not known")
