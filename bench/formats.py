"""Measures Fourfold beside mosec with models of scikit-learn, LightGBM, XGBoost, and PyTorch where it is installed.

    python bench/formats.py [--formats sklearn,lightgbm] [--connections 1 16 64] [--seconds 2] [--rounds 3]

Both serve the same file with the library in the same version, one worker, one thread, batches of what waits. Servers
take turns; the load generator runs on the same cores. A run with all defaults, about 3 minutes, writes the section
`formats` of docs/reference/performance.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import models
import report
import venvs
from load import GENERATOR, measure, request_bytes
from servers import Fourfold, Mosec, Server, free_port

CONNECTIONS = [1, 16, 64]
WARM_UP = (16, 1.0)
"""Connections and seconds that are not counted."""
Result = tuple[str, str, int]
"""Format, server, connections."""


def _training_data() -> tuple[Any, Any]:
    from sklearn.datasets import make_classification

    return make_classification(6000, models.WIDTH["fraud"], n_informative=18, weights=[0.93], random_state=models.SEED)


def _sklearn(path: Path) -> None:
    import joblib
    from sklearn.ensemble import GradientBoostingClassifier

    model = GradientBoostingClassifier(n_estimators=100, max_depth=4, random_state=models.SEED)
    joblib.dump(model.fit(*_training_data()), path)


def _xgboost(path: Path) -> None:
    import xgboost

    trained = xgboost.DMatrix(*_training_data())
    xgboost.train({"objective": "binary:logistic", "max_depth": 4, "nthread": 1}, trained, 100).save_model(path)


def _lightgbm(path: Path) -> None:
    import lightgbm

    parameters = {"objective": "binary", "max_depth": 4, "num_threads": 1, "verbose": -1}
    lightgbm.train(parameters, lightgbm.Dataset(*_training_data()), 100).save_model(path)


def _torch(path: Path) -> None:
    import torch

    torch.manual_seed(models.SEED)
    wide = models.WIDTH["fraud"]
    layers = (torch.nn.Linear(wide, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512), torch.nn.ReLU())
    torch.jit.script(torch.nn.Sequential(*layers, torch.nn.Linear(512, 2))).save(str(path))


class Made:
    """A format's model: its library, its file, how it is made, and what it is."""

    def __init__(self, package: str, module: str, file: str, make: Callable[[Path], None], what: str) -> None:
        self.package = package
        self.module = module
        self.file = file
        self.make = make
        self.what = what


FORMATS = {
    "sklearn": Made("scikit-learn", "sklearn", "sklearn.joblib", _sklearn, "GradientBoostingClassifier, 100 trees"),
    "lightgbm": Made("lightgbm", "lightgbm", "lightgbm.txt", _lightgbm, "100 trees of depth 4"),
    "xgboost": Made("xgboost-cpu", "xgboost", "xgboost.ubj", _xgboost, "100 trees of depth 4"),
    "torch": Made("torch", "torch", "torch.pt", _torch, "30-512-512-2, TorchScript"),
}


class FourfoldFormat(Fourfold):
    def artifact(self, model: str) -> Path:
        return models.DATA / FORMATS[model].file


class MosecFormat(Mosec):
    """mosec with the libraries of all formats, in the versions that are installed here."""

    name = "mosec-formats"
    title = "mosec"
    packages: ClassVar = [
        "mosec",
        "orjson",
        "joblib",
        *(f"{one.package}=={version(one.package)}" for one in FORMATS.values() if importlib.util.find_spec(one.module)),
    ]

    def artifact(self, model: str) -> Path:
        return models.DATA / FORMATS[model].file

    def command(self, model: str, port: int, scratch: Path) -> list[str]:
        python = str(venvs.VENVS / self.name / "bin/python")
        script = str(Path(__file__).parent / "peers" / "mosec_formats.py")
        address = ["--address", "127.0.0.1", "--port", str(port), "--log-level", "error"]
        return ["env", f"BENCH_FORMAT={model}", python, script, *address]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--connections", type=int, nargs="+", default=CONNECTIONS)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    choice = parser.parse_args()
    names = [name for name in choice.formats.split(",") if importlib.util.find_spec(FORMATS[name].module)]
    for name in names:
        _ensure(name)
    servers: list[Server] = [FourfoldFormat(), MosecFormat()]
    versions = [server.install() for server in servers]
    rates: dict[Result, list[float]] = {}
    for _ in range(choice.rounds):
        for name in names:
            for server in servers:
                _one_turn(server, name, choice, rates)
    table = report.table(("model", "server", *map(_plural, choice.connections)), _rows(rates, names, choice))
    print(table)
    if parser.get_default("formats") == choice.formats and choice.rounds > 1:
        about = (
            f"Successful requests/s, JSON, one row of 30 floats a request. Load: {GENERATOR}, {choice.seconds:g} s a "
            f"stretch, on the same cores. Medians of {choice.rounds} rounds, least and most in brackets; below each "
            f"pair, how many times mosec's rate Fourfold's is. mosec: {Mosec.settings}. {'; '.join(versions)}."
        )
        report.write_section("formats", f"{about}\n\n{table}")


def _ensure(name: str) -> None:
    models.DATA.mkdir(exist_ok=True)
    made = FORMATS[name]
    if not (models.DATA / made.file).exists():
        made.make(models.DATA / made.file)
    (models.DATA / f"{name}.json").write_bytes(models.json_body(models.rows("fraud", 1)[0]))


def _one_turn(server: Server, name: str, choice: argparse.Namespace, rates: dict[Result, list[float]]) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        running = server.start(name, free_port(), Path(scratch))
        try:
            body = (models.DATA / f"{name}.json").read_bytes()
            request = request_bytes(running.url, {"Content-Type": "application/json", **running.headers}, body)
            measure(running.url, [request], *WARM_UP)
            for connections in choice.connections:
                measured = measure(running.url, [request], connections, choice.seconds)
                rates.setdefault((name, server.title, connections), []).append(measured.per_second)
                told = f"{measured.per_second:9.0f}/s  failed {measured.failed}"
                print(f"{name:9}{server.title:9} c={connections:<4}{told}", file=sys.stderr, flush=True)
        finally:
            running.stop()


def _rows(rates: dict[Result, list[float]], names: list[str], choice: argparse.Namespace) -> list[tuple[str, ...]]:
    rows = []
    for name in names:
        for title in (Fourfold.title, MosecFormat.title):
            cells = [_spread(rates[name, title, connections]) for connections in choice.connections]
            rows.append((f"`{name}`: {FORMATS[name].what}", title, *cells))
        times = [
            f"**{_median(rates, name, Fourfold.title, c) / _median(rates, name, MosecFormat.title, c):.2f}**"
            for c in choice.connections
        ]
        rows.append(("", "times", *times))
    return rows


def _median(rates: dict[Result, list[float]], name: str, title: str, connections: int) -> float:
    return statistics.median(rates[name, title, connections])


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):,.0f} ({min(values):,.0f}–{max(values):,.0f})"


def _plural(connections: int) -> str:
    return f"{connections} connection{'s' * (connections > 1)}"


if __name__ == "__main__":
    main()
