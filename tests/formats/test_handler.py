from __future__ import annotations

import asyncio
import contextlib
import io
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fourfold.errors import ModelLoadError
from fourfold.formats import registry
from fourfold.formats.base import Artifact, AsyncModel, Model
from fourfold.records import Call, Opening
from tests.formats.models import call


@pytest.fixture(autouse=True)
def clean_imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A worker loads one handler and ends; a test process loads many of the same name."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if not name.startswith(("fourfold", "numpy")):
            del sys.modules[name]


def handler(folder: Path, code: str, environment: dict[str, str] | None = None) -> Model:
    (folder / "code").mkdir(exist_ok=True)
    (folder / "code" / "inference.py").write_text(code)
    return registry.resolve("", folder, environment).load(Artifact(folder, environment or {}))


MODEL = "def model_fn(model_dir): return 2\n"


def test_the_three_functions_and_their_types(tmp_path: Path) -> None:
    model = handler(
        tmp_path,
        MODEL
        + "def input_fn(data, content_type): return [type(data).__name__, content_type]\n"
        + "def predict_fn(data, model): return data + [model]\n"
        + "def output_fn(prediction, accept): return repr(prediction + [accept])\n",
    )
    bodies = {"application/json": "str", "text/csv": "str", "text/csv; header=present": "str", "image/png": "bytes"}
    for content_type, kind in bodies.items():
        reply = model.invoke([call("[1]", content_type, "text/x-python")])[0]
        assert reply.body.decode() == repr([kind, content_type, 2, "text/x-python"])
        assert reply.content_type == "text/x-python"


@pytest.mark.parametrize(("accept", "seen"), [("", "application/json"), ("*/*", "application/json"), ("a/b", "a/b")])
def test_transform_fn_does_it_all(tmp_path: Path, accept: str, seen: str) -> None:
    model = handler(tmp_path, MODEL + "def transform_fn(model, data, content_type, accept): return accept, 'x/y'")
    reply = model.invoke([call("[1]", accept=accept)])[0]
    assert (reply.body.decode(), reply.content_type) == (seen, "x/y")


def test_the_default_accept_is_in_the_environment(tmp_path: Path) -> None:
    environment = {"SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": "text/csv"}
    model = handler(tmp_path, MODEL + "def predict_fn(data, model): return data * model", environment)
    reply = model.invoke([call("[[1, 2]]")])[0]
    assert (reply.body, reply.content_type) == (b"2,4\n", "text/csv")


def npy(values: object) -> bytes:
    out = io.BytesIO()
    np.save(out, np.array(values))
    return out.getvalue()


@pytest.mark.parametrize(
    ("body", "content_type", "accept", "answer"),
    [
        ("[[1, 2]]", "application/json", "application/json", b"[[2, 4]]"),
        ("1,2\n3,4", "text/csv", "text/csv", b"2.0,4.0\n6.0,8.0\n"),
        (npy([[1, 2]]), "application/x-npy", "application/x-npy", npy([[2, 4]])),
        ("[[1, 2]]", "application/json", "text/html, text/csv;q=0.5", b"2,4\n"),
    ],
)
def test_default_functions_are_the_toolkits(
    tmp_path: Path, body: bytes, content_type: str, accept: str, answer: bytes
) -> None:
    model = handler(tmp_path, MODEL + "def predict_fn(data, model): return data * model")
    reply = model.invoke([call(body, content_type, accept)])[0]
    assert (reply.status, reply.body) == (200, answer), reply.detail


def test_a_json_object_is_a_dictionary(tmp_path: Path) -> None:
    model = handler(tmp_path, MODEL + "def predict_fn(data, model): return {'told': data['q'] * model}")
    assert model.invoke([call('{"q": "ha"}')])[0].body == b'{"told": "haha"}'


@pytest.mark.parametrize(("content_type", "accept"), [("text/html", ""), ("application/json", "image/png")])
def test_a_type_that_the_defaults_do_not_know_is_a_500(tmp_path: Path, content_type: str, accept: str) -> None:
    model = handler(tmp_path, MODEL + "def predict_fn(data, model): return data")
    reply = model.invoke([call("[1]", content_type, accept)])[0]
    assert reply.status == 500
    assert b"is not supported by the default functions" in reply.body


def test_the_default_predict_fn_asks_the_model(tmp_path: Path) -> None:
    code = "class Model:\n    def predict(self, data): return data.sum(axis=1)\ndef model_fn(model_dir): return Model()"
    assert handler(tmp_path, code).invoke([call("[[1, 2]]")])[0].body == b"[3]"


def test_no_predict_fn_for_a_model_without_predict_is_told(tmp_path: Path) -> None:
    reply = handler(tmp_path, MODEL).invoke([call("[1]")])[0]
    assert (reply.status, b"Write `def predict_fn(data, model)`" in reply.body) == (500, True)


