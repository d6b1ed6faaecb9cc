from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression

from fourfold.errors import ModelLoadError
from fourfold.formats.base import ArrayModel, Tensor
from tests.formats import models


def test_inputs_and_outputs_are_told(tmp_path: Path) -> None:
    model = models.load(models.pair(tmp_path))
    assert model.inputs == (Tensor("age", "int64", (None, 1)), Tensor("name", "object", (None,)))
    assert [tensor.name for tensor in model.outputs] == ["next", "same"]
    assert model.max_batch > 1


def test_a_fixed_batch_is_not_joined(tmp_path: Path) -> None:
    model = models.load(models.linear(tmp_path, batch=2))
    assert model.max_batch == 1
    four, three = model.invoke([models.call(json.dumps([[1, 0, 0]] * n)) for n in (4, 3)])
    assert json.loads(four.body) == {"predictions": [1, 1, 1, 1]}
    assert (three.status, three.body) == (400, b"The model takes 2 records at a time, got 3; send a multiple of 2.")


def test_zipmap_becomes_one_column_a_class(tmp_path: Path) -> None:
    from skl2onnx import to_onnx

    x = np.array([[0.0], [1.0], [2.0], [3.0]], np.float32)
    classifier = LogisticRegression().fit(x, [0, 0, 1, 1])
    (tmp_path / "model.onnx").write_bytes(to_onnx(classifier, x).SerializeToString())
    model = models.load(tmp_path)
    answer = json.loads(model.invoke([models.call("[[0.5], [3]]")])[0].body)["predictions"]
    assert [record["output_label"] for record in answer] == [0, 1]
    np.testing.assert_allclose(
        [r["output_probability"] for r in answer], classifier.predict_proba([[0.5], [3.0]]), rtol=1e-5
    )


def test_outputs_can_be_chosen(tmp_path: Path) -> None:
    models.pair(tmp_path)
    model = models.load(tmp_path, {"FOURFOLD_OUTPUTS": "same"})
    assert [tensor.name for tensor in model.outputs] == ["same"]
    with pytest.raises(ModelLoadError, match=r"names nobody; the model's outputs are next, same"):
        models.load(tmp_path, {"FOURFOLD_OUTPUTS": "nobody"})


def test_which_file_of_several(tmp_path: Path) -> None:
    models.linear(tmp_path)
    shutil.move(tmp_path / "model.onnx", tmp_path / "a.onnx")
    models.identity(tmp_path)
    assert models.load(tmp_path).inputs[0].shape == (None, 2), "model.onnx is preferred"
    assert models.load(tmp_path, {"FOURFOLD_MODEL_FILE": "a.onnx"}).inputs[0].shape == (None, 3)
    shutil.move(tmp_path / "model.onnx", tmp_path / "b.onnx")
    with pytest.raises(ModelLoadError, match=r"a\.onnx, b\.onnx.*FOURFOLD_MODEL_FILE"):
        models.load(tmp_path)
    with pytest.raises(ModelLoadError, match="not a file of the artifact"):
        models.load(tmp_path, {"FOURFOLD_MODEL_FILE": "../a.onnx"})


def test_external_data_is_found_beside_the_model(tmp_path: Path) -> None:
    path = models.linear(tmp_path) / "model.onnx"
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").stat().st_size > 0
    reply = models.load(tmp_path).invoke([models.call("[1, 2, 3]")])[0]
    assert json.loads(reply.body) == {"predictions": [321]}


def test_a_model_without_inputs(tmp_path: Path) -> None:
    number = numpy_helper.from_array(np.array([7.0], np.float32))
    node = helper.make_node("Constant", [], ["y"], value=number)
    models.save(tmp_path, [node], [], [models.value("y", TensorProto.FLOAT, [1])])
    model = models.load(tmp_path)
    good, bad = model.invoke([models.call('{"inputs": {}}'), models.call("[1]")])
    assert (good.body, bad.status) == (b'{"outputs":[7.0]}', 400)


@pytest.mark.parametrize("accept", ["text/csv", "text/csv; header=present", "text/libsvm", "application/parquet"])
def test_an_output_without_records_is_one(tmp_path: Path, accept: str) -> None:
    node = helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)
    ports = [models.value("x", TensorProto.FLOAT, ["n", 2])], [models.value("y", TensorProto.FLOAT, [])]
    reply = models.load(models.save(tmp_path, [node], *ports)).invoke([models.call("[[1, 2]]", accept=accept)])[0]
    written = {"text/csv": b"3.0\n", "text/csv; header=present": b"y\n3.0\n", "text/libsvm": b"0:3.0\n"}
    assert (reply.status, reply.body) == (200, written.get(accept, reply.body))


def test_what_is_not_onnx_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"garbage")
    with pytest.raises(ModelLoadError, match=r"model\.onnx is not a model that onnxruntime can load"):
        models.load(tmp_path)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(TensorProto.FLOAT16, "float16"), (TensorProto.DOUBLE, "float64"), (TensorProto.INT32, "int32"),
     (TensorProto.UINT8, "uint8"), (TensorProto.BOOL, "bool")],
)  # fmt: skip
def test_every_kind_of_number(tmp_path: Path, kind: int, dtype: str) -> None:
    model = models.load(models.identity(tmp_path, kind))
    assert isinstance(model, ArrayModel)
    reply = model.invoke([models.call("[[0, 1]]")])[0]
    assert model.inputs[0].dtype == dtype
    assert json.loads(reply.body) == {"predictions": [[0, 1]]}
