"""Finds the format of a model: by name, by container image, or by a look at the artifact.

The gateway calls `resolve`, the worker `get`. Other packages add formats through the entry point group
`fourfold.formats`: an object (or a class without arguments) that fits `base.Format`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from fourfold.errors import ModelLoadError
from fourfold.formats import builtin

if TYPE_CHECKING:
    from fourfold.formats.base import Format

_IMAGE = re.compile(r"^(?:[^/]+[.:][^/]*/)?(?P<repository>[^:@]+)(?:[:@].*)?$")

_REPOSITORIES: dict[str, tuple[str, ...]] = {
    "sagemaker-scikit-learn": ("skops", "sklearn", "onnx"),
    "sagemaker-xgboost": ("xgboost", "xgboost-pickle"),
    "xgboost": ("xgboost", "xgboost-pickle"),
    "pytorch-inference": ("torch", "onnx"),
    "pytorch-inference-graviton": ("torch", "onnx"),
    "pytorch-inference-arm64": ("torch", "onnx"),
    "sagemaker-pytorch": ("torch", "onnx"),
    "tensorflow-inference": ("tensorflow",),
    "tensorflow-inference-graviton": ("tensorflow",),
    "tensorflow-inference-arm64": ("tensorflow",),
    "sagemaker-tensorflow-serving": ("tensorflow",),
    "mxnet-inference": ("onnx",),
    "huggingface-pytorch-inference": ("transformers", "torch", "onnx"),
    "huggingface-tensorflow-inference": ("tensorflow", "onnx"),
    "sagemaker-base-python": ("onnx", "skops", "sklearn"),
    "djl-inference": ("torch", "onnx"),
}
"""SageMaker's image repositories and the formats that they read, beside a handler, which every one of them takes."""

_TOOLKITS = {
    "huggingface": "huggingface",
    "pytorch": "pytorch",
    "sagemaker-pytorch": "pytorch",
    "sagemaker-tensorflow": "tensorflow",
    "sagemaker-xgboost": "xgboost",
    "tensorflow": "tensorflow",
}
"""Beginnings of repositories whose handlers have other defaults than scikit-learn's (`images`)."""

_VARIANTS = {"sklearn": ("skops", "sklearn"), "xgboost": ("xgboost", "xgboost-pickle")}
"""Images of ours that stand for more than the format of their name."""


@cache
def formats() -> Mapping[str, Format]:
    """Every format by name, our own first."""
    found: dict[str, Format] = {known.name: known for known in builtin.FORMATS}
    for entry in entry_points(group="fourfold.formats"):
        loaded = entry.load()
        found.setdefault(entry.name, loaded() if isinstance(loaded, type) else loaded)
    return found


def get(name: str) -> Format:
    """The format of that name. Raises ModelLoadError naming those that there are."""
    known = formats()
    if name not in known:
        raise ModelLoadError(f"There is no format {name!r}. Formats here: {', '.join(known)}.")
    return known[name]


def resolve(image: str, folder: Path, environment: Mapping[str, str] | None = None) -> Format:
    """The format that loads the artifact in `folder`.

    A handler comes before everything, whatever the image, as in SageMaker's containers. Then the image's formats are
    tried, or, without an image, all; exactly one must fit.

    Args:
        image: the model's Image; empty where it names none.
        folder: the unpacked artifact.
        environment: the model's Environment. SAGEMAKER_PROGRAM names a handler, HF_TASK the pipeline of a Hugging Face
            model, which then comes before other models in the artifact, FOURFOLD_COMMAND an own server, as which an
            unknown image counts too where docker or podman can run it.

    Raises:
        ModelLoadError: unknown image, or none or several formats fit; says what was found and what would work.
    """
    environment = environment or {}
    if environment.get("FOURFOLD_COMMAND") or (not is_known(image) and _runs_containers()):
        return get("process")
    named = image_formats(image)
    if named is not None and len(named) == 1 and named[0] in ("handler", "process"):
        return get(named[0])
    if environment.get("SAGEMAKER_PROGRAM") or builtin.is_handler(folder):
        return get("handler")
    if environment.get("HF_TASK") and get("transformers").detect(folder):
        return get("transformers")
    fitting = [name for name in (named or tuple(formats())) if get(name).detect(folder)]
    if len(fitting) == 1:
        return get(fitting[0])
    raise ModelLoadError(_several(folder, fitting) if fitting else _none(image, folder, named))


def image_formats(image: str) -> tuple[str, ...] | None:
    """Names of the formats that an image stands for, the handler aside; None for no image.

    `fourfold/onnx:latest` is the format onnx; `sagemaker-xgboost` on any registry is one of XGBoost's.

    Raises:
        ModelLoadError: the image is not known here.
    """
    if not image:
        return None
    match = _IMAGE.match(image)
    repository = match["repository"] if match else image
    owner, _, name = repository.rpartition("/")
    if owner == "fourfold":
        return _VARIANTS.get(name, (get(name).name,))
    if name in _REPOSITORIES:
        return _REPOSITORIES[name]
    raise ModelLoadError(
        f"Image {image!r} is not one that Fourfold knows. Name fourfold/FORMAT:latest with one of "
        f"{', '.join(formats())}; leave Image out, so that the format is detected; or, if the image is a server of "
        "your own, set FOURFOLD_COMMAND in the model's Environment to the command that starts it here."
    )


def toolkit(image: str) -> str:
    """Whose defaults the handlers of an image have; empty where it has none of its own."""
    match = _IMAGE.match(image)
    name = match["repository"].rpartition("/")[2] if match else ""
    return next((whose for start, whose in _TOOLKITS.items() if name.startswith(start)), "")


def is_known(image: str) -> bool:
    """Does the image stand for formats (or is there none)? Another one is a server of the user's own.

    `fourfold/…` is always ours: a misspelt format shall be told, not looked for among containers.
    """
    if image.startswith("fourfold/"):
        return True
    try:
        image_formats(image)
    except ModelLoadError:
        return False
    return True


def _runs_containers() -> bool:
    return bool(shutil.which("docker") or shutil.which("podman"))


def _several(folder: Path, fitting: list[str]) -> str:
    images = " or ".join(f"fourfold/{name}:latest" for name in fitting)
    return (
        f"The artifact could be any of {', '.join(fitting)}: it has {_listing(folder)}. "
        f"Name the image {images}, or leave only one model in it."
    )


def _none(image: str, folder: Path, named: tuple[str, ...] | None) -> str:
    choices = [known for known in builtin.FORMATS if named is None or known.name in named or known.name == "handler"]
    wanted = "; ".join(f"{known.looks_like} ({known.name})" for known in choices)
    whose = f"the image {image!r} reads" if named else "a format here reads"
    return f"The artifact has nothing that {whose}: it has {_listing(folder)}. What would work: {wanted}."


def _listing(folder: Path, most: int = 10) -> str:
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    if not names:
        return "no file at all"
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
