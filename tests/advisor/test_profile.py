"""A profile is measured on a real worker and feeds the search."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from fourfold.advisor import search
from fourfold.advisor.prices import shipped
from fourfold.advisor.profile import Profile, profile, sample
from fourfold.advisor.scenario import Scenario
from fourfold.advisor.simulate.queue import queue
from fourfold.errors import ModelLoadError, ValidationException


@pytest.fixture
def double(tmp_path: Path) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "double",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
    )
    path = tmp_path / "double.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


async def test_a_model_is_measured_from_its_file(double: Path) -> None:
    found = await profile(double, seconds=0.01)
    assert found.format == "onnx"
    assert found.request[1] == "application/x-npy"
    assert list(found.service_s)[:3] == [1, 2, 4]
    assert all(took > 0 for took in found.service_s.values())
    assert found.cold_start_s > 0
    assert found.batching.most == max(found.service_s)
    assert set(json.loads(json.dumps(found.plain()))["scenario"]) >= {"processing_s", "payload_mb"}


async def test_a_handler_is_measured_with_a_request_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "inference.py").write_text(
        "import time\n"
        "def model_fn(folder):\n    return 0.02\n"
        "def predict_fn(data, pause):\n    time.sleep(pause)\n    return data\n"
    )
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "inference.py", "code/inference.py")
    found = await profile(tmp_path / "model.tar.gz", (b"[1]", "application/json"), seconds=0.0)
    assert found.service_s[1] >= 0.02
    with pytest.raises(ValidationException, match="--request"):
        await profile(tmp_path / "model.tar.gz", seconds=0.0)


async def test_what_cannot_be_measured_is_said(tmp_path: Path, double: Path) -> None:
    with pytest.raises(ValidationException, match="no file or folder"):
        await profile(tmp_path / "missing.onnx")
    with pytest.raises(ValidationException, match="refuses it"):
        await profile(double, (b"words", "text/plain"), seconds=0.0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelLoadError, match="no file at all"):
        await profile(tmp_path / "empty")


def test_a_sample_has_the_shapes_that_the_model_names() -> None:
    import io

    body, kind = sample([("a", "float32", [None, 4, None]), ("b", "int64", [None])])
    arrays = np.load(io.BytesIO(body))
    assert kind == "application/x-npz"
    assert {name: arrays[name].shape for name in arrays} == {"a": (1, 4, 1), "b": (1,)}
    with pytest.raises(ValidationException, match="--request"):
        sample([("text", "object", [None, 1])])


def test_measured_figures_take_the_place_of_assumed_ones() -> None:
    found = Profile("m", "onnx", {1: 0.4, 2: 0.5, 4: 0.7}, 0.03, 0.3, 2048.0, (bytes(1_000_000), "application/x-npy"))
    scenario = found.applied(Scenario(requests_per_day=1e6, processing_s=0.001, pattern="steady"))
    assert (scenario.processing_s, scenario.payload_mb) == (0.4, 1.0)
    assert scenario.memory_gb == pytest.approx(2.147, abs=0.001)
    assert search.plan(scenario, "real-time", shipped()).latency_ms["p50"] > 400
    batching = found.batching
    assert (batching.most, batching.fixed_s, batching.each_s) == pytest.approx((4, 0.3, 0.1))
    together = queue(np.zeros(4), 0.0, 1, batching=batching)
    assert together.latency_s.tolist() == pytest.approx([0.7] * 4)
