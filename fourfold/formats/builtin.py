"""The formats that come with Fourfold, as seen from outside: name, needs, and how to tell the artifact.

Detection looks at file names and first bytes. How a format loads and predicts is in its module, which is imported by
`load`, in the worker; the gateway reads this one and stays free of numpy and the frameworks.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from fourfold.errors import ModelLoadError

if TYPE_CHECKING:
    from fourfold.formats.base import Artifact, Model

_VERSION = re.compile(rb"\{.{0,8}version\W*\[", re.DOTALL)
CONTAINER_DIR = "/opt/ml/model"
"""Where the artifact is in a SageMaker container; SAGEMAKER_SUBMIT_DIRECTORY may start with it."""
_DEPTH = 3
"""Levels of folders that are searched: enough for TensorFlow's `export/Servo/1/saved_model.pb`."""


@dataclass(frozen=True)
class BuiltIn:
    """A format whose code is in `fourfold.formats.<module>`, which has `load(artifact) -> Model`."""

    name: str
    looks_like: str
    """What its artifact looks like, for messages."""
    detect: Callable[[Path], bool]
    module: str = ""
    """Empty: called as the format."""
    extra: str | None = None
    imports: tuple[str, ...] = ()
    executes_code: bool = False

    def load(self, artifact: Artifact) -> Model:
        try:
            module = importlib.import_module(f"fourfold.formats.{self.module or self.name}")
            return cast("Model", module.load(replace(artifact, format=self.name)))
        except ModuleNotFoundError as error:
            raise ModelLoadError(self._missing(error)) from error

    def _missing(self, error: ModuleNotFoundError) -> str:
        fix = f"pip install 'fourfold[{self.extra}]'" if self.extra else f"pip install {error.name}"
        return f"Format {self.name} needs the module {error.name!r}, which is not installed: {fix}"


def files(folder: Path) -> list[Path]:
    """Files under `folder`, sorted; `code/` and what is hidden are left out."""
    return sorted(_walk(folder, _DEPTH))


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name in ("code", "__MACOSX"):
            continue
        if path.is_file():
            yield path
        elif path.is_dir() and depth > 0:
            yield from _walk(path, depth - 1)


def choose(artifact: Artifact, fits: Callable[[Path], bool]) -> Path:
    """The artifact's model file: FOURFOLD_MODEL_FILE, else the only one that `fits`, else the one called `model.*`.

    Raises:
        ModelLoadError: none, or several and not one of them is called `model`.
    """
    named = artifact.environment.get("FOURFOLD_MODEL_FILE")
    if named:
        path = artifact.path / named
        if not path.resolve().is_relative_to(artifact.path.resolve()) or not path.is_file():
            raise ModelLoadError(f"FOURFOLD_MODEL_FILE names {named!r}, which is not a file of the artifact.")
        return path
    found = [path for path in files(artifact.path) if fits(path)]
    preferred = [path for path in found if path.stem == "model"]
    if len(found) == 1 or len(preferred) == 1:
        return (preferred or found)[0]
    if not found:
        raise ModelLoadError(f"The artifact has no file of the format {artifact.format}.")
    names = ", ".join(str(path.relative_to(artifact.path)) for path in found)
    raise ModelLoadError(
        f"The artifact has several models: {names}. Set FOURFOLD_MODEL_FILE in the model's Environment to one of them."
    )


def start(path: Path, length: int = 256) -> bytes:
    with path.open("rb") as file:
        return file.read(length)


def code_folder(folder: Path, environment: Mapping[str, str]) -> Path:
    """Where the handler is: SAGEMAKER_SUBMIT_DIRECTORY, where that is in the artifact, else `code/`, else its top."""
    submitted = environment.get("SAGEMAKER_SUBMIT_DIRECTORY", "").removeprefix("file://")
    if submitted.startswith(CONTAINER_DIR):
        named = folder / submitted.removeprefix(CONTAINER_DIR).lstrip("/")
        if named.is_dir():
            return named
    code = folder / "code"
    return code if code.is_dir() else folder


def is_handler(folder: Path) -> bool:
    return (folder / "code" / "inference.py").is_file() or (folder / "inference.py").is_file()


