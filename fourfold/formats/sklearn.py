"""scikit-learn models: joblib and pickle files, which run code when they are loaded, and skops, which does not.

FOURFOLD_PREDICT_METHOD in the model's Environment names the method to answer with (default `predict`; for instance
`predict_proba`, or several, `predict,predict_proba`, each an output of its name). What the inputs are: `columns`.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl

from fourfold.errors import ModelLoadError
from fourfold.formats.base import ArrayModel, Arrays, Artifact, Tensor
from fourfold.formats.builtin import choose, is_sklearn_file, is_skops_file
from fourfold.formats.columns import input_tensors, steps, to_table


class SklearnModel(ArrayModel):
    forkable = True
    max_batch = 64  # a predict costs 50 µs and more before its first row

    def __init__(self, estimator: Any, methods: list[str]) -> None:
        self._methods = {name: _method(estimator, name) for name in methods}
        self.inputs = tuple(input_tensors(estimator))
        self.outputs = tuple(_output(estimator, name) for name in methods)
        self._table = to_table(estimator)

    def predict(self, inputs: Arrays) -> Arrays:
        data = self._table(inputs) if self._table else inputs[self.inputs[0].name]
        outputs: Arrays = {}
        for name, method in self._methods.items():
            result = method(data)
            if isinstance(result, list):  # predict_proba of a classifier with several targets
                outputs |= {f"{name}_{target}": np.asarray(part) for target, part in enumerate(result)}
            else:
                outputs[name] = result.toarray() if hasattr(result, "toarray") else np.asarray(result)
        return outputs


def load(artifact: Artifact) -> SklearnModel:
    """Load the estimator. Raises ModelLoadError with the reason."""
    path = choose(artifact, is_skops_file if artifact.format == "skops" else is_sklearn_file)
    threadpoolctl.threadpool_limits(artifact.threads)  # BLAS and OpenMP would take every core
    estimator = _read(path)
    for step in steps(estimator):
        jobs = [name for name in getattr(step, "get_params", dict)() if name.endswith("n_jobs")]
        if jobs:
            step.set_params(**dict.fromkeys(jobs, artifact.threads))
    wanted = artifact.environment.get("FOURFOLD_PREDICT_METHOD", "predict").split(",")
    return SklearnModel(estimator, [name.strip() for name in wanted])


def _read(path: Path) -> Any:
    try:
        return _read_skops(path) if path.suffix == ".skops" else _read_pickle(path)
    except ModelLoadError:
        raise
    except ModuleNotFoundError as error:
        raise ModelLoadError(
            f"{path.name} needs the module {error.name!r}, which is not installed: pip install {error.name}"
        ) from error
    except Exception as error:  # unpickling runs anything, and so raises anything
        raise ModelLoadError(f"{path.name} cannot be loaded: {type(error).__name__}: {error}") from error


def _read_pickle(path: Path) -> Any:
    import joblib

    try:
        return joblib.load(path)
    except pickle.UnpicklingError as error:
        raise ModelLoadError(f"{path.name} is neither a joblib nor a pickle file: {error}") from error


def _read_skops(path: Path) -> Any:
    import skops.io

    untrusted = skops.io.get_untrusted_types(file=path)
    if untrusted:
        raise ModelLoadError(
            f"{path.name} holds types that skops does not trust: {', '.join(untrusted)}. Save the model without them, "
            "or as a joblib file, which runs its code when loaded."
        )
    return skops.io.load(path)


def _method(estimator: Any, name: str) -> Any:
    method = getattr(estimator, name, None)
    if name.startswith("_") or not callable(method):
        names = ("predict", "predict_proba", "predict_log_proba", "decision_function", "score_samples", "transform")
        has = ", ".join(name for name in names if callable(getattr(estimator, name, None))) or "none of the usual"
        raise ModelLoadError(
            f"The model is a {type(estimator).__name__} without a method {name!r}; it has {has}. "
            "Set FOURFOLD_PREDICT_METHOD in the model's Environment."
        )
    return method


def _output(estimator: Any, method: str) -> Tensor:
    classes = getattr(estimator, "classes_", None)
    if method == "predict":
        dtype = np.asarray(classes).dtype if isinstance(classes, np.ndarray) else np.dtype(np.float64)
        return Tensor(method, "object" if dtype.kind in "OSU" else dtype.name, (None,))
    if isinstance(classes, np.ndarray) and method.startswith("predict_"):
        return Tensor(method, "float64", (None, len(classes)), tuple(map(str, classes)))
    return Tensor(method, "float64", (None, None))
