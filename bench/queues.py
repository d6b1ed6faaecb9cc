"""The task queues that asynchronous endpoints are measured beside: one worker process each, no-op jobs.

Redis keeps nothing on disk here, as in its users' usual benchmarks; Huey's SQLite and Fourfold do.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import venvs

HERE = Path(__file__).parent / "peers" / "queues"
PACKAGES = ["celery", "dramatiq", "huey", "redis"]
REDIS = shutil.which("redis-server")


@dataclass(frozen=True)
class Peer:
    """A queue: its module in `peers/queues` and how its worker is started."""

    module: str
    command: tuple[str, ...]
    redis: bool = True
    durable: bool = False


PEERS = {
    "celery, Redis, prefork -c1": Peer(
        "with_celery",
        ("-m", "celery", "-A", "with_celery", "worker", "-c", "1", "-l", "error",
         "--without-gossip", "--without-mingle", "--without-heartbeat"),
    ),
    "dramatiq, Redis, 8 threads": Peer("with_dramatiq", ("-m", "dramatiq", "with_dramatiq", "-p", "1")),
    "huey, SQLite": Peer(
        "with_huey",
        ("-m", "huey.bin.huey_consumer", "with_huey.huey", "-w", "1", "-k", "process", "-q"),
        redis=False,
        durable=True,
    ),
}  # fmt: skip


def jobs_per_second(name: str, jobs: int) -> float:
    """From the first enqueue to the last job's run.

    Raises:
        RuntimeError: redis-server is missing, or the queue did not work.
    """
    peer = PEERS[name]
    if peer.redis and REDIS is None:
        raise RuntimeError("redis-server is not installed: apt-get install redis-server")
    python = venvs.ensure("queues", PACKAGES) / "python"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        ran = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        stack.callback(ran.close)
        ran.bind(str(folder / "ran"))
        ran.settimeout(30)
        environment = os.environ | {
            "BENCH_SOCKET": str(folder / "ran"),
            "HUEY_FILE": str(folder / "huey.db"),
            "PYTHONPATH": str(HERE),
        }
        if peer.redis:
            environment["REDIS_URL"] = stack.enter_context(_redis(folder))
        worker = subprocess.Popen(
            [python, *peer.command], env=environment, cwd=HERE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        stack.callback(_end, worker)
        producer = subprocess.Popen(
            [python, "produce.py", peer.module],
            env=environment, cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        stack.callback(_end, producer)
        _run(producer, ran, 20)  # the worker is up, connections are made
        began = _run(producer, ran, jobs)
        return jobs / (time.monotonic() - began)


def _run(producer: subprocess.Popen[str], ran: socket.socket, jobs: int) -> float:
    """Enqueue and wait until all have run; when the first was enqueued."""
    assert producer.stdin is not None
    assert producer.stdout is not None
    producer.stdin.write(f"{jobs}\n")
    producer.stdin.flush()
    try:
        for _ in range(jobs):
            ran.recv(1)
    except TimeoutError:
        raise RuntimeError("the queue's worker ran nothing for 30 s") from None
    return int(producer.stdout.readline()) / 1e9


@contextmanager
def _redis(folder: Path) -> Iterator[str]:
    path = folder / "redis"
    command = [REDIS or "", "--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no"]
    server = subprocess.Popen([*command, "--dir", str(folder)], stdout=subprocess.DEVNULL)
    while not path.exists():
        time.sleep(0.01)
    try:
        yield f"unix://{path}"
    finally:
        _end(server)


def _end(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


if __name__ == "__main__":
    print(jobs_per_second(sys.argv[1], 2000))
