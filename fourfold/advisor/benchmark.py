"""Puts load on one worker and measures what it bears: `python -m fourfold.advisor.benchmark`, a process of its own.

It reads a `Trial` as JSON from standard input and writes a `Result`; with a process id as its argument it ends when
that process does. The server starts one for each benchmark of an
inference recommendations job (`recommender`), so that the load never runs on the server's event loop; the worker, its
zygote and its batching are those of an endpoint.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from fourfold.advisor.profile import Pending, peak_memory_mb, sample, start
from fourfold.advisor.trial import Result, Step, Trial
from fourfold.errors import FourfoldError, ModelError
from fourfold.pool.batcher import Batcher, Batching
from fourfold.pool.local import LocalPlacer
from fourfold.pool.zygote import die_with_parent
from fourfold.records import Call

FLAT = 1.1
"""The rate has to grow by this factor from one step to the next, or it counts as flat."""


async def run(trial: Trial) -> Result:
    """Start the worker, walk up the steps, end the worker.

    Raises:
        FourfoldError: the model cannot be loaded, needs a sample payload, or refuses it.
    """
    placer = LocalPlacer()
    try:
        _, link, _ = await start(placer, trial.spec, trial.imports)
        link.kill()  # it has paid for the imports: the next one starts as a worker of a warm server does
        setup_s, link, loaded = await start(placer, trial.spec, trial.imports)
        batcher = Batcher(Batching())
        batcher.add(link)
        bodies, content_type = trial.bodies, trial.content_type
        if not bodies:
            body, content_type = sample(loaded.inputs)
            bodies = (body,)
        await _ask(batcher, bodies[0], content_type, 0)  # the first call pays for lazy work
        best = Result()
        for step in trial.steps:
            seen = await _load(batcher, step, bodies, content_type, link.pid, trial)
            too_slow = trial.slowest_ms is not None and seen.latency_ms > trial.slowest_ms
            flat = trial.stop_when_flat and best.users and seen.per_minute < FLAT * best.per_minute
            if not best.users or (seen.per_minute > best.per_minute and not too_slow):
                best = seen
            if too_slow or flat or (trial.most_per_minute and seen.per_minute >= trial.most_per_minute):
                break
        memory = peak_memory_mb(link.pid) or 0.0
        link.kill()
    finally:
        await placer.close()
    return msgspec.structs.replace(best, memory_mb=memory, setup_ms=1000 * setup_s)


async def _load(
    batcher: Batcher, step: Step, bodies: tuple[bytes, ...], content_type: str, pid: int, trial: Trial
) -> Result:
    times: list[float] = []
    began, busy = time.perf_counter(), _cpu_seconds(pid)
    end = began + step.seconds

    async def user(number: int) -> None:
        while True:
            asked = time.perf_counter()
            await _ask(batcher, bodies[number % len(bodies)], content_type, number)
            times.append(time.perf_counter() - asked)
            number += step.users
            if time.perf_counter() >= end:
                return

    async with asyncio.TaskGroup() as users:
        for number in range(step.users):
            users.create_task(user(number))
    span = time.perf_counter() - began
    return Result(
        per_minute=round(60 * len(times) / span),
        latency_ms=1000 * float(np.percentile(times, trial.percentile)),
        users=step.users,
        cpu_percent=100 * (_cpu_seconds(pid) - busy) / (span * trial.spec.threads),
    )


async def _ask(batcher: Batcher, body: bytes, content_type: str, number: int) -> None:
    pending = Pending(Call(number, body, content_type), asyncio.get_running_loop())
    batcher.submit(pending)
    reply = await pending.reply
    if reply.status != 200:
        raise ModelError(f"the model refuses the sample payload: {reply.body.decode('utf-8', 'replace')[:300]}")


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process, from Linux's /proc; 0 where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    if len(sys.argv) > 1:
        die_with_parent(int(sys.argv[1]))
    trial = msgspec.json.decode(sys.stdin.buffer.read(), type=Trial)
    try:
        result = asyncio.run(run(trial))
    except FourfoldError as error:
        result = Result(error=error.message)
    except ExceptionGroup as group:  # every user met the same error
        result = Result(error=str(getattr(group.exceptions[0], "message", group.exceptions[0])))
    sys.stdout.buffer.write(msgspec.json.encode(result))


if __name__ == "__main__":
    main()
