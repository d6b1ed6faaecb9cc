"""Does a call to a loaded model of a multi-model endpoint take longer than one to an endpoint of its own?

    python bench/multimodel.py [--models 500] [--room 50] [--seconds 5] [--rounds 3] [--connections 1 8]

All models are of one kind (1 MB of weights) under one prefix; which one is called follows Zipf's law. A hit is a call
whose model was loaded; how many there were says the server, and they are the fastest ones. The endpoint of one model
is called alone, and then in turn with the many: only the latter meets the same machine, on which two of five calls
load a model. Writes the section `multimodel` of docs/reference/performance.md.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import models
import numpy as np
import report
from load import request_bytes
from onnx import TensorProto, helper, numpy_helper
from servers import Fourfold, Running, client, free_port

Choose = Callable[[], int | None]
"""Which model the next call is for; None: the endpoint of one."""
Load = Callable[[Choose, float], list[tuple[int | None, float]]]
"""Calls for so many seconds, one after the other is answered; which model each called, and the seconds that it took."""

BUCKET = "bench"
WIDTH, HIDDEN = 30, 490
"""30-490-490-2: 1.0 MB of float32."""
EXPONENT = 1.1
BODY = b"0.1" + b",0.1" * (WIDTH - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=500)
    parser.add_argument("--room", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8])
    choice = parser.parse_args()
    models.ensure()
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        running = Fourfold().start("fraud", free_port(), Path(scratch))
        try:
            _deploy(running, choice)
            loads = [partial(_closed_loops, running, connections) for connections in choice.connections]
            names = [f"sockets, {connections} at once" for connections in choice.connections]
            rows = [_compare(running, name, load, choice) for name, load in zip(names, loads, strict=True)]
            rows.append(_compare(running, "boto3", partial(_boto3_loop, running), choice))
        finally:
            running.stop()
    headings = (
        "client", "one model, alone: p50, ms", "one model, in turn: p50, ms", "hits: p50, ms", "times alone",
        "times in turn", "hits, %", "misses: p50, ms", "calls/s",
    )  # fmt: skip
    table = report.table(headings, rows)
    print(table)
    about = (
        f"{choice.models} ONNX models of 1 MB under one prefix, room for {choice.room}, Zipf's law with exponent "
        f"{EXPONENT}. Medians of {choice.rounds} rounds of {choice.seconds:g} s; in turn: every call goes to either "
        "endpoint by chance. The clients run on the same cores."
    )
    report.write_section("multimodel", f"{about}\n\n{table}")


def _compare(running: Running, name: str, load: Load, choice: argparse.Namespace) -> tuple[str, ...]:
    random = np.random.default_rng(models.SEED)
    shares = 1.0 / np.arange(1, choice.models + 1) ** EXPONENT
    turn = iter(random.choice(choice.models, 200_000, p=shares / shares.sum()).tolist())
    mixed = iter((random.random(200_000) < 0.5).tolist())
    found: dict[str, list[float]] = {}
    load(lambda: next(turn), choice.seconds)  # fills the room
    for _ in range(choice.rounds):
        alone = [seconds for _, seconds in load(lambda: None, choice.seconds)]
        before = _counts(running)
        calls = load(lambda: next(turn) if next(mixed) else None, choice.seconds)
        hits, misses = (after - ahead for after, ahead in zip(_counts(running), before, strict=True))
        share = hits / (hits + misses)
        times = sorted(seconds for model, seconds in calls if model is not None)
        cut = round(share * len(times))
        measured = {
            "alone": statistics.median(alone),
            "single": statistics.median(seconds for model, seconds in calls if model is None),
            "hit": statistics.median(times[:cut]),
            "miss": statistics.median(times[cut:]) if times[cut:] else float("nan"),
            "share": share,
            "rate": len(calls) / choice.seconds,
        }
        for kind, value in measured.items():
            found.setdefault(kind, []).append(value)
    middle = {kind: statistics.median(values) for kind, values in found.items()}
    print(f"{name}: {middle}", file=sys.stderr)
    return (
        name, *(f"{middle[kind] * 1e3:.2f}" for kind in ("alone", "single", "hit")),
        f"{middle['hit'] / middle['alone']:.2f}", f"{middle['hit'] / middle['single']:.2f}",
        f"{middle['share'] * 100:.0f}", f"{middle['miss'] * 1e3:.0f}", f"{middle['rate']:,.0f}",
    )  # fmt: skip


def _request(running: Running, endpoint: str, model: int | None) -> bytes:
    url = running.url.replace("/fraud/", f"/{endpoint}/")
    headers = {"Content-Type": "text/csv", **running.headers}
    if model is not None:
        headers["X-Amzn-SageMaker-Target-Model"] = f"m{model}.onnx"
    return request_bytes(url, headers, BODY)


def _closed_loops(running: Running, connections: int, choose: Choose, seconds: float) -> list[tuple[int | None, float]]:
    """Bare sockets, so many at once: the client's own time is small."""
    return asyncio.run(_sockets(running, connections, choose, seconds))


