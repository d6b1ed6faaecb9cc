"""The sagemaker SDK, versions 2 and 3, unmodified, each in an environment of its own: `make test-clients`.

The environments are made once, beside the tests' own, and kept. Without a network the tests are skipped. Both SDKs
sleep half a minute in every `deploy` and update that waits, which is most of the time that this takes.
"""

from __future__ import annotations

import fcntl
import json
import os
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
ROLE = "arn:aws:iam::123456789012:role/FourfoldRole"
SUM = pytest.approx(6.0)


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
def run(server: LiveServer, interpreter: Callable[[str], str], tmp_path: Path) -> Callable[..., Any]:
    def run(version: str, case: str, *, launcher: bool = False) -> Any:
        python, script = interpreter(version), Path(__file__).parent / f"sdk_{version}.py"
        command = [str(script), case, str(tmp_path)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        environment |= {"HOME": str(tmp_path), "SAGEMAKER_SUPPRESS_V2_WARNING": "1"}
        if launcher:
            where = ["--endpoint-url", server.url, "--data-dir", str(server.folder), "--python", python]
            command = [sys.executable, "-m", "fourfold", "run", *where, *command]
        else:
            command = [python, *command]
            environment |= {
                "AWS_ENDPOINT_URL": server.url,
                "AWS_ACCESS_KEY_ID": server.keys["access_key_id"],
                "AWS_SECRET_ACCESS_KEY": server.keys["secret_access_key"],
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
            }
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("sklearn", [SUM]),
        ("sklearn_plain", {"predictions": [SUM]}),
        ("own_image", "own server: hello"),
        ("serverless", {"predictions": [SUM]}),
        ("capture", {"enabled": [False, True, False], "left": []}),
    ],
)
def test_version_2(run: Any, case: str, expected: Any) -> None:
    assert run("v2", case) == expected


def test_version_2_xgboost(run: Any) -> None:
    answers = run("v2", "xgboost")
    assert answers["csv"] == answers["libsvm"]
    assert 0.5 < float(answers["csv"][0][0]) < 1
    assert 0.5 < float(run("v2", "xgboost_algorithm")) < 1


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("resources", {"answer": {"predictions": [SUM]}, "listed": True}),
        ("builder", {"predictions": [SUM]}),
        ("serverless", {"predictions": [SUM]}),
    ],
)
def test_version_3(run: Any, case: str, expected: Any) -> None:
    assert run("v3", case) == expected


def test_a_token_of_version_3_is_a_key(run: Any, server: LiveServer) -> None:
    request = Request(f"{server.url}/v2", headers={"Authorization": f"Bearer {run('v3', 'token')}"})
    with urlopen(request) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_nothing_need_be_set_with_fourfold_run(run: Any, version: str) -> None:
    found = run(version, "role", launcher=True)
    assert found["role"] == ROLE
    assert found["bucket"] == "sagemaker-us-east-1-123456789012"
