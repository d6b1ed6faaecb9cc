"""Small real models that the tests of formats and codecs make for themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fourfold.formats import registry
from fourfold.formats.base import ArrayModel, Arrays, Artifact, Model, Tensor
from fourfold.records import Call

Shape = Sequence[int | str | None]


def save(
    folder: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: Sequence[onnx.TensorProto] = (),
    name: str = "model.onnx",
) -> Path:
    graph = helper.make_graph(nodes, "test", inputs, outputs, list(weights))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    return folder


def value(name: str, kind: int, shape: Shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def linear(folder: Path, weights: Sequence[float] = (1.0, 10.0, 100.0), batch: int | str = "n") -> Path:
    """`y = x · weights`, one float a record."""
    matrix = numpy_helper.from_array(np.array(weights, np.float32), "w")
    return save(
        folder,
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [value("x", TensorProto.FLOAT, [batch, len(weights)])],
        [value("y", TensorProto.FLOAT, [batch])],
        [matrix],
    )


def identity(folder: Path, kind: int = TensorProto.FLOAT, shape: Shape = ("n", 2)) -> Path:
    """Gives back what it gets."""
    return save(
        folder, [helper.make_node("Identity", ["x"], ["y"])], [value("x", kind, shape)], [value("y", kind, shape)]
    )


def pair(folder: Path) -> Path:
    """Two inputs, `age` and `name`; two outputs, `next` (age + 1) and `same` (name)."""
    one = numpy_helper.from_array(np.array(1, np.int64), "one")
    return save(
        folder,
        [helper.make_node("Add", ["age", "one"], ["next"]), helper.make_node("Identity", ["name"], ["same"])],
        [value("age", TensorProto.INT64, ["n", 1]), value("name", TensorProto.STRING, ["n"])],
        [value("next", TensorProto.INT64, ["n", 1]), value("same", TensorProto.STRING, ["n"])],
        [one],
    )


def load(folder: Path, environment: Mapping[str, str] | None = None, image: str = "") -> Model:
    return registry.resolve(image, folder, environment).load(Artifact(folder, environment or {}))


class Counted(ArrayModel):
    """A model in plain numpy that counts its predicts and fails on records that start with 13."""

    inputs = (Tensor("x", "float32", (None, 2)),)
    outputs = (Tensor("y", "float32", (None,)),)

    def __init__(self) -> None:
        self.batches: list[int] = []

    def predict(self, inputs: Arrays) -> Arrays:
        x = inputs["x"]
        self.batches.append(len(x))
        if (x[:, 0] == 13).any():
            raise ValueError("thirteen")
        return {"y": x.sum(axis=1)}


def call(body: bytes | str, content_type: str = "application/json", accept: str = "", id: int = 0) -> Call:
    return Call(id, body.encode() if isinstance(body, str) else body, content_type, accept)
