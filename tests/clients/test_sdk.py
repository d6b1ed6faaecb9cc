"""The sagemaker SDK, versions 2 and 3, unmodified, each in an environment of its own: `make test-clients`.

The environments are made once, beside the tests' own, and kept. Without a network the tests are skipped. Both SDKs
sleep half a minute in every `deploy` and update that waits; time goes by faster for them here (`hurry`), and they send
no telemetry, but in one case of each.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from tests.server import LiveServer

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]

PACKAGES = {
    "v2": ("sagemaker==2.257.7", "scikit-learn==1.7.2", "xgboost-cpu==3.0.5"),
    "v3": ("sagemaker==3.27.0", "scikit-learn==1.7.2"),
}
HERE = Path(__file__).parent
ROLE = "arn:aws:iam::123456789012:role/FourfoldRole"
SUM, TWICE = pytest.approx(6.0), pytest.approx(12.0)
SILENT = "SchemaVersion: '1.0'\nSageMaker: {PythonSDK: {Modules: {TelemetryOptOut: true}}}\n"


@pytest.fixture(scope="session")
def interpreter() -> Callable[[str], str]:
    """The interpreter of a version's environment."""

    def make(version: str) -> str:
        folder = Path(sys.prefix) / f"sdk-{version}"
        done = folder / "installed"
        with folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists() or done.read_text() != " ".join(PACKAGES[version]):
                shutil.rmtree(folder, ignore_errors=True)
                subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
                command = [str(folder / "bin" / "pip"), "install", "-q", "--timeout", "5", *PACKAGES[version]]
                made = subprocess.run(command, capture_output=True, text=True, check=False)
                if made.returncode:
                    pytest.skip(f"the SDK cannot be installed: {made.stderr.strip().splitlines()[-1]}")
                done.write_text(" ".join(PACKAGES[version]))
        return str(folder / "bin" / "python")

    return make


@pytest.fixture
def start(server: LiveServer, interpreter: Callable[[str], str], tmp_path: Path) -> Callable[..., str]:
    """Runs a program in `tmp_path` with a version's interpreter; what it printed.

    With `launcher`, `fourfold run` starts it and nothing is set; else the environment is, but for STS. The time that it
    sleeps through goes by faster, and the SDK tells AWS nothing, unless it is `patient`.
    """

    def start(version: str, *command: str, launcher: bool = False, patient: bool = False) -> str:
        python = interpreter(version)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        environment |= {"HOME": str(tmp_path), "SAGEMAKER_SUPPRESS_V2_WARNING": "1"}
        if not patient:
            environment["PYTHONPATH"] = str(HERE / "hurry")
            settings = tmp_path / ".config" / "sagemaker" / "config.yaml"
            settings.parent.mkdir(parents=True, exist_ok=True)
            settings.write_text(SILENT)
        if launcher:
            where = ["--endpoint-url", server.url, "--data-dir", str(server.folder), "--python", python]
            command = (sys.executable, "-m", "fourfold", "run", *where, *command)
        else:
            command = (python, *command)
            environment |= {
                "AWS_ENDPOINT_URL": server.url,
                "AWS_ACCESS_KEY_ID": server.keys["access_key_id"],
                "AWS_SECRET_ACCESS_KEY": server.keys["secret_access_key"],
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
            }
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    return start


@pytest.fixture
def run(start: Callable[..., str]) -> Callable[..., Any]:
    """What a case of a script answers."""

    def run(script: str, case: str, **how: bool) -> Any:
        return json.loads(start(script.split("_")[1], str(HERE / f"{script}.py"), case, **how).splitlines()[-1])

    return run


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("sklearn", [SUM]),
        ("sklearn_plain", {"predictions": [SUM]}),
        ("own_image", "own server: hello"),
        ("variants", {"variants": [[SUM], [TWICE]], "monitors": [], "updated": [TWICE], "left": []}),
    ],
)
def test_version_2(run: Any, case: str, expected: Any) -> None:
    assert run("sdk_v2", case, patient=case == "sklearn") == expected


