"""The servers that are measured: how each is installed, started and called. Adding one is adding a class to `SERVERS`.

All serve the same ONNX file through ONNX Runtime with one thread, one worker, one row a request.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from urllib.error import URLError
from urllib.request import Request, urlopen

import boto3
import models
import venvs

PEERS = Path(__file__).parent / "peers"
CONTENT_TYPES = {"json": "application/json", "v2.json": "application/json", "npy": "application/x-npy"}
START_SECONDS = 90


@dataclass
class Running:
    """A server that answers. Memory is of the process that was started and all its descendants."""

    url: str
    """Where the model is called."""
    process: subprocess.Popen[bytes]
    headers: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    """What `fourfold env` prints; of Fourfold only."""
    start_seconds: float = 0.0
    """From the spawn to the first answer of the model."""
    notes: dict[str, float] = field(default_factory=dict)

    def memory_mb(self) -> tuple[float, float]:
        """RSS (shared pages counted in each process) and PSS (shared pages counted once)."""
        texts = [_read(Path(f"/proc/{pid}/smaps_rollup")) for pid in family(self.process.pid)]
        return _sum_mb("Rss", texts), _sum_mb("Pss", texts)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            for pid in reversed(family(self.process.pid)):
                os.kill(pid, 9)
            self.process.wait()


class Server:
    """One way to serve a model."""

    name: ClassVar[str]
    title: ClassVar[str]
    packages: ClassVar[list[str]] = []
    """What pip installs into an environment of its own, beside ONNX Runtime."""
    python: ClassVar[str] = sys.executable
    path: ClassVar[str] = "/"
    body: ClassVar[str] = "json"
    """Which of the model's request files it takes."""
    takes_npy: ClassVar[bool] = False
    settings: ClassVar[str] = ""

    def install(self) -> str:
        """Make its environment; the versions in it. Raises RuntimeError."""
        venvs.ensure(self.name, self.packages, self.python)
        return venvs.versions(self.name, [re.split(r"[<>=\[]", package)[0] for package in self.packages])

    def command(self, model: str, port: int, scratch: Path) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {}

    def artifact(self, model: str) -> Path:
        """The file that it serves."""
        return models.DATA / f"{model}.onnx"

    def start(self, model: str, port: int, scratch: Path) -> Running:
        """Start it with a model and wait for the model's first answer."""
        began = time.perf_counter()
        process = self._spawn(self.command(model, port, scratch), model, scratch)
        running = Running(f"http://127.0.0.1:{port}{self.path}", process)
        try:
            wait_for_answer(running, self.body, model)
        except RuntimeError as error:
            running.stop()
            raise RuntimeError(f"{error}\n{_read(scratch / 'log')[-2000:]}") from None
        running.start_seconds = time.perf_counter() - began
        return running

    def _spawn(self, command: list[str], model: str, scratch: Path) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "BENCH_MODEL": str(self.artifact(model)),
            "BENCH_PEERS": str(PEERS),
            "PYTHONPATH": str(PEERS),
            "OMP_NUM_THREADS": "1",
            **self.environment(),
        }
        # In the session of the load generator: where the kernel weighs sessions (autogroup), neither gets a fixed half.
        with (scratch / "log").open("wb") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=scratch, process_group=0)


