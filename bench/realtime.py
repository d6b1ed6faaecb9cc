"""Measures Fourfold beside its nearest peers in one run, and writes the table into docs/reference/performance.md.

    python bench/realtime.py                                            # everything, about 3 minutes
    python bench/realtime.py --peers mosec --connections 64 --rounds 1  # a look; writes nothing

Servers take turns within a round, so that a machine that slows down slows all of them; a table shows the median of the
rounds and how far they were apart. The load generator runs on the same cores, so figures compare servers and are no
capacity.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import models
import report
from load import GENERATOR, Measured, measure, request_bytes
from servers import CONTENT_TYPES, SERVERS, Running, Server, free_port
from signed import signed_requests

RESULTS = Path(__file__).parent / "results" / "realtime.json"
PEERS = ["mosec", "triton", "fastapi", "echo"]
MORE = [name for name in SERVERS if name not in ("fourfold", *PEERS)]
"""Measured where they are asked for."""
WARM_UP = (16, 1)
"""Connections and seconds that are not counted."""


def main() -> None:
    choice = _arguments()
    models.ensure()
    servers, versions = _install(choice.peers)
    records: list[dict[str, Any]] = []
    for round_number in range(choice.rounds):
        for model in choice.models:
            for server in servers:
                records += _one_turn(server, model, round_number, choice)
    print(report.text(records))
    if not choice.partial:
        RESULTS.parent.mkdir(exist_ok=True)
        run = {"records": records, "versions": versions, "about": _about(choice)}
        RESULTS.write_text(json.dumps(run, indent=1))
        report.write(run)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", help=f"beside fourfold: {','.join(PEERS)}; or none; also {','.join(MORE)}")
    parser.add_argument("--models", help="fraud,mlp")
    parser.add_argument("--connections", help="1,16,64,256; of mlp 64 alone")
    parser.add_argument("--seconds", type=int, help="of each stretch; 1")
    parser.add_argument("--rounds", type=int, help="3")
    given = parser.parse_args()
    chosen = argparse.Namespace(partial=any(value is not None for value in vars(given).values()))
    peers = PEERS if given.peers is None else [one for one in given.peers.split(",") if one != "none"]
    chosen.peers = ["fourfold", *(one for one in peers if one != "fourfold")]
    chosen.models = (given.models or "fraud,mlp").split(",")
    chosen.connections = [int(one) for one in (given.connections or "1,16,64,256").split(",")]
    chosen.seconds = given.seconds or 1
    chosen.rounds = given.rounds or 3
    return chosen


def _install(names: list[str]) -> tuple[list[Server], dict[str, str]]:
    """The servers that can run here, and what is in their environments; the reason where one cannot."""
    servers, versions = [], {}
    for name in names:
        try:
            versions[name] = SERVERS[name].install()
            servers.append(SERVERS[name])
        except (RuntimeError, OSError) as error:
            versions[name] = f"not measured: {error}"
            print(f"{name} cannot be installed: {error}", file=sys.stderr)
    return servers, versions


def _one_turn(server: Server, model: str, round_number: int, choice: argparse.Namespace) -> list[dict[str, Any]]:
    """Start a server with a model, load it at each number of connections, and stop it."""
    common = {"server": server.name, "model": model, "round": round_number}
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        quiet = _idle_share()
        try:
            running = server.start(model, free_port(), Path(scratch))
        except RuntimeError as error:
            print(f"{server.name} did not start: {error}", file=sys.stderr)
            return []
        try:
            stretches = _stretches(server, running, model, choice)
            rss, pss = running.memory_mb()
        finally:
            running.stop()
    for stretch in stretches:
        print(f"{server.name:16} {model:6} {stretch['kind']:7} c={stretch['connections']:<4}", end="", file=sys.stderr)
        print(
            f"{stretch['per_second']:8.0f}/s  p50 {stretch['p50_ms']:7.2f}  p99 {stretch['p99_ms']:7.2f} ms",
            end="",
            file=sys.stderr,
        )
        print(f"  failed {stretch['failed']}  idle before {quiet:.2f}", file=sys.stderr, flush=True)
    started = {"start_seconds": running.start_seconds, "rss_mb": rss, "pss_mb": pss, "idle": quiet, **running.notes}
    return [{**common, "kind": "process", **started}, *({**common, **stretch} for stretch in stretches)]


def _stretches(server: Server, running: Running, model: str, choice: argparse.Namespace) -> list[dict[str, Any]]:
    found = []

    def load(kind: str, requests: list[bytes], connections: int) -> None:
        measured: Measured = measure(running.url, requests, connections, choice.seconds)
        found.append({"kind": kind, **asdict(measured)})

    same_row = [_request(running, model, server.body)]
    measure(running.url, same_row, *WARM_UP)
    for connections in choice.connections if model == "fraud" else {64} & set(choice.connections):
        load("json", same_row, connections)
    if 64 in choice.connections:
        if server.takes_npy and model == "mlp":
            load("npy", [_request(running, model, "npy")], 64)
        if server.name == "fourfold" and model == "fraud":
            bodies = [models.json_body(row) for row in models.rows(model, 1000)]
            headers = {"Content-Type": "application/json", **running.headers}
            load("bearer", [request_bytes(running.url, headers, body) for body in bodies], 64)
            load("sigv4", signed_requests(running.url, running.keys, bodies), 64)
    return found


def _request(running: Running, model: str, body: str) -> bytes:
    headers = {"Content-Type": CONTENT_TYPES[body], **running.headers}
    return request_bytes(running.url, headers, (models.DATA / f"{model}.{body}").read_bytes())


def _about(choice: argparse.Namespace) -> dict[str, Any]:
    cpus = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE) or ["unknown"]
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 1024**2
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores of {cpus[0]}, {memory:.0f} GiB, Linux {platform.release()}",
        "python": platform.python_version(),
        "generator": GENERATOR,
        "seconds": choice.seconds,
        "rounds": choice.rounds,
    }


def _idle_share() -> float:
    """Share of the last half second in which the processors did nothing: how quiet the machine is."""

    def read() -> tuple[int, int]:
        ticks = [int(one) for one in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return ticks[3] + ticks[4], sum(ticks)

    idle, total = read()
    time.sleep(0.5)
    idle_after, total_after = read()
    return (idle_after - idle) / max(1, total_after - total)


if __name__ == "__main__":
    main()
