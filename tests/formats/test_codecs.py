"""Content types to arrays and back: forms, errors, negotiation, and that a batch is as good as its calls."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from fourfold.formats.base import ArrayModel, Arrays, Model, Tensor
from fourfold.formats.codecs import CODECS, invoke_arrays
from fourfold.formats.codecs.binary import read_npy, write_npy
from fourfold.formats.codecs.request import BadRequest
from tests.formats import models
from tests.formats.models import call


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return models.load(models.linear(tmp_path_factory.mktemp("linear")))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return models.load(models.pair(tmp_path_factory.mktemp("pair")))


def npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, np.asarray(array))
    return out.getvalue()


def npz(**arrays: Any) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def parquet(**columns: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


TWO = {
    "instances": ('{"instances": [[1, 2, 3], [0.5, 0, 0]]}', "application/json"),
    "inputs": ('{"inputs": [[1, 2, 3], [0.5, 0, 0]]}', "application/json"),
    "inputs by name": ('{"inputs": {"x": [[1, 2, 3], [0.5, 0, 0]]}}', "application/json"),
    "instances by name": ('{"instances": [{"x": [1, 2, 3]}, {"x": [0.5, 0, 0]}]}', "application/json"),
    "instances by column": (
        '{"instances": [{"a": 1, "b": 2, "c": 3}, {"c": 0, "b": 0, "a": 0.5}]}',
        "application/json",
    ),
    "bare": ("[[1, 2, 3], [0.5, 0, 0]]", "application/json"),
    "bare records": ('[{"a": 1, "b": 2, "c": 3}, {"a": 0.5, "b": 0, "c": 0}]', "application/json"),
    "columns and data": ('{"columns": ["a", "b", "c"], "data": [[1, 2, 3], [0.5, 0, 0]]}', "application/json"),
    "dataframe_split": ('{"dataframe_split": {"columns": ["a", "b", "c"], "data": [[1, 2, 3], [0.5, 0, 0]]}}', ""),
    "dataframe_records": ('{"dataframe_records": [{"a": 1, "b": 2, "c": 3}, {"a": 0.5, "b": 0, "c": 0}]}', ""),
    "suffix": ("[[1, 2, 3], [0.5, 0, 0]]", "application/vnd.acme+json"),
    "charset": ("[[1, 2, 3], [0.5, 0, 0]]", "application/json; charset=UTF-8"),
    "no type, as boto3 sends it": ("[[1, 2, 3], [0.5, 0, 0]]", "application/octet-stream"),
    "lines": ("[1, 2, 3]\n\n[0.5, 0, 0]", "application/jsonlines"),
    "lines of records": ('{"a": 1, "b": 2, "c": 3}\n{"a": 0.5, "b": 0, "c": 0}\n', "application/x-ndjson"),
    "lines of features": ('{"features": [1, 2, 3]}\n{"features": [0.5, 0, 0]}', "application/x-jsonlines"),
    "csv": ("1,2,3\n0.5,0,0\n", "text/csv"),
    "csv with spaces and CRLF": ("1, 2, 3\r\n0.5, 0, 0\r\n", "text/csv"),
    "csv quoted": ('"1",2,3\n0.5,0,0', "text/csv"),
    "csv with a header": ("a,b,c\n1,2,3\n0.5,0,0", "text/csv"),
    "csv with a stated header": ("1,2,3\n1,2,3\n0.5,0,0", "text/csv; header=present"),
    "npy": (npy([[1, 2, 3], [0.5, 0, 0]]), "application/x-npy"),
    "npy in Fortran order": (npy(np.asfortranarray([[1, 2, 3], [0.5, 0, 0]])), "application/x-npy"),
    "npz": (npz(any=[[1, 2, 3], [0.5, 0, 0]]), "application/x-npz"),
    "sparse npz": (
        npz(format=b"csr", shape=[2, 3], indptr=[0, 3, 4], indices=[0, 1, 2, 0], data=[1, 2, 3, 0.5]),
        "application/x-npz",
    ),
    "parquet": (parquet(a=[1, 0.5], b=[2, 0], c=[3, 0]), "application/vnd.apache.parquet"),
    "parquet lists": (parquet(x=[[1.0, 2, 3], [0.5, 0, 0]]), "application/x-parquet"),
    "raw": (np.array([[1, 2, 3], [0.5, 0, 0]], "<f4").tobytes(), "application/octet-stream"),
}


@pytest.mark.parametrize("form", TWO)
def test_every_form_of_two_records(linear: Model, form: str) -> None:
    body, content_type = TWO[form]
    reply = linear.invoke([call(body, content_type, "application/json")])[0]
    member = "outputs" if form.startswith("inputs") else "predictions"
    assert (reply.status, json.loads(reply.body)) == (200, {member: [321, 0.5]}), reply.body


@pytest.mark.parametrize("form", TWO)
def test_memoryviews_are_bodies_too(linear: Model, form: str) -> None:
    body, content_type = TWO[form]
    asked = call(body, content_type, "application/json")
    asked.body = memoryview(asked.body)  # type: ignore[assignment]
    assert linear.invoke([asked, asked])[1].status == 200


@pytest.mark.parametrize(
    ("body", "content_type", "answer"),
    [
        ("[[1, 2, 3]]", "application/json", b'{"predictions":[321.0]}'),
        ("[1, 2, 3]", "application/json", b'{"predictions":[321.0]}'),
        ("[1, 2, 3]\n[0, 0, 1]", "application/jsonlines", b"321.0\n100.0\n"),
        ("1,2,3\n0,0,1", "text/csv", b"321.0\n100.0\n"),
        (npy([[1, 2, 3]]), "application/x-npy", npy(np.array([321], np.float32))),
        (npy([1, 2, 3]), "application/x-npy", npy(np.array([321], np.float32))),
        (np.array([1, 2, 3], "<f4").tobytes(), "application/octet-stream", np.array([321], "<f4").tobytes()),
    ],
)
def test_the_answer_is_of_the_kind_of_the_request(linear: Model, body: Any, content_type: str, answer: bytes) -> None:
    reply = linear.invoke([call(body, content_type)])[0]
    assert (reply.status, reply.content_type, reply.body) == (200, content_type, answer)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ('[[30, "ann"], [40, "bob"]]', "application/json"),
        ('{"instances": [[30, "ann"], [40, "bob"]]}', "application/json"),
        ('{"age": [30, 40], "name": ["ann", "bob"], "else": [1, 2]}', "application/json"),
        ('{"age": {"0": 30, "1": 40}, "name": {"0": "ann", "1": "bob"}}', "application/json"),
        ('[{"age": 30, "name": "ann", "else": 1}, {"age": 40, "name": "bob", "else": 2}]', "application/json"),
        ('[30, "ann"]\n[40, "bob"]', "application/jsonlines"),
        (",name,age\n0,ann,30\n1,bob,40\n", "text/csv"),
        (parquet(name=["ann", "bob"], other=[1, 2], age=[30, 40]), "application/parquet"),
    ],
)
def test_a_table_fills_several_inputs_by_name_or_from_the_left(pair: Model, body: Any, content_type: str) -> None:
    reply = pair.invoke([call(body, content_type, "application/json")])[0]
    assert json.loads(reply.body)["predictions"] == [{"next": [31], "same": "ann"}, {"next": [41], "same": "bob"}]


@pytest.mark.parametrize("body", ["True,false", "1,0", "1.0,0"])
def test_booleans_in_csv(tmp_path: Path, body: str) -> None:
    model = models.load(models.identity(tmp_path, TensorProto.BOOL))
    assert model.invoke([call(body, "text/csv")])[0].body == b"True,False\n"
    assert model.invoke([call("1,2", "text/csv")])[0].status == 400


def test_parquet_answers_parquet(pair: Model) -> None:
    reply = pair.invoke([call(parquet(name=["ann", "bob"], age=[30, 40]), "application/parquet")])[0]
    assert reply.content_type == "application/vnd.apache.parquet"
    assert pq.read_table(pa.BufferReader(reply.body)).to_pydict() == {"next": [31, 41], "same": ["ann", "bob"]}


PEOPLE = [{"next": [31], "same": "ann"}, {"next": [41], "same": "bob"}]


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ('{"instances": [{"age": 30, "name": "ann"}, {"age": 40, "name": "bob"}]}', "application/json"),
        ('[{"age": [30], "name": "ann"}, {"name": "bob", "age": [40.0]}]', "application/json"),
        ('{"columns": ["name", "age"], "data": [["ann", 30], ["bob", 40]]}', "application/json"),
        ("name,age\nann,30\nbob,40", "text/csv"),
        ('30,"ann"\n40,bob', "text/csv"),
        (npz(age=[[30], [40]], name=["ann", "bob"]), "application/x-npz"),
        (parquet(age=[30, 40], name=["ann", "bob"]), "application/x-parquet"),
    ],
)
def test_several_inputs_and_outputs(pair: Model, body: Any, content_type: str) -> None:
    reply = pair.invoke([call(body, content_type, "application/json")])[0]
    assert (reply.status, json.loads(reply.body)) == (200, {"predictions": PEOPLE}), reply.body


@pytest.mark.parametrize(
    ("cells", "answers"),
    [
        (["1.5", "", "-2e3"], [1.5, None, -2000.0]),
        (["1.5", " ", "NA", "true"], [1.5, None, None, 1.0]),
        (["1", "1_0"], "Record 2 of the CSV has '1_0' where the model takes a number"),
        (["1", "", "x"], "Record 3 of the CSV has 'x' where the model takes a number"),
    ],
)
@pytest.mark.parametrize("header", ["", "word,number\n"])
def test_numbers_beside_words_in_csv(cells: list[str], answers: Any, header: str) -> None:
    class Echo(ArrayModel):
        inputs = (Tensor("word", "object", (None,)), Tensor("number", "float64", (None,)))
        outputs = (Tensor("number", "float64", (None,)),)

        def predict(self, inputs: Arrays) -> Arrays:
            return {"number": inputs["number"]}

    body = header + "".join(f'"a_b, c",{cell}\n' for cell in cells)
    reply = Echo().invoke([call(body, "text/csv", "application/json")])[0]
    if isinstance(answers, str):
        assert reply.status == 400
        assert answers in reply.body.decode()
    else:
        assert json.loads(reply.body) == {"predictions": answers}


def test_several_outputs_by_column_and_in_other_types(pair: Model) -> None:
    body = '{"inputs": {"age": [[30]], "name": ["a,b"]}}'
    json_, csv, lines, npz_, npy_ = pair.invoke(
        [call(body, accept=accept) for accept in
         ("", "text/csv;header=present", "application/jsonlines", "application/x-npz", "application/x-npy")]
    )  # fmt: skip
    assert json.loads(json_.body) == {"outputs": {"next": [[31]], "same": ["a,b"]}}
    assert csv.body == b'next,same\n31,"a,b"\n'
    assert lines.body == b'{"next":[31],"same":"a,b"}\n'
    assert np.load(io.BytesIO(npz_.body))["same"].tolist() == ["a,b"]
    assert npy_.status == 406
    assert b"application/x-npz" in npy_.body
    reply = pair.invoke([call(npz(age=[[1]], name=["x"]), "application/x-npz")])[0]
    assert reply.content_type == "application/x-npz"


@pytest.mark.parametrize(
    ("body", "content_type", "status", "expected"),
    [
        (
            "[[1, 2]]",
            "application/json",
            400,
            "expects x: float32[?, 3], got int64[1, 2]. Each record needs 3 values",
        ),
        ('{"instances": [1, 2, 3]}', "application/json", 400, "got int64[3]. Put one more pair of brackets"),
        ("[[[1, 2, 3]]]", "application/json", 400, "got int64[1, 1, 3]"),
        ("[[1, 2, 3], [1]]", "application/json", 400, "rows of one length; they differ (1, 3)"),
        ('[[1, 2, "b"]]', "application/json", 400, "x: float32[?, 3] cannot take a string: 'b'"),
        ('[["1", "2", "3"]]', "application/json", 400, "numbers written as strings"),
        ("[[1, 2, 1e39]]", "application/json", 400, "beyond its range"),
        ('[[1, 2, {"a": 1}]]', "application/json", 400, "not an object"),
        ("[[1, 2, 3]", "application/json", 400, "not valid JSON: Input data was truncated"),
        ("", "application/json", 400, "body is empty"),
        ("[]", "application/json", 400, "no records"),
        ("7", "application/json", 400, 'a JSON number; send {"instances"'),
        ('{"instance": [[1, 2, 3]]}', "application/json", 400, "the members 'instance'; send"),
        ('{"instances": 3}', "application/json", 400, '"instances" must be a list of records, not a JSON number'),
        ('{"inputs": {"z": [[1, 2, 3]]}}', "application/json", 400, "missing: x; unknown: z"),
        ('[{"a": 1}, {"b": 1}]', "application/json", 400, "Record 2 does not have the members of the first: 'a'"),
        (b"[[1, 2, \xff]]", "application/json", 400, "byte 8 is 0xff"),
        ("[1, 2, 3]\n[1,", "application/jsonlines", 400, "Line 2: The body is not valid JSON"),
        ("1,2", "text/csv", 400, "Each record needs 3 values and has 2"),
        ("1,2,3\n1,2", "text/csv", 400, "Line 2 of the CSV has 2 cells where the first has 3"),
        ("1,2,x", "text/csv", 400, "has 'x' where the model takes a number"),
        ("1,2,1_0", "text/csv", 400, "has '1_0' where the model takes a number"),
        ("a,b,c", "text/csv", 400, "a header and no records"),
        (b"1,2,\xff", "text/csv", 400, "byte 4 is 0xff"),
        (npy([[1, 2]]), "application/x-npy", 400, "expects x: float32[?, 3], got int64[1, 2]"),
        (npy([[1, 2, 3]])[:-1], "application/x-npy", 400, "24 bytes; 23 bytes follow it"),
        (npy(np.array([["a", "b", "c"]])), "application/x-npy", 400, "cannot take a string: 'a'"),
        (b"hello", "application/x-npy", 400, "does not start with"),
        (b"hello", "application/x-npz", 400, "not an NPZ file"),
        (b"hello", "application/x-parquet", 400, "not a Parquet file"),
        (b"\x00" * 11, "application/octet-stream", 400, "12 bytes a record, little endian; got 11 bytes"),
        ("<x/>", "text/xml", 415, "'text/xml' is not one this model reads; send one of application/json"),
        ("[[1,2,3]]", "application/json; charset=latin-1", 415, "send UTF-8"),
    ],
)
def test_what_is_wrong_is_named(linear: Model, body: Any, content_type: str, status: int, expected: str) -> None:
    reply = linear.invoke([call(body, content_type)])[0]
    assert reply.status == status
    assert expected in reply.body.decode()
    assert reply.content_type == "text/plain"


def test_objects_in_npy_are_never_unpickled(linear: Model) -> None:
    out = io.BytesIO()
    np.save(out, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    reply = linear.invoke([call(out.getvalue(), "application/x-npy")])[0]
    assert (reply.status, b"never objects" in reply.body) == (400, True)


def test_a_header_that_claims_too_much_costs_nothing() -> None:
    header_and_one = npy(np.zeros(1000))[: -999 * 8]
    with pytest.raises(BadRequest, match="8000 bytes; 8 bytes follow it"):
        read_npy(header_and_one)


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        (TensorProto.INT64, "[[1.0, -2]]", [[1, -2]]),
        (TensorProto.INT64, "[[9223372036854775807, 0]]", [[9223372036854775807, 0]]),
        (TensorProto.INT64, "[[1.5, 2]]", "cannot take float64: 1.5"),
        (TensorProto.INT64, "[[9223372036854775808, 0]]", "beyond its range"),
        (TensorProto.INT64, "[[null, 0]]", "cannot take null"),
        (TensorProto.UINT8, "[[256, 0]]", "beyond its range"),
        (TensorProto.BOOL, "[[true, false]]", [[True, False]]),
        (TensorProto.BOOL, "[[1, 0]]", [[True, False]]),
        (TensorProto.BOOL, "[[2, 0]]", "cannot take"),
        (TensorProto.STRING, '[["é", ""]]', [["é", ""]]),
        (TensorProto.STRING, '[["a", 1]]', "takes strings, not int: 1"),
        (TensorProto.DOUBLE, "[[null, 1]]", [[None, 1.0]]),
        (TensorProto.DOUBLE, "[[NaN, -Infinity]]", [[None, None]]),
    ],
)
def test_numbers_are_cast_only_where_nothing_is_lost(tmp_path: Path, kind: int, body: str, expected: Any) -> None:
    reply = models.load(models.identity(tmp_path, kind)).invoke([call(body)])[0]
    if isinstance(expected, str):
        assert reply.status == 400
        assert expected in reply.body.decode()
    else:
        assert json.loads(reply.body) == {"predictions": expected}


@pytest.mark.parametrize(
    ("shape", "body", "content_type", "expected"),
    [
        (("n", 2, 2), "[[[1, 2], [3, 4]]]", "application/json", [[[1, 2], [3, 4]]]),
        (("n", 2, 2), "[[1, 2], [3, 4]]", "application/json", [[[1, 2], [3, 4]]]),
        (("n", 2, 2), "1,2,3,4\n5,6,7,8", "text/csv", [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]),
        (("n", 1), "[1, 2]", "application/json", [[1], [2]]),
        (("n", 1), '{"instances": [1, 2]}', "application/json", [[1], [2]]),
        (("n", 1), "1\n2", "text/csv", [[1], [2]]),
        (("n",), "[1, 2]", "application/json", [1, 2]),
        (("n",), "1\n2", "text/csv", [1, 2]),
        (("n", "m"), "[[1, 2]]", "application/json", [[1, 2]]),
    ],
)
def test_records_of_any_rank(tmp_path: Path, shape: Any, body: str, content_type: str, expected: Any) -> None:
    model = models.load(models.identity(tmp_path, shape=shape))
    reply = model.invoke([call(body, content_type, "application/json")])[0]
    assert json.loads(reply.body) == {"predictions": expected}, reply.body


def test_records_of_different_length_are_answered_apart(tmp_path: Path) -> None:
    model = models.load(models.identity(tmp_path, shape=("n", "m")))
    replies = model.invoke([call("[[1, 2]]"), call("[[1]]"), call("[[3, 4]]")])
    assert [json.loads(reply.body)["predictions"] for reply in replies] == [[[1, 2]], [[1]], [[3, 4]]]


class Named(ArrayModel):
    inputs = (Tensor("x", "float32", (None, 2), ("height", "weight")),)

    def predict(self, inputs: Arrays) -> Arrays:
        return {"y": inputs["x"]}


@pytest.mark.parametrize(
    ("body", "content_type"),
    [('{"weight": 2, "height": 1}', "application/json"), ("weight,height\n2,1", "text/csv"),
     (parquet(weight=[2.0], height=[1.0]), "application/x-parquet")],
)  # fmt: skip
def test_named_columns_go_where_the_model_knows_them(body: Any, content_type: str) -> None:
    reply = Named().invoke([call(body, content_type, "application/json")])[0]
    assert json.loads(reply.body) == {"predictions": [[1, 2]]}
    reply = Named().invoke([call('[{"weight": 2, "age": 1}]')])[0]
    assert (reply.status, b"missing: 'height'" in reply.body) == (400, True)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("text/*", "text/csv"),
        ("TEXT/CSV", "text/csv"),
        ("text/csv;q=0.5, application/x-npy;q=0.9", "application/x-npy"),
        ("text/html, */*;q=0.1", "application/json"),
        ("application/json;q=0, */*", "application/jsonlines"),
        ("application/x-ndjson", "application/x-ndjson"),
        ("text/csv, application/json", "application/json"),
        ("text/html", 406),
        ("application/json;q=0", 406),
        ("text/csv;q=x", 406),
    ],
)
def test_accept_is_negotiated(linear: Model, accept: str, expected: str | int) -> None:
    reply = linear.invoke([call("[[1, 2, 3]]", accept=accept)])[0]
    assert expected in (reply.content_type, reply.status), reply
    if expected == 406:
        assert b"it sends application/json" in reply.body


def test_a_batch_is_one_predict() -> None:
    model = models.Counted()
    replies = model.invoke([call(f"[[{n}, 1], [0, 0]]", id=n) for n in range(5)])
    assert model.batches == [10]
    assert [(reply.id, json.loads(reply.body)) for reply in replies] == [
        (n, {"predictions": [n + 1, 0]}) for n in range(5)
    ]


def test_calls_of_many_kinds_are_one_predict_too() -> None:
    model = models.Counted()
    replies = model.invoke(
        [call("[[1, 1]]"), call("1,1", "text/csv"), call(npy([[1, 1]]), "application/x-npy"), call("[")]
    )
    assert model.batches == [3]
    assert [reply.status for reply in replies] == [200, 200, 200, 400]


def test_only_the_guilty_call_fails() -> None:
    model = models.Counted()
    replies = model.invoke([call("[[1, 1]]"), call("[[13, 1]]"), call("[[2]]"), call("[[2, 2]]")])
    assert [reply.status for reply in replies] == [200, 500, 400, 200]
    assert replies[1].body == b"ValueError: thirteen"
    assert "in predict" in replies[1].detail
    replies = model.invoke([call("[[1, 1]]"), call("[[13, 1]]")])
    assert [reply.status for reply in replies] == [200, 500]


class Summary(ArrayModel):
    """One number for all records together, whatever comes."""

    inputs = (Tensor("x", "float32", (None, 1)),)

    def predict(self, inputs: Arrays) -> Arrays:
        return {"sum": inputs["x"].sum(keepdims=True)[0]}


def test_an_output_that_cannot_be_divided_is_worked_out_for_each_call() -> None:
    replies = Summary().invoke([call("[[1], [2]]"), call("[[5]]")])
    assert [json.loads(reply.body) for reply in replies] == [{"predictions": [3]}, {"predictions": [5]}]


number = st.floats(allow_nan=False, allow_infinity=False, width=32)
rows = st.lists(st.lists(number, min_size=2, max_size=2), min_size=1, max_size=5)


class Echo(ArrayModel):
    inputs = (Tensor("x", "float32", (None, 2)),)

    def predict(self, inputs: Arrays) -> Arrays:
        return {"y": inputs["x"]}


@given(rows, st.sampled_from([codec.name for codec in CODECS]))
def test_what_is_written_reads_back_the_same(records: list[list[float]], name: str) -> None:
    codec = next(codec for codec in CODECS if codec.name == name)
    sent = call(json.dumps(records), accept=codec.types[0])
    written = Echo().invoke([sent])[0]
    body = written.body
    if name == "JSON":
        body = body.replace(b"predictions", b"instances")
    if name == "Open Inference Protocol":
        body = body.replace(b"outputs", b"inputs").replace(b'"y"', b'"x"')
    again = Echo().invoke([call(body, codec.types[0], "application/x-npy")])[0]
    assert again.status == 200, again.body
    np.testing.assert_array_equal(np.load(io.BytesIO(again.body)), np.array(records, np.float32))


@given(st.lists(rows, min_size=1, max_size=6), st.data())
def test_a_batch_answers_as_its_calls_one_by_one(batches: list[list[list[float]]], data: st.DataObject) -> None:
    calls = []
    for records in batches:
        body, kind = data.draw(
            st.sampled_from([
                (json.dumps(records).encode(), "application/json"),
                (json.dumps({"inputs": records}).encode(), "application/json"),
                ("\n".join(",".join(map(repr, row)) for row in records).encode(), "text/csv"),
                (npy(np.array(records, np.float32)), "application/x-npy"),
                (b"[[1]]", "application/json"),
                (b"[[13, 0]]", "application/json"),
            ])
        )  # fmt: skip
        calls.append(call(body, kind, id=len(calls)))
    together = invoke_arrays(models.Counted(), calls)
    alone = [invoke_arrays(models.Counted(), [one])[0] for one in calls]
    for one, other in zip(together, alone, strict=True):
        assert (one.id, one.status, one.body, one.content_type) == (
            other.id,
            other.status,
            other.body,
            other.content_type,
        )


json_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["instances", "inputs", "columns", "data", "x", "age", "name", "a"]), inner, max_size=3
    ),
    max_leaves=8,
)  # fmt: skip


CONTENT_TYPES = [codec.types[0] for codec in CODECS] + ["text/csv;header=present", "nonsense", ";"]


@given(
    st.binary(max_size=80) | json_value.map(lambda value: json.dumps(value).encode()),
    st.sampled_from(CONTENT_TYPES),
    st.sampled_from(["", "text/csv", "application/x-npy", ",;=", "*/*;q=0"]),
)
def test_garbage_is_answered_never_raised(
    pair: Model, linear: Model, body: bytes, content_type: str, accept: str
) -> None:
    for model in (linear, pair):
        reply = model.invoke([call(body, content_type, accept)])[0]
        assert reply.status in (200, 400, 406, 415), reply.body


@given(st.binary(min_size=0, max_size=60), st.integers(0, 200))
def test_broken_npy_is_answered(garbage: bytes, cut: int) -> None:
    whole = npy([[1.0, 2.0], [3.0, 4.0]])
    for body in (whole[:cut] + garbage, whole[:cut] + garbage + whole[cut:]):
        assert Echo().invoke([call(body, "application/x-npy")])[0].status in (200, 400)


def test_strings_are_written_without_objects() -> None:
    assert np.load(io.BytesIO(write_npy(np.array(["a", "é"], dtype=object)))).tolist() == ["a", "é"]


class Sizes(ArrayModel):
    """How long each string is, which may be bytes."""

    inputs = (Tensor("s", "object", (None,), binary=True),)

    def predict(self, inputs: Arrays) -> Arrays:
        return {"size": np.array([len(value) for value in inputs["s"]])}


@pytest.mark.parametrize(
    "body",
    [
        '{"instances": [{"b64": "AP8B"}, "ab"]}',
        '{"instances": [{"s": {"b64": "AP8B"}}, {"s": "ab"}]}',
        '{"inputs": [{"b64": "AP8B"}, "ab"]}',
    ],
)
def test_bytes_in_json_are_base64(body: str) -> None:
    reply = Sizes().invoke([call(body)])[0]
    assert next(iter(json.loads(reply.body).values())) == [3, 2], reply.body


@pytest.mark.parametrize("body", ['[{"b64": "!"}]', '[{"b64": 7}]', '[{"b64": "AA==", "c": 1}]', "[7]"])
def test_what_is_no_base64_is_refused(body: str) -> None:
    assert Sizes().invoke([call(body)])[0].status == 400
