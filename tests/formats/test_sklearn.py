from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import skops.io
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler

from fourfold.errors import ModelLoadError
from fourfold.formats import registry
from fourfold.formats.base import Tensor
from tests.formats import models

X = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0], [3.0, 0.0]])
Y = np.array([0, 0, 1, 1])


def predict(folder: Path, body: str, environment: dict[str, str] | None = None) -> Any:
    reply = models.load(folder, environment).invoke([models.call(body)])[0]
    assert reply.status == 200, reply.body
    return json.loads(reply.body)["predictions"]


@pytest.mark.parametrize("name", ["model.joblib", "model.pkl", "model.pickle", "model.skops"])
def test_each_kind_of_file(tmp_path: Path, name: str) -> None:
    estimator = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y)
    dump: Any = {".skops": skops.io.dump, ".joblib": joblib.dump}.get(Path(name).suffix, dump_pickle)
    dump(estimator, tmp_path / name)
    assert predict(tmp_path, "[[0, 1], [3, 0]]") == [0, 1]
    assert registry.resolve("fourfold/sklearn", tmp_path).executes_code == (name != "model.skops")


def dump_pickle(estimator: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(estimator))


def test_the_method_is_chosen_in_the_environment(tmp_path: Path) -> None:
    estimator = LogisticRegression().fit(X, ["no", "no", "yes", "yes"])
    joblib.dump(estimator, tmp_path / "model.joblib")
    environment = {"FOURFOLD_PREDICT_METHOD": "predict_proba"}
    expected = estimator.predict_proba([[2.0, 1.0]]).tolist()
    assert predict(tmp_path, "[[2, 1]]", environment) == expected
    model = models.load(tmp_path, {"FOURFOLD_PREDICT_METHOD": "predict, predict_proba"})
    assert model.inputs == (Tensor("X", "float64", (None, 2)),)
    assert model.outputs == (
        Tensor("predict", "object", (None,)),
        Tensor("predict_proba", "float64", (None, 2), ("no", "yes")),
    )
    both = json.loads(model.invoke([models.call("[[2, 1]]")])[0].body)["predictions"]
    assert both == [{"predict": "yes", "predict_proba": expected[0]}]


def test_a_method_that_is_not_there_is_named(tmp_path: Path) -> None:
    joblib.dump(LinearRegression().fit(X, Y), tmp_path / "model.joblib")
    with pytest.raises(ModelLoadError, match="LinearRegression without a method 'predict_proba'; it has predict"):
        models.load(tmp_path, {"FOURFOLD_PREDICT_METHOD": "predict_proba"})


def test_several_targets(tmp_path: Path) -> None:
    estimator = MultiOutputClassifier(LogisticRegression()).fit(X, np.stack([Y, 1 - Y], axis=1))
    joblib.dump(estimator, tmp_path / "model.joblib")
    assert predict(tmp_path, "[[0, 1]]") == [[0, 1]]
    proba = predict(tmp_path, "[[0, 1]]", {"FOURFOLD_PREDICT_METHOD": "predict_proba"})[0]
    assert set(proba) == {"predict_proba_0", "predict_proba_1"}


def test_threads_bound_a_forest(tmp_path: Path) -> None:
    joblib.dump(RandomForestClassifier(n_estimators=20, n_jobs=-1, random_state=0).fit(X, Y), tmp_path / "model.joblib")
    assert predict(tmp_path, "[[0, 1], [3, 0]]") == [0, 1]


def test_text_goes_in_as_strings(tmp_path: Path) -> None:
    texts = ["good fine", "fine good", "bad awful", "awful bad"]
    joblib.dump(make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, Y), tmp_path / "model.joblib")
    assert predict(tmp_path, '["a good one", "an awful one"]') == [0, 1]


