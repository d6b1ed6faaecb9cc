"""How fast is a transform job beside a bare loop? Writes the section `batch` of docs/reference/performance.md.

    python bench/batch.py [--parts throughput,neighbour] [--rows 10000000] [--csv-rows 1000000] [--rounds 2]

The bare loop is what a careful person would write: pyarrow reads, `session.run` takes blocks of 4,096 rows, pyarrow
writes, in as many processes as the job has workers, each with its part of the rows. Job and loop take turns on the same
file. Workers of jobs have the lowest priority: on a machine with other work, --nice gives the loop the same, so that
the ratio holds. Ray Data and mosec are installed into environments of their own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import models
import numpy as np
import onnxruntime as ort
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import report
import venvs
from load import Measured, measure, measure_at_rate, request_bytes
from servers import PEERS, SERVERS, Fourfold, Running, client, free_port

BLOCK = 4096
GROUP = 65_536
"""Rows of a row group."""
WORKERS = 2
COLUMNS = [f"f{i}" for i in range(30)]
NEIGHBOUR_RATE = 200
"""Calls a second that endpoints beside a job get, where the load is not a closed loop."""
PARQUET = "application/vnd.apache.parquet"


# The data


def ensure_parquet(rows: int) -> Path:
    """A file of `rows` distinct rows, 30 columns of float32."""
    path = models.DATA / f"batch-{rows}.parquet"
    if not path.exists():
        random = np.random.default_rng(models.SEED)
        with pq.ParquetWriter(path, pa.schema([(name, pa.float32()) for name in COLUMNS])) as writer:
            for start in range(0, rows, GROUP):
                block = random.standard_normal((min(GROUP, rows - start), 30), np.float32).round(4)
                writer.write_table(pa.table(dict(zip(COLUMNS, block.T, strict=True))), row_group_size=GROUP)
    return path


def ensure_csv(rows: int) -> Path:
    """The same rows as lines, without a header."""
    path = models.DATA / f"batch-{rows}.csv"
    if not path.exists():
        options = pacsv.WriteOptions(include_header=False)
        pacsv.write_csv(pq.read_table(ensure_parquet(rows)), path, options)
    return path


# The bare loop


def bare_parquet(path: Path, processes: int, nice: int) -> float:
    """Seconds of the loop over row groups."""
    groups = pq.ParquetFile(path).num_row_groups
    borders = [groups * i // processes for i in range(processes + 1)]
    return _in_processes(_parquet_part, nice, [(path, *span) for span in itertools.pairwise(borders)])


def bare_csv(path: Path, processes: int, nice: int) -> float:
    """Seconds of the loop over byte ranges that end with a line."""
    size = path.stat().st_size
    borders = [0]
    with path.open("rb") as file:
        for i in range(1, processes):
            file.seek(size * i // processes)
            file.readline()
            borders.append(file.tell())
    borders.append(size)
    return _in_processes(_csv_part, nice, [(path, *span) for span in itertools.pairwise(borders)])


def _in_processes(part: Callable[..., None], nice: int, arguments: list[tuple[Any, ...]]) -> float:
    """Wall seconds from the moment when every process has its imports and its session."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(len(arguments) + 1)
    with tempfile.TemporaryDirectory(dir=models.DATA) as folder:
        processes = [
            context.Process(target=_ready_then, args=(barrier, part, nice, *one, Path(folder) / str(number)))
            for number, one in enumerate(arguments)
        ]
        for process in processes:
            process.start()
        barrier.wait()
        began = time.perf_counter()
        for process in processes:
            process.join()
        seconds = time.perf_counter() - began
    if any(process.exitcode for process in processes):
        sys.exit("the bare loop failed")
    return seconds


def _ready_then(barrier: Any, part: Callable[..., None], nice: int, *arguments: Any) -> None:
    os.nice(nice)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(str(models.DATA / "fraud.onnx"), options, providers=["CPUExecutionProvider"])
    pa.array([0.0]).to_numpy()  # where pandas is installed, the first conversion imports it
    barrier.wait()
    part(session, *arguments)


