"""The Open Inference Protocol's bodies, JSON and binary."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.formats.base import Model
from fourfold.formats.codecs.oip import HEADER_LENGTH, TYPE
from fourfold.records import Call, Reply
from tests.formats import models


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return models.load(models.pair(tmp_path_factory.mktemp("pair")))


def ask(model: Model, header: dict[str, Any], binary: bytes = b"") -> Reply:
    text = json.dumps(header).encode()
    content_type = f"{TYPE}; model=people" + (f"; header-length={len(text)}" if binary else "")
    return model.invoke([Call(0, text + binary, content_type)])[0]


def tensor(name: str, datatype: str, shape: list[int], **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, **more}


AGE = tensor("age", "INT64", [2, 1], data=[30, 40])
NAME = tensor("name", "BYTES", [2], data=["ann", "bob"])


def test_json_tensors(pair: Model) -> None:
    reply = ask(pair, {"id": "7", "inputs": [AGE, NAME]})
    assert (reply.status, reply.content_type, reply.headers or {}) == (200, TYPE, {}), reply.body
    assert json.loads(reply.body) == {
        "id": "7",
        "model_name": "people",
        "model_version": "1",
        "outputs": [
            tensor("next", "INT64", [2, 1], data=[31, 41]),
            tensor("same", "BYTES", [2], data=["ann", "bob"]),
        ],
    }


def test_binary_tensors_both_ways(pair: Model) -> None:
    ages = np.array([30, 40], "<i8").tobytes()
    names = b"".join(struct.pack("<I", len(name)) + name for name in (b"ann", "é".encode()))
    header = {
        "inputs": [
            tensor("age", "INT64", [2, 1], parameters={"binary_data_size": len(ages)}),
            tensor("name", "BYTES", [2], parameters={"binary_data_size": len(names)}),
        ],
        "outputs": [{"name": "same", "parameters": {"binary_data": True}}, {"name": "next"}],
    }
    reply = ask(pair, header, ages + names)
    assert reply.status == 200, reply.body
    length = int((reply.headers or {})[HEADER_LENGTH])
    told = json.loads(reply.body[:length])["outputs"]
    assert told[0] == tensor("same", "BYTES", [2], parameters={"binary_data_size": len(names)})
    assert told[1] == tensor("next", "INT64", [2, 1], data=[31, 41])
    assert reply.body[length:] == names
    header["outputs"] = [{"name": "next"}]
    header["parameters"] = {"binary_data_output": True}
    reply = ask(pair, header, ages + names)
    assert reply.body.endswith(np.array([31, 41], "<i8").tobytes())


@pytest.mark.parametrize(
    ("header", "binary", "expected"),
    [
        ({}, b"", '"inputs", a list of tensors'),
        ({"inputs": [7]}, b"", 'Each of "inputs" must be an object'),
        ({"inputs": [AGE]}, b"", "missing: name"),
        ({"inputs": [AGE, NAME, tensor("x", "FP32", [1], data=[1])]}, b"", "unknown: x"),
        ({"inputs": [AGE | {"datatype": "BF16"}, NAME]}, b"", "the datatype 'BF16'; known are BOOL"),
        ({"inputs": [AGE | {"shape": [3, 1]}, NAME]}, b"", "the shape [3, 1], 3 values, and got 2"),
        ({"inputs": [AGE | {"shape": [-1]}, NAME]}, b"", "give whole numbers"),
        ({"inputs": [AGE | {"shape": [1, 2]}, NAME]}, b"", "The model expects age: int64[?, 1], got int64[1, 2]"),
        ({"inputs": [AGE | {"data": [[1], [2, 3]]}, NAME]}, b"", "ragged"),
        ({"inputs": [AGE | {"data": 7}, NAME]}, b"", "'data' must be a JSON list"),
        ({"inputs": [AGE, NAME], "outputs": [{"name": "last"}]}, b"", "asked for last"),
        ({"inputs": [AGE, NAME], "outputs": [{"name": "next", "parameters": {"classification": 2}}]}, b"", "not here"),
        ({"inputs": [AGE, NAME]}, b"more", "4 bytes follow the last binary tensor"),
        ({"inputs": [AGE | {"parameters": {"binary_data_size": 9}}, NAME]}, b"1234", "9; 4 bytes are left"),
        ({"inputs": [AGE | {"parameters": {"binary_data_size": 4}}, NAME]}, b"1234", "no multiple of INT64's 8"),
        ({"inputs": [AGE, NAME | {"parameters": {"binary_data_size": 5}}]}, b"\x09\0\0\0a", "end in the middle"),
    ],
)
def test_what_is_wrong_is_named(pair: Model, header: dict[str, Any], binary: bytes, expected: str) -> None:
    reply = ask(pair, header, binary)
    assert reply.status == 400, reply.body
    assert expected in reply.body.decode()


json_value = st.recursive(
    st.none() | st.integers(-2, 9) | st.sampled_from(["age", "name", "INT64", "BYTES", "FP32"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["inputs", "name", "shape", "datatype", "data", "parameters"]), inner, max_size=5
        )
    ),
)


@given(json_value, st.dictionaries(st.sampled_from(["name", "shape", "datatype", "data", "parameters"]), json_value))
def test_garbage_is_answered(pair: Model, value: Any, change: dict[str, Any]) -> None:
    for header in (value, {"inputs": value}, {"inputs": [AGE | change, NAME]}):
        reply = pair.invoke([Call(0, json.dumps(header).encode(), TYPE)])[0]
        assert reply.status in (200, 400), reply.detail
