from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fourfold.errors import ModelLoadError
from fourfold.formats import registry
from fourfold.formats.base import Artifact, Unanswered
from fourfold.formats.process import ProcessModel
from fourfold.records import Call, Opening
from tests.formats.models import call

SERVER = """
import http.server, json, os, sys, time, threading
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    connections = 0
    together, most = 0, 0
    def setup(self):
        super().setup()
        Handler.connections += 1
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        kind = self.headers["Content-Type"]
        if body == b"die":
            os._exit(3)
        if body == b"hang up":
            self.close_connection = True
            return
        if kind == "stream":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for part in (b"one", b"two"):
                self.wfile.write(b"%x\\r\\n%s\\r\\n" % (len(part), part))
                self.wfile.flush()
            self.wfile.write(b"0\\r\\n\\r\\n")
            return
        if kind == "close":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"until the end")
            self.close_connection = True
            return
        answer = json.dumps({
            "body": body.decode(), "connections": Handler.connections, "accept": self.headers["Accept"],
            "attributes": self.headers["X-Amzn-SageMaker-Custom-Attributes"], "cwd": os.getcwd(),
            "variables": [os.environ["SAGEMAKER_BIND_TO_PORT"], os.environ["SM_MODEL_DIR"], os.environ["COLOUR"]],
        }).encode()
        self.send_response(418 if kind == "teapot" else 200)
        self.send_header("Content-Type", "application/x-answer")
        self.send_header("X-Amzn-SageMaker-Custom-Attributes", "seen")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *arguments): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def load(folder: Path, command: str, **environment: str) -> ProcessModel:
    (folder / "server.py").write_text(SERVER)
    environment |= {"FOURFOLD_COMMAND": command, "COLOUR": "red"}
    model = registry.resolve("", folder, environment).load(Artifact(folder, environment))
    assert isinstance(model, ProcessModel)
    return model


@pytest.fixture
def model(tmp_path: Path) -> Iterator[ProcessModel]:
    model = load(tmp_path, f"{sys.executable} server.py {{port}}")
    yield model
    model.close()


@contextlib.asynccontextmanager
async def connected(model: ProcessModel):  # type: ignore[no-untyped-def]
    """Kept connections belong to the loop that opened them."""
    yield model
    for connection in model._idle:
        connection.close()
    await asyncio.sleep(0)


async def test_calls_pass_with_their_headers(model: ProcessModel, tmp_path: Path) -> None:
    async with connected(model):
        asked = Call(7, b"hello", "text/plain", "a/b", {"x-amzn-sagemaker-custom-attributes": "trace=1"})
        reply = await model.ainvoke(asked)
        told = json.loads(reply.body)
        assert (reply.id, reply.status, reply.content_type) == (7, 200, "application/x-answer")
        assert reply.headers == {"x-amzn-sagemaker-custom-attributes": "seen"}
        assert (told["body"], told["accept"], told["attributes"]) == ("hello", "a/b", "trace=1")
        assert told["cwd"] == str(tmp_path)
        assert told["variables"] == [str(model._port), str(tmp_path), "red"]
        assert (await model.ainvoke(call("x", "teapot"))).status == 418


async def test_connections_are_kept(model: ProcessModel) -> None:
    async with connected(model):
        first = json.loads((await model.ainvoke(call("a"))).body)["connections"]
        for _ in range(3):
            assert json.loads((await model.ainvoke(call("a"))).body)["connections"] == first
        replies = await asyncio.gather(*(model.ainvoke(call(str(n), id=n)) for n in range(5)))
        assert [json.loads(reply.body)["body"] for reply in replies] == ["0", "1", "2", "3", "4"]


async def test_answers_of_every_framing(model: ProcessModel) -> None:
    async with connected(model):
        assert (await model.ainvoke(call("x", "stream"))).body == b"onetwo"
        assert (await model.ainvoke(call("x", "close"))).body == b"until the end"
        assert (await model.ainvoke(call("x"))).status == 200
        parts = [part async for part in model.astream(call("x", "stream"))]
        assert b"".join(parts) == b"onetwo"
        assert isinstance(parts[0], Opening)
        with pytest.raises(Unanswered) as refused:
            [part async for part in model.astream(call("x", "teapot"))]
        assert refused.value.status_code == 418


async def test_a_server_that_hangs_up_costs_one_call(model: ProcessModel) -> None:
    async with connected(model):
        reply = await model.ainvoke(call("hang up"))
        assert (reply.status, b"closed the connection" in reply.body) == (500, True)
        assert (await model.ainvoke(call("x"))).status == 200


async def test_a_server_that_ended_ends_the_worker(tmp_path: Path) -> None:
    model = load(tmp_path, f"{sys.executable} server.py {{port}}")
    assert (await model.ainvoke(call("die"))).status == 500
    assert model._guard.wait(5) == 3
    with pytest.raises(SystemExit):
        await model.ainvoke(call("x"))
    model.close()


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("python 'server.py", r"FOURFOLD_COMMAND is .* no command line: No closing quotation"),
        ("nowhere-to-be-found", "'nowhere-to-be-found' is neither a program here nor one of the artifact"),
        (f"{sys.executable} -c 'raise SystemExit(4)'", "ended with exit status 4 before it answered /ping"),
        (
            f"{sys.executable} -c 'import time; time.sleep(60)'",
            r"GET /ping .* port \d+ within 0\.18 s.*by SAGEMAKER_BIND",
        ),
    ],
)
def test_a_server_that_does_not_start_says_why(tmp_path: Path, command: str, expected: str) -> None:
    with pytest.raises(ModelLoadError, match=expected):
        load(tmp_path, command, SAGEMAKER_STARTUP_TIMEOUT="0.2" if "sleep" in command else "20")


def test_serve_in_the_artifact_is_the_command(tmp_path: Path) -> None:
    (tmp_path / "serve").write_text(f"#!/bin/sh\nexec {sys.executable} server.py $SAGEMAKER_BIND_TO_PORT\n")
    (tmp_path / "serve").chmod(0o755)
    (tmp_path / "server.py").write_text(SERVER)
    assert registry.resolve("", tmp_path).name == "process"
    registry.get("process").load(Artifact(tmp_path, {"COLOUR": "red"})).close()


def test_an_image_needs_docker_or_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModelLoadError, match=r"acme/server:1.*docker or podman.*FOURFOLD_COMMAND"):
        registry.get("process").load(Artifact(tmp_path, {"FOURFOLD_IMAGE": "acme/server:1"}))
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\nexit 9\n')
    docker.chmod(0o755)
    with pytest.raises(
        ModelLoadError, match=r"exit status 9.*'acme/server:1', run by docker.*FOURFOLD_COMMAND.*FORMAT"
    ):
        registry.get("process").load(Artifact(tmp_path, {"FOURFOLD_IMAGE": "acme/server:1"}))
    asked = (tmp_path / "asked").read_text()
    assert asked.startswith("run --rm --init -p 127.0.0.1:")
    assert asked.endswith(f":8080 -v {tmp_path}:/opt/ml/model:ro acme/server:1 serve\n")


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 10
    while any(map(alive, pids)):
        assert time.monotonic() < deadline, "a process outlived its worker"
        time.sleep(0.02)


STUBBORN = """
import os, signal, sys, time, pathlib
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()  # a daemon, which leaves its parent's group and then its parent
    if os.fork():
        os._exit(0)
pathlib.Path(f"pid-{os.getpid()}").touch()
time.sleep(60)
"""

WORKER = """
import subprocess, sys, os, time
command = [sys.executable, "-m", "fourfold.formats.guard", str(os.getpid()), sys.executable, "stubborn.py"]
guard = subprocess.Popen(command)
print(guard.pid, flush=True)
time.sleep(60)
"""


def test_nothing_outlives_a_worker_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    with subprocess.Popen([sys.executable, "-c", WORKER], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout
        pids = [int(worker.stdout.readline())]
        deadline = time.monotonic() + 10
        while len(started := list(tmp_path.glob("pid-*"))) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        pids += [int(path.name.removeprefix("pid-")) for path in started]
        assert all(map(alive, pids))
        os.kill(worker.pid, signal.SIGKILL)
    wait_until_gone(pids)