def test_every_function_may_take_the_context(tmp_path: Path) -> None:
    model = handler(
        tmp_path,
        "def model_fn(model_dir, context): return context.system_properties['model_dir'] == model_dir\n"
        "def input_fn(data, content_type, context): return context.headers['x-amzn-sagemaker-custom-attributes']\n"
        "def predict_fn(data, model, context): return [data, model, context.get_request_header(0, 'Content-Type')]\n"
        "def output_fn(prediction, accept, context):\n"
        "    context.set_response_header(0, 'X-Amzn-SageMaker-Custom-Attributes', 'done')\n"
        "    context.set_response_content_type(0, 'text/plain')\n"
        "    context.set_response_status(code=418)\n"
        "    return str(prediction)\n",
    )
    asked = call("[1]")
    asked.headers = {"x-amzn-sagemaker-custom-attributes": "trace=7"}
    reply = model.invoke([asked])[0]
    assert reply.body.decode() == "['trace=7', True, 'application/json']"
    assert (reply.status, reply.content_type) == (418, "text/plain")
    assert reply.headers == {"x-amzn-sagemaker-custom-attributes": "done"}


def test_a_wrong_number_of_arguments_is_told(tmp_path: Path) -> None:
    reply = handler(tmp_path, MODEL + "def predict_fn(data): return 1").invoke([call("[1]")])[0]
    assert reply.body == (b"predict_fn takes 1 arguments; it is called with 2, or with one more, the context.")


def test_an_exception_is_a_500_with_its_traceback(tmp_path: Path) -> None:
    model = handler(tmp_path, MODEL + "def predict_fn(data, model):\n    raise ValueError('too young')")
    reply = model.invoke([call("[1]")])[0]
    assert (reply.status, reply.body, reply.content_type) == (500, b"too young", "text/plain")
    assert 'inference.py", line 3, in predict_fn' in reply.detail


def test_an_exception_may_carry_its_status(tmp_path: Path) -> None:
    code = "class Refused(Exception): status_code = 403\ndef predict_fn(data, model): raise Refused('not you')"
    reply = handler(tmp_path, MODEL + code).invoke([call("[1]")])[0]
    assert (reply.status, reply.body) == (403, b"not you")


def test_hooks_run_in_order(tmp_path: Path) -> None:
    model = handler(
        tmp_path,
        "log = []\n"
        "def pre_model_fn(model_dir): log.append('pre')\n"
        "def model_fn(model_dir): log.append('model'); return log\n"
        "def model_warmup_fn(model_dir, model): model.append('warm')\n"
        "def predict_fn(data, model): return model\n",
    )
    assert model.invoke([call("[1]")])[0].body == b'["pre", "model", "warm"]'


def test_code_brings_its_own_modules_and_files(tmp_path: Path) -> None:
    (tmp_path / "weight.txt").write_text("5")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "helper_of_the_handler.py").write_text("def twice(x): return 2 * x")
    model = handler(
        tmp_path,
        "import pathlib\nfrom helper_of_the_handler import twice\n"
        "def model_fn(model_dir): return int(pathlib.Path(model_dir, 'weight.txt').read_text())\n"
        "def predict_fn(data, model): return twice(model)\n",
    )
    assert model.invoke([call("[1]")])[0].body == b"10"
    assert not list(tmp_path.rglob("__pycache__"))


def test_program_and_submit_directory(tmp_path: Path) -> None:
    code = MODEL + "def predict_fn(data, model): return 'mine'"
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "serve.py").write_text(code)
    environment = {"SAGEMAKER_PROGRAM": "serve.py", "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/src"}
    model = registry.resolve("", tmp_path, environment).load(Artifact(tmp_path, environment))
    assert model.invoke([call("[1]")])[0].body == b'"mine"'
    with tarfile.open(tmp_path / "sourcedir.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "src" / "serve.py", "serve.py")
    environment["SAGEMAKER_SUBMIT_DIRECTORY"] = str(tmp_path / "sourcedir.tar.gz")
    assert registry.get("handler").load(Artifact(tmp_path, environment)).invoke([call("[1]")])[0].body == b'"mine"'


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("", "The handler has no model_fn"),
        ("import nowhere_to_be_found", r"imports 'nowhere_to_be_found'.*code/requirements.txt"),
        ("def model_fn(:", "SyntaxError"),
        ("1 / 0", r"ZeroDivisionError: division by zero \(inference.py, line 1\)"),
        (
            "def model_fn(model_dir):\n    raise OSError('no weights')",
            r"model_fn failed: OSError: no weights \(.*line 2\)",
        ),
        (MODEL + "def transform_fn(): ...\ndef input_fn(): ...", "transform_fn and input_fn.*keep either"),
    ],
)
def test_a_handler_that_cannot_load_says_why(tmp_path: Path, code: str, expected: str) -> None:
    with pytest.raises(ModelLoadError, match=expected):
        handler(tmp_path, code)


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"serve\.py is not in code/, which has inference\.py.*SAGEMAKER_PROGRAM"):
        handler(tmp_path, MODEL, {"SAGEMAKER_PROGRAM": "serve.py"})


