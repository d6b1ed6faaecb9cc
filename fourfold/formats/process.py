"""A server of your own: a command that answers `GET /ping` and `POST /invocations` on a port that it is told.

The command is FOURFOLD_COMMAND in the model's Environment, or the artifact's executable `serve`. `{port}` and
`{model_dir}` in it are filled in; the variables SAGEMAKER_BIND_TO_PORT, PORT and SM_MODEL_DIR say the same. With
FOURFOLD_IMAGE and no command, docker or podman runs that image.

The command runs under a guard (`fourfold.formats.guard`), which ends it and everything that it started as soon as the
worker ends, however that happens. When the command ends, the worker does, and the pool starts another.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import httptools

from fourfold.errors import ModelLoadError
from fourfold.formats.base import Artifact, AsyncModel, Unanswered
from fourfold.formats.guard import STOP_SECONDS
from fourfold.records import PATH, Call, Opening, Reply

_READ = 256 * 1024
_STARTUP_SECONDS = 600.0
_INVOCATIONS = "/invocations"
_NO_SUCH_PATH = (404, 405)
_RUN_IMAGE = "run --rm --init -p 127.0.0.1:{port}:8080 -v {model_dir}:/opt/ml/model:ro"


class ProcessModel(AsyncModel):
    """Passes calls on over HTTP/1.1 connections that are kept open.

    Args:
        guard: the process that guards the command.
        port: where the command listens, on 127.0.0.1.
    """

    def __init__(self, guard: subprocess.Popen[bytes], port: int) -> None:
        self._guard = guard
        self._port = port
        self._idle: list[_Connection] = []
        self._lacks: set[str] = set()
        """Paths that the server does not have."""

    async def ainvoke(self, call: Call) -> Reply:
        try:
            answer = await self._ask(call)
            try:
                body = b"".join([part async for part in answer.parts()])
            finally:
                self._keep(answer)
        except (OSError, httptools.HttpParserError) as error:
            return Reply(call.id, f"The model's server did not answer: {error}".encode(), "text/plain", 500)
        status = 200 if 200 <= answer.status < 300 else answer.status
        return Reply(call.id, body, answer.content_type, status, answer.told)

    async def astream(self, call: Call) -> AsyncIterator[bytes]:
        answer = await self._ask(call)
        try:
            if not 200 <= answer.status < 300:
                raise Unanswered(b"".join([part async for part in answer.parts()]), answer.status)
            opened = False
            async for part in answer.parts():
                yield part if opened else Opening(part, answer.content_type, answer.told)
                opened = True
        finally:
            self._keep(answer)

    def close(self) -> None:
        stop(self._guard)

    async def _ask(self, call: Call) -> _Connection:
        """Send a call to the path that it asks for; to /invocations where the server has no such path."""
        path = (call.headers or {}).get(PATH, _INVOCATIONS)
        if path != _INVOCATIONS and path not in self._lacks:
            answer = await self._send(call, path)
            if answer.status not in _NO_SUCH_PATH:
                return answer
            self._lacks.add(path)
            answer.close()
        return await self._send(call, _INVOCATIONS)

    async def _send(self, call: Call, path: str) -> _Connection:
        """Send a call; once more on a new connection where a kept one turns out to be closed."""
        while self._idle:
            connection = self._idle.pop()
            with suppress(ConnectionError):
                await connection.send(call, path)
                return connection
        if self._guard.poll() is not None:
            raise SystemExit(f"the model's server ended with exit status {self._guard.returncode}")
        connection = await _Connection.open(self._port)
        await connection.send(call, path)
        return connection

    def _keep(self, connection: _Connection) -> None:
        if connection.reusable:
            self._idle.append(connection)
        else:
            connection.close()


class _Connection:
    """One HTTP/1.1 connection: a request, then its answer, then the next request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._begin()

    @classmethod
    async def open(cls, port: int) -> _Connection:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def _begin(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self._parts: list[bytes] = []
        self._complete = False
        self._lasts = False
        self._parser = httptools.HttpResponseParser(self)

    async def send(self, call: Call, path: str) -> None:
        """Send the call and read the answer's head. Raises ConnectionError where there is no answer."""
        self._begin()
        headers = {"host": "localhost", "content-type": call.content_type, "content-length": str(len(call.body))}
        if call.accept:
            headers["accept"] = call.accept
        lines = [f"{name}: {value}\r\n" for name, value in (headers | (call.headers or {})).items()]
        head = "".join([f"POST {path} HTTP/1.1\r\n", *lines, "\r\n"])
        try:
            self._writer.write(head.encode("latin-1", "replace") + call.body)
            await self._writer.drain()
            while not self.status:
                await self._read()
        except BaseException:
            self.close()
            raise

    async def parts(self) -> AsyncIterator[bytes]:
        while True:
            while self._parts:
                yield self._parts.pop(0)
            if self._complete:
                return
            await self._read()

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "application/json")

    @property
    def told(self) -> dict[str, str] | None:
        """The answer's headers that are SageMaker's own."""
        return {name: value for name, value in self.headers.items() if name.startswith("x-amzn-")} or None

    @property
    def reusable(self) -> bool:
        return self._complete and self._lasts and not self._reader.at_eof()

    def close(self) -> None:
        self._writer.close()

    async def _read(self) -> None:
        data = await self._reader.read(_READ)
        if data:
            self._parser.feed_data(data)
        elif self.status and not self.headers.keys() & {"content-length", "transfer-encoding"}:
            self._complete = True  # an answer that lasts until the connection ends
        else:
            raise ConnectionError("it closed the connection before its answer was complete")

    # What httptools calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._lasts = bool(self._parser.should_keep_alive())

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        self._complete = True