def _parquet_part(session: Any, path: Path, first: int, last: int, target: Path) -> None:
    file = pq.ParquetFile(path)
    schema = pa.schema([("y0", pa.float32()), ("y1", pa.float32())])
    with pq.ParquetWriter(target, schema) as writer:
        for batch in file.iter_batches(BLOCK, row_groups=list(range(first, last)), use_threads=False):
            answer = session.run(None, {"x": np.column_stack([column.to_numpy() for column in batch.columns])})[0]
            writer.write_table(pa.table([pa.array(answer[:, 0]), pa.array(answer[:, 1])], schema=schema))


def _csv_part(session: Any, path: Path, start: int, stop: int, target: Path) -> None:
    types = dict.fromkeys(COLUMNS, pa.float32())
    with path.open("rb") as file:
        file.seek(start)
        body = pa.BufferReader(file.read(stop - start))
    reader = pacsv.open_csv(
        body,
        pacsv.ReadOptions(use_threads=False, column_names=COLUMNS),
        convert_options=pacsv.ConvertOptions(column_types=types),
    )
    options = pacsv.WriteOptions(include_header=False)
    with target.open("wb") as sink:
        for batch in reader:
            rows = np.column_stack([column.to_numpy() for column in batch.columns])
            for at in range(0, len(rows), BLOCK):
                answer = session.run(None, {"x": rows[at : at + BLOCK]})[0]
                pacsv.write_csv(pa.table({"y0": answer[:, 0], "y1": answer[:, 1]}), sink, options)


# The job


class Jobs:
    """A server with the model, and jobs on it."""

    def __init__(self, running: Running, data_dir: Path) -> None:
        self.running = running
        self.bucket = data_dir / "buckets" / "bench"
        self.sagemaker = client(running.keys, "sagemaker")
        self._names = (f"job-{number}" for number in itertools.count())
        self.name = ""

    def start(self, path: Path, *, workers: int = WORKERS) -> None:
        """A job over one file, which is linked into the bucket."""
        os.link(path, self.folder() / path.name)
        self.submit(path.name, text=path.suffix == ".csv", workers=workers)

    def folder(self) -> Path:
        """The folder of a new job in the bucket."""
        self.name = next(self._names)
        folder = self.bucket / self.name
        folder.mkdir(parents=True)
        return folder

    def submit(self, prefix: str, *, text: bool, workers: int = WORKERS) -> None:
        """Start the job over what begins with `prefix` in its folder."""
        given = {"S3DataType": "S3Prefix", "S3Uri": f"s3://bench/{self.name}/{prefix}"}
        kind = {"ContentType": "text/csv", "SplitType": "Line"} if text else {"ContentType": PARQUET}
        wanted = {"Accept": "text/csv", "AssembleWith": "Line"} if text else {}
        self.sagemaker.create_transform_job(
            TransformJobName=self.name,
            ModelName="fraud",
            MaxConcurrentTransforms=workers,
            TransformInput={"DataSource": {"S3DataSource": given}, **kind},
            TransformOutput={"S3OutputPath": f"s3://bench/{self.name}/out", **wanted},
            TransformResources={"InstanceType": "ml.m5.large", "InstanceCount": 1},
        )

    def run(self, path: Path, *, workers: int = WORKERS) -> float:
        """Wall seconds from the request to the end that a client sees."""
        began = time.perf_counter()
        self.start(path, workers=workers)
        self.wait()
        seconds = time.perf_counter() - began
        shutil.rmtree(self.bucket / self.name)
        return seconds

    def rows_done(self) -> int:
        return int(self.status()["Records"])

    def wait(self) -> None:
        while (job := self.status())["TransformJobStatus"] == "InProgress":
            time.sleep(0.005 if job["Seconds"] < 1 else 0.05)
        if job["TransformJobStatus"] not in ("Completed", "Stopped"):
            sys.exit(f"the job ended as {job}")

    def stop(self) -> None:
        self.sagemaker.stop_transform_job(TransformJobName=self.name)
        while self.status()["TransformJobStatus"] in ("InProgress", "Stopping"):
            time.sleep(0.05)
        shutil.rmtree(self.bucket / self.name)

    def status(self) -> dict[str, Any]:
        url = f"{self.running.keys['AWS_ENDPOINT_URL']}/fourfold/batch/{self.name}"
        with urlopen(Request(url, headers=self.running.headers), timeout=30) as answer:
            return json.loads(answer.read())  # type: ignore[no-any-return]


