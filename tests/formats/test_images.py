"""Handlers as they are written for each of SageMaker's images, with what the image's own functions hand them."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from fourfold.errors import ModelLoadError
from fourfold.formats import images, registry
from fourfold.formats.base import Artifact, Model
from fourfold.records import Reply
from tests.formats.models import call

ECR = "763104351884.dkr.ecr.us-east-1.amazonaws.com"


@pytest.fixture(autouse=True)
def _own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "inference", raising=False)


def handler(folder: Path, toolkit: str, code: str) -> Model:
    (folder / "code").mkdir()
    (folder / "code" / "inference.py").write_text(code)
    return registry.get("handler").load(Artifact(folder, {"FOURFOLD_TOOLKIT": toolkit}))


def ask(model: Model, body: bytes | str, content_type: str = "application/json", accept: str = "") -> Reply:
    return model.invoke([call(body, content_type, accept)])[0]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (f"{ECR}/pytorch-inference:2.3-cpu-py311", "pytorch"),
        (f"{ECR}/pytorch-inference-graviton:2.3", "pytorch"),
        (f"{ECR}/huggingface-pytorch-inference:2.1-transformers4.37-cpu", "huggingface"),
        (f"{ECR}/tensorflow-inference@sha256:00", "tensorflow"),
        ("683313688378.dkr.ecr.us-east-1.amazonaws.com/sagemaker-xgboost:1.7-1", "xgboost"),
        ("683313688378.dkr.ecr.us-east-1.amazonaws.com/sagemaker-scikit-learn:1.2-1-cpu-py3", ""),
        ("fourfold/handler:latest", ""),
        ("", ""),
    ],
)
def test_an_image_says_whose_functions_a_handler_leaves_out(image: str, expected: str) -> None:
    assert registry.toolkit(image) == expected


def test_an_unknown_toolkit_is_named() -> None:
    with pytest.raises(ModelLoadError, match="'caffe'; it may be sklearn, pytorch"):
        images.defaults({"FOURFOLD_TOOLKIT": "caffe"}, predicts=True)


HUGGING_FACE = """
class Pipeline:
    def __call__(self, inputs, **parameters):
        return [{"inputs": inputs, **parameters}]

def model_fn(model_dir):
    return Pipeline()