def load(artifact: Artifact) -> ProcessModel:
    """Start the command and wait until it answers /ping.

    Raises:
        ModelLoadError: there is no command, or it ended, or it did not answer within nine tenths of
            SAGEMAKER_STARTUP_TIMEOUT (600 s): before the pool gives it up, so that this reason is heard.
    """
    port = _free_port()
    command = _command(artifact, port)
    environment = os.environ | artifact.environment
    environment |= {"SAGEMAKER_BIND_TO_PORT": str(port), "PORT": str(port), "SM_MODEL_DIR": str(artifact.path)}
    guard = subprocess.Popen(
        [sys.executable, "-m", "fourfold.formats.guard", str(os.getpid()), *command],
        cwd=artifact.path,
        env=environment,
        stdin=subprocess.DEVNULL,
    )
    try:
        _wait(guard, port, 0.9 * float(artifact.environment.get("SAGEMAKER_STARTUP_TIMEOUT", _STARTUP_SECONDS)))
    except ModelLoadError as error:
        stop(guard)
        image = _image(artifact)
        raise ModelLoadError(error.message + (_of_image(image, command[0]) if image else "")) from error
    except BaseException:
        stop(guard)
        raise
    return ProcessModel(guard, port)


def stop(guard: subprocess.Popen[bytes]) -> None:
    """End the command and all that it started."""
    guard.terminate()
    try:
        guard.wait(STOP_SECONDS + 3)
    except subprocess.TimeoutExpired:
        guard.kill()
        guard.wait()


def _command(artifact: Artifact, port: int) -> list[str]:
    text = artifact.environment.get("FOURFOLD_COMMAND", "")
    if text:
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise ModelLoadError(f"FOURFOLD_COMMAND is {text!r}, which is no command line: {error}.") from error
    elif (artifact.path / "serve").is_file():
        words = ["./serve"]
    elif image := _image(artifact):
        words = _run_image(image)
    else:
        raise ModelLoadError(
            "There is no server to start: the artifact has no executable file `serve`. Set FOURFOLD_COMMAND in the "
            "model's Environment, for instance to `python server.py --port {port}`."
        )
    words = [word.replace("{port}", str(port)).replace("{model_dir}", str(artifact.path)) for word in words]
    if shutil.which(words[0]) is None and shutil.which(artifact.path / words[0]) is None:
        raise ModelLoadError(f"The server's command {words[0]!r} is neither a program here nor one of the artifact.")
    return words


def _image(artifact: Artifact) -> str:
    """The image to run; empty where a command or the artifact itself says how the server starts."""
    started = artifact.environment.get("FOURFOLD_COMMAND") or (artifact.path / "serve").is_file()
    return "" if started else artifact.environment.get("FOURFOLD_IMAGE", "")


def _run_image(image: str) -> list[str]:
    runner = shutil.which("docker") or shutil.which("podman")
    if runner is None:
        raise ModelLoadError(
            f"The image {image!r} needs docker or podman, and neither is installed. Set FOURFOLD_COMMAND in the "
            "model's Environment to start its server without them."
        )
    return [runner, *_RUN_IMAGE.split(), image, "serve"]


def _of_image(image: str, runner: str) -> str:
    """What to do where an image did not become a server."""
    return (
        f" It is the image {image!r}, run by {Path(runner).name}. If it cannot run here, set FOURFOLD_COMMAND in the "
        "model's Environment to the command that starts its server; if it only serves a file of a known format, name "
        "the image fourfold/FORMAT:latest instead."
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(guard: subprocess.Popen[bytes], port: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not _answers(port):
        if guard.poll() is not None:
            raise ModelLoadError(
                f"The server ended with exit status {guard.returncode} before it answered /ping; its log says why."
            )
        if time.monotonic() > deadline:
            raise ModelLoadError(
                f"The server did not answer GET /ping with 200 on port {port} within {seconds:g} s. It is told the "
                "port by SAGEMAKER_BIND_TO_PORT and PORT, and by {port} in its command; SAGEMAKER_STARTUP_TIMEOUT in "
                "the model's Environment gives it more time."
            )
        time.sleep(0.02)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/ping")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
