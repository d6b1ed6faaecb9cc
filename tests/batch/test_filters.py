"""InputFilter and OutputFilter: AWS's documented examples, and properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.errors import ValidationException
from fourfold.modes.batch.filters import FilterError, parse
from fourfold.modes.batch.join import cells, join_json, row

ROW = ["id7", "a", "b", "c", "0.9"]
RECORD = {"id": 7, "features": [1, 2, 3], "deep": {"x": [4, 5]}, "SageMakerOutput": {"label": "yes"}}


@pytest.mark.parametrize(
    ("text", "value", "picked"),
    [
        ("$", ROW, ROW),
        ("$[1:]", ROW, ["a", "b", "c", "0.9"]),
        ("$[0,-1]", ROW, ["id7", "0.9"]),
        ("$[0,3:]", ROW, ["id7", "c", "0.9"]),
        ("$[1:3]", ROW, ["a", "b"]),
        ("$[:-1]", ROW, ["id7", "a", "b", "c"]),
        ("$[-1]", ROW, "0.9"),
        ("$[*]", ROW, ROW),
        ("$.features", RECORD, [1, 2, 3]),
        ("$['features']", RECORD, [1, 2, 3]),
        ("$['id','SageMakerOutput']", RECORD, {"id": 7, "SageMakerOutput": {"label": "yes"}}),
        ("$.deep.x[0]", RECORD, 4),
        ("$.deep.*", RECORD, [[4, 5]]),
        ("$.deep.*[1]", RECORD, [5]),
        ("$.features[1,2]", RECORD, [2, 3]),
    ],
)
def test_picks(text, value, picked):
    assert parse(text).pick(value) == picked


@pytest.mark.parametrize("text", ["x", "$.", "$[", "$[]", "$[a]", "$['a]", "$..a", "$[1:2:3]", "$[,]", "$." + "a" * 62])
def test_what_is_no_filter_is_refused(text):
    with pytest.raises(ValidationException, match="is not a filter"):
        parse(text)


@pytest.mark.parametrize(("text", "value"), [("$[5]", ROW), ("$[-6]", ROW), ("$.nothing", RECORD), ("$.id[0]", RECORD)])
def test_what_a_record_lacks_is_an_error(text, value):
    with pytest.raises(FilterError):
        parse(text).pick(value)


def test_columns_by_place_and_by_name():
    assert parse("$[1:]").columns(4) == [1, 2, 3]
    assert parse("$[-1]").columns(4) == [3]
    assert parse("$['b','a']").names(["a", "b", "c"]) == ["b", "a"]
    assert parse("$.c").names(["a", "b", "c"]) == ["c"]
    assert parse("$").names(["a", "b"]) == ["a", "b"]
    with pytest.raises(FilterError, match="no column"):
        parse("$['z']").names(["a"])
    with pytest.raises(FilterError, match="indexes only"):
        parse("$.a").columns(3)


@given(st.lists(st.integers(), min_size=1), st.integers(-9, 9), st.integers(-9, 9))
def test_a_slice_is_python_s(values, start, stop):
    assert parse(f"$[{start}:{stop}]").pick(values) == values[start:stop]


@given(st.lists(st.text('a,"\n\r é'), min_size=1).filter(lambda values: values != [""]))
def test_a_row_comes_back_as_its_cells(values):
    assert cells(row(values)) == values


def test_joined_json_is_aws_s():
    assert join_json({"a": 1}, [0.5]) == {"a": 1, "SageMakerOutput": [0.5]}
    assert join_json([1, 2], 3) == {"SageMakerInput": [1, 2], "SageMakerOutput": 3}