def test_a_pipeline_over_a_data_frame_takes_named_columns(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    from sklearn.compose import make_column_transformer
    from sklearn.preprocessing import OneHotEncoder

    frame = pandas.DataFrame({"age": [20.0, 30, 40, 50], "city": ["Rome", "Rome", "Oslo", "Oslo"]})
    columns = make_column_transformer((OneHotEncoder(), ["city"]), (StandardScaler(), ["age"]))
    joblib.dump(make_pipeline(columns, LogisticRegression()).fit(frame, Y), tmp_path / "model.joblib")
    assert predict(tmp_path, '[{"city": "Oslo", "age": 45}, {"city": "Rome", "age": 21}]') == [1, 0]
    model = models.load(tmp_path)
    assert model.inputs == (Tensor("age", "float64", (None,)), Tensor("city", "object", (None,), nullable=True))
    reply = model.invoke([models.call("45,Oslo\n21,Rome", "text/csv")])[0]
    assert reply.body == b"1\n0\n"


def people() -> Any:
    """A frame as people have it: an id that is dropped, gaps in numbers and in words, and a boolean."""
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame(
        {
            "id": ["a1", "a2", "a3", "a4"] * 3,
            "age": [20.0, 30, float("nan"), 50] * 3,
            "city": ["Rome", None, "Oslo", "Oslo"] * 3,
            "new": [True, False, False, True] * 3,
        }
    )


def columns(*, age: Any, city: Any, new: Any) -> ColumnTransformer:
    words = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    return ColumnTransformer([("age", SimpleImputer(), age), ("city", words, city), ("new", "passthrough", new)])


@pytest.mark.parametrize(
    "picked",
    [
        {"age": ["age"], "city": ["city"], "new": ["new"]},
        {"age": [1], "city": slice("city", "city"), "new": [False, False, False, True]},
        {"age": slice(1, 2), "city": [2], "new": [3]},
    ],
)
def test_a_frame_comes_in_every_way_that_pandas_writes_it(tmp_path: Path, picked: dict[str, Any]) -> None:
    frame, labels = people(), [0, 1, 0, 1] * 3
    search = GridSearchCV(
        make_pipeline(columns(**picked), RandomForestClassifier(5, n_jobs=-1, random_state=1)), {}, cv=2
    )
    joblib.dump(search.fit(frame, labels), tmp_path / "model.joblib.gz")
    model = models.load(tmp_path)
    assert [tensor.name for tensor in model.inputs] == ["age", "city", "new"]
    rows, expected = frame[:4], search.predict(frame[:4]).tolist()
    listed = rows.astype(object).where(rows.notna(), None)
    for body, kind in [
        (rows.to_json(orient="records"), "application/json"),
        (rows.to_json(orient="split"), "application/json"),
        (rows.to_json(), "application/json"),
        (rows.to_json(orient="records", lines=True), "application/jsonlines"),
        (json.dumps(listed.to_dict(orient="list")), "application/json"),
        (json.dumps({"instances": listed[["age", "city", "new"]].values.tolist()}), "application/json"),
        (rows.to_csv(), "text/csv"),
        (rows[["age", "city", "new"]].to_csv(index=False, header=False), "text/csv"),
    ]:
        reply = model.invoke([models.call(body, kind, "application/jsonlines")])[0]
        assert [json.loads(line) for line in reply.body.splitlines()] == expected, (body, reply.body)
    for body, said in [
        ('[{"age": 1, "city": "Rome"}]', b"missing: new"),
        ('[{"age": 1, "city": 2, "new": 1}]', b"int"),
    ]:
        assert said in model.invoke([models.call(body)])[0].body


@pytest.mark.parametrize(
    "around",
    [
        lambda pipeline: VotingClassifier([("one", pipeline)]),
        lambda pipeline: CalibratedClassifierCV(pipeline, cv=2),
        lambda pipeline: FixedThresholdClassifier(pipeline),
        lambda pipeline: make_pipeline(FeatureUnion([("columns", pipeline[0])]), LogisticRegression()),
    ],
    ids=["ensemble", "calibrated", "threshold", "union"],
)
def test_what_is_around_a_pipeline_does_not_hide_its_columns(tmp_path: Path, around: Any) -> None:
    frame = people()
    pipeline = make_pipeline(columns(age=["age"], city=["city"], new=["new"]), LogisticRegression())
    model = around(pipeline).fit(frame, [0, 1, 0, 1] * 3)
    joblib.dump(model, tmp_path / "model.joblib")
    assert predict(tmp_path, frame[:4].to_json(orient="records")) == model.predict(frame[:4]).tolist()


def test_strings_in_a_matrix_without_names(tmp_path: Path) -> None:
    rows = np.array([["Rome", 44.0], ["Oslo", 27.0]] * 2, dtype=object)
    encoded = ColumnTransformer([("city", OneHotEncoder(), [0])], remainder="passthrough")
    joblib.dump(make_pipeline(encoded, LogisticRegression()).fit(rows, [0, 1, 0, 1]), tmp_path / "model.joblib")
    assert predict(tmp_path, '[["Oslo", 27], ["Rome", 44]]') == [1, 0]
    joblib.dump(OrdinalEncoder().fit(rows[:, :1]), tmp_path / "model.joblib")
    assert predict(tmp_path, '[["Oslo"], ["Rome"]]', {"FOURFOLD_PREDICT_METHOD": "transform"}) == [[0.0], [1.0]]


def test_skops_refuses_types_that_are_not_trusted(tmp_path: Path) -> None:
    skops.io.dump(make_pipeline(FunctionTransformer(json.dumps), StandardScaler()), tmp_path / "model.skops")
    with pytest.raises(ModelLoadError, match=r"does not trust: json\.dumps"):
        models.load(tmp_path)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.joblib").write_bytes(b"not a pickle")
    with pytest.raises(ModelLoadError, match=r"model\.joblib"):
        models.load(tmp_path)


def test_a_module_that_the_pickle_needs_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(b"cnowhere_to_be_found\nThing\n.")
    with pytest.raises(ModelLoadError, match="pip install nowhere_to_be_found"):
        models.load(tmp_path)
