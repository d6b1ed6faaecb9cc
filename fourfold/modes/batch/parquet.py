"""Parquet files of one schema joined into one, without decoding a single page.

A Parquet file is magic, row groups, a footer that says where everything is, the footer's length, magic. To join files
is to copy their row groups one after the other and to write a footer in which every offset has moved. The footer is a
Thrift structure in compact encoding (apache/parquet-format, src/main/thrift/parquet.thrift); it is read and written
here in general form, so that members this code knows nothing about are kept.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

MAGIC = b"PAR1"
COPY = 4 * 1024 * 1024
"""Bytes that are copied at a time."""

Struct = dict[int, tuple[int, Any]]
"""A Thrift structure: field id to (type, value)."""

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)

# FileMetaData, RowGroup, ColumnChunk and ColumnMetaData: the members that are changed.
_NUM_ROWS, _ROW_GROUPS = 3, 4
_COLUMNS, _FILE_OFFSET, _ORDINAL = 1, 5, 7
_CHUNK_OFFSET, _META_DATA, _OFFSET_INDEX, _COLUMN_INDEX = 2, 3, 4, 6
_PAGE_OFFSETS = (9, 10, 11, 14)  # data page, index page, dictionary page, bloom filter
_MOST_ORDINAL = 32767


def concatenate(parts: Iterable[Any], sink: BinaryIO) -> None:
    """Write one Parquet file with the row groups of all parts, in order.

    Args:
        parts: seekable files of one schema, opened by pyarrow; each is read when its turn comes.
        sink: where the joined file goes.
    """
    sink.write(MAGIC)
    at = len(MAGIC)
    footer: Struct = {}
    groups: list[Struct] = []
    rows = 0
    for part in parts:
        part_footer, length = _footer(part)
        moved = at - len(MAGIC)
        for group in part_footer[_ROW_GROUPS][1][1]:
            _move_group(group, moved, len(groups))
            groups.append(group)
        rows += part_footer[_NUM_ROWS][1]
        footer = footer or part_footer
        for chunk in _copy(part, len(MAGIC), length):
            sink.write(chunk)
            at += len(chunk)
    footer[_NUM_ROWS] = (_I64, rows)
    footer[_ROW_GROUPS] = (_LIST, (_STRUCT, groups))
    encoded = bytearray()
    _write_struct(encoded, footer)
    sink.write(encoded + struct.pack("<I", len(encoded)) + MAGIC)


def _footer(part: Any) -> tuple[Struct, int]:
    """A file's footer, and where that begins."""
    size = part.size()
    length = struct.unpack("<I", part.read_at(4, size - 8))[0]
    start = size - 8 - length
    return Reader(part.read_at(length, start)).struct(), start


def _copy(part: Any, start: int, stop: int) -> Iterator[bytes]:
    for at in range(start, stop, COPY):
        yield part.read_at(min(COPY, stop - at), at)


def _move_group(group: Struct, moved: int, ordinal: int) -> None:
    _move(group, _FILE_OFFSET, moved)
    if ordinal > _MOST_ORDINAL:
        group.pop(_ORDINAL, None)
    elif _ORDINAL in group:
        group[_ORDINAL] = (_I16, ordinal)
    for chunk in group[_COLUMNS][1][1]:
        for field in (_CHUNK_OFFSET, _OFFSET_INDEX, _COLUMN_INDEX):
            _move(chunk, field, moved)
        for field in _PAGE_OFFSETS:
            _move(chunk[_META_DATA][1], field, moved)


def _move(fields: Struct, field: int, moved: int) -> None:
    if field in fields and fields[field][1] > 0:  # 0 stands for "not told"
        kind, offset = fields[field]
        fields[field] = (kind, offset + moved)


class Reader:
    """Reads Thrift's compact encoding."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def struct(self) -> Struct:
        """A structure."""
        fields: Struct = {}
        field = 0
        while header := self._byte():
            kind, delta = header & 15, header >> 4
            field = field + delta if delta else self._signed()
            fields[field] = (kind, kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind))
        return fields

    def _value(self, kind: int) -> Any:
        match kind:
            case 1 | 2 | 3:  # alone in a list, a boolean is a byte
                return self._byte()
            case 4 | 5 | 6:
                return self._signed()
            case 7:
                return self._bytes(8)
            case 8:
                return self._bytes(self._unsigned())
            case 9 | 10:
                return self._list()
            case 11:
                return self._map()
            case 12:
                return self.struct()
        raise ValueError(f"no Thrift type {kind}")

    def _list(self) -> tuple[int, list[Any]]:
        header = self._byte()
        count = header >> 4
        if count == 15:
            count = self._unsigned()
        return header & 15, [self._value(header & 15) for _ in range(count)]

    def _map(self) -> tuple[int, int, list[tuple[Any, Any]]]:
        count = self._unsigned()
        if not count:
            return 0, 0, []
        kinds = self._byte()
        keys, values = kinds >> 4, kinds & 15
        return keys, values, [(self._value(keys), self._value(values)) for _ in range(count)]

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _bytes(self, count: int) -> bytes:
        self._at += count
        return self._data[self._at - count : self._at]

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    def _signed(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)


def _write_struct(out: bytearray, fields: Struct) -> None:
    last = 0
    for field, (kind, value) in sorted(fields.items()):
        if kind in (_TRUE, _FALSE):
            kind = _TRUE if value else _FALSE
        if 0 < field - last < 16:
            out.append((field - last) << 4 | kind)
        else:
            out.append(kind)
            _write_signed(out, field)
        last = field
        if kind not in (_TRUE, _FALSE):
            _write(out, kind, value)
    out.append(0)


def _write(out: bytearray, kind: int, value: Any) -> None:
    match kind:
        case 1 | 2 | 3:
            out.append(value)
        case 4 | 5 | 6:
            _write_signed(out, value)
        case 7:
            out += value
        case 8:
            _write_unsigned(out, len(value))
            out += value
        case 9 | 10:
            _write_list(out, *value)
        case 11:
            _write_map(out, *value)
        case 12:
            _write_struct(out, value)


def _write_list(out: bytearray, kind: int, values: list[Any]) -> None:
    if len(values) < 15:
        out.append(len(values) << 4 | kind)
    else:
        out.append(0xF0 | kind)
        _write_unsigned(out, len(values))
    for value in values:
        _write(out, kind, value)


def _write_map(out: bytearray, keys: int, values: int, entries: list[tuple[Any, Any]]) -> None:
    _write_unsigned(out, len(entries))
    if entries:
        out.append(keys << 4 | values)
    for key, value in entries:
        _write(out, keys, key)
        _write(out, values, value)


def _write_signed(out: bytearray, value: int) -> None:
    _write_unsigned(out, value << 1 if value >= 0 else (-value << 1) - 1)


def _write_unsigned(out: bytearray, value: int) -> None:
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
