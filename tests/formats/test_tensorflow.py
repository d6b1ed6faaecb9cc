"""One process of its own makes, loads and calls the model: TensorFlow starts slowly, and sets its threads once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fourfold.formats import registry

pytest.importorskip("tensorflow")

SCRIPT = """
import json, sys
from pathlib import Path
from fourfold.errors import ModelLoadError
from fourfold.formats import registry
from fourfold.formats.base import Artifact
from fourfold.records import Call

folder = Path(sys.argv[1])
load = lambda environment: registry.get("tensorflow").load(Artifact(folder, environment))
try:
    load({})
except ModelLoadError as error:
    broken = str(error)

import tensorflow as tf

class Model(tf.Module):
    def __init__(self):
        self.factor = tf.Variable(10.0)
    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, "x"), tf.TensorSpec([None], tf.string, "name")])
    def serve(self, x, name):
        return {"scaled": x * self.factor, "greeting": tf.strings.join(["hi ", name])}

model = Model()
tf.saved_model.save(model, str(folder / "export" / "Servo" / "2"), signatures={"serving_default": model.serve})
model = load({})
body = json.dumps([{"x": [1, 2], "name": "ann"}, {"x": [3, 4], "name": "bob"}]).encode()
replies = model.invoke([Call(0, body), Call(1, body), Call(2, b"[[1]]")])
try:
    load({"FOURFOLD_SIGNATURE": "predict"})
except ModelLoadError as error:
    unsigned = str(error)
print(json.dumps({
    "broken": broken,
    "unsigned": unsigned,
    "inputs": [str(tensor) for tensor in model.inputs],
    "max_batch": model.max_batch,
    "replies": [[reply.status, reply.body.decode()] for reply in replies],
}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    older = folder / "export" / "Servo" / "1"
    older.mkdir(parents=True)
    (older / "saved_model.pb").write_bytes(b"broken")
    return folder


@pytest.fixture(scope="module")
def told(folder: Path) -> Any:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(folder)], check=True, capture_output=True)
    return json.loads(done.stdout)


def test_a_saved_model_is_told(folder: Path) -> None:
    assert registry.resolve("tensorflow-inference:2.12-cpu", folder).name == "tensorflow"


def test_the_newest_version_answers(told: Any) -> None:
    assert told["inputs"] == ["name: object[?]", "x: float32[?, 2]"]
    assert told["max_batch"] > 1
    assert [status for status, _ in told["replies"]] == [200, 200, 400]
    expected = [{"greeting": "hi ann", "scaled": [10, 20]}, {"greeting": "hi bob", "scaled": [30, 40]}]
    assert json.loads(told["replies"][1][1]) == {"predictions": expected}


def test_what_cannot_be_loaded_is_named(told: Any) -> None:
    assert told["broken"].startswith("1 is not a SavedModel that TensorFlow can load: ")
    assert "no signature 'predict'; it has serving_default" in told["unsigned"]
