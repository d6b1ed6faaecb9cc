"""What the kernel tells about processes and memory."""

from __future__ import annotations

import ctypes
import os
import re
from contextlib import suppress
from pathlib import Path

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""What OpenMP and BLAS libraries read when they are loaded."""

_libc = ctypes.CDLL(None)
_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_bytes(pid: int | str) -> int:
    """Resident memory of a process in bytes; 0 where it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * _PAGE
    except (FileNotFoundError, ProcessLookupError):
        return 0


_TICKS = os.sysconf("SC_CLK_TCK")


def total_bytes() -> int:
    """Memory of the machine."""
    return os.sysconf("SC_PHYS_PAGES") * _PAGE


def usage(pid: int) -> tuple[float, int]:
    """CPU seconds that a process and its descendants have used, and their resident bytes. Zeros where it has ended."""
    seconds, size = 0.0, 0
    for one in family(pid):
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        seconds += sum(map(int, fields[11:15])) / _TICKS  # its own and those of children that have ended
        size += resident_bytes(one)
    return seconds, size


def family_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants in bytes, shared pages counted in each."""
    return sum(map(resident_bytes, family(pid)))


def private_bytes(pid: int | str = "self") -> int:
    """Memory that a process shares with no other, in bytes; 0 where it has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(kib) for kib in re.findall(r"^Private_\w+:\s+(\d+)", text, re.MULTILINE)) * 1024


def trim_memory() -> None:
    """Give the kernel back what this process has freed, where its C library can (glibc)."""
    with suppress(AttributeError):
        _libc.malloc_trim(0)


def yield_to_others(pid: int) -> None:
    """Let a process that is to end do so at a low priority. Nothing where it has ended."""
    with suppress(ProcessLookupError, PermissionError):
        os.setpriority(os.PRIO_PROCESS, pid, 10)


def threads() -> int:
    """Threads of this process."""
    return len(os.listdir("/proc/self/task"))


def available_bytes() -> int:
    """Memory of the machine that can be had without swapping."""
    match = re.search(r"^MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(match[1]) * 1024 if match else total_bytes()


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for parent in found:
        try:
            for task in os.listdir(f"/proc/{parent}/task"):
                found += map(int, Path(f"/proc/{parent}/task/{task}/children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found