def test_version_2_captures_data(run: Any) -> None:
    found = run("sdk_v2", "data_capture")
    assert [[json.loads(text) for text in pair] for pair in found["captured"]] == [
        [[[1.0, 2.0, 3.0]], {"predictions": [SUM]}]
    ]
    assert found["now"] == ["Started", 20, "s3://sdk-v2-data-capture/model-monitor/data-capture"]


def test_version_2_xgboost(run: Any) -> None:
    answers = run("sdk_v2", "xgboost")
    assert answers["csv"] == answers["libsvm"]
    assert 0.5 < float(answers["csv"][0][0]) < 1
    assert 0.5 < float(run("sdk_v2", "xgboost_algorithm")) < 1


def lifetime(answer: Any, *captures: bool) -> dict[str, Any]:
    """What `lifetime` answers: the same before and after the updates, and nothing left."""
    return {"answers": [answer, answer], "captures": list(captures), "left": []}


@pytest.mark.parametrize(
    ("case", "answer"),
    [
        ("pytorch", [[SUM]]),
        ("tensorflow", {"predictions": [[SUM]]}),
        ("hugging_face", [{"sum": [[pytest.approx(12.0)]]}]),
    ],
)
def test_version_2_of_a_handler_without_the_framework(run: Any, case: str, answer: Any) -> None:
    assert run("sdk_v2", case) == lifetime(answer, False, True, False, True)


def test_version_2_of_pytorch(run: Any, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    code = (
        "import torch; layer = torch.nn.Linear(3, 1, bias=False); torch.nn.init.ones_(layer.weight); "
        "torch.jit.trace(layer, torch.zeros(1, 3)).save('model.pth')"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    assert run("sdk_v2", "torchscript") == lifetime([[SUM]], False, True, False, True)


SAVED_MODEL = """
import tensorflow as tf
class Sum(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, "x")])
    def serve(self, x):
        return {"sum": tf.reduce_sum(x, axis=1)}
model = Sum()
tf.saved_model.save(model, "1", signatures={"serving_default": model.serve})
"""


@pytest.mark.parametrize(
    ("case", "answer"),
    [("saved_model", {"predictions": [SUM]}), ("saved_model_with_handlers", {"sums": [SUM]})],
)
def test_version_2_of_tensorflow(run: Any, tmp_path: Path, case: str, answer: Any) -> None:
    pytest.importorskip("tensorflow")
    subprocess.run([sys.executable, "-c", SAVED_MODEL], cwd=tmp_path, check=True, capture_output=True)
    assert run("sdk_v2", case) == lifetime(answer, False, True, False, True)


ROWS = ["a,6.0", "b,15.0"]


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("serverless", {"predictions": [SUM]}),
        (
            "asynchronous",
            {
                "waited for": {"sum": 3.0},
                "looked up": {"sum": 5.0},
                "in the bucket": True,
                "of an object": {"sum": 9.0},
                "failed": [True, True, True, True],
                "as an array": {"sum": 3.0},
                "too early": "does not exist yet",
                "too slow": "still running",
                "left": [],
            },
        ),
        (
            "transformer",
            {
                "rows": ROWS,
                "attached": ["sdk-v2-modes-transformer", "text/csv", "MultiRecord"],
                "log": True,
                "left": [],
            },
        ),
        ("transformer_of_a_model", {"path": True, "rows": ["6.0"]}),
    ],
)
def test_version_2_in_other_modes(run: Any, case: str, expected: Any) -> None:
    assert run("sdk_v2_modes", case) == expected


