from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourfold.errors import ModelLoadError
from fourfold.formats import registry
from tests.formats import models

rng = np.random.default_rng(7)
X = rng.normal(size=(200, 4)).astype(np.float32)
BODY = json.dumps(X[:3].tolist())


def answers(folder: Path, body: str = BODY, content_type: str = "application/json") -> Any:
    reply = models.load(folder, {"FOURFOLD_THREADS": "1"}).invoke(
        [models.call(body, content_type, "application/json")]
    )[0]
    assert reply.status == 200, reply.body
    return json.loads(reply.body)["predictions"]


@pytest.fixture(scope="module")
def booster() -> Any:
    xgboost = pytest.importorskip("xgboost")
    data = xgboost.DMatrix(X, X[:, 0] > 0, feature_names=["a", "b", "c", "d"])
    return xgboost.train({"objective": "binary:logistic", "nthread": 1}, data, 5)


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("model.json", "xgboost"),
        ("model.ubj", "xgboost"),
        ("xgboost-model", "xgboost"),
        ("xgboost-model", "xgboost-pickle"),
    ],
)
def test_xgboost_in_each_of_its_files(tmp_path: Path, booster: Any, name: str, format: str) -> None:
    import xgboost

    if format == "xgboost-pickle":
        (tmp_path / name).write_bytes(pickle.dumps(booster))
    else:
        (tmp_path / name).write_bytes(booster.save_raw(raw_format="json" if name.endswith("json") else "ubj"))
    resolved = registry.resolve("sagemaker-xgboost:1.7-1", tmp_path)
    assert (resolved.name, resolved.executes_code) == (format, format == "xgboost-pickle")
    expected = booster.predict(xgboost.DMatrix(X[:3], feature_names=["a", "b", "c", "d"]))
    np.testing.assert_allclose(answers(tmp_path), expected, rtol=1e-6)


def test_xgboost_puts_named_columns_in_its_own_order(tmp_path: Path, booster: Any) -> None:
    booster.save_model(tmp_path / "model.json")
    row = dict(zip("abcd", X[0].tolist(), strict=True))
    shuffled = {name: row[name] for name in "dbca"}
    assert answers(tmp_path, json.dumps([shuffled])) == answers(tmp_path)[:1]
    assert answers(tmp_path, "d,b,c,a\n" + ",".join(map(str, shuffled.values())), "text/csv") == answers(tmp_path)[:1]


def test_xgboost_takes_missing_values(tmp_path: Path, booster: Any) -> None:
    booster.save_model(tmp_path / "model.ubj")
    assert 0 < answers(tmp_path, "[[null, 1, null, 2]]")[0] < 1


def test_xgboost_stopped_early_answers_with_its_best_trees(tmp_path: Path) -> None:
    xgboost = pytest.importorskip("xgboost")
    model = xgboost.XGBClassifier(n_estimators=50, early_stopping_rounds=2, n_jobs=1)
    model.fit(X[:100], X[:100, 0] > 0, eval_set=[(X[100:], X[100:, 1] > 0)], verbose=False)
    expected = model.predict_proba(X[:3])[:, 1]
    assert not np.allclose(model.get_booster().inplace_predict(X[:3]), expected)
    (tmp_path / "xgboost-model").write_bytes(pickle.dumps(model))
    np.testing.assert_allclose(answers(tmp_path), expected, rtol=1e-6)
    model.save_model(tmp_path / "model.ubj")
    (tmp_path / "xgboost-model").unlink()
    np.testing.assert_allclose(answers(tmp_path), expected, rtol=1e-6)


def test_xgboost_without_trees(tmp_path: Path) -> None:
    xgboost = pytest.importorskip("xgboost")
    data = xgboost.DMatrix(X, X[:, 0] > 0, feature_names=["a", "b", "c", "d"])
    booster = xgboost.train({"booster": "gblinear", "objective": "binary:logistic", "nthread": 1}, data, 3)
    booster.save_model(tmp_path / "model.json")
    expected = booster.predict(xgboost.DMatrix(X[:3], feature_names=["a", "b", "c", "d"]))
    np.testing.assert_allclose(answers(tmp_path), expected, rtol=1e-6)


@pytest.mark.parametrize("label", ["", "1 "])
def test_xgboost_takes_libsvm_and_answers_in_csv(tmp_path: Path, booster: Any, label: str) -> None:
    booster.save_model(tmp_path / "model.ubj")
    model = models.load(tmp_path)
    reply = model.invoke([models.call(f"{label}1:1 3:2\n{label}0:0.5", "text/libsvm")])[0]
    assert reply.content_type == "text/csv"
    found = [float(line) for line in reply.body.split()]
    assert found == pytest.approx(answers(tmp_path, "[[null, 1, null, 2], [0.5, null, null, null]]"))
    ranked = model.invoke([models.call("# one\n1 qid:7 1:1 3:2 # here", "text/libsvm")])[0]
    assert [float(line) for line in ranked.body.split()] == found[:1]
    for wrong in ("0:1 4:1", "0:1 b", "0:1 -1:2", "one 0:1"):
        assert model.invoke([models.call(wrong, "text/libsvm")])[0].status == 400


def test_a_handler_with_model_fn_alone_serves_a_booster(tmp_path: Path, booster: Any) -> None:
    booster.save_model(tmp_path / "model.json")
    (tmp_path / "code").mkdir()
    code = "import xgboost\ndef model_fn(folder):\n    return xgboost.Booster(model_file=folder + '/model.json')\n"
    (tmp_path / "code" / "inference.py").write_text(code)
    handler = models.load(tmp_path)
    bodies = [("1,2,3,4", "text/csv"), ("[[1, 2, 3, 4]]", "application/json"), ("0:1 1:2 2:3 3:4", "text/libsvm")]
    calls = [models.call(body, kind, "text/csv") for body, kind in bodies]
    replies = [handler.invoke([one])[0] for one in calls]
    assert len({reply.body for reply in replies}) == 1, replies
    assert handler.invoke([models.call("1:2", "text/libsvm", "text/csv")])[0].status == 200


def test_lightgbm(tmp_path: Path) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    target = np.digitize(X[:, 0], [-0.5, 0.5])
    data = lightgbm.Dataset(X, target, feature_name=["a", "b", "c", "d"])
    params = {"objective": "multiclass", "num_class": 3, "verbose": -1, "num_threads": 1}
    trained = lightgbm.train(params, data, 3)
    trained.save_model(tmp_path / "model.txt")
    resolved = registry.resolve("", tmp_path)
    assert (resolved.name, resolved.executes_code) == ("lightgbm", False)
    np.testing.assert_allclose(answers(tmp_path), trained.predict(X[:3]))
    assert models.load(tmp_path).outputs[0].shape == (None, 3)


@pytest.mark.parametrize(
    ("name", "content", "module", "expected"),
    [
        ("model.json", b'{"learner": 3}', "xgboost", r"model\.json is not a model that XGBoost can load: .+"),
        ("xgboost-model", b"\x80broken", "xgboost", "xgboost-model is not a model that XGBoost can load"),
        ("xgboost-model", b"\0\0\0\x3f" * 50, "xgboost", "old binary format.*pip install 'xgboost<3.1'"),
        ("model.txt", b"tree\nbroken", "lightgbm", r"model\.txt is not a model that LightGBM can load: .+"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, content: bytes, module: str, expected: str) -> None:
    pytest.importorskip(module)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelLoadError, match=expected):
        models.load(tmp_path)
