"""XGBoost and LightGBM: gradient boosted trees in their libraries' own files.

XGBoost's JSON and UBJSON and LightGBM's text hold data only. A pickled `xgboost-model`, as SageMaker's XGBoost
container writes it, runs code when it is loaded and is a format of its own, `xgboost-pickle`.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fourfold.errors import ModelLoadError
from fourfold.formats.base import ArrayModel, Arrays, Artifact, Tensor
from fourfold.formats.builtin import choose, is_lightgbm_file, is_xgboost_file, is_xgboost_pickle_file, start

_OLD_BINARY = (
    " If it is in XGBoost's old binary format, which 3.1 and newer do not read: pip install 'xgboost<3.1', or load the "
    "model with that and save it as model.ubj."
)


class XGBoostModel(ArrayModel):
    """Answers as `Booster.predict` does: what the objective gives, a probability for `binary:logistic`.

    Where training was stopped early, only trees up to the best iteration count, as in SageMaker's container.
    """

    max_batch = 64

    def __init__(self, booster: Any) -> None:
        self.inputs = (Tensor("X", "float32", (None, booster.num_features()), tuple(booster.feature_names or ())),)
        self._predict = _predictor(booster)
        probe = self._predict(np.zeros((1, booster.num_features()), np.float32))
        self.outputs = (Tensor("prediction", "float32", (None, *probe.shape[1:])),)

    def predict(self, inputs: Arrays) -> Arrays:
        return {"prediction": self._predict(inputs["X"])}


class LightGBMModel(ArrayModel):
    """Answers as `Booster.predict` does: a probability for `binary`, one column a class for `multiclass`."""

    forkable = True
    max_batch = 64

    def __init__(self, booster: Any, threads: int) -> None:
        self._booster = booster
        self._threads = threads
        classes = booster.num_model_per_iteration()
        self.inputs = (Tensor("X", "float64", (None, booster.num_feature()), tuple(booster.feature_name())),)
        self.outputs = (Tensor("prediction", "float64", (None,) if classes == 1 else (None, classes)),)

    def predict(self, inputs: Arrays) -> Arrays:
        return {"prediction": self._booster.predict(inputs["X"], num_threads=self._threads)}


def load(artifact: Artifact) -> ArrayModel:
    """Load the artifact's model. Raises ModelLoadError with the library's reason."""
    return _load_lightgbm(artifact) if artifact.format == "lightgbm" else _load_xgboost(artifact)


def _load_xgboost(artifact: Artifact) -> XGBoostModel:
    import xgboost

    pickled = artifact.format == "xgboost-pickle"
    path = choose(artifact, is_xgboost_pickle_file if pickled else is_xgboost_file)
    try:
        booster = _unpickle(path) if pickled else xgboost.Booster(model_file=bytearray(path.read_bytes()))
        booster.set_param({"nthread": artifact.threads})
        return XGBoostModel(booster)
    except Exception as error:  # XGBoostError, and whatever unpickling raises
        hint = "" if pickled or start(path, 1) == b"{" else _OLD_BINARY
        raise ModelLoadError(f"{path.name} is not a model that XGBoost can load: {_first_line(error)}{hint}") from error


def _predictor(booster: Any) -> Callable[[Any], Any]:
    """What answers a matrix. Trees need no DMatrix, whose making takes longer than a small prediction."""
    import xgboost

    if json.loads(booster.save_config())["learner"]["gradient_booster"]["name"] == "gblinear":
        return lambda rows: booster.predict(xgboost.DMatrix(rows), validate_features=False)
    best = booster.attr("best_iteration")
    return partial(booster.inplace_predict, iteration_range=(0, 0 if best is None else int(best) + 1))


def _unpickle(path: Path) -> Any:
    with path.open("rb") as file:
        loaded = pickle.load(file)  # noqa: S301  the format says that it runs code
    return loaded.get_booster() if hasattr(loaded, "get_booster") else loaded


def _load_lightgbm(artifact: Artifact) -> LightGBMModel:
    import lightgbm

    path = choose(artifact, is_lightgbm_file)
    try:
        return LightGBMModel(lightgbm.Booster(model_file=str(path)), artifact.threads)
    except lightgbm.basic.LightGBMError as error:
        raise ModelLoadError(f"{path.name} is not a model that LightGBM can load: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