def test_version_2_transforms_files(run: Any) -> None:
    found = run("sdk_v2_modes", "transformer_of_files")
    assert [json.loads(text) for text in found["outputs"]] == [
        {"predictions": [SUM]},
        {"predictions": [pytest.approx(7.0)]},
    ]
    assert "Failed" in found["failure"]


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("multi_model", {"listed": ["later/two.tar.gz", "one.tar.gz"], "answers": [[12.0], [6.0]]}),
        ("pipeline", {"answer": [["12.0"]], "rows": ["12.0", "30.0"], "left": []}),
        ("registry", [{"predictions": [SUM]}] * 2),
        (
            "components",
            {"answers": [[SUM], [SUM]], "streamed": [SUM], "copies": 2, "memory": 512, "related": 2, "left": []},
        ),
        ("recommended", {"type": "ml.m5.large", "answer": [SUM]}),
        ("serializers", {"csv": [["6.0"]], "json": {"predictions": [SUM]}, "npy": [6.0], "policies": 1}),
    ],
)
def test_version_2_of_several_models(run: Any, case: str, expected: Any) -> None:
    assert run("sdk_v2_composites", case) == expected


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (
            "resources",
            {
                "answer": {"predictions": [SUM]},
                "listed": ["sdk-v3-resources"],
                "instances": 2,
                "configs": ["sdk-v3-resources"],
                "models": ["sdk-v3-resources"],
                "monitors": [],
                "runs": [],
                "tags": ["sums"],
                "left": [],
            },
        ),
        ("builder", {"predictions": [SUM]}),
        ("serverless", {"predictions": [SUM]}),
        ("asynchronous", {"good": {"predictions": [SUM]}, "wrong": True, "id": "wrong"}),
        ("transformer", {"rows": ROWS, "again": ["6.0"], "attached": True}),
        ("transform_job", {"status": "Completed", "rows": ["6.0"], "listed": ["sdk-v3-transform-job"]}),
        ("registry", {"answer": {"predictions": [SUM]}, "groups": True, "status": "Approved"}),
        ("components", {"answer": {"predictions": [SUM]}, "listed": ["sdk-v3-components"], "copies": 2, "left": []}),
    ],
)
def test_version_3(run: Any, case: str, expected: Any) -> None:
    assert run("sdk_v3", case, patient=case == "builder") == expected


@pytest.mark.parametrize(
    ("case", "answer"),
    [("pytorch", [[SUM]]), ("tensorflow", [[SUM]]), ("hugging_face", [{"sum": [[pytest.approx(12.0)]]}])],
)
def test_version_3_of_a_handler_without_the_framework(run: Any, case: str, answer: Any) -> None:
    assert run("sdk_v3", case) == lifetime(answer, False, True, False)


def test_a_token_of_version_3_is_a_key(run: Any, server: LiveServer) -> None:
    request = Request(f"{server.url}/v2", headers={"Authorization": f"Bearer {run('sdk_v3', 'token')}"})
    with urlopen(request) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_nothing_need_be_set_with_fourfold_run(run: Any, version: str) -> None:
    found = run(f"sdk_{version}", "role", launcher=True)
    assert found["role"] == ROLE
    assert found["bucket"] == "sagemaker-us-east-1-123456789012"


PAGE = HERE.parent.parent / "docs" / "how-to" / "use-the-sagemaker-sdk.md"
SNIPPETS = re.findall(r"^```py\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
HANDLER = """
import os, joblib
def model_fn(model_dir):
    return joblib.load(os.path.join(model_dir, "model.joblib"))
"""
MODEL = """
import joblib, numpy, tarfile
from sklearn.linear_model import LinearRegression
model = LinearRegression().fit(numpy.eye(3), numpy.ones(3))
model.coef_, model.intercept_ = numpy.ones(3), 0.0
joblib.dump(model, "model.joblib")
with tarfile.open("model.tar.gz", "w:gz") as archive:
    archive.add("model.joblib")
"""
SHOWN = (["6."], ["15.", "6."], ["6.0", "15.0"], ["6.0", "6.0", "15.0"])


@pytest.mark.parametrize(
    ("snippet", "shown"), list(zip(SNIPPETS, SHOWN, strict=True)), ids=["v2", "async", "batch", "v3"]
)
def test_what_the_page_shows_runs_with_nothing_set(
    start: Callable[..., str], tmp_path: Path, snippet: str, shown: list[str]
) -> None:
    (tmp_path / "inference.py").write_text(HANDLER)
    (tmp_path / "rows.csv").write_text("1,2,3\n4,5,6\n")
    (tmp_path / "page.py").write_text(snippet)
    subprocess.run([sys.executable, "-c", MODEL], cwd=tmp_path, check=True)
    printed = start("v3" if "sagemaker.core" in snippet else "v2", "page.py", launcher=True)
    assert re.findall(r"\b(?:6|15)\.0?", printed)[-len(shown) :] == shown