async def _sockets(
    running: Running, connections: int, choose: Choose, seconds: float
) -> list[tuple[int | None, float]]:
    parts = urlsplit(running.url)
    end = time.perf_counter() + seconds
    times: list[tuple[int | None, float]] = []

    async def caller() -> None:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        while time.perf_counter() < end:
            model = choose()
            body = _request(running, "single" if model is None else "many", model)
            began = time.perf_counter()
            writer.write(body)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
            answer = await reader.readexactly(int(length[1]) if length else 0)
            if head[9:12] != b"200":
                sys.exit(f"the server answered {head[:60]!r} {answer[:300]!r}")
            times.append((model, time.perf_counter() - began))
        writer.close()

    await asyncio.gather(*(caller() for _ in range(connections)))
    return times


def _boto3_loop(running: Running, choose: Choose, seconds: float) -> list[tuple[int | None, float]]:
    """boto3, one call after another, as most clients of SageMaker call."""
    runtime = client(running.keys, "sagemaker-runtime")
    end = time.perf_counter() + seconds
    times = []
    while (began := time.perf_counter()) < end:
        model = choose()
        target = {"EndpointName": "single"} if model is None else {
            "EndpointName": "many", "TargetModel": f"m{model}.onnx",
        }  # fmt: skip
        runtime.invoke_endpoint(ContentType="text/csv", Body=BODY, **target)["Body"].read()
        times.append((model, time.perf_counter() - began))
    return times


def _counts(running: Running) -> tuple[float, float]:
    """Hits and misses so far."""
    parts = urlsplit(running.url)
    with urlopen(Request(f"{parts.scheme}://{parts.netloc}/metrics", headers=running.headers)) as answer:
        text = answer.read().decode()
    found = [re.search(rf"^fourfold_model_cache_{kind}_total{{.*}} (\S+)$", text, re.M) for kind in ("hits", "misses")]
    hits, misses = (float(one[1]) if one else 0.0 for one in found)
    return hits, misses


def _deploy(running: Running, choice: argparse.Namespace) -> None:
    sagemaker, s3 = client(running.keys, "sagemaker"), client(running.keys, "s3")
    if BUCKET not in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]:
        s3.create_bucket(Bucket=BUCKET)
    with ThreadPoolExecutor(4) as pool:
        uploads = [
            pool.submit(s3.put_object, Bucket=BUCKET, Key=f"many/m{number}.onnx", Body=_model(number))
            for number in range(choice.models)
        ]
    for upload in uploads:
        upload.result()
    container = {
        "Mode": "MultiModel",
        "ModelDataUrl": f"s3://{BUCKET}/many/",
        "Environment": {"FOURFOLD_MULTI_MODEL_MAX_MODELS": str(choice.room)},
    }
    _endpoint(sagemaker, "many", container)
    _endpoint(sagemaker, "single", {"ModelDataUrl": f"s3://{BUCKET}/many/m0.onnx"})


def _endpoint(sagemaker: Any, name: str, container: dict[str, Any]) -> None:
    sagemaker.create_model(ModelName=name, PrimaryContainer=container)
    variant = {"VariantName": "all", "ModelName": name, "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
    sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=name, WaiterConfig={"Delay": 1})


def _model(seed: int) -> bytes:
    random = np.random.default_rng(seed)
    sizes = (WIDTH, HIDDEN, HIDDEN, 2)
    weights, nodes, last = [], [], "x"
    for layer in range(3):
        shape = sizes[layer], sizes[layer + 1]
        values = (random.standard_normal(shape, np.float32) / np.sqrt(shape[0])).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"w{layer}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], [f"z{layer}"]))
        nodes.append(helper.make_node("Tanh", [f"z{layer}"], ["y" if layer == 2 else f"h{layer}"]))
        last = f"h{layer}"
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 2])],
        weights,
    )
    opset = [helper.make_opsetid("", models.OPSET)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString())


if __name__ == "__main__":
    main()
