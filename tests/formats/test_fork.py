"""What a zygote imports for a format must leave a process that can be forked: a child then loads and answers."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from fourfold.formats import registry
from fourfold.pool.local import BASE_IMPORTS
from tests.formats import models

SCRIPT = """
import importlib, json, os, sys
from pathlib import Path
for module in json.loads(sys.argv[2]):
    importlib.import_module(module)
from fourfold.formats import registry
from fourfold.formats.base import Artifact
from fourfold.records import Call
folder = Path(sys.argv[1])
for _ in range(2):
    child = os.fork()
    if child == 0:
        reply = registry.resolve("", folder).load(Artifact(folder, {}, 2)).invoke([Call(0, sys.argv[3].encode())])[0]
        print(reply.status, reply.body.decode(), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""

X = np.random.default_rng(7).normal(size=(500, 3)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)


def make(name: str, folder: Path) -> None:
    if name == "onnx":
        models.linear(folder)
    elif name == "sklearn":
        joblib.dump(RandomForestClassifier(n_estimators=10, n_jobs=2).fit(X, Y), folder / "model.joblib")
    elif name.startswith("xgboost"):
        xgboost = pytest.importorskip("xgboost")
        booster = xgboost.train({"nthread": 2}, xgboost.DMatrix(X, Y), 3)
        if name == "xgboost":
            booster.save_model(folder / "model.json")
        else:
            (folder / "xgboost-model").write_bytes(pickle.dumps(booster))
    elif name == "lightgbm":
        lightgbm = pytest.importorskip("lightgbm")
        params = {"verbose": -1, "num_threads": 2}
        lightgbm.train(params, lightgbm.Dataset(X, Y), 3).save_model(folder / "model.txt")
    else:
        torch = pytest.importorskip("torch")
        example = torch.zeros(1, 3)
        torch.jit.trace(torch.nn.Linear(3, 2), example).save(str(folder / "model.pt"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:`torch.jit:FutureWarning")
@pytest.mark.parametrize("name", ["onnx", "sklearn", "xgboost", "xgboost-pickle", "lightgbm", "torch"])
def test_a_fork_of_the_imports_answers(name: str, tmp_path: Path) -> None:
    make(name, tmp_path)
    imports = json.dumps([*BASE_IMPORTS, *registry.get(name).imports])
    body = json.dumps(X[:300].tolist())
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), imports, body],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    answers = done.stdout.splitlines()
    assert len(answers) == 2, done.stderr
    assert answers[0] == answers[1]
    assert answers[0].startswith('200 {"predictions":[')
