"""How fast are asynchronous calls accepted and answered? Writes the section `asynchronous` of performance.md.

    python bench/asynchronous.py [--jobs 4000] [--rounds 3] [--queued 1000 1000000] [--no-peers] [--dry]

accepts        16 connections, closed loop, an inline body; each answer comes after the call is synced to disk
idle           one call at a time: from the answer of the acceptance until the output object is there
end to end     no-op calls from the first request until the last output object is there, beside other queues
flat           what a call costs with 1,000 and with 1,000,000 calls queued
"""

from __future__ import annotations

import argparse
import asyncio
import io
import itertools
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import queues
import report
from load import measure, request_bytes
from servers import Fourfold, Running, client, free_port

CONNECTIONS = 16
MANY_CONNECTIONS = 64
BODY = b'{"instances": [[0.1, 0.2, 0.3, 0.4]]}'
NOOP = """
import time


def model_fn(model_dir):
    return None


def transform_fn(model, body, content_type, accept):
    if body == b"wait":
        time.sleep(3600)
    return body, content_type
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of load for the acceptances")
    parser.add_argument("--queued", type=int, nargs=2, default=(1_000, 1_000_000))
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--dry", action="store_true", help="print, and leave the page alone")
    choice = parser.parse_args()
    rows = []
    for row in itertools.chain(_speeds(choice), _flat(choice)):
        print(" | ".join(row), flush=True)
        rows.append(row)
    if not choice.dry:
        report.write_section("asynchronous", report.table(("", "measured", "floor"), rows))


def _speeds(choice: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    with _server() as server:
        with server.blocked():
            accepted = measure(server.url, [server.request], CONNECTIONS, choice.seconds)
        yield (
            f"durable acceptances, {CONNECTIONS} connections",
            f"{accepted.per_second:,.0f}/s (p50 {accepted.p50_ms:.1f} ms, p99 {accepted.p99_ms:.1f} ms, "
            f"{accepted.failed} failed)",
            "3,000/s",
        )
    with _server() as server:
        pings = server.pings(200)
        quantile = statistics.quantiles(pings, n=100)
        yield ("accepted to output object, idle", f"p50 {quantile[49]:.1f} ms, p99 {quantile[98]:.1f} ms", "p50 10 ms")
        own = {
            connections: [server.jobs_per_second(choice.jobs, connections) for _ in range(choice.rounds)]
            for connections in (CONNECTIONS, MANY_CONNECTIONS)
        }
    for connections, rates in own.items():
        spread = f"{statistics.median(rates):,.0f}/s ({min(rates):,.0f}–{max(rates):,.0f})"
        yield (f"no-op calls end to end, durable, {connections} connections", spread, "")
    for name, floor in () if choice.no_peers else zip(queues.PEERS, (3.0, 1.2, 1.2), strict=True):
        try:
            theirs = [queues.jobs_per_second(name, choice.jobs) for _ in range(choice.rounds)]
        except RuntimeError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        rate = statistics.median(theirs)
        spread = f"{rate:,.0f}/s ({min(theirs):,.0f}–{max(theirs):,.0f})"
        few, many = (statistics.median(rates) / rate for rates in own.values())
        yield (
            name,
            f"{spread}; Fourfold is {few:.2f}x with {CONNECTIONS}, {many:.2f}x with {MANY_CONNECTIONS}",
            f"{floor:g}x",
        )


def _flat(choice: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    """Accept with few and with many queued, then let some run."""
    with _server() as server, server.blocked():
        for count in choice.queued:
            server.fill(count)
            accepted = measure(server.url, [server.request], CONNECTIONS, 2.0)
            looks = server.looks(50)
            claims = server.claims(20)
            yield (
                f"with {count:,} queued",
                f"{accepted.per_second:,.0f} acceptances/s, status of the last {looks:.1f} ms, "
                f"claim of 64 {claims:.1f} ms",
                "flat",
            )


@dataclass
class Asynchronous:
    """A server with an asynchronous endpoint of a model that does nothing."""

    running: Running
    folder: Path
    url: str
    headers: dict[str, str]
    runtime: Any

    @property
    def request(self) -> bytes:
        return request_bytes(self.url, self.headers, BODY)

    def submit(self, body: bytes) -> str:
        """Accept one call; the path of its output below the buckets."""
        answer = self.runtime.invoke_endpoint_async(EndpointName="noop", Body=body, ContentType="text/plain")
        return str(answer["OutputLocation"].removeprefix("s3://"))

    @contextmanager
    def blocked(self) -> Iterator[None]:
        """While the worker is busy with one long call, calls are accepted and wait."""
        self.submit(b"wait")
        time.sleep(0.5)
        yield

    def pings(self, count: int) -> list[float]:
        """Milliseconds from the end of an acceptance until its output is there."""
        times = []
        for i in range(count + 20):
            path = self.folder / "buckets" / self.submit(b"ping")
            began = time.perf_counter()
            while not path.exists():
                time.sleep(0.0002)
            if i >= 20:
                times.append((time.perf_counter() - began) * 1000)
            time.sleep(0.005)
        return times

    def jobs_per_second(self, jobs: int, connections: int) -> float:
        """From the first request until the last output object is there."""
        began = time.monotonic()
        for location in asyncio.run(send(self.url, self.request, connections, jobs)):
            path = self.folder / "buckets" / location.removeprefix("s3://")
            while not path.exists():
                time.sleep(0.001)
        return jobs / (time.monotonic() - began)

    def fill(self, queued: int) -> None:
        """Bring the queue to so many calls, past the front door: as the server's own ledger writes them."""
        from fourfold.store import Store, queue

        store = Store(f"sqlite:///{self.folder / 'fourfold.db'}")
        now = time.time()
        try:
            while (more := queued - store.run_now(lambda db: queue.count(db, "noop")).queued) > 0:
                new = [_call(i, now) for i in range(min(more, 5000))]
                store.run_now(lambda db, new=new: queue.accept(db, "noop", new, now, 2 * queued))
        finally:
            store.close()

    def looks(self, count: int) -> float:
        """Milliseconds that the status of the newest call takes, its place in the queue included."""
        from fourfold.store import Store, queue

        store = Store(f"sqlite:///{self.folder / 'fourfold.db'}")
        (last,) = store.run_now(lambda db: queue.list_calls(db, "noop", ("queued",), 1))

        def look() -> None:
            row = store.run_now(lambda db: queue.find(db, "noop", last.inference_id))
            store.run_now(lambda db: queue.place(db, "noop", row.number))

        return _milliseconds(look, count)

    def claims(self, count: int) -> float:
        """Milliseconds that claiming 64 calls takes."""
        from fourfold.store import Store, queue

        store = Store(f"sqlite:///{self.folder / 'fourfold.db'}")
        return _milliseconds(
            lambda: store.run_now(lambda db: queue.claim(db, "noop", "bench", time.time(), 3600.0, 64)), count
        )


