from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from fourfold.errors import ModelLoadError
from fourfold.formats import builtin, registry
from tests.formats import models

ECR = "763104351884.dkr.ecr.us-east-1.amazonaws.com"


def test_the_gateway_resolves_formats_without_numpy_or_a_framework(tmp_path: Path) -> None:
    models.linear(tmp_path)
    script = (
        "import sys; from pathlib import Path; from fourfold.formats import registry;"
        f"found = registry.resolve('fourfold/onnx:latest', Path({str(tmp_path)!r}));"
        "print(found.name, found.executes_code, found.imports, found.extra);"
        "print(*sorted({'numpy', 'onnxruntime', 'sklearn', 'torch', 'pyarrow'} & sys.modules.keys()))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == ["onnx False ('numpy', 'onnxruntime') None", ""]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("model.onnx", b"", "onnx"),
        ("nested/model.onnx", b"", "onnx"),
        ("code/inference.py", b"", "handler"),
        ("inference.py", b"", "handler"),
        ("model.joblib", b"", "sklearn"),
        ("model.pkl", b"", "sklearn"),
        ("model.joblib.gz", b"", "sklearn"),
        ("model.skops", b"", "skops"),
        ("export/Servo/1/saved_model.pb", b"", "tensorflow"),
        ("1/saved_model.pb", b"", "tensorflow"),
        ("model.json", b'{"learner":{}}', "xgboost"),
        ("xgboost-model", b"{L\x00\x00\x00\x07learner{", "xgboost"),
        ("xgboost-model", b"\x80\x04\x95", "xgboost-pickle"),
        ("xgboost-model", b"\0\0\0\x3f", "xgboost"),
        ("model.txt", b"tree\nversion=v4\n", "lightgbm"),
    ],
)
def test_an_artifact_tells_its_format(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    assert registry.resolve("", tmp_path).name == expected


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("fourfold/onnx:latest", ("onnx",)),
        ("fourfold/sklearn", ("skops", "sklearn")),
        (
            "683313688378.dkr.ecr.us-east-1.amazonaws.com/sagemaker-scikit-learn:1.2-1-cpu-py3",
            ("skops", "sklearn", "onnx"),
        ),
        ("sagemaker-xgboost:1.7-1", ("xgboost", "xgboost-pickle")),
        (f"{ECR}/pytorch-inference:2.3-cpu-py311", ("torch", "onnx")),
        (f"{ECR}/tensorflow-inference:2.12-cpu", ("tensorflow",)),
        (f"{ECR}/huggingface-pytorch-inference@sha256:00", ("transformers", "torch", "onnx")),
        ("", None),
    ],
)
def test_an_image_stands_for_formats(image: str, expected: tuple[str, ...] | None) -> None:
    assert registry.image_formats(image) == expected


def test_a_handler_comes_before_the_image(tmp_path: Path) -> None:
    models.linear(tmp_path)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "inference.py").touch()
    assert registry.resolve(f"{ECR}/pytorch-inference:2.3", tmp_path).name == "handler"
    assert registry.resolve("", tmp_path).name == "handler"


def test_environment_names_a_handler_or_a_server_of_ones_own(tmp_path: Path) -> None:
    models.linear(tmp_path)
    assert registry.resolve("", tmp_path, {"SAGEMAKER_PROGRAM": "serve.py"}).name == "handler"
    assert registry.resolve("any/image:1", tmp_path, {"FOURFOLD_COMMAND": "./serve"}).name == "process"


def test_an_unknown_image_says_what_to_do() -> None:
    with pytest.raises(ModelLoadError, match=r"acme/blob:1.*fourfold/FORMAT:latest.*onnx.*FOURFOLD_COMMAND"):
        registry.image_formats("acme/blob:1")


def test_an_unknown_image_is_run_where_something_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModelLoadError, match="acme/blob:1"):
        registry.resolve("acme/blob:1", tmp_path)
    (tmp_path / "podman").touch(0o755)
    assert registry.resolve("acme/blob:1", tmp_path).name == "process"


def test_an_unknown_format_names_those_that_there_are() -> None:
    with pytest.raises(ModelLoadError, match=r"'onyx'.*onnx"):
        registry.image_formats("fourfold/onyx")


def test_several_formats_are_told_apart_by_the_image(tmp_path: Path) -> None:
    models.linear(tmp_path)
    (tmp_path / "model.joblib").touch()
    with pytest.raises(ModelLoadError, match=r"onnx, sklearn.*model.joblib, model.onnx.*fourfold/onnx:latest or"):
        registry.resolve("", tmp_path)
    assert registry.resolve("fourfold/onnx:latest", tmp_path).name == "onnx"
    assert registry.resolve("fourfold/sklearn:latest", tmp_path).name == "sklearn"


def test_no_format_lists_what_was_found_and_what_would_work(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").touch()
    with pytest.raises(ModelLoadError, match=r"it has weights\.bin.*code/inference\.py.*\*\.onnx"):
        registry.resolve("", tmp_path)
    with pytest.raises(ModelLoadError, match=r"fourfold/onnx.*a file \*\.onnx"):
        registry.resolve("fourfold/onnx:latest", tmp_path)


@pytest.mark.parametrize("known", builtin.FORMATS, ids=lambda known: known.name)
def test_whether_loading_runs_code_is_told(known: builtin.BuiltIn) -> None:
    safe = {"onnx", "skops", "xgboost", "lightgbm"}
    assert known.executes_code == (known.name not in safe)
    assert registry.get(known.name) is known


def test_other_packages_add_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "thirdparty.py").write_text(
        "class Format:\n    name = 'echo'\n    executes_code = False\n    imports = ()\n    extra = None\n"
        "    def detect(self, folder): return (folder / 'echo').exists()\n    def load(self, artifact): ...\n"
    )
    monkeypatch.syspath_prepend(package)
    entry = EntryPoint("echo", "thirdparty:Format", "fourfold.formats")
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    registry.formats.cache_clear()
    try:
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "echo").touch()
        assert registry.resolve("", tmp_path / "model").name == "echo"
        assert registry.resolve("fourfold/echo:1", tmp_path / "model").name == "echo"
    finally:
        registry.formats.cache_clear()
