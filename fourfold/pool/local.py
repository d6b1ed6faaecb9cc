"""Starts workers on this machine: keeps the zygotes, asks them for forks, connects the sockets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from fourfold.errors import ServiceUnavailable
from fourfold.pool.link import WorkerLink
from fourfold.pool.zygote import PACKET, Exited, Fork, Forked, FromZygote, Ready
from fourfold.records import WorkerSpec

log = logging.getLogger(__name__)

BASE_IMPORTS = ("fourfold.pool.worker", "numpy", "onnxruntime", "fourfold.formats.codecs", "fourfold.formats.onnx")
"""What every zygote imports before it forks."""

_decode = msgspec.msgpack.Decoder(FromZygote).decode
_encode = msgspec.msgpack.encode


class Placer(Protocol):
    """Puts workers somewhere and connects to them."""

    async def start(
        self, spec: WorkerSpec, *, imports: Sequence[str] = (), more: Sequence[str] = (), nice: int = 0
    ) -> WorkerLink:
        """Start a worker and begin to load its model; the link's `loaded` tells the rest.

        Args:
            imports: modules that the model's format needs, for the zygote.
            more: modules that its tasks need. A zygote that has them is used once it is ready, and not waited for.
            nice: how much lower than normal its CPU priority is, 0 to 19.

        Raises:
            ServiceUnavailable: no process could be started.
        """

    async def close(self) -> None:
        """End every worker."""


class LocalPlacer:
    """Workers as processes of this machine, forked from one zygote per interpreter and set of imports."""

    def __init__(self) -> None:
        self._zygotes: dict[tuple[str, tuple[str, ...]], Zygote] = {}

    def warm(self, imports: Sequence[str] = (), python: str = "") -> Zygote:
        """The zygote for these imports; started now where there is none, or where it has died."""
        key = (python or sys.executable, tuple(sorted(imports)))
        zygote = self._zygotes.get(key)
        if zygote is None or zygote.ended:
            zygote = self._zygotes[key] = Zygote(key[0], (*BASE_IMPORTS, *key[1]))
        return zygote

    async def start(
        self, spec: WorkerSpec, *, imports: Sequence[str] = (), more: Sequence[str] = (), nice: int = 0
    ) -> WorkerLink:
        zygote = self.warm(imports, spec.python)
        if more and (fuller := self.warm((*imports, *more), spec.python)).ready:
            zygote = fuller
        ours, theirs = socket.socketpair()
        try:
            pid = await zygote.fork(theirs, spec.log_path, nice)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        link = WorkerLink(spec)
        link.pid = pid
        link.end = lambda: zygote.kill(pid)
        ours.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: link, sock=ours)
        return link

    async def close(self) -> None:
        for zygote in self._zygotes.values():
            zygote.close()
        self._zygotes.clear()


class Zygote:
    """The gateway's side of one zygote process (`zygote.py` is the process)."""

    def __init__(self, python: str, imports: Sequence[str]) -> None:
        self.ended = False
        self._ready = False
        self._forks: dict[int, asyncio.Future[int]] = {}
        self._next = 0
        self._alive: set[int] = set()
        self._reading = False
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        self._process = subprocess.Popen(
            [python, "-m", "fourfold.pool.zygote", str(theirs.fileno()), str(os.getpid()), *imports],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=_environment(),
        )
        theirs.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ready(self) -> bool:
        """Are its imports done? To be asked on the event loop, more than once: the first question makes it listen."""
        self._listen()
        return self._ready

    @property
    def workers(self) -> frozenset[int]:
        """Process ids of the workers that live."""
        return frozenset(self._alive)

    async def fork(self, worker_socket: socket.socket, log_path: str, nice: int) -> int:
        """Fork a worker that owns `worker_socket`; returns its process id."""
        self._listen()
        self._next += 1
        forked: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._forks[self._next] = forked
        try:
            socket.send_fds(self._socket, [_encode(Fork(self._next, log_path, nice))], [worker_socket.fileno()])
        except OSError as error:
            self._forks.pop(self._next, None)
            self._lost()
            raise ServiceUnavailable(f"The process that starts workers does not answer: {error}") from error
        return await forked

    def kill(self, pid: int) -> None:
        """End one of its workers now. Does nothing where it has ended: a process id may since be another's."""
        if pid in self._alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """End it, and by the parent-death signal its workers."""
        self._lost()

    def _listen(self) -> None:
        if not self._reading and not self.ended:
            self._reading = True
            asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read)

    def _read(self) -> None:
        while True:
            try:
                packet = self._socket.recv(PACKET)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                log.error("zygote ended", extra={"pid": self.pid, "status": self._process.poll()})
                self._lost()
                return
            self._received(_decode(packet))

    def _received(self, message: Ready | Forked | Exited) -> None:
        match message:
            case Ready(missing):
                self._ready = True
                for module, reason in missing.items():
                    log.warning("zygote could not import", extra={"import": module, "reason": reason})
            case Forked(id, pid, error):
                forked = self._forks.pop(id)
                if pid:
                    self._alive.add(pid)
                if forked.done():
                    self.kill(pid)
                elif error:
                    forked.set_exception(ServiceUnavailable(error))
                else:
                    forked.set_result(pid)
            case Exited(pid, status):
                self._alive.discard(pid)
                log.info("worker ended", extra={"pid": pid, "status": status})

    def _lost(self) -> None:
        if self.ended:
            return
        self.ended = True
        if self._reading:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()
        self._process.kill()
        self._process.wait()
        forks, self._forks = self._forks, {}
        for forked in forks.values():
            if not forked.done():
                forked.set_exception(ServiceUnavailable("The process that starts workers has ended; try again."))


def _environment() -> dict[str, str]:
    """One BLAS and OpenMP thread in a zygote: a thread pool would not survive the fork. Workers raise it themselves."""
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH", ""))))
    return {**os.environ, **single, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
