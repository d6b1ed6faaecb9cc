"""Sends requests at given moments and times the answers: an open loop, so a slow server does not slow the arrivals.

HTTP/1.1 over plain connections that are kept and reused; one event loop, a few thousand requests a second.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from fourfold.advisor.arrivals import Times

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True)
class Replay:
    """What came back, in order of arrival."""

    latency_s: NDArray[np.float64]
    """Seconds from the moment at which the request was due to its answer; NaN where it was not answered with 2xx."""
    statuses: dict[int, int]
    """How many answers had each HTTP status; 0 for connections that broke."""
    span_s: float
    """From the first arrival to the last answer."""
    began_at: float = 0.0
    """Seconds since 1970 at second 0 of the arrivals."""

    @property
    def answered(self) -> int:
        """Requests that were answered with 2xx."""
        return sum(count for status, count in self.statuses.items() if 200 <= status < 300)

    @property
    def throughput(self) -> float:
        return self.answered / self.span_s if self.span_s else 0.0


async def replay(url: str, headers: dict[str, str], body: bytes, arrivals: Times) -> Replay:
    """POST `body` to `url` at each of `arrivals` (seconds from now)."""
    address = urlsplit(url)
    head = [f"POST {address.path} HTTP/1.1", f"Host: {address.netloc}", f"Content-Length: {len(body)}"]
    head += [f"{name}: {value}" for name, value in headers.items()]
    request = "\r\n".join([*head, "", ""]).encode() + body
    free: list[Connection] = []
    loop = asyncio.get_running_loop()
    begin = loop.time() + 0.05
    began_at = time.time() + 0.05
    latency = np.full(len(arrivals), np.nan)
    statuses: dict[int, int] = {}

    async def send(number: int, due: float) -> None:
        try:
            status = await _exchange(free, address.hostname or "", address.port or 80, request)
        except (OSError, EOFError, ValueError):
            status = 0
        statuses[status] = statuses.get(status, 0) + 1
        if 200 <= status < 300:
            latency[number] = loop.time() - due

    async with asyncio.TaskGroup() as tasks:
        for number, after in enumerate(arrivals.tolist()):
            due = begin + after
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            tasks.create_task(send(number, due))
    span = loop.time() - begin - float(arrivals[0]) if len(arrivals) else 0.0
    for _, writer in free:
        writer.close()
    return Replay(latency, statuses, span, began_at)


async def _exchange(free: list[Connection], host: str, port: int, request: bytes) -> int:
    """One request on a free connection, or on a new one; the connection is free again afterwards."""
    reader, writer = free.pop() if free else await asyncio.open_connection(host, port)
    try:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
        await reader.readexactly(int(fields[b"content-length"]))
    except BaseException:
        writer.close()
        raise
    free.append((reader, writer))
    return status
