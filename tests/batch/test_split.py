"""Splitting: no byte lost, no record read twice, whatever the chunks and wherever the ranges meet."""

from __future__ import annotations

import csv
import io
import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.modes.batch.split.base import Split, SplitError, Whole
from fourfold.modes.batch.split.lines import BOM, Lines
from fourfold.modes.batch.split.recordio import RecordIO
from fourfold.modes.batch.split.tfrecord import TFRecord, masked_crc
from fourfold.modes.batch.split.windows import windows

MAGIC = struct.pack("<I", 0xCED7230A)


def chunked(data: bytes, sizes: list[int]) -> list[bytes]:
    chunks, at = [], 0
    for size in sizes:
        chunks.append(data[at : at + size])
        at += size
    return [*chunks, data[at:]]


def recordio(body: bytes) -> bytes:
    """As dmlc writes it: split where the magic stands on a multiple of four."""
    parts, start = [], 0
    for at in range(0, len(body) - 3, 4):
        if body[at : at + 4] == MAGIC:
            parts.append(body[start:at])
            start = at + 4
    parts.append(body[start:])
    flags = [0] if len(parts) == 1 else [1, *[2] * (len(parts) - 2), 3]
    return b"".join(
        MAGIC + struct.pack("<I", flag << 29 | len(part)) + part + bytes(-len(part) % 4)
        for flag, part in zip(flags, parts, strict=True)
    )


def tfrecord(body: bytes) -> bytes:
    length = struct.pack("<Q", len(body))
    return length + struct.pack("<I", masked_crc(length)) + body + struct.pack("<I", masked_crc(body))


def read(data: bytes, split: Split, cuts: list[int], sizes: list[int], window: int) -> list[bytes]:
    """The bodies, read in ranges that meet at `cuts`, each from chunks of `sizes`."""
    borders = [0, *sorted(cut for cut in set(cuts) if 0 < cut < len(data)), len(data)]
    bodies = []
    for start, stop in itertools.pairwise(borders):
        if isinstance(split, Lines):
            split = Lines(split.quoted, bool(data.count(b'"', 0, start) % 2))
        for part in windows(chunked(data[max(start - 1, 0) :], sizes), split, start, stop, window):
            assert data[part.offset : part.offset + len(part.data)] == part.data
            for record in split.records(part):
                assert data[record.offset : record.offset + len(record.raw)] == record.raw
                bodies.append(record.body)
    return bodies


numbers = st.lists(st.integers(0, 40), max_size=12)
window_sizes = st.integers(1, 64)


@given(st.lists(st.text("ab,1é", min_size=1).map(str.encode)), st.sampled_from([b"\n", b"\r\n"]), st.booleans(),
       numbers, numbers, window_sizes)  # fmt: skip
def test_every_line_is_read_once(lines, end, final, cuts, sizes, window):
    data = end.join(lines) + (end if final and lines else b"")
    assert read(data, Lines(), cuts, sizes, window) == lines


@given(st.lists(st.lists(st.text('a",\n1'), min_size=1, max_size=3), max_size=6), numbers, numbers, window_sizes)
def test_quoted_newlines_stay_in_their_record(rows, cuts, sizes, window):
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    bodies = read(text.getvalue().encode(), Lines(quoted=True), cuts, sizes, window)
    assert [next(csv.reader(io.StringIO(body.decode(), newline=""))) for body in bodies] == rows


bodies_with_magic = st.lists(st.lists(st.sampled_from([b"a", b"bc", MAGIC, b"\0\0\0\0"])).map(b"".join), max_size=6)


@given(bodies_with_magic, numbers, numbers, window_sizes)
def test_recordio_finds_its_records_from_any_byte(bodies, cuts, sizes, window):
    assert read(b"".join(map(recordio, bodies)), RecordIO(), cuts, sizes, window) == bodies


@given(st.lists(st.binary(max_size=20), max_size=6), numbers, numbers, window_sizes)
def test_tfrecord_finds_its_records_from_any_byte(bodies, cuts, sizes, window):
    assert read(b"".join(map(tfrecord, bodies)), TFRecord(), cuts, sizes, window) == bodies


@given(st.binary(), numbers, window_sizes)
def test_unsplit_is_one_record(data, sizes, window):
    assert read(data, Whole(), [], sizes, window) == ([data] if data else [])


@given(st.binary(max_size=200), numbers, window_sizes)
def test_windows_hold_every_byte_of_any_input(data, sizes, window):
    parts = list(windows(chunked(data, sizes), Lines(), 0, len(data), window))
    assert b"".join(part.data for part in parts) == data


def test_a_byte_order_mark_is_no_part_of_the_first_record():
    assert read(BOM + b"1,2\n3,4\n", Lines(), [], [], 99) == [b"1,2", b"3,4"]


def test_blank_lines_count_but_hold_no_record():
    [part, last] = windows([b"a\n\n\r\nb"], Lines(), 0, 6)
    records = [*Lines().records(part), *Lines().records(last, Lines().lines(part))]
    assert [(record.body, record.line) for record in records] == [(b"a", 0), (b"b", 3)]


def test_a_line_longer_than_the_window_comes_whole():
    line = b"x" * 3_000_000
    parts = list(windows(chunked(line + b"\nshort\n", [1000] * 2900), Lines(), 0, 3_000_007, 4096))
    assert [record.body for part in parts for record in Lines().records(part)] == [line, b"short"]


@pytest.mark.parametrize(("split", "whole"), [(RecordIO(), recordio(b"abcdef")), (TFRecord(), tfrecord(b"abcdef"))])
@pytest.mark.parametrize("kept", [5, 13, -3])
def test_a_record_that_is_cut_off_is_an_error(split, whole, kept):
    with pytest.raises(SplitError, match="cut off"):
        read(whole + whole[:kept], split, [], [], 4096)


@pytest.mark.parametrize("split", [RecordIO(), TFRecord()])
def test_other_bytes_are_an_error(split):
    with pytest.raises(SplitError, match=r"no .* record begins here"):
        read(b"1,2,3\n" * 10, split, [], [], 4096)


def test_checksum_is_the_published_one():
    # CRC-32C of "123456789" is 0xe3069283; masked as in TensorFlow's record_writer.
    crc = 0xE3069283
    assert masked_crc(b"123456789") == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
