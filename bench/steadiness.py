"""Does one endpoint feel what happens beside it? Writes the section `steadiness` of docs/reference/performance.md.

    python bench/steadiness.py [--seconds 3] [--rounds 3] [--registered 10000]

Each line compares the same load on the same endpoint (`fraud`, 64 connections) alone and with something else in
the server, and says how many times its p99 became.
"""

from __future__ import annotations

import argparse
import io
import socket
import statistics
import sys
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import models
import report
from load import Measured, in_turns, measure, request_bytes
from servers import Fourfold, Running, client, deploy, free_port

CONNECTIONS = 64
SLOW_SECONDS = 0.2

HANDLER = f"""
import time


def model_fn(model_dir):
    return None


def transform_fn(model, body, content_type, accept):
    time.sleep({SLOW_SECONDS})
    return "slept", "text/plain"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--registered", type=int, default=10_000)
    choice = parser.parse_args()
    models.ensure()
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        running = Fourfold().start("fraud", free_port(), Path(scratch))
        try:
            rows = list(_compare(running, choice))
        finally:
            running.stop()
    table = report.table(("beside the load", "p99 without, ms", "p99 with, ms", "times", "requests/s, times"), rows)
    print(table)
    report.write_section(
        "steadiness", f"`fraud`, {CONNECTIONS} connections, medians of {choice.rounds} rounds.\n\n{table}"
    )


def _compare(running: Running, choice: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    sagemaker, s3 = client(running.keys, "sagemaker"), client(running.keys, "s3")
    with tempfile.TemporaryDirectory() as folder:
        deploy(sagemaker, s3, "slow", _handler(Path(folder)))
    sagemaker.get_waiter("endpoint_in_service").wait(EndpointName="slow", WaiterConfig={"Delay": 1})

    def load(server: Running = running) -> Measured:
        body = (models.DATA / "fraud.json").read_bytes()
        request = request_bytes(server.url, {"Content-Type": "application/json", **server.headers}, body)
        return measure(server.url, [request], CONNECTIONS, choice.seconds)

    load()
    for what, beside in {
        f"an endpoint that sleeps {SLOW_SECONDS:g} s, called from 32 connections": lambda: _calling_slow(running),
        "100 clients that send a byte every tenth of a second": lambda: _slow_clients(running),
        "1,000 idle connections": lambda: _idle_connections(running, 1000),
    }.items():
        yield _row(what, load, beside, choice.rounds)
    print(f"registering {choice.registered} models and configs", file=sys.stderr)
    _register(sagemaker, choice.registered)
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        empty = Fourfold().start("fraud", free_port(), Path(scratch))
        try:
            without, with_them = in_turns([lambda: load(empty), load], 3 * choice.rounds)
        finally:
            empty.stop()
    words = f"{choice.registered:,} models and configs registered, in turns with an empty server"
    yield _line(words, without, with_them)


def _row(
    what: str, load: Callable[[], Measured], beside: Callable[[], AbstractContextManager[None]], rounds: int
) -> tuple[str, ...]:
    without, with_it = [], []
    for _ in range(rounds):
        without.append(load())
        with beside():
            with_it.append(load())
    return _line(what, without, with_it)


def _line(what: str, without: list[Measured], with_it: list[Measured]) -> tuple[str, ...]:
    before, after = (statistics.median(one.p99_ms for one in found) for found in (without, with_it))
    rates = [statistics.median(one.per_second for one in found) for found in (without, with_it)]
    print(f"{what}: p99 {before:.2f} -> {after:.2f} ms, {rates[0]:,.0f} -> {rates[1]:,.0f}/s", file=sys.stderr)
    return what, f"{before:.2f}", f"{after:.2f}", f"{after / before:.2f}", f"{rates[1] / rates[0]:.2f}"


@contextmanager
def _calling_slow(running: Running) -> Iterator[None]:
    done = threading.Event()
    url = running.url.replace("/fraud/", "/slow/")
    request = request_bytes(url, {"Content-Type": "text/csv", **running.headers}, b"1")

    def call() -> None:
        with socket.create_connection(_address(running)) as connection:
            while not done.is_set():
                connection.sendall(request)
                connection.recv(65536)

    with ThreadPoolExecutor(32) as threads:
        for _ in range(32):
            threads.submit(call)
        try:
            yield
        finally:
            done.set()


@contextmanager
def _slow_clients(running: Running) -> Iterator[None]:
    done = threading.Event()
    request = request_bytes(running.url, {"Content-Type": "text/csv", **running.headers}, b"1")
    connections = [socket.create_connection(_address(running)) for _ in range(100)]

    def drip() -> None:
        for byte in request:
            for connection in connections:
                connection.sendall(bytes([byte]))
            if done.wait(0.1):
                return

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        for connection in connections:
            connection.close()


@contextmanager
def _idle_connections(running: Running, count: int) -> Iterator[None]:
    connections = [socket.create_connection(_address(running)) for _ in range(count)]
    try:
        yield
    finally:
        for connection in connections:
            connection.close()


def _register(sagemaker: Any, count: int) -> None:
    def register(number: int) -> None:
        name = f"registered-{number}"
        sagemaker.create_model(ModelName=name, PrimaryContainer={"ModelDataUrl": "s3://bench/fraud/fraud.onnx"})
        variant = {"VariantName": "v", "ModelName": name, "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
        sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(register, range(count)))


def _handler(folder: Path) -> Path:
    archive = folder / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        member = tarfile.TarInfo("code/inference.py")
        member.size = len(HANDLER)
        tar.addfile(member, io.BytesIO(HANDLER.encode()))
    return archive


def _address(running: Running) -> tuple[str, int]:
    parts = urlsplit(running.url)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


if __name__ == "__main__":
    main()