class Fourfold(Server):
    name = "fourfold"
    title = "Fourfold"
    takes_npy = True
    settings = "`fourfold serve`, everything at its default: bearer token checked, metrics, variants, routing; 1 worker"

    def __init__(self, *options: str) -> None:
        self.options = options
        """Of `fourfold serve`, besides its port and folder."""

    def install(self) -> str:
        from importlib.metadata import version

        return ", ".join(f"{package} {version(package)}" for package in ("fourfold", "uvicorn", "httptools", "uvloop"))

    def command(self, model: str, port: int, scratch: Path) -> list[str]:
        data_dir = str(scratch / "data")
        return [sys.executable, "-m", "fourfold", "serve", "--port", str(port), "--data-dir", data_dir, *self.options]

    def serve(self, model: str, port: int, scratch: Path) -> Running:
        """A server that is ready and has no endpoint yet."""
        process = self._spawn(self.command(model, port, scratch), model, scratch)
        running = Running(f"http://127.0.0.1:{port}/endpoints/{model}/invocations", process)
        try:
            _wait_for_line(scratch / "log", "ready http", process)
        except RuntimeError:
            running.stop()
            raise
        running.keys = environment_of(scratch / "data", port)
        running.headers = {"Authorization": f"Bearer {running.keys['FOURFOLD_API_KEY']}"}
        return running

    def start(self, model: str, port: int, scratch: Path) -> Running:
        began = time.perf_counter()
        running = self.serve(model, port, scratch)
        ready = time.perf_counter()
        try:
            sagemaker, s3 = client(running.keys, "sagemaker"), client(running.keys, "s3")
            deploy(sagemaker, s3, model, self.artifact(model))
            created = time.perf_counter()
            wait_for_answer(running, self.body, model)
        except RuntimeError as error:
            running.stop()
            raise RuntimeError(f"{error}\n{_read(scratch / 'log')[-2000:]}") from None
        answered = time.perf_counter()
        running.start_seconds = answered - began
        running.notes = {"ready": ready - began, "in service": answered - created}
        return running


class Mosec(Server):
    name = "mosec"
    title = "mosec, batching"
    packages: ClassVar = ["mosec", "orjson"]
    path = "/inference"
    takes_npy = True
    settings = "1 worker, max_batch_size 32, max_wait_time 1 ms, orjson"

    def environment(self) -> dict[str, str]:
        return {"MAX_BATCH": "32"}

    def command(self, model: str, port: int, scratch: Path) -> list[str]:
        python = str(venvs.VENVS / "mosec/bin/python")
        address = ["--address", "127.0.0.1", "--port", str(port)]
        return [python, str(PEERS / "mosec_app.py"), *address, "--log-level", "error"]


class MosecUnbatched(Mosec):
    name = "mosec-unbatched"
    title = "mosec, one at a time"
    settings = "1 worker, max_batch_size 1, orjson"

    def install(self) -> str:
        return Mosec().install()

    def environment(self) -> dict[str, str]:
        return {"MAX_BATCH": "1"}


class Triton(Server):
    """The tritonserver binary of the pytriton wheel, run directly. Its stub links the system's libpython."""

    name = "triton"
    title = "Triton, Python back end"
    packages: ClassVar = ["nvidia-pytriton>=0.7"]
    python = "/usr/bin/python3"
    path = "/v2/models/m/infer"
    body = "v2.json"
    settings = "max_batch_size 32, dynamic_batching with delay 0, 1 instance"

    def environment(self) -> dict[str, str]:
        packages = venvs.packages_of(self.name)
        return {"BENCH_PACKAGES": str(packages), "LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs")}

    def command(self, model: str, port: int, scratch: Path) -> list[str]:
        triton = venvs.packages_of(self.name) / "pytriton/tritonserver"
        backends = scratch / "backends"
        shutil.copytree(triton / "backends", backends)
        stub = next((triton / "python_backend_stubs").glob(f"{_python_version(self.python)}/*"))
        shutil.copy(stub, backends / "python")
        repository = scratch / "repository"
        (repository / "m/1").mkdir(parents=True)
        shutil.copy(PEERS / "triton_model.py", repository / "m/1/model.py")
        (repository / "m/config.pbtxt").write_text(_triton_config(model))
        http = [f"--http-port={port}", "--http-address=127.0.0.1", "--allow-grpc=false", "--allow-metrics=false"]
        folders = [f"--model-repository={repository}", f"--backend-directory={backends}"]
        return [str(triton / "bin/tritonserver"), *folders, *http, "--log-info=false"]


def _triton_config(model: str) -> str:
    return f"""\
name: "m" backend: "python" max_batch_size: 32
input [{{ name: "x" data_type: TYPE_FP32 dims: [{models.WIDTH[model]}] }}]
output [{{ name: "y" data_type: TYPE_FP32 dims: [{models.CLASSES[model]}] }}]
instance_group [{{ count: 1 kind: KIND_CPU }}]
dynamic_batching {{ max_queue_delay_microseconds: 0 }}
"""


