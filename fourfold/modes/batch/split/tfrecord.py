"""TensorFlow's TFRecord."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fourfold.modes.batch.split.base import Record, Split, SplitError, Window


class TFRecord(Split):
    """TensorFlow's framing: length (8 bytes), masked CRC-32C of the length (4), data, masked CRC-32C of the data (4).

    The length's checksum is verified; the data's is left to whoever decodes it. A range that begins in the middle
    finds its first record by that checksum, and by the one of the record after it.
    """

    _HEADER = struct.Struct("<QI")

    def border(self, data: bytes, offset: int, final: bool) -> int | None:
        for at in _checked_lengths(data):
            if at >= 1 and self._is_record(data, at, final):
                return at
        return None

    def end(self, data: bytes, at: int) -> int | None:
        if at + 12 > len(data):
            return None
        stop = at + 16 + self._length(data, at)
        return stop if stop <= len(data) else None

    def records(self, window: Window, line: int = 0) -> Iterator[Record]:
        offset, data = window
        at = 0
        while at < len(data):
            stop = self.end(data, at)
            if stop is None:
                raise SplitError(f"the TFRecord record at byte {offset + at:,} is cut off")
            yield Record(offset + at, data[at:stop], data[at + 12 : stop - 4], line)
            at, line = stop, line + 1

    def _length(self, data: bytes, at: int) -> int:
        length, check = self._HEADER.unpack_from(data, at)
        if check != masked_crc(data[at : at + 8]):
            raise SplitError("no TFRecord record begins here: the checksum of the length is wrong")
        return int(length)

    def _is_record(self, data: bytes, at: int, final: bool) -> bool:
        """Does the next record, or the object's end, follow? Eight bytes of data and their checksum look the same."""
        stop = at + 16 + self._length(data, at)
        if stop + 12 > len(data):
            return final and stop == len(data)
        check: int = self._HEADER.unpack_from(data, stop)[1]
        return check == masked_crc(data[stop : stop + 8])


def _crc_table() -> NDArray[np.uint32]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1).astype(np.uint32)
    return table


_CRC = _crc_table()
_CRC_LIST = _CRC.tolist()


def masked_crc(data: bytes) -> int:
    """TFRecord's checksum: CRC-32C (Castagnoli), rotated right by 15 bits, plus 0xa282ead8."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_LIST[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _checked_lengths(data: bytes) -> list[int]:
    """Every place in `data` where 8 bytes are followed by their masked CRC-32C."""
    places = len(data) - 11
    if places <= 0:
        return []
    octets = np.frombuffer(data, np.uint8)
    crc = np.full(places, 0xFFFFFFFF, np.uint32)
    for i in range(8):
        crc = _CRC[(crc ^ octets[i : i + places]) & 0xFF] ^ (crc >> 8)
    crc = ~crc
    masked = (crc >> 15 | crc << 17) + np.uint32(0xA282EAD8)
    stored = np.lib.stride_tricks.sliding_window_view(octets[8:], 4)[:places].copy().view("<u4")[:, 0]
    return [int(place) for place in np.flatnonzero(masked == stored)]
