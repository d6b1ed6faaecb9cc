"""The load generator: a closed loop over keep-alive connections, from wrk where it is installed, else from asyncio.

wrk takes one thread. The asyncio loop is slower than the servers that it measures, so its figures compare servers only
below a few thousand requests a second; each figure names its generator.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

WRK = shutil.which("wrk")
GENERATOR = "wrk, one thread" if WRK else "asyncio (wrk is not installed: apt-get install wrk)"
MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


@dataclass(frozen=True)
class Measured:
    """One stretch of load."""

    connections: int
    per_second: float
    """Requests answered with 2xx, per second."""
    p50_ms: float
    p99_ms: float
    failed: int
    """Answers other than 2xx, timeouts and broken connections."""


def request_bytes(url: str, headers: dict[str, str], body: bytes, method: str = "POST") -> bytes:
    """A request as it goes over the wire."""
    parts = urlsplit(url)
    lines = [f"{method} {parts.path} HTTP/1.1", f"Host: {parts.netloc}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def measure(url: str, requests: list[bytes], connections: int, seconds: float) -> Measured:
    """Send `requests` in turn over `connections` for so long."""
    if WRK is None:
        return asyncio.run(_measure_with_asyncio(url, requests, connections, seconds))
    return _measure_with_wrk(url, requests, connections, seconds)


def measure_at_rate(url: str, request: bytes, per_second: float, seconds: float) -> Measured:
    """Send `request` so often over one connection; a call that waits for the answer to another counts that time."""
    parts = urlsplit(url)
    count = int(per_second * seconds)
    latencies = []
    with socket.create_connection((parts.hostname or "", parts.port or 80)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.perf_counter()
        for number in range(count):
            due = began + number / per_second
            if (early := due - time.perf_counter()) > 0:
                time.sleep(early)
                due = time.perf_counter()  # what the generator overslept is none of the server's
            connection.sendall(request)
            answer = connection.recv(1 << 16)
            assert answer.startswith(b"HTTP/1.1 2"), answer[:200]
            latencies.append(time.perf_counter() - due)
    latencies.sort()
    at = [latencies[int(share * (count - 1))] * 1000 for share in (0.5, 0.99)]
    return Measured(1, per_second, at[0], at[1], 0)


def in_turns(loads: Sequence[Callable[[], Measured]], rounds: int) -> list[list[Measured]]:
    """Each load so many times, there and back, so that a machine that becomes slower slows all of them."""
    found: list[list[Measured]] = [[] for _ in loads]
    order = list(range(len(loads)))
    for _ in range(rounds):
        for which in order:
            found[which].append(loads[which]())
        order.reverse()
    return found


def _measure_with_wrk(url: str, requests: list[bytes], connections: int, seconds: float) -> Measured:
    assert WRK is not None
    with tempfile.NamedTemporaryFile() as file:
        for request in requests:
            file.write(b"%d\n%s" % (len(request), request))
        file.flush()
        command = [WRK, "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "--timeout", "10s"]
        command += ["-s", str(Path(__file__).parent / "replay.lua"), url]
        environment = os.environ | {"REQUESTS": file.name}
        text = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return _read_wrk(text, connections)


def _read_wrk(text: str, connections: int) -> Measured:
    total = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m)", text)
    assert total, text
    bad = sum(map(int, re.findall(r"Non-2xx or 3xx responses: (\d+)", text)))
    broken = sum(
        int(number) for line in re.findall(r"Socket errors: (.*)", text) for number in re.findall(r"\d+", line)
    )
    elapsed = float(total[2]) * MILLISECONDS[total[3]] / 1000
    return Measured(
        connections=connections,
        per_second=(int(total[1]) - bad) / elapsed,
        p50_ms=_percentile(text, "50%"),
        p99_ms=_percentile(text, "99%"),
        failed=bad + broken,
    )


def _percentile(text: str, which: str) -> float:
    found = re.search(rf"{which}\s+([\d.]+)(us|ms|s|m)\b", text)
    return float(found[1]) * MILLISECONDS[found[2]] if found else float("nan")


async def _measure_with_asyncio(url: str, requests: list[bytes], connections: int, seconds: float) -> Measured:
    parts = urlsplit(url)
    end = time.perf_counter() + seconds
    latencies: list[float] = []
    failed = 0

    async def client(turn: int) -> None:
        nonlocal failed
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        while (began := time.perf_counter()) < end:
            writer.write(requests[turn % len(requests)])
            turn += connections
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
            await reader.readexactly(int(length[1]) if length else 0)
            if head[9:10] == b"2":
                latencies.append(time.perf_counter() - began)
            else:
                failed += 1
        writer.close()

    await asyncio.gather(*(client(turn) for turn in range(connections)))
    latencies.sort()
    at = [latencies[int(share * (len(latencies) - 1))] * 1000 if latencies else float("nan") for share in (0.5, 0.99)]
    return Measured(connections, len(latencies) / seconds, at[0], at[1], failed)
