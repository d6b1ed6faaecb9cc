"""What a worker writes for a shard: the answers of single calls, however the object is cut."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.formats.base import Model
from fourfold.modes.batch import shard
from fourfold.modes.batch.options import Options
from fourfold.modes.batch.orders import Done, Order, Report
from fourfold.modes.batch.plan import Slice
from fourfold.modes.batch.reading import first_line
from fourfold.records import Call
from tests.batch.models import Echo, Sums, Upper

CSV = Options(content_type="text/csv", split="Line", assemble="Line")
LINES = Options(content_type="application/jsonlines", split="Line", assemble="Line")


class Bench:
    """A folder of buckets and a model."""

    def __init__(self, root: Path, model: Model) -> None:
        self.root = root
        self.model = model
        self.done: Done

    def run(self, content: bytes, options: Options, borders: tuple[int, ...] = (), name: str = "a.csv") -> bytes | None:
        """The output of one object, cut at `borders`; None where there is none."""
        path = self.root / "data" / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        whole = Slice(0, f"s3://data/in/{name}", f"s3://data/out/{name}.out", len(content), 0, len(content))
        slices = [whole]
        if borders:
            edges = [0, *borders, len(content)]
            quotes = [content.count(b'"', 0, edge) for edge in edges]
            quoted = quotes[-1] > 0 and quotes[-1] % 2 == 0
            slices = [
                msgspec.structs.replace(
                    whole, start=a, stop=b, quotes=quoted, inside=quoted and count % 2 == 1,
                    header=first_line([content]) if options.header else "",
                )
                for a, b, count in zip(edges, edges[1:], quotes, strict=False)
            ]  # fmt: skip
        parts = []
        for piece in slices:
            self.done = self.do(piece, options)
            if self.done.reason:
                return None
            parts.append(self.read(self.done.part or whole.output))
        return b"".join(parts)

    def do(self, piece: Slice, options: Options) -> Done:
        order = Order(options, (piece,), str(self.root), "s3://data/out", "s3://.batch/job/1", "arn:job", "t0")
        answer = shard.run(self.model, msgspec.msgpack.encode(order), lambda _: None)
        return msgspec.msgpack.decode(answer, type=Report).done[0]

    def read(self, url: str) -> bytes:
        return (self.root / url.removeprefix("s3://")).read_bytes()

    def errors(self, name: str = "a.csv") -> list[dict[str, object]]:
        path = self.root / "data" / "out" / "_errors" / f"{name}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def sums(tmp_path):
    return Bench(tmp_path, Sums())


@pytest.fixture
def echo(tmp_path):
    return Bench(tmp_path, Echo())


def single_calls(model, rows, content_type):
    return b"".join(model.invoke([Call(0, row, content_type)])[0].body for row in rows)


def test_csv_lines_are_answered_as_single_calls_are(sums):
    rows = [b"%d,%d.5,1e-3" % (i, i) for i in range(10_000)]
    assert sums.run(b"\n".join(rows), CSV) == single_calls(Sums(), rows, "text/csv")
    assert sums.model.largest == 4096
    assert sums.done.records == 10_000


def test_json_lines_are_answered_as_single_calls_are(sums):
    rows = [b"[%d, 2.5, 3]" % i for i in range(100)] + [b'{"features": [1, 2, null]}', b"[1, null, 2]"]
    assert sums.run(b"\n".join(rows), LINES) == single_calls(Sums(), rows, "application/jsonlines")


cells = st.sampled_from(["1", "2.5", "-3", "1e3", " 4", "nan", "", "x", "-1", '"5"', '"6\n"', "1_0", "é"])
rows_of_cells = st.lists(st.lists(cells, min_size=2, max_size=4), max_size=8)


@settings(deadline=None, max_examples=60)
@given(rows_of_cells, st.sets(st.integers(1, 60)), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_the_cut_makes_no_difference(tmp_path_factory, rows, borders, end, final):
    text = (end.join(",".join(row) for row in rows) + (end if final else "")).encode()
    bench = Bench(tmp_path_factory.mktemp("b"), Sums())
    options = msgspec.structs.replace(CSV, on_error="skip", join=True)
    cut = tuple(sorted(border for border in borders if border < len(text)))
    assert bench.run(text, options, cut) == bench.run(text, options)


def test_a_bad_row_fails_the_object_and_is_named(sums):
    assert sums.run(b"1,2,3\n\n4,x,6\n7,8,9\n", CSV) is None
    assert "line 3 (byte 7)" in sums.done.reason
    assert "'x'" in sums.done.reason
    assert not (sums.root / "data" / "out").exists()


def test_a_bad_row_is_reported_and_the_others_are_written(sums):
    options = msgspec.structs.replace(CSV, on_error="skip")
    content = b"1,2,3\n4,x,6\n7,8\n\n-1,8,9\n5,5,5\n"
    assert sums.run(content, options) == b"6.0,0\n15.0,1\n"
    assert (sums.done.records, sums.done.errors) == (2, 3)
    reported = sums.errors()
    assert [(error["line"], error["offset"], error["input"]) for error in reported] == [
        (2, 6, "4,x,6"), (3, 12, "7,8"), (5, 17, "-1,8,9"),
    ]  # fmt: skip
    assert "does not take -1" in str(reported[2]["reason"])
    assert {error["object"] for error in reported} == {"s3://data/in/a.csv"}


def test_the_line_of_a_bad_row_is_counted_from_the_objects_start(sums):
    content = b"1,2,3\n" * 100 + b"x,2,3\n"
    assert sums.run(content, CSV, (301, 500)) is None
    assert "line 101 (byte 600)" in sums.done.reason


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        (b"", b""),
        (b"\n\r\n\n", b""),
        (b"1,2,3", b"6.0,0\n"),
        (b"1,2,3\r\n4,5,6\r\n", b"6.0,0\n15.0,1\n"),
        (b"\xef\xbb\xbf1,2,3\n", b"6.0,0\n"),
        (b'"1","2","3"\n1,"2\n",3\n', b"6.0,0\n6.0,0\n"),
    ],
)
def test_the_odd_shapes_of_text(sums, content, answer):
    assert sums.run(content, CSV) == answer


def test_a_stray_quote_costs_its_own_row(sums):
    options = msgspec.structs.replace(CSV, on_error="skip")
    assert sums.run(b'1,2,3\n4,"5,6\n7,8,9\n', options) == b"6.0,0\n24.0,1\n"
    assert [error["line"] for error in sums.errors()] == [2]


def test_gzip_members_are_one_text(sums):
    packed = gzip.compress(b"1,2,3\n4,5") + gzip.compress(b",6\n") + gzip.compress(b"")
    options = msgspec.structs.replace(CSV, gzip=True)
    assert sums.run(packed, options) == b"6.0,0\n15.0,1\n"
    assert sums.run(packed[:30], options) is None
    assert "cannot read" in sums.done.reason


def test_a_header_is_skipped_where_the_content_type_states_one(sums):
    options = msgspec.structs.replace(CSV, content_type="text/csv; header=present", join=True)
    content = b"a,b,c\n1,2,3\n4,5,6\n"
    assert sums.run(content, options) == b"1,2,3,6.0,0\n4,5,6,15.0,1\n"
    assert sums.run(content, options, (3, 9)) == b"1,2,3,6.0,0\n4,5,6,15.0,1\n"


def test_filters_and_join_on_csv(sums):
    options = msgspec.structs.replace(CSV, input_filter="$[1:4]", join=True, output_filter="$[0,-2,-1]")
    assert sums.run(b'id1,1,2,3\n"a,b",4,5,6\n', options) == b'id1,6.0,0\n"a,b",15.0,1\n'


def test_filters_and_join_on_json_lines(sums):
    options = msgspec.structs.replace(
        LINES, input_filter="$.features", join=True, output_filter="$['id','SageMakerOutput']"
    )
    lines = [{"id": 1, "features": [1, 2, 3]}, {"id": 2, "features": [4, 5, 6]}]
    text = "\n".join(map(json.dumps, lines)).encode()
    assert [json.loads(line) for line in (sums.run(text, options) or b"").splitlines()] == [
        {"id": 1, "SageMakerOutput": {"sum": [6.0], "big": 0}},
        {"id": 2, "SageMakerOutput": {"sum": [15.0], "big": 1}},
    ]


def test_inference_ids_are_the_same_in_every_run(sums):
    options = msgspec.structs.replace(CSV, inference_ids=True)
    first = sums.run(b"1,2,3\n4,5,6\n", options)
    assert first == sums.run(b"1,2,3\n4,5,6\n", options, (6,))
    assert [len(line.split(b",")) for line in (first or b"").splitlines()] == [4, 4]


def test_a_handler_gets_one_record_a_call(echo):
    options = Options(content_type="text/plain", split="Line", strategy="SingleRecord", assemble="Line")
    assert echo.run(b"one\ntwo\n", options) == b'{"got": "one"}\n{"got": "two"}\n'
    assert echo.model.bodies == [b"one", b"two"]


def test_a_handler_gets_as_many_records_as_fit(echo):
    options = Options(content_type="text/plain", split="Line", max_payload=8)
    echo.run(b"one\ntwo\nthree\nfour\n", options)
    assert echo.model.bodies == [b"one\ntwo", b"three", b"four"]


def test_a_payload_that_is_refused_is_sent_record_by_record(echo):
    options = Options(content_type="text/plain", split="Line", assemble="Line", on_error="record")
    assert echo.run(b"one\nbad\ntwo\n", options) == b'{"got": "one"}\n{"got": "two"}\n'
    [error] = echo.errors()
    assert (error["line"], error["input"]) == (2, "bad")
    assert "no bad bodies" in str(error["reason"])


def test_a_record_over_the_payload_limit_is_bad(echo):
    options = Options(content_type="text/plain", split="Line", max_payload=5, on_error="skip")
    echo.run(b"short\ntoo long\nx\n", options)
    assert [error["line"] for error in echo.errors()] == [2]


def test_an_unsplit_object_is_one_call(echo):
    options = Options(content_type="application/x-image")
    assert echo.run(b"all\nof\nit", options) == b'{"got": "all\\nof\\nit"}'
    assert echo.run(b"x" * (6 * 1024 * 1024 + 1), options) is None
    assert "MaxPayloadInMB" in echo.done.reason


def test_join_on_a_whole_json_document(echo):
    options = Options(content_type="application/json", join=True)
    assert json.loads(echo.run(b'{"id": 1}', options) or b"") == {"id": 1, "SageMakerOutput": {"got": '{"id": 1}'}}


def test_join_pairs_the_lines_of_a_payload(tmp_path):
    options = msgspec.structs.replace(CSV, join=True)
    assert Bench(tmp_path, Upper()).run(b"a,b\nc,d\n", options) == b"a,b,A,B\nc,d,C,D\n"


def test_an_object_that_is_not_there_fails_alone(sums):
    (sums.root / "data").mkdir()
    done = sums.do(Slice(3, "s3://data/gone", "s3://data/out/gone.out", 9, 0, 9), CSV)
    assert done.object == 3
    assert "s3://data/gone" in done.reason


PARQUET = Options(content_type="application/vnd.apache.parquet")


def parquet(rows: int, **columns: object) -> bytes:
    table = pa.table({"id": [f"r{i}" for i in range(rows)], **{
        name: np.arange(rows, dtype=np.float32) + i for i, name in enumerate("abc")}, **columns})  # fmt: skip
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=1000)
    return bytes(sink.getvalue())


def read_table(content: bytes | None) -> pa.Table:
    assert content is not None
    return pq.read_table(pa.BufferReader(content))


def test_columns_are_picked_and_joined(sums):
    options = msgspec.structs.replace(PARQUET, input_filter="$['a','b','c']", join=True)
    table = read_table(sums.run(parquet(2500), options))
    assert table.column_names == ["id", "a", "b", "c", "sum", "big"]
    assert table["id"].to_pylist() == [f"r{i}" for i in range(2500)]
    assert table["sum"].to_pylist() == [3.0 * i + 3 for i in range(2500)]


def test_only_predictions_without_join(sums):
    table = read_table(sums.run(parquet(10), msgspec.structs.replace(PARQUET, input_filter="$[1:]")))
    assert table.column_names == ["sum", "big"]
    assert read_table(sums.run(parquet(0), msgspec.structs.replace(PARQUET, input_filter="$[1:]"))).num_rows == 0


def test_a_bad_row_of_a_table(sums):
    content = parquet(5, a=np.array([0, 1, -1, 3, 4], dtype=np.float32))
    options = msgspec.structs.replace(PARQUET, input_filter="$['a','b','c']")
    assert sums.run(content, options) is None
    assert sums.done.reason.startswith("row 3: ")
    table = read_table(sums.run(content, msgspec.structs.replace(options, on_error="skip")))
    assert table.num_rows == 4
    [error] = sums.errors()
    assert error["line"] == 3
    assert json.loads(str(error["input"]))["c"] == 4.0


def test_csv_to_parquet(sums):
    options = msgspec.structs.replace(CSV, accept="application/vnd.apache.parquet")
    assert read_table(sums.run(b"1,2,3\n4,5,6\n", options))["sum"].to_pylist() == [6.0, 15.0]
    assert read_table(sums.run(b"", options)).num_rows == 0


def test_csv_to_parquet_with_the_input_kept(sums):
    options = msgspec.structs.replace(CSV, accept="application/vnd.apache.parquet", join=True, input_filter="$[1:]")
    table = read_table(sums.run(b'r1,1,2,3\n"r,2",4,5,6.50\n', options))
    assert table.to_pydict() == {
        "c0": ["r1", "r,2"], "c1": ["1", "4"], "c2": ["2", "5"], "c3": ["3", "6.50"],
        "sum": [6.0, 15.5], "big": table["big"].to_pylist(),
    }  # fmt: skip
    named = msgspec.structs.replace(options, content_type="text/csv; header=present")
    table = read_table(sums.run(b"id,a,b,sum\nr1,1,2,3\n", named))
    assert table.column_names == ["id", "a", "b", "sum", "sum_predicted", "big"]
    assert read_table(sums.run(b"id,a,b,sum\n", named)).column_names == table.column_names
    assert read_table(sums.run(b"", options)).column_names == ["sum", "big"]


def test_rows_of_another_length_are_bad_beside_kept_columns(sums):
    options = msgspec.structs.replace(CSV, accept="application/vnd.apache.parquet", join=True, input_filter="$[1:4]")
    content = b"r1,1,2,3\nr2,4,5,6,7\nr3,7,8,9\n"
    assert sums.run(content, options) is None
    assert sums.done.reason == "line 2 (byte 9): the row has 5 cells, the first has 4"
    table = read_table(sums.run(content, msgspec.structs.replace(options, on_error="record")))
    assert table["c0"].to_pylist() == ["r1", "r3"]
    assert table["sum"].to_pylist() == [6.0, 24.0]
    assert sums.errors()[0]["input"] == "r2,4,5,6,7"


def test_arrow_file_in(sums):
    table = pq.read_table(pa.BufferReader(parquet(3)))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    options = Options(content_type="application/vnd.apache.arrow.file", input_filter="$['a','b','c']")
    assert read_table(sums.run(bytes(sink.getvalue()), options))["sum"].to_pylist() == [3.0, 6.0, 9.0]