class FastAPI(Server):
    name = "fastapi"
    title = "FastAPI on uvicorn"
    packages: ClassVar = ["fastapi", "uvicorn", "uvloop", "httptools"]
    path = "/predict"
    settings = "1 process, `async def`, pydantic body, uvloop, httptools, no access log"

    def command(self, model: str, port: int, scratch: Path) -> list[str]:
        uvicorn = str(venvs.VENVS / "fastapi/bin/uvicorn")
        loop = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "error"]
        return [uvicorn, "fastapi_app:app", "--app-dir", str(PEERS), "--port", str(port), *loop]


class Echo(Server):
    name = "echo"
    title = "echo (granian, no model)"
    packages: ClassVar = ["granian", "uvloop"]
    settings = "1 worker, RSGI, uvloop; reads the body and answers a constant: the limit of HTTP"

    def command(self, model: str, port: int, scratch: Path) -> list[str]:
        granian = str(venvs.VENVS / "echo/bin/granian")
        address = ["--interface", "rsgi", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        quiet = ["--loop", "uvloop", "--no-ws", "--log-level", "error", "--working-dir", str(PEERS)]
        return [granian, *address, *quiet, "echo_app:app"]


SERVERS: dict[str, Server] = {
    one.name: one for one in (Fourfold(), Mosec(), MosecUnbatched(), Triton(), FastAPI(), Echo())
}


def environment_of(data_dir: Path, port: int) -> dict[str, str]:
    """What `fourfold env` prints, as a dictionary."""
    command = [sys.executable, "-m", "fourfold", "env", "--data-dir", str(data_dir), "--port", str(port)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(word.split("=", 1) for word in shlex.split(text) if "=" in word)


def client(keys: dict[str, str], service: str) -> Any:
    """A boto3 client with that environment."""
    return boto3.client(
        service,
        endpoint_url=keys["AWS_ENDPOINT_URL"],
        region_name=keys["AWS_DEFAULT_REGION"],
        aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
    )


def deploy(sagemaker: Any, s3: Any, name: str, artifact: Path, environment: dict[str, str] | None = None) -> None:
    """Create a model, config and endpoint of one name from a file; returns once CreateEndpoint has."""
    if "bench" not in [one["Name"] for one in s3.list_buckets()["Buckets"]]:
        s3.create_bucket(Bucket="bench")
    s3.upload_file(str(artifact), "bench", f"{name}/{artifact.name}")
    container = {"ModelDataUrl": f"s3://bench/{name}/{artifact.name}", "Environment": environment or {}}
    sagemaker.create_model(ModelName=name, PrimaryContainer=container)
    variant = {"VariantName": "v", "ModelName": name, "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
    sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)


def wait_for_answer(running: Running, body: str, model: str) -> bytes:
    """Call the model every few milliseconds until it answers with 200. Raises RuntimeError."""
    payload = (models.DATA / f"{model}.{body}").read_bytes()
    headers = {"Content-Type": CONTENT_TYPES[body], **running.headers}
    deadline, last = time.monotonic() + START_SECONDS, "nothing"
    while time.monotonic() < deadline:
        try:
            with urlopen(Request(running.url, payload, headers), timeout=5) as answer:
                return bytes(answer.read())
        except (URLError, OSError) as error:
            last = str(error)
        if running.process.poll() is not None:
            raise RuntimeError(f"the server ended with {running.process.returncode}")
        time.sleep(0.005)
    raise RuntimeError(f"no answer within {START_SECONDS} s: {last}")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_for_line(log: Path, beginning: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if any(line.startswith(beginning) for line in _read(log).splitlines()):
            return
        time.sleep(0.005)
    raise RuntimeError(f"the server did not say {beginning!r}")


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        fields = _read(stat).rpartition(")")[2].split()
        if fields:
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    family = [pid]
    for member in family:
        family.extend(children.get(member, []))
    return family


def _sum_mb(field_name: str, texts: list[str]) -> float:
    return sum(int(kb) for text in texts for kb in re.findall(rf"^{field_name}:\s+(\d+)", text, re.MULTILINE)) / 1024


def _python_version(python: str) -> str:
    command = [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # a process that has just ended
        return ""