STREAMS = {
    "predict_fn": "def predict_fn(data, model):\n    yield 'a'\n    yield b'b'\n    yield {'c': 1}\n",
    "transform_fn": "def transform_fn(model, data, content_type, accept):\n    yield from ['a', b'b', {'c': 1}]\n",
    "output_fn": "def predict_fn(data, model): return 1\n"
    "def output_fn(prediction, accept):\n    yield from ['a', b'b', {'c': 1}]\n",
}


@pytest.mark.parametrize("code", STREAMS.values(), ids=STREAMS)
def test_a_generator_streams_one_part_a_yield(tmp_path: Path, code: str) -> None:
    model = handler(tmp_path, MODEL + code)
    parts = [b"a", b"b", b'{"c": 1}\n']
    assert list(model.stream(call("[1]"))) == parts
    assert model.invoke([call("[1]")])[0].body == b"".join(parts), "asked for whole, it comes whole"


def test_each_part_goes_through_output_fn(tmp_path: Path) -> None:
    model = handler(
        tmp_path,
        MODEL + "def predict_fn(data, model): yield from range(3)\n"
        "def output_fn(part, accept, context): return f'{part};', 'text/plain'\n",
    )
    parts = list(model.stream(call("[1]")))
    assert parts == [b"0;", b"1;", b"2;"]
    assert isinstance(parts[0], Opening)
    assert parts[0].content_type == "text/plain"


def test_a_stream_that_is_left_runs_its_finally(tmp_path: Path) -> None:
    model = handler(
        tmp_path,
        "import pathlib\ndef model_fn(model_dir): return pathlib.Path(model_dir)\n"
        "def predict_fn(data, model):\n    try:\n        yield 'a'\n        yield 'b'\n"
        "    finally:\n        (model / 'ended').touch()\n",
    )
    parts = model.stream(call("[1]"))
    assert next(parts) == b"a"
    parts.close()  # type: ignore[attr-defined]
    assert (tmp_path / "ended").exists()


def test_an_answer_that_does_not_stream_is_one_part(tmp_path: Path) -> None:
    model = handler(tmp_path, MODEL + "def predict_fn(data, model): return [1]")
    assert list(model.stream(call("[1]"))) == [b"[1]"]


def test_an_error_ends_the_stream(tmp_path: Path) -> None:
    model = handler(tmp_path, MODEL + "def predict_fn(data, model):\n    yield 'a'\n    raise ValueError('broken')")
    parts = model.stream(call("[1]"))
    assert next(parts) == b"a"
    with pytest.raises(ValueError, match="broken"):
        next(parts)


ASYNC = """
import asyncio
async def model_fn(model_dir): return {"waiting": 0, "most": 0}
async def predict_fn(data, model):
    model["waiting"] += 1
    model["most"] = max(model["most"], model["waiting"])
    await asyncio.sleep(0)
    model["waiting"] -= 1
    if data.tolist() == [13]:
        raise ValueError("thirteen")
    return model["most"]
"""


async def test_async_functions_overlap(tmp_path: Path) -> None:
    model = await asyncio.to_thread(handler, tmp_path, ASYNC)
    assert isinstance(model, AsyncModel)
    replies = await asyncio.gather(*(model.ainvoke(call(f"[{n}]", id=n)) for n in (1, 13, 3)))
    assert [(reply.id, reply.status) for reply in replies] == [(1, 200), (13, 500), (3, 200)]
    assert replies[2].body == b"3"
    assert "thirteen" in replies[1].detail


ASYNC_STREAM = """
import pathlib
def model_fn(model_dir): return pathlib.Path(model_dir)
async def predict_fn(data, model):
    try:
        yield "a"
        yield {"b": 1}
    finally:
        (model / "ended").touch()
"""


async def test_async_generators_stream(tmp_path: Path) -> None:
    model = handler(tmp_path, ASYNC_STREAM)
    assert isinstance(model, AsyncModel)
    assert [part async for part in model.astream(call("[1]"))] == [b"a", b'{"b": 1}\n']
    assert (await model.ainvoke(call("[1]"))).body == b'a{"b": 1}\n'
    (tmp_path / "ended").unlink()
    async with contextlib.aclosing(model.astream(call("[1]"))) as parts:  # type: ignore[type-var]
        assert await anext(parts) == b"a"
    assert (tmp_path / "ended").exists(), "a client that leaves ends the generator"


async def test_async_output_fn_gets_each_part(tmp_path: Path) -> None:
    model = handler(
        tmp_path,
        MODEL + "def predict_fn(data, model): yield from range(2)\n"
        "async def output_fn(part, accept): return f'{part};'\n",
    )
    assert isinstance(model, AsyncModel)
    assert [part async for part in model.astream(call("[1]"))] == [b"0;", b"1;"]


def test_bodies_are_memoryviews_too(tmp_path: Path) -> None:
    model = handler(tmp_path, MODEL + "def predict_fn(data, model): return data * model")
    body: bytes = memoryview(b"[1]")  # type: ignore[assignment]
    assert model.invoke([Call(0, body)])[0].body == b"[2]"
