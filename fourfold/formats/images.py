"""What a handler leaves out, as each of SageMaker's images fills it in.

The defaults of `toolkit` are those of the scikit-learn image, and of a handler without an image. Another image hands
the handler's `predict_fn` what its framework takes, and knows how to load a model of its own:

pytorch       a tensor (float32 where the body is text); without `model_fn`, the artifact's TorchScript file
xgboost       a DMatrix
huggingface   the JSON itself, CSV as a dictionary with `inputs`; without `predict_fn`, a pipeline is called with them

FOURFOLD_TOOLKIT in the model's Environment names one; the model's image does so by itself. Behaviour follows
github.com/aws/sagemaker-{pytorch,huggingface}-inference-toolkit and sagemaker-xgboost-container. Where a framework is
not installed, its image's handlers get what the others get.
"""

from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

from fourfold.errors import ModelLoadError
from fourfold.formats import toolkit
from fourfold.formats.toolkit import UnsupportedFormatError


@dataclass(frozen=True)
class Defaults:
    """The functions that stand in for those that a handler does not have."""

    model_fn: Callable[..., Any] = toolkit.default_model_fn
    input_fn: Callable[..., Any] = toolkit.default_input_fn
    predict_fn: Callable[..., Any] = toolkit.default_predict_fn
    output_fn: Callable[..., Any] = toolkit.default_output_fn


def defaults(name: str, predicts: bool) -> Defaults:
    """The defaults of the toolkit `name`; an empty name is scikit-learn's.

    Args:
        name: what FOURFOLD_TOOLKIT says.
        predicts: the handler has a `predict_fn`. Without one, the general defaults go together as they are.

    Raises:
        ModelLoadError: there is no such toolkit.
    """
    match name:
        case "" | "sklearn":
            return Defaults()
        case "pytorch":
            general = replace(Defaults(), model_fn=load_torchscript)
            return replace(general, input_fn=to_tensor) if predicts and _installed("torch") else general
        case "xgboost":
            return replace(Defaults(), input_fn=to_dmatrix) if predicts and _installed("xgboost") else Defaults()
        case "huggingface":
            return replace(Defaults(), input_fn=to_inputs, predict_fn=call_pipeline)
    raise ModelLoadError(
        f"FOURFOLD_TOOLKIT in the model's Environment is {name!r}; it may be sklearn, pytorch, xgboost, huggingface or "
        "tensorflow."
    )


def load_torchscript(model_dir: str) -> Any:
    """The artifact's one TorchScript file, `model.pth` where there are several."""
    folder = Path(model_dir)
    found = sorted(path for path in folder.iterdir() if path.suffix in (".pt", ".pth"))
    preferred = [path for path in found if path.name == "model.pth"] or found
    if len(preferred) != 1:
        there = ", ".join(path.name for path in found) or "none"
        raise ValueError(f"without model_fn, exactly one .pth or .pt file is needed; there is {there}")
    import torch

    return torch.jit.load(str(preferred[0]), map_location="cpu").eval()


def to_tensor(data: Any, content_type: str) -> Any:
    import torch

    array = toolkit.default_input_fn(data, content_type)
    return torch.as_tensor(array, dtype=torch.float32) if isinstance(data, str) else torch.from_numpy(array.copy())


def to_dmatrix(data: Any, content_type: str) -> Any:
    import numpy as np
    import xgboost

    return xgboost.DMatrix(np.atleast_2d(toolkit.default_input_fn(data, content_type)))


def to_inputs(data: Any, content_type: str) -> Any:
    """What a pipeline of transformers is called with: a dictionary with `inputs`, and `parameters` where they came."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json":
        return json.loads(data)
    if kind == "text/csv":
        return {"inputs": _records(data)}
    if kind.startswith("audio/"):
        return {"inputs": bytes(data)}
    if kind.startswith("image/"):
        return {"inputs": _image(data)}
    return toolkit.default_input_fn(data, content_type)


def call_pipeline(data: Any, model: Any) -> Any:
    """`model(inputs, **parameters)`, as pipelines are called; a model that is none has its `predict` called."""
    if not callable(model) or not isinstance(data, dict):
        return toolkit.default_predict_fn(data, model)
    parameters = data.pop("parameters", None) or {}
    return model(data.pop("inputs", data), **parameters)


def _records(text: str) -> list[Any]:
    """A CSV's rows by its header; those of a column `inputs` alone where it has one."""
    rows = list(csv.DictReader(StringIO(text)))
    header = list(rows[0]) if rows else []
    if not {"inputs", "question", "context"}.intersection(header):
        raise ValueError("the CSV needs a header with the column inputs, or question and context")
    return [row["inputs"] for row in rows] if "inputs" in header else rows


def _image(data: Any) -> Any:
    if not _installed("PIL"):
        raise UnsupportedFormatError("image/*, which pip install pillow would read,")
    from io import BytesIO

    from PIL import Image

    return Image.open(BytesIO(data)).convert("RGB")


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
