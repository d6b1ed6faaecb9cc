"""Hugging Face models without a handler: the pipeline of their task, by a stand-in for the library and by itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fourfold.errors import ModelLoadError
from fourfold.formats import registry
from fourfold.formats.base import Artifact, Model
from fourfold.records import Call
from tests.hub import Hub, running
from tests.server import LiveServer

STAND_IN = """
def pipeline(task, model, trust_remote_code):
    if task == "juggling":
        raise KeyError("Unknown task juggling")
    def run(inputs, **parameters):
        return [{"task": task, "inputs": repr(inputs), "parameters": parameters, "trusted": trust_remote_code}]
    return run
"""
FILES = {
    "config.json": json.dumps({"architectures": ["BertForSequenceClassification"], "model_type": "bert"}).encode(),
    "model.safetensors": b"weights",
    "tokenizer.json": b'{\n  "version": "1.0",\n  "truncation": null\n}',
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("transformers")
    exec(STAND_IN, module.__dict__)
    monkeypatch.setitem(sys.modules, "transformers", module)


def load(folder: Path, **environment: str) -> Model:
    return registry.resolve("", folder, environment).load(Artifact(folder, environment))


def ask(model: Model, body: bytes, content_type: str = "application/json") -> Any:
    reply = model.invoke([Call(0, body, content_type)])[0]
    assert reply.status == 200, reply
    return json.loads(reply.body)[0]


def test_its_files_tell_the_format_and_its_architecture_the_task(folder: Path, stand_in: None) -> None:
    assert registry.resolve("", folder).name == "transformers"
    model = load(folder)
    answer = ask(model, b'{"inputs": "fine", "parameters": {"top_k": 2}}')
    assert answer == {"task": "text-classification", "inputs": "'fine'", "parameters": {"top_k": 2}, "trusted": False}


@pytest.mark.parametrize(
    ("content_type", "body", "inputs"),
    [
        ("application/json", b'["a", "b"]', ["a", "b"]),
        ("application/json", b'{"question": "q", "context": "c"}', {"question": "q", "context": "c"}),
        ("text/csv", b"inputs\na\nb\n", ["a", "b"]),
        ("text/csv", b"question,context\nq,c\n", [{"question": "q", "context": "c"}]),
        ("audio/wav", b"RIFF", b"RIFF"),
    ],
)
def test_bodies(folder: Path, stand_in: None, content_type: str, body: bytes, inputs: object) -> None:
    assert ask(load(folder), body, content_type)["inputs"] == repr(inputs)


def test_a_body_that_is_no_json_is_the_callers_fault(folder: Path, stand_in: None) -> None:
    assert load(folder).invoke([Call(0, b"{")])[0].status == 400


def test_the_environment_names_task_and_trust(folder: Path, stand_in: None) -> None:
    (folder / "onnx").mkdir()
    (folder / "onnx/model.onnx").write_bytes(b"")  # as many repositories have beside the weights
    answer = ask(load(folder, HF_TASK="fill-mask", HF_TRUST_REMOTE_CODE="true"), b'{"inputs": "x"}')
    assert (answer["task"], answer["trusted"]) == ("fill-mask", True)


def test_reasons(folder: Path, stand_in: None) -> None:
    with pytest.raises(ModelLoadError, match=r"pipeline juggling: .*Unknown task"):
        load(folder, HF_TASK="juggling")
    (folder / "config.json").write_text('{"architectures": ["BertModel"]}')
    with pytest.raises(ModelLoadError, match="Set HF_TASK"):
        load(folder)


def test_a_hub_model_answers_behind_an_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "transformers.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with running(Hub({"acme/mood": {"main": FILES}})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
        server = LiveServer(tmp_path / "data")
        try:
            environment = {"HF_MODEL_ID": "acme/mood", "HF_TASK": "sentiment-analysis"}
            image = "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-inference:2.6.0-cpu"
            sagemaker, runtime = server.client("sagemaker"), server.client("sagemaker-runtime")
            sagemaker.create_model(ModelName="mood", PrimaryContainer={"Image": image, "Environment": environment})
            variant = {
                "VariantName": "v",
                "ModelName": "mood",
                "InitialInstanceCount": 1,
                "InstanceType": "ml.m5.large",
            }
            sagemaker.create_endpoint_config(EndpointConfigName="mood", ProductionVariants=[variant])
            sagemaker.create_endpoint(EndpointName="mood", EndpointConfigName="mood")
            server.wait("mood")
            body = json.dumps({"inputs": "I like it"})
            answer = runtime.invoke_endpoint(EndpointName="mood", ContentType="application/json", Body=body)
            (told,) = json.loads(answer["Body"].read())
            assert (told["task"], told["inputs"]) == ("sentiment-analysis", "'I like it'")
        finally:
            server.stop()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_real_model_answers_as_its_pipeline_does(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    torch.manual_seed(7)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.BertConfig(vocab_size=len(words), **sizes)
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path)
    expected = transformers.pipeline("text-classification", model=str(tmp_path))(["good", "bad bad"])
    reply = load(tmp_path).invoke([Call(0, b'{"inputs": ["good", "bad bad"]}')])[0]
    answers = json.loads(reply.body)
    assert [one["label"] for one in answers] == [one["label"] for one in expected]
    assert [one["score"] for one in answers] == pytest.approx([one["score"] for one in expected])
    (tmp_path / "code").mkdir()
    (tmp_path / "code/inference.py").write_text("def output_fn(prediction, accept): return prediction[1]['label']")
    handler = load(tmp_path, FOURFOLD_TOOLKIT="huggingface")
    assert handler.invoke([Call(0, b'{"inputs": ["good", "bad bad"]}')])[0].body.decode() == expected[1]["label"]