"""


def test_a_hugging_face_pipeline_is_called_with_inputs_and_parameters(tmp_path: Path) -> None:
    model = handler(tmp_path, "huggingface", HUGGING_FACE)
    body = {"inputs": ["good", "bad"], "parameters": {"top_k": 1}}
    assert json.loads(ask(model, json.dumps(body)).body) == [{"inputs": ["good", "bad"], "top_k": 1}]
    assert json.loads(ask(model, 'inputs\n"good, really"\nbad\n', "text/csv").body) == [
        {"inputs": ["good, really", "bad"]}
    ]
    questions = ask(model, "question,context\nwho?,me\n", "text/csv")
    assert json.loads(questions.body) == [{"inputs": [{"question": "who?", "context": "me"}]}]
    headless = ask(model, "good\nbad\n", "text/csv")
    assert (headless.status, b"a header with the column inputs" in headless.body) == (400, True)
    assert ask(model, '{"inputs": "a,b"}', accept="text/csv").body == b'inputs\n"a,b"\n'


def test_a_hugging_face_predict_fn_gets_the_json(tmp_path: Path) -> None:
    code = HUGGING_FACE + "def predict_fn(data, model): return {'seen': data.pop('inputs'), 'left': data}\n"
    answer = ask(handler(tmp_path, "huggingface", code), '{"inputs": "text", "mode": 3}')
    assert json.loads(answer.body) == {"seen": "text", "left": {"mode": 3}}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("", [{"task": "fill-mask", "inputs": "a", "top_k": 1}]),
        ("def model_fn(model_dir): return lambda inputs, top_k: [inputs, top_k]", ["a", 1]),
        ("def input_fn(data, content_type): return {'inputs': data[2:8]}", [{"task": "fill-mask", "inputs": "inputs"}]),
        ("def predict_fn(data, model): return model(data['inputs'] * 2)", [{"task": "fill-mask", "inputs": "aa"}]),
        ("def output_fn(prediction, accept): return prediction[0]['top_k']", 1),
        (
            "def transform_fn(model, data, content_type, accept): return model(accept)[0]",
            {"task": "fill-mask", "inputs": "application/json"},
        ),
    ],
)
def test_the_pipeline_is_what_a_hugging_face_handler_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, expected: object
) -> None:
    library = ModuleType("transformers")
    library.pipeline = lambda task, **_: lambda inputs, **given: [{"task": task, "inputs": inputs, **given}]
    monkeypatch.setitem(sys.modules, "transformers", library)
    (tmp_path / "config.json").write_text('{"architectures": ["BertForMaskedLM"]}')
    answer = ask(handler(tmp_path, "huggingface", code), '{"inputs": "a", "parameters": {"top_k": 1}}')
    assert json.loads(answer.body) == expected


def test_pictures_come_and_go(tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image")
    code = (
        "def model_fn(model_dir): return lambda inputs: {'mode': inputs.mode, 'turned': inputs.rotate(90, expand=True)}"
    )
    sent = io.BytesIO()
    pillow.new("L", (2, 3)).save(sent, "GIF")
    answer = json.loads(ask(handler(tmp_path, "huggingface", code), sent.getvalue(), "image/gif").body)
    turned = pillow.open(io.BytesIO(base64.b64decode(answer["turned"])))
    assert (answer["mode"], turned.format, turned.size) == ("RGB", "PNG", (3, 2))


def test_a_hugging_face_handler_without_a_model_is_told_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"^There is no model for a pipeline.*or write model_fn"):
        handler(tmp_path, "huggingface", "def input_fn(data, content_type): return data")


def test_an_xgboost_predict_fn_gets_a_dmatrix(tmp_path: Path) -> None:
    """As in the SDK's documentation: predictions and contributions side by side."""
    xgboost = pytest.importorskip("xgboost")
    rng = np.random.default_rng(1)
    x = rng.normal(size=(100, 3))
    booster = xgboost.train({"objective": "binary:logistic", "nthread": 1}, xgboost.DMatrix(x, x[:, 0] > 0), 3)
    booster.save_model(tmp_path / "model.json")
    code = """
import numpy as np, xgboost
def model_fn(model_dir):
    return xgboost.Booster(model_file=model_dir + "/model.json")
def predict_fn(input_data, model):
    prediction = model.predict(input_data)
    contributions = model.predict(input_data, pred_contribs=True, validate_features=False)
    return np.hstack((prediction[:, np.newaxis], contributions))
"""
    model = handler(tmp_path, "xgboost", code)
    answer = np.loadtxt(io.BytesIO(ask(model, "1,0,0\n-1,0,0\n", "text/csv", "text/csv").body), delimiter=",")
    expected = booster.predict(xgboost.DMatrix(np.array([[1.0, 0, 0], [-1, 0, 0]])))
    assert answer.shape == (2, 5)
    np.testing.assert_allclose(answer[:, 0], expected, rtol=1e-5)
    assert ask(model, "0:1 1:0 2:0", "text/libsvm", "text/csv").status == 200


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:`torch.jit:FutureWarning")
def test_pytorch_gives_tensors_and_loads_torchscript(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(2, 1)
    torch.jit.trace(module, torch.zeros(1, 2)).save(str(tmp_path / "model.pth"))
    code = (
        "def predict_fn(input_data, model):\n"
        "    output = model(input_data.to('cpu'))\n"
        "    assert str(input_data.dtype) == 'torch.float32', input_data.dtype\n"
        "    return output\n"
    )
    model = handler(tmp_path, "pytorch", code)
    expected = module(torch.tensor([[1.0, 2.0]])).tolist()
    body = io.BytesIO()
    np.save(body, np.array([[1, 2]], dtype=np.float32))
    for data, content_type in (
        ("[[1, 2]]", "application/json"),
        ("1,2", "text/csv"),
        (body.getvalue(), "application/x-npy"),
    ):
        found = json.loads(ask(model, data, content_type).body)
        np.testing.assert_allclose(np.reshape(found, -1), np.reshape(expected, -1), rtol=1e-5)
    np.testing.assert_allclose(float(ask(model, "[[1, 2]]", accept="text/csv").body), expected[0][0], rtol=1e-5)


def test_without_pytorch_its_handlers_get_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_installed", lambda module: False)
    code = (
        "def model_fn(model_dir): return 2\ndef predict_fn(data, model): return [type(data).__name__, data.tolist()]\n"
    )
    assert json.loads(ask(handler(tmp_path, "pytorch", code), "[[1, 2]]").body) == ["ndarray", [[1, 2]]]


TENSORFLOW = """
import json, sys
from pathlib import Path
import tensorflow as tf
from fourfold.formats import registry
from fourfold.formats.base import Artifact
from fourfold.records import Call

class Model(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, "x")])
    def serve(self, x):
        return {"sum": tf.reduce_sum(x, axis=1)}

folder = Path(sys.argv[1])
tf.saved_model.save(Model(), str(folder / "1"), signatures={"serving_default": Model().serve})
(folder / "code").mkdir()
answers = []
for code in sys.argv[2:]:
    (folder / "code" / "inference.py").write_text(code)
    model = registry.get("handler").load(Artifact(folder, {"FOURFOLD_TOOLKIT": "tensorflow"}))
    headers = {"x-amzn-sagemaker-custom-attributes": "tfs-model-name=sums"}
    for body in (b"1,2", b"1,2,3"):
        reply = model.invoke([Call(0, body, "text/csv", "text/plain", headers)])[0]
        answers.append([reply.status, reply.content_type, reply.body.decode()])
print(json.dumps(answers))
"""

PAIR = """
import json
def input_handler(data, context):
    assert context.request_content_type == "text/csv", context
    return json.dumps({"instances": [[float(value) for value in data.read().decode().split(",")]]})
def output_handler(response, context):
    if response.status_code != 200:
        raise ValueError(response.content.decode())
    return f"{context.model_name} {response.json()['predictions'][0]}", context.accept_header
"""

WHOLE = """
import json
from urllib.request import Request, urlopen
def handler(data, context):
    body = json.dumps({"instances": [[float(value) for value in data.read().decode().split(",")]]})
    with urlopen(Request(context.rest_uri, body.encode())) as answer:
        return context.rest_uri.rpartition("/")[2] + str(json.load(answer)["predictions"]), "text/plain"
"""


def test_tensorflow_handlers_stand_around_the_saved_model(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    command = [sys.executable, "-c", TENSORFLOW, str(tmp_path), PAIR, WHOLE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pair, wrong, whole, refused = json.loads(done.stdout.splitlines()[-1])
    assert pair == [200, "text/plain", "sums 3.0"]
    assert wrong[0] == 500
    assert "Each record needs 2 values and has 3" in wrong[2]
    assert whole == [200, "text/plain", "sums:predict[3.0]"]
    assert refused[0] == 500


def test_half_of_a_tensorflow_handler_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"inference\.py has no output_handler"):
        handler(tmp_path, "tensorflow", "def input_handler(data, context): return data.read()\n")
