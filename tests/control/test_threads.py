"""Threads that a call gets by default: for large networks, from instance type and cores; otherwise one."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest

from fourfold.advisor.prices import shipped
from fourfold.control import models, threads
from fourfold.errors import ModelLoadError
from tests.server import LiveServer


@pytest.fixture
def large(tmp_path: Path) -> Path:
    with (tmp_path / "model.bin").open("wb") as file:
        file.truncate(threads.LARGE)
    return tmp_path


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    return 8


@pytest.mark.parametrize(
    ("instance_type", "instances", "expected"),
    [
        ("ml.m5.large", 1, 2),
        ("ml.m5.xlarge", 1, 4),
        ("ml.m5.4xlarge", 1, 8),
        ("ml.m5.4xlarge", 4, 2),
        ("ml.m5.xlarge", 9, 1),
    ],
)
def test_a_large_network_gets_its_vcpus_within_its_share_of_the_cores(
    large: Path, cores: int, instance_type: str, instances: int, expected: int
) -> None:
    assert threads.default_threads("onnx", large, instance_type, instances) == expected


def test_what_is_small_or_no_network_gets_one(large: Path, tmp_path: Path, cores: int) -> None:
    assert threads.default_threads("xgboost", large, "ml.m5.4xlarge", 1) == 1
    (tmp_path / "model.bin").write_bytes(bytes(1000))
    assert threads.default_threads("onnx", tmp_path, "ml.m5.4xlarge", 1) == 1


def test_an_own_server_gets_what_its_container_would_have(tmp_path: Path, cores: int) -> None:
    assert threads.default_threads("process", tmp_path, "ml.m5.xlarge", 1) == 4


def test_the_size_in_a_name_tells_the_vcpus_of_every_type_that_has_a_price() -> None:
    prices = shipped()
    types = {price.instance_type for price in prices.every() if price.instance_type}
    assert len(types) > 50
    assert {name: threads.vcpus(name) for name in types} == {name: prices.size(name).vcpu for name in types}


def test_a_large_handler_finds_its_threads_in_its_environment(server: LiveServer, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code/inference.py").write_text(
        "import os\n"
        "def model_fn(folder): return os.environ['OMP_NUM_THREADS']\n"
        "def predict_fn(data, threads): return {'threads': threads}\n"
    )
    with (tmp_path / "weights.bin").open("wb") as file:
        file.truncate(threads.LARGE)
    artifact = tmp_path / "model.tar.gz"
    with tarfile.open(artifact, "w:gz") as archive:
        archive.add(tmp_path / "code", "code")
        archive.add(tmp_path / "weights.bin", "weights.bin")
    runtime = server.client("sagemaker-runtime")
    expected = {"threads-default": min(2, os.cpu_count() or 1), "threads-told": 3}
    server.deploy("threads-default", artifact)
    server.deploy("threads-told", artifact, FOURFOLD_THREADS="3")
    for name, count in expected.items():
        answer = runtime.invoke_endpoint(EndpointName=name, ContentType="application/json", Body=b"{}")
        assert json.loads(answer["Body"].read()) == {"threads": str(count)}


@pytest.mark.parametrize("text", ["1025", "0", "nan", "many"])
def test_what_is_no_sensible_count_of_threads_is_told(text: str) -> None:
    with pytest.raises(ModelLoadError, match=rf"FOURFOLD_THREADS .* must be a number from 1 to 1,024, not '{text}'"):
        models.number({"FOURFOLD_THREADS": text}, "FOURFOLD_THREADS", 1, threads.MOST_THREADS, least=1)