@dataclass
class Peaks:
    """The most resident megabytes, file pages apart: of any process at the lowest priority, and of the server."""

    worker: float = 0.0
    gateway: float = 0.0


@contextmanager
def peaks(gateway: int) -> Iterator[Peaks]:
    """Looks every 50 ms."""
    found = Peaks()
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.05):
            found.worker = max([found.worker, *map(_anonymous_mb, _lowest_priority())])
            found.gateway = max(found.gateway, _anonymous_mb(gateway))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def _lowest_priority() -> list[int]:
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.getpriority(os.PRIO_PROCESS, int(entry)) == 19:
                found.append(int(entry))
        except (ProcessLookupError, PermissionError):
            continue
    return found


def _anonymous_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


# The figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--csv-rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tiny", type=int, default=100_000, help="objects of one row")
    parser.add_argument("--big", type=int, default=10, metavar="GB", help="size of one CSV object")
    parser.add_argument("--parts", default=",".join(PARTS), help="measure these only; the others stay as they were")
    parser.add_argument("--nice", action="store_true", help="run the bare loop at the priority of a job's workers")
    parser.add_argument("--no-write", action="store_true", help="print only")
    choice = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # so that the server ends, and what is huge is removed
    models.ensure()
    with tempfile.TemporaryDirectory(prefix="batch-", dir=models.DATA) as scratch:  # on the data's file system: linked
        running = Fourfold().start("fraud", free_port(), Path(scratch))
        try:
            jobs = Jobs(running, Path(scratch) / "data")
            for name in choice.parts.split(","):
                text = PARTS[name](jobs, choice)
                print(f"{text}\n", flush=True)
                RESULTS.mkdir(parents=True, exist_ok=True)
                (RESULTS / f"{name}.md").write_text(text)
        finally:
            running.stop()
    if not choice.no_write:
        files = [RESULTS / f"{name}.md" for name in PARTS]
        report.write_section("batch", "\n\n".join([ABOUT, *(file.read_text() for file in files if file.exists())]))


def overhead(jobs: Jobs, _: argparse.Namespace) -> str:
    path = ensure_csv(1)
    first = jobs.run(path)
    again = [jobs.run(path) for _ in range(7)]
    return report.table(
        ("a job of one row", "ms"),
        [
            ("the first one of a server", f"{first * 1000:.0f}"),
            ("the next ones", f"{statistics.median(again) * 1000:.0f}"),
        ],
    )


def throughput(jobs: Jobs, choice: argparse.Namespace) -> str:
    rows = []
    kinds: list[tuple[str, Path, int, Callable[[Path, int, int], float]]] = [
        ("Parquet", ensure_parquet(choice.rows), choice.rows, bare_parquet),
        ("CSV", ensure_csv(choice.csv_rows), choice.csv_rows, bare_csv),
    ]
    with peaks(jobs.running.process.pid) as memory:
        for title, path, count, bare in kinds:
            loop, job = [], []
            for _ in range(choice.rounds):
                loop.append(bare(path, WORKERS, 19 if choice.nice else 0))
                job.append(jobs.run(path))
            ratio = statistics.median(loop) / statistics.median(job)
            rows.append((f"{title}, {count:,} rows", _rate(count, loop), _rate(count, job), f"{ratio:.2f}"))
            print(rows[-1], file=sys.stderr)
    table = report.table(("", "bare loop, rows/s", "job, rows/s", "job / loop"), rows)
    return (
        f"{table}\n\nMost memory: {memory.worker:.0f} MB of a worker, model included, and "
        f"{memory.gateway:.0f} MB of the server."
    )


