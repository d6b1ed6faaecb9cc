"""What a handler leaves out, as each of SageMaker's images fills it in.

The defaults of `toolkit` are those of the scikit-learn image, and of a handler without an image. Another image hands
the handler's `predict_fn` what its framework takes, and knows how to load a model of its own:

pytorch       a tensor (float32 where the body is text); without `model_fn`, the artifact's TorchScript file
xgboost       a DMatrix
huggingface   the JSON itself, CSV as a dictionary with `inputs`; without `predict_fn`, a pipeline is called with them;
              without `model_fn`, that is the one that transformers makes of the artifact (`huggingface`)

FOURFOLD_TOOLKIT in the model's Environment names one; the model's image does so by itself. Behaviour follows
github.com/aws/sagemaker-{pytorch,huggingface}-inference-toolkit and sagemaker-xgboost-container. Where a framework is
not installed, its image's handlers get what the others get.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fourfold.errors import ModelLoadError
from fourfold.formats import huggingface, toolkit


@dataclass(frozen=True)
class Defaults:
    """The functions that stand in for those that a handler does not have."""

    model_fn: Callable[..., Any] = toolkit.default_model_fn
    input_fn: Callable[..., Any] = toolkit.default_input_fn
    predict_fn: Callable[..., Any] = toolkit.default_predict_fn
    output_fn: Callable[..., Any] = toolkit.default_output_fn


def defaults(environment: Mapping[str, str], predicts: bool) -> Defaults:
    """The defaults of the toolkit that FOURFOLD_TOOLKIT names; without it, scikit-learn's.

    Args:
        environment: the model's Environment.
        predicts: the handler has a `predict_fn`. Without one, the general defaults go together as they are.

    Raises:
        ModelLoadError: there is no such toolkit.
    """
    name = environment.get("FOURFOLD_TOOLKIT", "")
    match name:
        case "" | "sklearn" | "tensorflow":
            return Defaults()
        case "pytorch":
            general = replace(Defaults(), model_fn=load_torchscript)
            return replace(general, input_fn=to_tensor) if predicts and _installed("torch") else general
        case "xgboost":
            return replace(Defaults(), input_fn=to_dmatrix) if predicts and _installed("xgboost") else Defaults()
        case "huggingface":
            return Defaults(huggingface.loader(environment), huggingface.read, huggingface.predict)
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


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
