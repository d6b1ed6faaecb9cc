"""The two models that every server here serves, and one request for each, made once into `bench/data`.

fraud   gradient boosting, 100 trees of depth 4, 30 floats a row, two probabilities (about 100 kB)
mlp     784-512-512-10 with ReLU and softmax, 784 floats a row (2.7 MB)

    data/<model>.onnx       input `x`, output `y`, the batch on the first axis
    data/<model>.json       {"instances": [[...]]}
    data/<model>.v2.json    the same row in the Open Inference Protocol, for Triton
    data/<model>.npy        the same row as float32
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

DATA = Path(__file__).parent / "data"
WIDTH = {"fraud": 30, "mlp": 784}
CLASSES = {"fraud": 2, "mlp": 10}
OPSET = 17
SEED = 7


def ensure() -> None:
    """Make what is missing in `bench/data`."""
    DATA.mkdir(exist_ok=True)
    for name, make in (("fraud", _fraud), ("mlp", _mlp)):
        if not (DATA / f"{name}.npy").exists():
            onnx.save(make(), DATA / f"{name}.onnx")
            _write_requests(name)


def rows(name: str, count: int) -> NDArray[np.float32]:
    """`count` distinct rows, float32, rounded to four places as a client would send them."""
    return np.random.default_rng(SEED).standard_normal((count, WIDTH[name]), np.float32).round(4)


def json_body(row: NDArray[np.float32]) -> bytes:
    return json.dumps({"instances": [[round(float(value), 4) for value in row]]}).encode()


def _write_requests(name: str) -> None:
    row = rows(name, 1)[0]
    values = [round(float(value), 4) for value in row]
    tensor = {"name": "x", "shape": [1, len(values)], "datatype": "FP32", "data": values}
    (DATA / f"{name}.json").write_bytes(json_body(row))
    (DATA / f"{name}.v2.json").write_text(json.dumps({"inputs": [tensor]}))
    np.save(DATA / f"{name}.npy", row[None])


def _fraud() -> onnx.ModelProto:
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.datasets import make_classification
    from sklearn.ensemble import GradientBoostingClassifier

    features, labels = make_classification(6000, WIDTH["fraud"], n_informative=18, weights=[0.93], random_state=SEED)
    model = GradientBoostingClassifier(n_estimators=100, max_depth=4, random_state=SEED).fit(features, labels)
    inputs = [("x", FloatTensorType([None, WIDTH["fraud"]]))]
    converted = convert_sklearn(model, initial_types=inputs, target_opset=OPSET, options={id(model): {"zipmap": False}})
    _keep_output(converted.graph, next(one.name for one in converted.graph.output if "prob" in one.name), "y")
    return converted


def _keep_output(graph: onnx.GraphProto, name: str, new_name: str) -> None:
    """Leave one output, under a new name."""
    for node in graph.node:
        node.output[:] = [new_name if one == name else one for one in node.output]
    kept = next(one for one in graph.output if one.name == name)
    kept.name = new_name
    del graph.output[:]
    graph.output.append(kept)


def _mlp() -> onnx.ModelProto:
    random = np.random.default_rng(SEED)
    sizes = [WIDTH["mlp"], 512, 512, CLASSES["mlp"]]
    weights, nodes, last = [], [], "x"
    for layer, (wide, narrow) in enumerate(pairwise(sizes)):
        weight = random.standard_normal((wide, narrow), np.float32) * np.float32(np.sqrt(2 / wide))
        weights.append(numpy_helper.from_array(weight, f"w{layer}"))
        weights.append(numpy_helper.from_array(np.zeros(narrow, np.float32), f"b{layer}"))
        nodes.append(helper.make_node("Gemm", [last, f"w{layer}", f"b{layer}"], [f"z{layer}"]))
        final = layer == len(sizes) - 2
        last = "y" if final else f"h{layer}"
        nodes.append(helper.make_node("Softmax" if final else "Relu", [f"z{layer}"], [last]))
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, WIDTH["mlp"]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, CLASSES["mlp"]])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


if __name__ == "__main__":
    ensure()
