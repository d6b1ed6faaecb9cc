"""Measures serverless endpoints: from zero to an answer, many idle ones, bursts. Writes its section of performance.md.

    python bench/serverless.py                    # everything, about 3 minutes
    python bench/serverless.py --endpoints 100    # a look; writes nothing

One client, a keep-alive connection, on the same cores as the server. `fraud` is 100 boosted trees.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import models
import numpy as np
import onnx
import report
from load import Measured, in_turns, measure, request_bytes
from onnx import TensorProto, helper, numpy_helper
from servers import SERVERS, Fourfold, Running, client, family, free_port

BUCKET = "bench"
LARGE_MB = 500
LOAD_ALONE = """
import sys, time
import numpy, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
for _ in range(3):
    began = time.perf_counter()
    session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    session.run(None, {"x": numpy.zeros((1, 4), numpy.float32)})
    print(time.perf_counter() - began)
    del session
"""
Row = tuple[str, str, str]


class Bench:
    """A running server and what is measured on it."""

    def __init__(self, running: Running, choice: argparse.Namespace) -> None:
        self.running = running
        self.choice = choice
        self.sagemaker = client(running.keys, "sagemaker")
        self.s3 = client(running.keys, "s3")
        self.body = (models.DATA / "fraud.json").read_bytes()
        self.connection = http.client.HTTPConnection(running.url.split("/")[2], timeout=120)

    def deploy(
        self, name: str, artifact: Path, *, concurrency: int = 5, memory: int = 1024, **environment: str
    ) -> None:
        """A serverless endpoint; returns when it is in service."""
        key = f"{artifact.parent.name}/{artifact.name}"
        self.s3.upload_file(str(artifact), BUCKET, key)
        self.create(name, f"s3://{BUCKET}/{key}", concurrency, memory, environment)
        self.wait(name)

    def create(self, name: str, url: str, concurrency: int, memory: int, environment: dict[str, str]) -> None:
        container = {"ModelDataUrl": url, "Environment": environment}
        self.sagemaker.create_model(ModelName=name, PrimaryContainer=container)
        bounds = {"MemorySizeInMB": memory, "MaxConcurrency": concurrency}
        variant = {"VariantName": "v", "ModelName": name, "ServerlessConfig": bounds}
        self.sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
        self.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)

    def wait(self, name: str) -> None:
        while (status := self.sagemaker.describe_endpoint(EndpointName=name)["EndpointStatus"]) != "InService":
            if status == "Failed":
                raise RuntimeError(self.sagemaker.describe_endpoint(EndpointName=name)["FailureReason"])
            time.sleep(0.05)

    def state(self, name: str) -> dict[str, Any]:
        self.connection.request("GET", f"/fourfold/endpoints/{name}", headers=self.running.headers)
        found: dict[str, Any] = json.loads(self.connection.getresponse().read())["Variants"][0]["Serverless"]
        return found

    def until_zero(self, name: str) -> None:
        while self.state(name)["Workers"]:
            time.sleep(0.005)

    def call(self, name: str, body: bytes | None = None) -> tuple[float, bool]:
        """Milliseconds to the answer, and whether it was a cold start. Raises RuntimeError where it failed."""
        began = time.perf_counter()
        headers = {"Content-Type": "application/json", **self.running.headers}
        self.connection.request("POST", f"/endpoints/{name}/invocations", body or self.body, headers)
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{name}: {answer.status} {text[:300]!r}")
        return (time.perf_counter() - began) * 1000, answer.getheader("x-fourfold-cold-start") == "1"

    # Rows: what, figure, target

    def cold(self) -> Iterator[Row]:
        for name, setting in (("load", {"FOURFOLD_TEMPLATE": "0"}), ("template", {})):
            self.deploy(name, models.DATA / "fraud.onnx", FOURFOLD_IDLE_SECONDS="0", **setting)
            self.until_zero(name)
            if name == "template":
                self._until_template(name)
            taken = []
            for _ in range(self.choice.starts):
                self.until_zero(name)
                time.sleep(0.01)  # the worker before has gone, not only been told to
                milliseconds, cold = self.call(name)
                if cold:
                    taken.append(milliseconds)
            parts = self.state(name)["ColdMillisecondsByPart"]
            shown = ", ".join(f"{part.replace('_', ' ')} {value:.1f}" for part, value in parts.items())
            words = "loads the model" if name == "load" else "forks a process that has loaded it"
            targets = "15, 60" if name == "load" else "8, –"
            yield f"cold start that {words} ({shown}): p50, p99, ms", _percentiles(taken), targets
            if name == "load":
                yield from self._beside_mosec(statistics.median(taken))

    def _until_template(self, name: str) -> None:
        for _ in range(100):
            self.call(name)
            self.until_zero(name)
            if self.state(name)["ColdStartsWithoutLoad"]:
                return
            time.sleep(0.1)

    def _beside_mosec(self, own: float) -> Iterator[Row]:
        server = SERVERS["mosec"]
        try:
            server.install()
            taken = []
            for _ in range(3):
                with tempfile.TemporaryDirectory() as scratch:
                    running = server.start("fraud", free_port(), Path(scratch))
                    taken.append(running.start_seconds * 1000)
                    running.stop()
        except (RuntimeError, OSError) as error:
            print(f"mosec was not measured: {error}", file=sys.stderr)
            return
        other = statistics.median(taken)
        yield f"mosec's process start to first answer ({other:.0f} ms) / that", f"{other / own:.0f}", "30"

    def large(self, folder: Path) -> Iterator[Row]:
        path = folder / "large" / "model.onnx"
        path.parent.mkdir()
        _make_large(path)
        done = subprocess.run([sys.executable, "-c", LOAD_ALONE, str(path)], capture_output=True, text=True, check=True)
        alone = statistics.median(float(line) * 1000 for line in done.stdout.split())
        self.deploy("large", path, memory=4096, FOURFOLD_IDLE_SECONDS="0")
        body = json.dumps({"instances": [[0.0] * 4]}).encode()
        taken = []
        for _ in range(3):
            self.until_zero("large")
            milliseconds, cold = self.call("large", body)
            if cold:
                taken.append(milliseconds)
        own = statistics.median(taken)
        yield (
            f"cold start of a {LARGE_MB} MB ONNX model ({own:.0f} ms) / loading it in a live process ({alone:.0f} ms)",
            f"{own / alone:.2f}",
            "1.3",
        )

    def warm(self) -> Iterator[Row]:
        workers = 2
        self.deploy("warm", models.DATA / "fraud.onnx", concurrency=workers)
        url = self.running.url.replace("/fraud/", "/unbatched/")
        key = f"{models.DATA.name}/fraud.onnx"
        container = {"ModelDataUrl": f"s3://{BUCKET}/{key}", "Environment": {"FOURFOLD_MAX_BATCH": "1"}}
        self.sagemaker.create_model(ModelName="unbatched", PrimaryContainer=container)
        variant = {"VariantName": "v", "ModelName": "unbatched", "InstanceType": "ml.m5.large"}
        self.sagemaker.create_endpoint_config(
            EndpointConfigName="unbatched", ProductionVariants=[variant | {"InitialInstanceCount": workers}]
        )
        self.sagemaker.create_endpoint(EndpointName="unbatched", EndpointConfigName="unbatched")
        self.wait("unbatched")
        rates: dict[str, list[float]] = {"warm": [], "unbatched": []}
        for _ in range(self.choice.rounds):
            for name, found in rates.items():
                address = url.replace("/unbatched/", f"/{name}/")
                request = request_bytes(
                    address, {"Content-Type": "application/json", **self.running.headers}, self.body
                )
                found.append(measure(address, [request], workers, self.choice.seconds).per_second)
        own, other = (statistics.median(rates[name]) for name in ("warm", "unbatched"))
        self.sagemaker.delete_endpoint(EndpointName="unbatched")
        yield f"warm calls/s ({own:,.0f}) / real-time's without batching ({other:,.0f})", f"{own / other:.2f}", "0.8"

    def many(self) -> Iterator[Row]:
        count = self.choice.endpoints
        names = [f"idle-{number}" for number in range(count)]
        before = self.running.memory_mb()[1]
        url = f"s3://{BUCKET}/{models.DATA.name}/fraud.onnx"
        began = time.monotonic()
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda name: self.create(name, url, 5, 1024, {"FOURFOLD_IDLE_SECONDS": "1"}), names))
        for name in names:
            self.wait(name)
        print(f"{count} endpoints in service after {time.monotonic() - began:.0f} s", file=sys.stderr)
        while any(self.state(name)["Workers"] for name in names):
            time.sleep(0.5)
        yield f"{count:,} idle endpoints add, MB", f"{self.running.memory_mb()[1] - before:.0f}", "200"
        yield "the gateway's CPU while nobody calls, % of a core", f"{self._idle_percent():.1f}", "0"
        yield "real-time requests/s beside them / of a server without, in turns", f"{self._beside_idle():.2f}", "1"
        taken, failed, cold = [], 0, 0
        for _ in range(2):
            for name in names:
                try:
                    milliseconds, was_cold = self.call(name)
                    taken.append(milliseconds)
                    cold += was_cold
                except RuntimeError as error:
                    failed += 1
                    print(error, file=sys.stderr)
        yield (
            f"round-robin over them, room for {self.choice.warm_workers} warm, {cold:,} cold starts: p50, p99, ms",
            _percentiles(taken),
            "60, –",
        )
        yield "failed of these", f"{failed}", "0"

    def _idle_percent(self) -> float:
        before, began = _cpu_seconds(self.running.process.pid), time.monotonic()
        time.sleep(20)
        return 100 * (_cpu_seconds(self.running.process.pid) - before) / (time.monotonic() - began)

    def _beside_idle(self) -> float:
        """The median of how many times the rate of a server without them the rate of this one is."""

        def load(server: Running) -> Measured:
            headers = {"Content-Type": "application/json", **server.headers}
            return measure(server.url, [request_bytes(server.url, headers, self.body)], 64, self.choice.seconds / 2)

        with tempfile.TemporaryDirectory(prefix="bench-") as scratch, _server(Path(scratch), 50) as empty:
            without, beside = in_turns([lambda: load(empty), lambda: load(self.running)], 3 * self.choice.rounds)
        return statistics.median(two.per_second / one.per_second for one, two in zip(without, beside, strict=True))

    def bursts(self) -> Iterator[Row]:
        self.deploy("burst", models.DATA / "fraud.onnx", FOURFOLD_IDLE_SECONDS="0")

        def cycle() -> None:
            with ThreadPoolExecutor(5) as threads:
                list(threads.map(lambda _: Bench(self.running, self.choice).call("burst"), range(5)))
            self.until_zero("burst")

        for _ in range(10):
            cycle()
        time.sleep(1.0)  # what those left is gone, and the template made
        before = self._held()
        for _ in range(self.choice.cycles):
            cycle()
        time.sleep(1.0)
        after = self._held()
        words = ", ".join(f"{name} {after[name] - before[name]:+g}" for name in before)
        yield f"after {self.choice.cycles} cycles of a burst of 5 and idleness", words, "+0 each"

    def _held(self) -> dict[str, float]:
        """Processes, descriptors of the gateway, shared memory, files and memory."""
        pid = self.running.process.pid
        rss, _ = self.running.memory_mb()
        files = sum(len(found) for _, _, found in os.walk(self.choice.scratch))
        return {
            "processes": len(family(pid)),
            "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
            "shared memory": len(os.listdir("/dev/shm")),
            "files": files,
            "MB": round(rss),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, help="cold starts of each kind; 200")
    parser.add_argument("--endpoints", type=int, help="idle ones; 1000")
    parser.add_argument("--warm-workers", type=int, default=50)
    parser.add_argument("--cycles", type=int, help="100")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--only", help="cold,large,warm,many,bursts")
    given = parser.parse_args()
    partial = bool(given.starts or given.endpoints or given.cycles or given.only)
    given.starts, given.endpoints, given.cycles = given.starts or 200, given.endpoints or 1000, given.cycles or 100
    models.ensure()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        given.scratch = scratch
        with _server(Path(scratch), given.warm_workers) as running:
            bench = Bench(running, given)
            parts: dict[str, Callable[[], Iterator[Row]]] = {
                "cold": bench.cold,
                "large": lambda: bench.large(Path(scratch)),
                "warm": bench.warm,
                "bursts": bench.bursts,
                "many": bench.many,
            }
            for name, part in parts.items():
                if not given.only or name in given.only.split(","):
                    for row in part():
                        print(" | ".join(row), file=sys.stderr, flush=True)
                        rows.append(row)
    table = report.table(("what", "measured", "aim"), rows)
    print(table)
    if not partial:
        about = f"`fraud`, one client on the same cores, {given.starts} cold starts of each kind."
        report.write_section("serverless", f"{about}\n\n{table}")


@contextmanager
def _server(scratch: Path, warm_workers: int) -> Iterator[Running]:
    class Bounded(Fourfold):
        def command(self, model: str, port: int, scratch: Path) -> list[str]:
            return [*super().command(model, port, scratch), "--warm-workers", str(warm_workers)]

    running = Bounded().start("fraud", free_port(), scratch)
    try:
        yield running
    finally:
        running.stop()


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _make_large(path: Path) -> None:
    """A chain of matrices of 100 MB each on four inputs; large to load, small to run."""
    side, layers = 5000, LARGE_MB // 100
    random = np.random.default_rng(models.SEED)
    first = numpy_helper.from_array(random.standard_normal((4, side), np.float32), "first")
    weights, nodes, last = [first], [helper.make_node("MatMul", ["x", "first"], ["h"])], "h"
    for layer in range(layers):
        matrix = random.standard_normal((side, side), np.float32) / np.float32(side)
        weights.append(numpy_helper.from_array(matrix, f"w{layer}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], [f"h{layer}"]))
        last = f"h{layer}"
    nodes.append(helper.make_node("ReduceMean", [last], ["y"], axes=[1], keepdims=1))
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def _percentiles(taken: list[float]) -> str:
    ordered = sorted(taken)
    return f"{statistics.median(ordered):.1f}, {ordered[int(0.99 * (len(ordered) - 1))]:.1f}"


if __name__ == "__main__":
    main()
