"""scikit-learn models: joblib and pickle files, which run code when they are loaded, and skops, which does not.

FOURFOLD_PREDICT_METHOD in the model's Environment names the method to answer with (default `predict`; for instance
`predict_proba`, or several, `predict,predict_proba`, each an output of its name). A pipeline that was fitted on a
data frame and picks columns by name has one input for each column.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl

from fourfold.errors import ModelLoadError
from fourfold.formats.base import ArrayModel, Arrays, Artifact, Tensor
from fourfold.formats.builtin import choose, is_sklearn_file, is_skops_file


class SklearnModel(ArrayModel):
    forkable = True
    max_batch = 64  # a predict costs 50 µs and more before its first row

    def __init__(self, estimator: Any, methods: list[str]) -> None:
        self._methods = {name: _method(estimator, name) for name in methods}
        self.inputs = tuple(_inputs(estimator))
        self.outputs = tuple(_output(estimator, name) for name in methods)
        self._frame = _data_frame() if _picks_columns(estimator) else None

    def predict(self, inputs: Arrays) -> Arrays:
        data = self._frame(inputs) if self._frame else inputs[self.inputs[0].name]
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
    if "n_jobs" in getattr(estimator, "get_params", dict)():
        estimator.set_params(n_jobs=artifact.threads)
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


def _inputs(estimator: Any) -> Iterator[Tensor]:
    columns = tuple(map(str, getattr(estimator, "feature_names_in_", ())))
    if _picks_columns(estimator):
        strings = set(_string_columns(estimator))
        for name in columns:
            yield Tensor(name, "object" if name in strings else "float64", (None,))
    elif _reads_text(estimator):
        yield Tensor("X", "object", (None,))
    else:
        yield Tensor("X", "float64", (None, getattr(estimator, "n_features_in_", None)), columns)


def _steps(estimator: Any) -> Iterator[Any]:
    """The estimator and, for a pipeline, every step in it."""
    yield estimator
    for _, step in getattr(estimator, "steps", ()):
        yield from _steps(step)


def _reads_text(estimator: Any) -> bool:
    """Text vectorisers take a list of strings, not a matrix."""
    *_, first = _first_steps(estimator)
    return hasattr(first, "build_analyzer")


def _first_steps(estimator: Any) -> Iterator[Any]:
    yield estimator
    steps = getattr(estimator, "steps", ())
    if steps:
        yield from _first_steps(steps[0][1])


def _picks_columns(estimator: Any) -> bool:
    return hasattr(estimator, "feature_names_in_") and any(_selections(estimator))


def _selections(estimator: Any) -> Iterator[tuple[Any, list[str]]]:
    """Each transformer of the column transformers at the front, with the names of the columns that it takes."""
    for step in _first_steps(estimator):
        for _, transformer, columns in getattr(step, "transformers_", ()):
            names = [columns] if isinstance(columns, str) else list(columns)
            if names and all(isinstance(name, str) for name in names):
                yield transformer, names


def _string_columns(estimator: Any) -> Iterator[str]:
    for transformer, names in _selections(estimator):
        for step in _steps(transformer):
            categories = getattr(step, "categories_", None)
            if hasattr(step, "build_analyzer"):
                yield from names
            elif categories is not None and len(categories) == len(names):
                kinds = zip(names, categories, strict=True)
                yield from (name for name, values in kinds if np.asarray(values).dtype.kind in "OSU")


def _output(estimator: Any, method: str) -> Tensor:
    classes = getattr(estimator, "classes_", None)
    if method == "predict":
        dtype = np.asarray(classes).dtype if isinstance(classes, np.ndarray) else np.dtype(np.float64)
        return Tensor(method, "object" if dtype.kind in "OSU" else dtype.name, (None,))
    if isinstance(classes, np.ndarray) and method.startswith("predict_"):
        return Tensor(method, "float64", (None, len(classes)), tuple(map(str, classes)))
    return Tensor(method, "float64", (None, None))


def _data_frame() -> Any:
    try:
        from pandas import DataFrame
    except ModuleNotFoundError as error:
        raise ModelLoadError(
            "The pipeline was fitted on a pandas data frame and picks its columns by name, and pandas is not "
            "installed: pip install pandas"
        ) from error
    return DataFrame