def growth(jobs: Jobs, choice: argparse.Namespace) -> str:
    sizes = [size for size in (10_000, 100_000, 1_000_000, 10_000_000) if size <= choice.rows]
    rows = []
    for size in sizes:
        path = ensure_parquet(size)
        seconds = statistics.median(jobs.run(path) for _ in range(3 if size < 1_000_000 else 1))
        rows.append((f"{size:,}", f"{seconds:.2f}", f"{size / seconds:,.0f}"))
    return report.table(("rows of Parquet", "s", "rows/s"), rows)


def scaling(jobs: Jobs, choice: argparse.Namespace) -> str:
    path = ensure_parquet(choice.rows)
    nice = 19 if choice.nice else 0
    job: dict[int, list[float]] = {1: [], 2: []}
    loop: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(choice.rounds):
        for workers in (1, 2):
            job[workers].append(jobs.run(path, workers=workers))
            loop[workers].append(bare_parquet(path, workers, nice))
    times = [statistics.median(one[1]) / statistics.median(one[2]) for one in (job, loop)]
    return f"Two workers are {times[0]:.2f} times as fast as one, two processes of the bare loop {times[1]:.2f} times."


def neighbour(jobs: Jobs, choice: argparse.Namespace) -> str:
    running = jobs.running
    body = (models.DATA / "fraud.json").read_bytes()
    request = request_bytes(running.url, {"Content-Type": "application/json", **running.headers}, body)
    path = ensure_parquet(choice.rows)
    loads: dict[str, Callable[[], Measured]] = {
        f"{NEIGHBOUR_RATE} calls/s": lambda: measure_at_rate(running.url, request, NEIGHBOUR_RATE, 3.0),
        "1 connection": lambda: measure(running.url, [request], 1, 3.0),
        "8 connections": lambda: measure(running.url, [request], 8, 3.0),
    }
    rows = []
    for title, load in loads.items():
        alone, beside, job = [], [], []
        for _ in range(choice.rounds + 2):
            alone.append(load().p99_ms)
            jobs.start(path)
            time.sleep(1.0)
            before, began = jobs.rows_done(), time.perf_counter()
            beside.append(load().p99_ms)
            job.append((jobs.rows_done() - before) / (time.perf_counter() - began))
            jobs.stop()
        without, with_job = statistics.median(alone), statistics.median(beside)
        figures = (f"{without:.2f}", f"{with_job:.2f}", f"{with_job / without:.2f}", f"{statistics.median(job):,.0f}")
        rows.append((title, *figures))
        print(rows[-1], file=sys.stderr)
    return report.table(
        ("real-time calls beside a job", "p99 alone, ms", "p99 beside, ms", "times", "job meanwhile, rows/s"), rows
    )


def big(jobs: Jobs, choice: argparse.Namespace) -> str:
    """A CSV object of so many gigabytes: 200 MB of distinct rows again and again."""
    block = ensure_csv(1_000_000)
    path = models.DATA / "batch-big.csv"
    count = choice.big * 10**9 // block.stat().st_size
    with path.open("wb") as file:
        for _ in range(count):
            file.write(block.read_bytes())
    try:
        with peaks(jobs.running.process.pid) as memory:
            seconds = jobs.run(path)
    finally:
        path.unlink()
    return (
        f"A CSV object of {choice.big} GB, {count} million rows: {count * 1e6 / seconds:,.0f} rows/s. Most memory: "
        f"{memory.worker:.0f} MB of a worker, model included, and {memory.gateway:.0f} MB of the server."
    )


