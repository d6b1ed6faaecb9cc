"""A process with the frameworks already imported, from which workers are forked in milliseconds.

Runs as `python -m fourfold.pool.zygote FD PARENT MODULE...`: imports the modules, then serves FD, a Unix seqpacket
socket to the gateway (the process PARENT), one message a packet:

    gateway                                     zygote
    Fork(id, log_path, nice) + worker's socket  →   Forked(id, pid)
                                                →   Exited(pid, status)   when it ends

It loads no model and starts no thread, so that a fork copies nothing but clean memory. When the gateway is gone, its
socket ends and the kernel's parent-death signal comes: the zygote ends, and with it, by the same signal, every worker.

A Fork with a spec makes a template: a fork that loads the model and then is a zygote itself, on a seqpacket socket of
its own; its workers need not load. A model that is not `forkable`, or that started a thread, makes none.

A Fork with `shared` makes a process for many models: it takes Forks on a seqpacket socket of its own as well, but forks
nothing: its workers live in it (`residents`).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import importlib
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from fourfold.records import WorkerSpec

BACKGROUND = 19
"""The `nice` of background workers, which get a core that nobody else wants (SCHED_IDLE)."""

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Fork(msgspec.Struct, tag="fork", array_like=True):
    """Fork a worker; its socket comes as the packet's ancillary file descriptor."""

    id: int
    log_path: str = ""
    nice: int = 0
    cgroup: str = ""
    """Folder of the control group that the fork joins. Empty: it stays in its parent's."""
    template: WorkerSpec | None = None
    """The model that a template shall load. None: the fork is a worker."""
    shared: bool = False
    """The fork is a process for many models."""


class Ready(msgspec.Struct, tag="ready", array_like=True):
    """The imports are done. `missing` names modules that could not be imported, each with the reason."""

    missing: dict[str, str]
    private_bytes: int = 0
    """What a template, or a process for many models without one, has in memory of its own."""


class Forked(msgspec.Struct, tag="forked", array_like=True):
    id: int
    pid: int
    error: str = ""


class Exited(msgspec.Struct, tag="exited", array_like=True):
    pid: int
    status: int
    """As os.waitstatus_to_exitcode: an exit code, or the negative number of the signal."""


FromZygote = Ready | Forked | Exited
PACKET = 64 * 1024

_encode = msgspec.msgpack.encode
_decode_fork = msgspec.msgpack.Decoder(Fork).decode


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent ends; end at once if it has already."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def main(arguments: Sequence[str]) -> None:
    descriptor, parent, *modules = arguments
    die_with_parent(int(parent))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the gateway decides
    gateway = socket.socket(fileno=int(descriptor))
    missing = _import(modules)
    from fourfold.formats import registry
    from fourfold.pool import worker

    registry.formats()  # looks through the installed packages, which takes 5 ms
    _freeze()
    gateway.send(_encode(Ready(missing)))
    _serve(gateway, worker.run)


def _freeze() -> None:
    gc.collect()
    gc.freeze()  # what is here now is never collected, so a worker's collector does not touch (and copy) its pages


def _import(modules: Sequence[str]) -> dict[str, str]:
    missing = {}
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a module does while it is imported
            missing[name] = f"{type(error).__name__}: {error}"
    return missing


def _serve(gateway: socket.socket, run: Callable[[socket.socket], None]) -> None:
    """Fork until the gateway's socket ends; each worker is a call of `run` with its socket."""
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # only so that the wake-up pipe is written to
    inherited = (gateway.fileno(), wake_read, wake_write)
    with contextlib.suppress(ConnectionError):  # a gateway that ends need not have read every report
        while True:
            readable, _, _ = select.select([gateway.fileno(), wake_read], [], [])
            if wake_read in readable:
                os.read(wake_read, 4096)
                _report_exits(gateway)
            if gateway.fileno() in readable:
                packet, descriptors, _, _ = socket.recv_fds(gateway, PACKET, 1)
                if not packet:
                    return
                _fork(gateway, _decode_fork(packet), descriptors[0], inherited, run)


def _fork(
    gateway: socket.socket,
    request: Fork,
    descriptor: int,
    inherited: tuple[int, ...],
    run: Callable[[socket.socket], None],
) -> None:
    parent = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:
        os.close(descriptor)
        gateway.send(_encode(Forked(request.id, 0, f"cannot fork a worker: {error.strerror}")))
        return
    if pid == 0:
        _become(request, descriptor, inherited, parent, run)
    os.close(descriptor)
    gateway.send(_encode(Forked(request.id, pid)))


def _become(
    request: Fork, descriptor: int, inherited: tuple[int, ...], parent: int, run: Callable[[socket.socket], None]
) -> None:
    """What the child of a fork does; never returns."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        die_with_parent(parent)
        for inherited_descriptor in inherited:
            os.close(inherited_descriptor)
        if request.nice:
            os.nice(request.nice)
        if request.nice == BACKGROUND:  # inherited by what it starts
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        if request.cgroup:
            Path(request.cgroup, "cgroup.procs").write_text("0")  # 0 is who writes
        if request.log_path:
            _log_to(request.log_path)
        with socket.socket(fileno=descriptor) as own:
            if request.template is not None:
                _be_template(own, request.template)
            elif request.shared:
                _be_shared(own)
            else:
                run(own)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # no atexit handlers of the zygote's imports


def _be_template(gateway: socket.socket, spec: WorkerSpec) -> None:
    from fourfold.pool import worker
    from fourfold.pool.processes import private_bytes, threads

    model = worker.load(spec)
    if not model.forkable:
        gateway.send(_encode(Ready({spec.model: "its format does not allow that it is forked when loaded"})))
        return
    if threads() > 1:
        gateway.send(_encode(Ready({spec.model: "it started threads when it was loaded"})))
        return
    _freeze()
    gateway.send(_encode(Ready({}, private_bytes())))
    _serve(gateway, functools.partial(worker.run, model=model))


def _be_shared(gateway: socket.socket) -> None:
    from fourfold.pool.processes import private_bytes
    from fourfold.pool.residents import Residents

    residents = Residents()
    gateway.send(_encode(Ready({}, private_bytes())))
    while True:
        packet, descriptors, _, _ = socket.recv_fds(gateway, PACKET, 1)
        if not packet:
            return
        residents.add(socket.socket(fileno=descriptors[0]))
        gateway.send(_encode(Forked(_decode_fork(packet).id, os.getpid())))


def _log_to(path: str) -> None:
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    sys.stdout = os.fdopen(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _report_exits(gateway: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        gateway.send(_encode(Exited(pid, os.waitstatus_to_exitcode(status))))


if __name__ == "__main__":
    # Run under the module's own name, so that its classes are the ones that the worker imports.
    from fourfold.pool import zygote

    zygote.main(sys.argv[1:])
