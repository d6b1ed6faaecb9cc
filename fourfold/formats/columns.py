"""What a fitted scikit-learn estimator takes: a matrix of numbers, texts, or columns of several kinds.

Numbers are one input `X`. An estimator that encodes strings, or picks the columns of a data frame, has one input for
each column instead, called as the estimator knows it; columns that it drops unseen are none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import attrgetter, itemgetter
from typing import Any

import numpy as np

from fourfold.errors import ModelLoadError
from fourfold.formats.base import Arrays, Tensor

_WRAPPED = ("best_estimator_", "regressor_", "estimator_")
"""Where searches, transformed targets and thresholds keep the estimator that they have fitted."""
_SEVERAL: dict[str, Callable[[Any], Any]] = {
    "estimators_": lambda fitted: fitted,
    "calibrated_classifiers_": attrgetter("estimator"),
    "transformer_list": itemgetter(1),
}
"""Where ensembles and unions keep theirs, and how one is had from an entry."""


def input_tensors(estimator: Any) -> Iterator[Tensor]:
    """The estimator's inputs."""
    if _is_table(estimator):
        strings = set(_string_columns(estimator))
        for name in _used_columns(estimator):
            dtype = "object" if name in strings else "float64"
            yield Tensor(name, dtype, (None,), nullable=name in strings)
    elif _reads_text(estimator):
        yield Tensor("X", "object", (None,))
    else:
        columns = tuple(map(str, getattr(estimator, "feature_names_in_", ())))
        yield Tensor("X", "float64", (None, getattr(estimator, "n_features_in_", None)), columns)


def to_table(estimator: Any) -> Callable[[Arrays], Any] | None:
    """How the columns become what the estimator was fitted on, a data frame or a matrix of objects; None: it has `X`.

    Raises:
        ModelLoadError: it needs pandas, which is not installed.
    """
    if not _is_table(estimator):
        return None
    if not hasattr(estimator, "feature_names_in_"):
        return lambda columns: np.stack([column.astype(object) for column in columns.values()], axis=1)
    try:
        from pandas import DataFrame
    except ModuleNotFoundError as error:
        raise ModelLoadError(
            "The pipeline was fitted on a pandas data frame and picks its columns by name, and pandas is not "
            "installed: pip install pandas"
        ) from error
    make: Callable[[Arrays], Any] = DataFrame
    return make


def steps(estimator: Any) -> Iterator[Any]:
    """The estimator and the fitted ones in it: of a pipeline each step, of a search the best, of an ensemble each."""
    yield estimator
    for inner in (*(step for _, step in getattr(estimator, "steps", ())), *_inside(estimator)):
        yield from steps(inner)


def _first_steps(estimator: Any) -> Iterator[Any]:
    """The estimator and, inwards, what sees its data as they come."""
    yield estimator
    for inner in (*(step for _, step in getattr(estimator, "steps", ())[:1]), *_inside(estimator)):
        yield from _first_steps(inner)


def _inside(estimator: Any) -> Iterator[Any]:
    """What an estimator around others has fitted on the data that it was given itself."""
    own = getattr(estimator, "__dict__", {})
    yield from (own[name] for name in _WRAPPED if name in own)
    for name, fitted in _SEVERAL.items():
        if isinstance(own.get(name), list):
            yield from map(fitted, own[name])


def _reads_text(estimator: Any) -> bool:
    """Text vectorisers take a list of strings, not a matrix."""
    return any(hasattr(step, "build_analyzer") for step in _first_steps(estimator))


def _is_table(estimator: Any) -> bool:
    framed = hasattr(estimator, "feature_names_in_")
    picks = framed and any(hasattr(step, "transformers_") for step in _first_steps(estimator))
    return picks or any(_string_columns(estimator))


def _names(estimator: Any) -> list[str]:
    """Of all columns; where it was fitted without names, what scikit-learn calls them: x0, x1, …"""
    known = getattr(estimator, "feature_names_in_", None)
    return [f"x{number}" for number in range(getattr(estimator, "n_features_in_", 0))] if known is None else [*known]


def _used_columns(estimator: Any) -> list[str]:
    """The columns to send. Only those of a data frame may lack what is dropped."""
    names = _names(estimator)
    if not hasattr(estimator, "feature_names_in_"):
        return names
    picks = list(_picks(estimator))
    used = {name for transformer, picked in picks if transformer != "drop" for name in picked}
    dropped = {name for transformer, picked in picks if transformer == "drop" for name in picked}
    return [name for name in names if name in used or name not in dropped]


def _string_columns(estimator: Any) -> Iterator[str]:
    for transformer, names in _picks(estimator):
        for step in steps(transformer):
            categories = getattr(step, "categories_", None)
            if hasattr(step, "build_analyzer"):
                yield from names
            elif categories is not None and len(categories) == len(names):
                yield from (name for name, values in zip(names, categories, strict=True) if _has_strings(values))


def _has_strings(categories: Any) -> bool:
    return any(isinstance(value, str) for value in np.asarray(categories).tolist())


def _picks(estimator: Any) -> Iterator[tuple[Any, list[str]]]:
    """Each transformer that sees columns as they come, and which."""
    names = _names(estimator)
    for step in _first_steps(estimator):
        if hasattr(step, "categories_"):
            yield step, names
        for _, transformer, picked in getattr(step, "transformers_", ()):
            yield transformer, _picked(names, picked)


def _picked(names: list[str], picked: Any) -> list[str]:
    """Columns that are picked by name, position, mask, or a slice of names or positions."""
    if isinstance(picked, slice):
        if isinstance(picked.start or picked.stop, str):  # its end belongs to it, as in pandas
            begin = 0 if picked.start is None else names.index(picked.start)
            return names[begin : len(names) if picked.stop is None else names.index(picked.stop) + 1]
        return names[picked]
    chosen = np.atleast_1d(picked).tolist()
    if chosen and isinstance(chosen[0], bool):
        return [name for name, wanted in zip(names, chosen, strict=True) if wanted]
    return [one if isinstance(one, str) else names[one] for one in chosen]