def _milliseconds(action: Any, count: int) -> float:
    times = []
    for _ in range(count):
        began = time.perf_counter()
        action()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def _call(number: int, now: float) -> Any:
    from fourfold.modes.asynchronous.accept import _time_ordered_id
    from fourfold.store.queue import NewCall

    name = _time_ordered_id()
    request = '{"ttl":21600,"timeout":900,"content_type":"text/plain"}'
    place = f"s3://answers/out/{name}"
    return NewCall(name, f"{place}.out", f"{place}-error.out", request, now + 21_600, BODY)


@contextmanager
def _server() -> Iterator[Asynchronous]:
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        running = Fourfold("--max-backlog", "2000000").serve("noop", free_port(), Path(scratch))
        try:
            yield _deployed(running, Path(scratch))
        finally:
            running.process.kill()  # its long call would hold a graceful end back
            running.process.wait()


def _deployed(running: Running, scratch: Path) -> Asynchronous:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        entry = tarfile.TarInfo("code/inference.py")
        entry.size = len(NOOP)
        tar.addfile(entry, io.BytesIO(NOOP.encode()))
    s3, sagemaker = client(running.keys, "s3"), client(running.keys, "sagemaker")
    s3.create_bucket(Bucket="answers")
    s3.put_object(Bucket="answers", Key="model.tar.gz", Body=archive.getvalue())
    sagemaker.create_model(ModelName="noop", PrimaryContainer={"ModelDataUrl": "s3://answers/model.tar.gz"})
    variant = {"VariantName": "a", "ModelName": "noop", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    sagemaker.create_endpoint_config(
        EndpointConfigName="noop",
        ProductionVariants=[variant],
        AsyncInferenceConfig={"OutputConfig": {"S3OutputPath": "s3://answers/out"}},
    )
    sagemaker.create_endpoint(EndpointName="noop", EndpointConfigName="noop")
    while sagemaker.describe_endpoint(EndpointName="noop")["EndpointStatus"] != "InService":
        time.sleep(0.05)
    url = running.url.replace("/invocations", "/async-invocations")
    headers = running.headers | {"X-Amzn-SageMaker-Content-Type": "application/json"}
    return Asynchronous(running, scratch / "data", url, headers, client(running.keys, "sagemaker-runtime"))


async def send(url: str, request: bytes, connections: int, count: int) -> list[str]:
    """Send a request `count` times over some connections, each after the answer to the one before.

    Returns:
        where the outputs will be.
    """
    left = iter(range(count))
    locations: list[str] = []
    parts = urlsplit(url)

    async def one() -> None:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        for _ in left:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 202"):
                raise RuntimeError(head.decode())
            await reader.readexactly(int(_header(head, b"content-length")))
            locations.append(_header(head, b"x-amzn-sagemaker-outputlocation").decode())
        writer.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    return locations


def _header(head: bytes, name: bytes) -> bytes:
    return head.partition(name + b": ")[2].partition(b"\r\n")[0]


if __name__ == "__main__":
    main()
