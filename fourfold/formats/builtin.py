"""The formats that come with Fourfold, as seen from outside: name, needs, and how to tell the artifact.

Detection looks at file names and first bytes. How a format loads and predicts is in its module, which is imported by
`load`, in the worker; the gateway reads this one and stays free of numpy and the frameworks.
"""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from fourfold.errors import ModelLoadError

if TYPE_CHECKING:
    from fourfold.formats.base import Artifact, Model

_DEPTH = 3
"""Levels of folders that are searched: enough for TensorFlow's `export/Servo/1/saved_model.pb`."""


@dataclass(frozen=True)
class BuiltIn:
    """A format whose code is in `fourfold.formats.<module>`, which has `load(artifact) -> Model`."""

    name: str
    module: str
    detect: Callable[[Path], bool]
    looks_like: str
    """What its artifact looks like, for messages."""
    executes_code: bool = False
    imports: tuple[str, ...] = ()
    extra: str | None = None

    def load(self, artifact: Artifact) -> Model:
        try:
            module = importlib.import_module(f"fourfold.formats.{self.module}")
            return cast("Model", module.load(artifact))
        except ModuleNotFoundError as error:
            raise ModelLoadError(self._missing(error)) from error

    def _missing(self, error: ModuleNotFoundError) -> str:
        fix = f"pip install 'fourfold[{self.extra}]'" if self.extra else f"pip install {error.name}"
        return f"Format {self.name} needs the module {error.name!r}, which is not installed: {fix}"


def files(folder: Path, *suffixes: str) -> Iterator[Path]:
    """Files under `folder`, sorted, whose names end so; `code/` and hidden folders are left out."""
    for path in sorted(_walk(folder, _DEPTH)):
        if path.name.endswith(suffixes):
            yield path


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name in ("code", "__MACOSX"):
            continue
        if path.is_file():
            yield path
        elif path.is_dir() and depth > 0:
            yield from _walk(path, depth - 1)


def choose(artifact: Artifact, *suffixes: str) -> Path:
    """The artifact's model file: FOURFOLD_MODEL_FILE, else the only one with such a name, else `model.*`.

    Raises:
        ModelLoadError: none, or several and none is called `model`.
    """
    named = artifact.environment.get("FOURFOLD_MODEL_FILE")
    if named:
        path = artifact.path / named
        if not path.resolve().is_relative_to(artifact.path.resolve()) or not path.is_file():
            raise ModelLoadError(f"FOURFOLD_MODEL_FILE names {named!r}, which is not a file of the artifact.")
        return path
    found = list(files(artifact.path, *suffixes))
    preferred = [path for path in found if path.stem == "model"]
    if len(found) == 1 or len(preferred) == 1:
        return (preferred or found)[0]
    names = ", ".join(str(path.relative_to(artifact.path)) for path in found)
    if not found:
        raise ModelLoadError(f"The artifact has no file {' or '.join('*' + suffix for suffix in suffixes)}.")
    raise ModelLoadError(
        f"The artifact has several models: {names}. Set FOURFOLD_MODEL_FILE in the model's Environment to one of them."
    )


def start(path: Path, length: int = 256) -> bytes:
    with path.open("rb") as file:
        return file.read(length)


def is_handler(folder: Path) -> bool:
    return (folder / "code" / "inference.py").is_file() or (folder / "inference.py").is_file()


def is_process(folder: Path) -> bool:
    serve = folder / "serve"
    return serve.is_file() and bool(serve.stat().st_mode & 0o100)


def is_onnx(folder: Path) -> bool:
    return any(files(folder, ".onnx"))


def is_skops(folder: Path) -> bool:
    return any(files(folder, ".skops"))


def is_sklearn(folder: Path) -> bool:
    return any(files(folder, ".joblib", ".pkl", ".pickle"))


def is_tensorflow(folder: Path) -> bool:
    return any(files(folder, "saved_model.pb"))


def is_torch(folder: Path) -> bool:
    return any(zipfile.is_zipfile(path) for path in files(folder, ".pt", ".pth", ".pt2"))


def is_xgboost_file(path: Path) -> bool:
    """XGBoost's JSON or UBJSON, whatever the file is called: an object whose first key is `learner` (or `version`)."""
    first = start(path)
    return first.startswith(b"{") and (b"learner" in first or b'"version"' in first[:12])


def is_xgboost(folder: Path) -> bool:
    return any(is_xgboost_file(path) for path in files(folder, ".json", ".ubj", "xgboost-model"))


def is_xgboost_pickle(folder: Path) -> bool:
    """`xgboost-model` as SageMaker's XGBoost container writes it: a pickled Booster."""
    return any(start(path, 1) == b"\x80" for path in files(folder, "xgboost-model"))


def is_lightgbm(folder: Path) -> bool:
    return any(start(path, 5) == b"tree\n" for path in files(folder, ".txt", ".lgb", ".model"))


FORMATS: tuple[BuiltIn, ...] = (
    BuiltIn("handler", "handler", is_handler, "code/inference.py", True),
    BuiltIn("process", "process", is_process, "an executable file `serve`", True),
    BuiltIn("onnx", "onnx", is_onnx, "a file *.onnx", False, ("numpy", "onnxruntime")),
    BuiltIn("skops", "sklearn", is_skops, "a file *.skops", False, ("numpy", "sklearn.ensemble"), "sklearn"),
    BuiltIn(
        "sklearn", "sklearn", is_sklearn, "a file *.joblib or *.pkl", True, ("numpy", "sklearn.ensemble"), "sklearn"
    ),
    BuiltIn(
        "xgboost", "boosters", is_xgboost, "XGBoost's *.json, *.ubj or xgboost-model", False, ("xgboost",), "xgboost"
    ),
    BuiltIn("xgboost-pickle", "boosters", is_xgboost_pickle, "a pickled xgboost-model", True, ("xgboost",), "xgboost"),
    BuiltIn("lightgbm", "boosters", is_lightgbm, "LightGBM's text model *.txt", False, ("lightgbm",), "lightgbm"),
    BuiltIn("torch", "torch", is_torch, "TorchScript *.pt, *.pth or torch.export *.pt2", True, ("torch",), "torch"),
    BuiltIn("tensorflow", "tensorflow", is_tensorflow, "a SavedModel (saved_model.pb)", True, (), "tensorflow"),
)
"""In the order in which they are listed to users. TensorFlow starts threads when imported, so no zygote imports it."""