def is_process(folder: Path) -> bool:
    serve = folder / "serve"
    return serve.is_file() and bool(serve.stat().st_mode & 0o100)


def is_onnx_file(path: Path) -> bool:
    return path.suffix == ".onnx"


def is_skops_file(path: Path) -> bool:
    return path.suffix == ".skops"


def is_sklearn_file(path: Path) -> bool:
    """joblib compresses where it is asked to, and reads that whatever the file is called."""
    name = path.stem if path.suffix in (".gz", ".bz2", ".xz", ".lzma", ".z") else path.name
    return name.endswith((".joblib", ".pkl", ".pickle"))


def is_xgboost_file(path: Path) -> bool:
    """XGBoost's JSON or UBJSON: an object that begins with `learner` or `version: [`.

    A file `xgboost-model` that is no pickle may also be in the old binary format, which has no mark.
    """
    if path.name == "xgboost-model":
        return not is_xgboost_pickle_file(path)
    if path.suffix not in (".json", ".ubj"):
        return False
    first = start(path)
    return first.startswith(b"{") and (b"learner" in first or _VERSION.match(first) is not None)


def is_xgboost_pickle_file(path: Path) -> bool:
    return path.name == "xgboost-model" and start(path, 1) == b"\x80"


def is_lightgbm_file(path: Path) -> bool:
    return path.suffix in (".txt", ".lgb", ".model") and start(path, 5) == b"tree\n"


def is_torch_file(path: Path) -> bool:
    """TorchScript and torch.export are zip archives."""
    return path.suffix in (".pt", ".pth", ".pt2") and start(path, 2) == b"PK"


def is_tensorflow_file(path: Path) -> bool:
    return path.name == "saved_model.pb"


def is_transformers(folder: Path) -> bool:
    """A model as `save_pretrained` writes it: its configuration, and weights for PyTorch."""
    return (folder / "config.json").is_file() and any(
        path.suffix == ".safetensors" or (path.suffix == ".bin" and path.name.startswith("pytorch_model"))
        for path in folder.iterdir()
    )


def holds(fits: Callable[[Path], bool]) -> Callable[[Path], bool]:
    """Does a folder hold a file that fits?"""
    return lambda folder: any(map(fits, files(folder)))


FORMATS: tuple[BuiltIn, ...] = (
    BuiltIn("handler", "code/inference.py", is_handler, executes_code=True),
    BuiltIn("process", "an executable file `serve`", is_process, executes_code=True),
    BuiltIn("onnx", "a file *.onnx", holds(is_onnx_file), imports=("numpy", "onnxruntime")),
    BuiltIn("skops", "a file *.skops", holds(is_skops_file), "sklearn", "sklearn", ("sklearn.ensemble",)),
    BuiltIn(
        "sklearn", "a file *.joblib or *.pkl", holds(is_sklearn_file), "sklearn", "sklearn", ("sklearn.ensemble",), True
    ),
    BuiltIn("xgboost", "XGBoost's *.json or *.ubj", holds(is_xgboost_file), "boosters", "xgboost", ("xgboost",)),
    BuiltIn(
        "xgboost-pickle",
        "a pickled xgboost-model",
        holds(is_xgboost_pickle_file),
        "boosters",
        "xgboost",
        ("xgboost",),
        True,
    ),
    BuiltIn("lightgbm", "LightGBM's text model", holds(is_lightgbm_file), "boosters", "lightgbm", ("lightgbm",)),
    BuiltIn(
        "torch", "TorchScript *.pt or torch.export *.pt2", holds(is_torch_file), "torch", "torch", ("torch",), True
    ),
    BuiltIn(
        "transformers",
        "config.json with *.safetensors or pytorch_model*.bin",
        is_transformers,
        extra="transformers",
        imports=("torch",),
        executes_code=True,
    ),
    BuiltIn("tensorflow", "a SavedModel", holds(is_tensorflow_file), "tensorflow", "tensorflow", (), True),
)
"""In the order in which users see them. No zygote imports TensorFlow: that takes 600 MB and starts threads."""
