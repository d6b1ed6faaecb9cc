"""Fixtures that several parts share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests.server import LiveServer

settings.register_profile("fourfold", deadline=None)  # a busy machine is no failure
settings.load_profile("fourfold")


def pytest_xdist_auto_num_workers() -> int:
    """Half as many again as there are cores, because most tests wait for a server part of the time."""
    cores = os.cpu_count() or 1
    return cores + cores // 2


@pytest.fixture(scope="session")
def onnx_model(tmp_path_factory) -> Path:
    """A small tree model over four columns, exported from scikit-learn; answers class probabilities."""
    import numpy as np
    from skl2onnx import to_onnx
    from sklearn.ensemble import GradientBoostingClassifier

    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, 4)).astype(np.float32)
    model = GradientBoostingClassifier(n_estimators=5, random_state=1).fit(x, x[:, 0] + x[:, 1] > 0)
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    path.write_bytes(to_onnx(model, x[:1], options={"zipmap": False}).SerializeToString())
    return path


@pytest.fixture(scope="session")
def handler(tmp_path_factory):
    """Makes a model.tar.gz with the given `code/inference.py`."""
    import tarfile

    def make(code: str, name: str = "model.tar.gz") -> Path:
        folder = tmp_path_factory.mktemp("handler")
        (folder / "code").mkdir()
        (folder / "code" / "inference.py").write_text(code)
        with tarfile.open(folder / name, "w:gz") as archive:
            archive.add(folder / "code", "code")
        return folder / name

    return make


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A running server for the tests of one module."""
    server = LiveServer(tmp_path_factory.mktemp("server") / "data", "--metrics-seconds", "1")
    yield server
    assert server.stop() == 0


@pytest.fixture
def own_server(tmp_path):
    """A running server for one test, which may kill it."""
    server = LiveServer(tmp_path / "data")
    yield server
    if server.process.poll() is None:
        server.kill()
