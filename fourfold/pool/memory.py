"""A worker's memory limit, from inside and outside.

Inside, RLIMIT_DATA refuses what goes far over the limit in one step, faster than anybody could watch. Outside, the
fleet looks at resident memory ten times a second and ends a worker that holds more than the limit. In between the
operating system's own accounting differs (memory that is reserved but not used counts inside only), hence the slack.
"""

from __future__ import annotations

import resource

from fourfold.pool.processes import resident_bytes
from fourfold.records import Reply

MIB = 1024 * 1024
OUT_OF_MEMORY = 507
"""Status of a reply with which a worker says that it ran out of memory, and ends. HTTP's Insufficient Storage."""
SLACK_SHARE, SLACK_MB = 1.25, 256
_SIGNS = ("MemoryError", "bad_alloc", "bad allocation", "Failed to allocate memory", "Cannot allocate memory")


def confine(memory_mb: int) -> None:
    """Let this process and its children have not much more than `memory_mb` each."""
    most = int(memory_mb * SLACK_SHARE + SLACK_MB) * MIB
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or most <= hard:
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def is_exhaustion(text: str) -> bool:
    """Does an error's text say that an allocation was refused?"""
    return any(sign in text for sign in _SIGNS)


def over(memory_mb: int, used: int) -> str:
    """What the client reads: `used` bytes were resident."""
    return (
        f"The model used {used // MIB:,} MB of memory; MemorySizeInMB of the endpoint is {memory_mb:,}. Its worker was "
        "ended. Raise MemorySizeInMB (up to 6144), or send less at once."
    )


def refused(memory_mb: int) -> str:
    """What the client reads where an allocation was refused in this process."""
    used = resident_bytes("self") // MIB
    return (
        f"The model asked for more memory than the endpoint has: {used:,} MB of memory were in use when a further "
        f"allocation was refused; MemorySizeInMB of the endpoint is {memory_mb:,}. Its worker was ended. Raise "
        "MemorySizeInMB (up to 6144), or send less at once."
    )


def checked(reply: Reply, memory_mb: int | None) -> Reply:
    """The reply, or, where it fails because memory was refused, one that says so."""
    if memory_mb is None or reply.status == 200 or not is_exhaustion(f"{reply.body!r} {reply.detail}"):
        return reply
    return Reply(reply.id, refused(memory_mb).encode(), "text/plain", OUT_OF_MEMORY, detail=reply.detail)
