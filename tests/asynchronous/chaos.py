"""Kill the server and its workers again and again while clients send calls, then look whether each call came out right.

The suite runs it for a few seconds, `bench/chaos.py` for as long as one likes.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from fourfold.modes.asynchronous.orders import KEPT
from tests.asynchronous.conftest import create, route
from tests.server import LiveServer

RESULT = """
import time


def model_fn(model_dir):
    return None


def transform_fn(model, data, content_type, accept):
    time.sleep(0.002)
    return b"result of " + bytes(data), "text/plain"
"""
CLIENTS = 3


@dataclass
class Report:
    """What came of a run."""

    accepted: int = 0
    """Calls whose acceptance a client has seen."""
    completed: int = 0
    """Calls that have completed; more than `accepted` where a kill came between acceptance and answer."""
    server_kills: int = 0
    worker_kills: int = 0
    retried: int = 0
    """Calls that were tried more than once."""
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    other: dict[str, int] = field(default_factory=dict)
    """Calls in any other state than completed."""
    objects: int = 0
    leftovers: int = 0
    """Temporary files that nobody will publish."""


def run(folder: Path, artifact: Path, *, kills: int, pause: float, least: int = 0, seed: int = 4) -> Report:
    """One run.

    Args:
        folder: for the server's data.
        artifact: a handler with the code of RESULT.
        kills: how many, of the server and of workers by turns.
        pause: longest time between two, seconds.
        least: go on sending until so many calls have been accepted.
        seed: of the moments.
    """
    server = LiveServer(folder / "data")
    server.client("s3").create_bucket(Bucket="answers")
    server.deploy("chaos", artifact, endpoint=False)
    create(server, "chaos", {"OutputConfig": {"S3OutputPath": "s3://answers/out"}})
    report = Report()
    accepted: dict[str, tuple[bytes, str]] = {}
    stop = threading.Event()
    clients = [threading.Thread(target=_submit, args=(server, n, accepted, stop)) for n in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        dice = random.Random(seed)
        for kill in range(kills):
            time.sleep(pause * dice.random())
            if kill % 2:
                report.worker_kills += _kill_a_worker(server)
            else:
                server.kill()
                server.start()
                report.server_kills += 1
        while len(accepted) < least:
            time.sleep(0.05)
    finally:
        stop.set()
        for client in clients:
            client.join(60)
    _wait_until_answered(server)
    _look(server, accepted, report)
    server.stop()
    return report


def _submit(server: LiveServer, client: int, accepted: dict[str, tuple[bytes, str]], stop: threading.Event) -> None:
    """Send calls until told to stop; note each that was accepted, with what it should be answered."""
    number = 0
    headers = {"Authorization": f"Bearer {server.keys['api_key']}", "X-Amzn-SageMaker-Content-Type": "text/plain"}
    while not stop.is_set():
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)
        with suppress(OSError, http.client.HTTPException):
            while not stop.is_set():
                body = b"%d.%d" % (client, number)
                number += 1
                connection.request("POST", "/endpoints/chaos/async-invocations", body, headers)
                answer = connection.getresponse()
                content = answer.read()
                if answer.status == 202:
                    location = answer.headers["X-Amzn-SageMaker-OutputLocation"]
                    accepted[json.loads(content)["InferenceId"]] = (b"result of " + body, location)
        connection.close()
        time.sleep(0.02)


def _kill_a_worker(server: LiveServer) -> int:
    """Kill one, as soon as there is one."""
    end = time.monotonic() + 3
    while not (workers := server.worker_pids()) and time.monotonic() < end:
        time.sleep(0.02)
    for pid in workers[:1]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return 1
    return 0


def _wait_until_answered(server: LiveServer) -> None:
    end = time.monotonic() + 100
    while any(_counts(server)[state] for state in ("queued", "running")):
        assert time.monotonic() < end, f"calls are still waiting: {_counts(server)}"
        time.sleep(0.05)


def _counts(server: LiveServer) -> dict[str, int]:
    counts: dict[str, int] = route(server, "GET", "/fourfold/async/chaos?limit=1")[1]["counts"]
    return counts


def _look(server: LiveServer, accepted: dict[str, tuple[bytes, str]], report: Report) -> None:
    counts = _counts(server)
    buckets = server.folder / "buckets"
    report.accepted = len(accepted)
    report.completed = counts.pop("completed")
    report.other = {state: count for state, count in counts.items() if count}
    report.objects = len(list((buckets / "answers" / "out").iterdir()))
    report.leftovers = len(list((buckets / "answers" / KEPT).iterdir()))
    for id, (answer, location) in accepted.items():
        path = buckets / location.removeprefix("s3://")
        if not path.exists():
            report.lost.append(id)
        elif path.read_bytes() != answer:
            report.wrong.append(id)
    before: int | None = None
    while True:
        query = "limit=1000" + (f"&before={before}" if before else "")
        page = route(server, "GET", f"/fourfold/async/chaos?{query}")[1]
        report.retried += sum(each["attempts"] > 1 for each in page["calls"])
        before = page["next"]
        if before is None:
            return
