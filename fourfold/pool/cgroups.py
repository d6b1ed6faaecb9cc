"""A control group (cgroup v2) for each serverless worker, where this server may make them.

The kernel then counts a worker's memory exactly, children and page cache included, ends only the worker that goes over,
and shares the CPU by memory. It may where it runs in a group that is its own: a systemd service with `Delegate=yes`.
Everywhere else `memory.py` watches. A group may hold processes or have groups with controllers, not both; so the server
first moves itself into a group `server` beside those of the workers.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

from fourfold.pool.processes import family

log = logging.getLogger(__name__)

MOUNT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
CONTROLLERS = ("memory", "cpu")
MIB = 1024 * 1024
WEIGHT_PER_GB = 100
"""CPU weight for each 1024 MB: 100 is what everything else on the machine has."""


class Cgroups:
    """The groups of workers below one group.

    Args:
        folder: that group.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made = 0

    @classmethod
    def find(cls, mount: Path = MOUNT, own: Path = OWN) -> Cgroups | None:
        """Those that this server may use; None where there are none. To be called before there are workers."""
        try:
            path = next(line[3:] for line in own.read_text().splitlines() if line.startswith("0::"))
            folder = mount / path.strip("/")
            inside = folder.name == "server"  # systemd's DelegateSubgroup, or an earlier start
            groups = cls(folder.parent if inside else folder)
            if groups._is_ours(mount):
                groups._prepare()
                log.info("workers get control groups", extra={"folder": str(groups._folder)})
                return groups
            reason = "the server's group has no memory and cpu controllers, or is not its own"
        except (OSError, StopIteration) as error:
            reason = str(error) or "no cgroup v2"
        log.info("workers get no control groups", extra={"reason": reason})
        return None

    def make(self, memory_mb: int) -> Group:
        """A group that holds a worker to its memory and gives it CPU by it. Raises OSError."""
        self._made += 1
        group = Group(self._folder / f"worker-{os.getpid()}-{self._made}")
        group.folder.mkdir()
        try:
            group.write("memory.max", memory_mb * MIB)
            group.write("memory.oom.group", 1)
            group.write("cpu.weight", max(1, WEIGHT_PER_GB * memory_mb // 1024))
            with contextlib.suppress(OSError):  # a kernel that does not count swap
                group.write("memory.swap.max", 0)
        except OSError:
            group.remove()
            raise
        return group

    def _is_ours(self, mount: Path) -> bool:
        """Has the group the controllers, and no process but this server's? The machine's own group is nobody's."""
        if self._folder == mount or not self._folder.is_relative_to(mount):
            return False
        controllers = (self._folder / "cgroup.controllers").read_text().split()
        strangers = set(_processes(self._folder)) - set(family(os.getpid()))
        return set(CONTROLLERS) <= set(controllers) and not strangers

    def _prepare(self) -> None:
        server = self._folder / "server"
        server.mkdir(exist_ok=True)
        for pid in _processes(self._folder):
            (server / "cgroup.procs").write_text(str(pid))
        (self._folder / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in CONTROLLERS))
        for left in self._folder.glob("worker-*"):  # by a server that was killed
            Group(left).remove()


class Group:
    """The group of one worker."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, value: int) -> None:
        (self.folder / name).write_text(str(value))

    def was_full(self) -> bool:
        """Has the kernel ended its processes because they went over the memory?"""
        try:
            events = dict(line.split() for line in (self.folder / "memory.events").read_text().splitlines())
        except (OSError, ValueError):
            return False
        return int(events.get("oom_kill", 0)) > 0

    def peak(self) -> int:
        """The most memory that it held, in bytes; its limit where the kernel does not tell."""
        for name in ("memory.peak", "memory.max"):
            with contextlib.suppress(OSError, ValueError):
                return int((self.folder / name).read_text())
        return 0

    def remove(self) -> bool:
        """Remove it, once its worker has ended. False: a process in it has not ended yet; it is told to."""
        try:
            self.folder.rmdir()
        except FileNotFoundError:
            return True
        except OSError:  # what the model started lives on
            with contextlib.suppress(OSError):  # a kernel before 5.14
                self.write("cgroup.kill", 1)
            return False
        return True


def _processes(folder: Path) -> list[int]:
    return [int(pid) for pid in (folder / "cgroup.procs").read_text().split()]