def tiny(jobs: Jobs, choice: argparse.Namespace) -> str:
    """Objects of one row each."""
    count = choice.tiny
    row = ensure_csv(1).read_bytes()
    folder = jobs.folder()
    for number in range(count):
        (folder / f"{number:06}.csv").write_bytes(row)
    with peaks(jobs.running.process.pid) as memory:
        began = time.perf_counter()
        jobs.submit("", text=True)
        while (status := jobs.status())["Objects"] < count and status["TransformJobStatus"] == "InProgress":
            time.sleep(0.02)
        planned = time.perf_counter() - began
        jobs.wait()
        seconds = time.perf_counter() - began
    done = sum(1 for _ in (folder / "out").iterdir())
    if done != count:
        sys.exit(f"{done} outputs of {count} objects")
    shutil.rmtree(folder)
    return (
        f"{count:,} objects of one row: planned after {planned:.1f} s, done after {seconds:.1f} s, "
        f"{count / seconds:,.0f} objects/s. Most memory: {memory.worker:.0f} MB of a worker, "
        f"{memory.gateway:.0f} MB of the server."
    )


def ray(jobs: Jobs, choice: argparse.Namespace) -> str:
    """Ray Data over the same Parquet with one actor and with as many as there are workers, in turns with jobs."""
    venvs.ensure("ray", ["ray[data]"])
    rows = []
    for count in sorted({min(1_000_000, choice.rows), choice.rows}):
        path = ensure_parquet(count)
        own: list[float] = []
        others: dict[int, list[float]] = {1: [], WORKERS: []}
        for _ in range(choice.rounds):
            own.append(jobs.run(path))
            for actors, seconds in others.items():
                seconds.append(ray_data(path, actors))
        for actors, seconds in others.items():
            times = statistics.median(seconds) / statistics.median(own)
            rows.append((f"{count:,}", str(actors), _rate(count, seconds), _rate(count, own), f"{times:.1f}"))
    title = f"{venvs.versions('ray', ['ray'])}, `map_batches`: rows of Parquet"
    return report.table((title, "actors", "Ray Data, rows/s", "job, rows/s", "job / Ray Data"), rows)


def mosec(jobs: Jobs, choice: argparse.Namespace) -> str:
    """Single JSON requests to mosec, and the same rows as a job."""
    server = SERVERS["mosec"]
    server.install()
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        running = server.start("fraud", free_port(), Path(scratch))
        try:
            body = (models.DATA / "fraud.json").read_bytes()
            request = request_bytes(running.url, {"Content-Type": "application/json"}, body)
            rate = measure(running.url, [request], 64, 3.0).per_second
        finally:
            running.stop()
    lines = ensure_csv(choice.csv_rows)
    own = choice.csv_rows / statistics.median(jobs.run(lines) for _ in range(choice.rounds))
    return (
        f"mosec, one row a JSON request, 64 connections: {rate:,.0f} rows/s. The job over {choice.csv_rows:,} lines: "
        f"{own:,.0f}, {own / rate:.1f} times as many."
    )


def ray_data(path: Path, actors: int) -> float:
    """Seconds of the same work in Ray Data."""
    command = [venvs.VENVS / "ray/bin/python", PEERS / "ray_batch.py", models.DATA / "fraud.onnx", path, actors, BLOCK]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return float(done.stdout.split()[-1])


PARTS: dict[str, Callable[[Jobs, argparse.Namespace], str]] = {
    part.__name__: part for part in (overhead, throughput, growth, scaling, neighbour, tiny, big, ray, mosec)
}
RESULTS = Path(__file__).parent / "results" / "batch"
ABOUT = (
    f"`fraud`, 30 float32 a row, {os.cpu_count()} cores, {WORKERS} workers; medians, job and bare loop taking turns. "
    "A job's time is the client's: from CreateTransformJob to the status Completed, planning, start of the workers and "
    "putting together included."
)


def _rate(rows: int, seconds: list[float]) -> str:
    return f"{rows / statistics.median(seconds):,.0f}"


if __name__ == "__main__":
    main()
