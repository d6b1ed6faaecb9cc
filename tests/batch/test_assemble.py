"""Parts to one object: Parquet files joined without decoding, error reports renumbered."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fourfold.modes.batch import parquet
from fourfold.modes.batch.assemble import assemble
from fourfold.modes.batch.blobs import Blobs
from fourfold.modes.batch.orders import Assembly, Done
from fourfold.storage.objects import NoSuchObject


def written(table: pa.Table, **options: object) -> pa.BufferReader:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    return pa.BufferReader(sink.getvalue())


def joined(parts: list[pa.Table], **options: object) -> bytes:
    sink = io.BytesIO()
    parquet.concatenate((written(part, **options) for part in parts), sink)
    return sink.getvalue()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zstd", "use_dictionary": False},
        {"write_page_index": True, "data_page_version": "2.0"},
        {"row_group_size": 7, "dictionary_pagesize_limit": 64},
    ],
)
def test_joined_files_read_as_their_tables_one_after_the_other(options):
    rng = np.random.default_rng(1)
    tables = [
        pa.table({
            "n": pa.array(range(rows), pa.int64()),
            "x": rng.random(rows, dtype=np.float32),
            "s": pa.array([None if i % 3 else f"s{i % 5}" for i in range(rows)], pa.string()),
            "l": pa.FixedSizeListArray.from_arrays(pa.array(rng.random(2 * rows)), 2),
            "b": pa.array([i % 2 == 0 for i in range(rows)], pa.bool_()),
        })
        for rows in (30, 0, 1, 25)
    ]  # fmt: skip
    content = joined(tables, **options)
    assert pq.read_table(io.BytesIO(content)).equals(pa.concat_tables(tables))
    metadata = pq.ParquetFile(io.BytesIO(content)).metadata
    assert metadata.num_rows == 56
    last = metadata.row_group(metadata.num_row_groups - 1).column(0)
    assert last.statistics.max == 24


def test_very_many_row_groups():
    content = joined([pa.table({"x": [i]}) for i in range(300)])
    assert pq.read_table(io.BytesIO(content))["x"].to_pylist() == list(range(300))


def test_a_join_is_a_file_that_can_be_joined_again():
    once = joined([pa.table({"x": [1]}), pa.table({"x": [2]})])
    sink = io.BytesIO()
    parquet.concatenate([pa.BufferReader(once), pa.BufferReader(once)], sink)
    assert pq.read_table(io.BytesIO(sink.getvalue()))["x"].to_pylist() == [1, 2, 1, 2]


def test_lines_of_bad_records_count_from_the_object_s_start(tmp_path):
    blobs = Blobs(tmp_path)
    for bucket in "po":
        (tmp_path / bucket).mkdir()
    contents = {"p/0": b"a\n", "p/1": b"b\n", "p/0e": b'{"line":2}\n', "p/1e": b'{"line":1}\n{"line":3}\n'}
    for url, content in contents.items():
        with blobs.write(f"s3://{url}") as sink:
            sink.write(content)
    parts = (
        Done(0, lines=3, part="s3://p/0", error_part="s3://p/0e"),
        Done(0, lines=4, part="s3://p/1", error_part="s3://p/1e"),
    )
    assemble(Assembly("", "s3://o/x.out", "s3://o/_errors/x.jsonl", parts), blobs)
    assert (tmp_path / "o" / "x.out").read_bytes() == b"a\nb\n"
    lines = [json.loads(line)["line"] for line in (tmp_path / "o" / "_errors" / "x.jsonl").read_text().splitlines()]
    assert lines == [2, 4, 6]


def test_what_cannot_be_written_whole_is_not_there(tmp_path):
    blobs = Blobs(tmp_path)
    for bucket in "po":
        (tmp_path / bucket).mkdir()
    with pytest.raises(NoSuchObject):
        assemble(Assembly("", "s3://o/x.out", "", (Done(0, part="s3://p/gone"),)), blobs)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
