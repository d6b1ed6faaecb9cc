"""The gateway's side of the processes that start workers: zygotes, templates (in `templates`), shared processes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import msgspec

from fourfold.errors import ServiceUnavailable
from fourfold.pool.processes import THREAD_VARIABLES
from fourfold.pool.zygote import PACKET, Exited, Fork, Forked, FromZygote, Ready
from fourfold.records import WorkerSpec

log = logging.getLogger(__name__)

_decode = msgspec.msgpack.Decoder(FromZygote).decode
_encode = msgspec.msgpack.encode

_REGION = ("AWS_REGION", "AWS_DEFAULT_REGION")
"""Where model code, and boto3 in it, looks for the region: SageMaker's containers tell it, too."""


class Forker(ABC):
    """A process that starts workers when it is asked (`zygote.py` is the process)."""

    def __init__(self) -> None:
        self.ended = False
        self.pid = 0
        self.missing: dict[str, str] = {}
        """What it could not import or load, with the reasons."""
        self.private_bytes = 0
        """Memory that it shares with no other, when it became ready; 0 where it does not tell."""
        self.settled = asyncio.Event()
        """Set when it is ready, or has ended. Something must have asked it to fork, or whether it is ready."""
        self._ready = False
        self._forks: dict[int, asyncio.Future[int]] = {}
        self._next = 0
        self._alive: set[int] = set()
        self._reading = False
        self._socket, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)

    @property
    def ready(self) -> bool:
        """Can it fork now? To be asked on the event loop, more than once: the first question makes it listen."""
        self._listen()
        return self._ready and not self.ended

    @property
    def workers(self) -> frozenset[int]:
        """Process ids of the workers that live."""
        return frozenset(self._alive)

    @property
    def idle(self) -> bool:
        """Has it no worker, and is none on its way?"""
        return not (self._alive or self._forks)

    async def fork(
        self,
        worker_socket: socket.socket,
        log_path: str,
        nice: int,
        *,
        cgroup: str = "",
        template: WorkerSpec | None = None,
        shared: bool = False,
    ) -> int:
        """Start a worker (or a template, or a shared process) that owns `worker_socket`; returns its process id."""
        self._listen()
        self._next += 1
        forked: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._forks[self._next] = forked
        try:
            request = _encode(Fork(self._next, log_path, nice, cgroup, template, shared))
            socket.send_fds(self._socket, [request], [worker_socket.fileno()])
        except OSError as error:
            self._forks.pop(self._next, None)
            self._lost()
            raise ServiceUnavailable(f"The process that starts workers does not answer: {error}") from error
        return await forked

    def kill(self, pid: int) -> None:
        """End one of its workers now."""
        self.signal(pid, signal.SIGKILL)

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Signal one of its workers. Does nothing where it has ended: a process id may since be another's."""
        if pid in self._alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def close(self) -> None:
        """End it, and by the parent-death signal its workers."""
        self._lost()

    @abstractmethod
    def _end_process(self) -> None:
        """End the process now."""

    def _worker_ended(self) -> None:  # noqa: B027  a zygote does not mind
        """One of its workers is gone."""

    def _listen(self) -> None:
        if not self._reading and not self.ended:
            self._reading = True
            asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read)

    def _read(self) -> None:
        while not self.ended:
            try:
                packet = self._socket.recv(PACKET)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                log.error("a process that forks workers ended", extra={"pid": self.pid})
                self._lost()
                return
            self._received(_decode(packet))

    def _received(self, message: Ready | Forked | Exited) -> None:
        match message:
            case Ready(missing, private_bytes):
                self._ready, self.missing, self.private_bytes = True, missing, private_bytes
                self.settled.set()
                for module, reason in missing.items():
                    log.warning("could not be prepared for forks", extra={"what": module, "reason": reason})
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
                level = logging.INFO if status else logging.DEBUG
                log.log(level, "worker ended", extra={"pid": pid, "status": status})
                self._worker_ended()

    def _lost(self) -> None:
        if self.ended:
            return
        self.ended = True
        self.settled.set()
        if self._reading:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()
        self._theirs.close()
        self._end_process()
        forks, self._forks = self._forks, {}
        for forked in forks.values():
            if not forked.done():
                forked.set_exception(ServiceUnavailable("The process that starts workers has ended; try again."))


class Zygote(Forker):
    """A process with some modules imported.

    Args:
        python: its interpreter.
        imports: the modules.
        region: what its workers find in `_REGION`. Empty: as here.
    """

    def __init__(self, python: str, imports: Sequence[str], region: str = "") -> None:
        super().__init__()
        descriptor = self._theirs.fileno()
        self._process = subprocess.Popen(
            [python, "-m", "fourfold.pool.zygote", str(descriptor), str(os.getpid()), *imports],
            pass_fds=(descriptor,),
            stdin=subprocess.DEVNULL,
            process_group=0,  # no session of its own: the kernel weighs nice and SCHED_IDLE within one (autogroup)
            env=_environment() | (dict.fromkeys(_REGION, region) if region else {}),
        )
        self._theirs.close()
        self.pid = self._process.pid

    def _end_process(self) -> None:
        self._process.kill()
        self._process.wait()


class SharedProcess(Forker):
    """A process for many models (`residents.py` is the process): all its workers have its process id.

    Args:
        parent: forks it.
        log_path: file for its output. Empty: the parent's.
    """

    def __init__(self, parent: Forker, log_path: str = "") -> None:
        super().__init__()
        self.log_path = log_path
        self._parent = parent

    async def begin(self) -> None:
        """Fork it. Raises ServiceUnavailable."""
        self.pid = await self._parent.fork(self._theirs, self.log_path, 0, shared=True)
        self._theirs.close()
        self._listen()

    def _end_process(self) -> None:
        self._parent.kill(self.pid)


def _environment() -> dict[str, str]:
    """No thread in a zygote but its own: another would not survive the fork. Workers raise BLAS's and OpenMP's."""
    single = dict.fromkeys(THREAD_VARIABLES, "1")
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH", ""))))
    # pyarrow and onnxruntime start one when they are imported.
    quiet = {"JE_ARROW_MALLOC_CONF": "background_thread:false", "ORT_DISABLE_TELEMETRY": "1"}
    return {**quiet, **os.environ, **single, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
