"""One configuration measured, in a process of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any, Protocol

import msgspec

from fourfold.advisor.prices import Prices
from fourfold.advisor.recommender.traffic import DEFAULT_STEPS, steps
from fourfold.advisor.trial import Result, Trial
from fourfold.records import WorkerSpec

Document = dict[str, Any]

MB_PER_VCPU = 1769
"""A serverless container has a vCPU for each so many MB, as AWS documents it for Lambda."""


class Ready(Protocol):
    """A model that workers can load; `control.models.Prepared` is one."""

    @property
    def spec(self) -> WorkerSpec: ...

    @property
    def imports(self) -> tuple[str, ...]: ...


def trial_of(ready: Ready, one: Document, wanted: Document, limits: Document, prices: Prices) -> Trial:
    """What a benchmark does.

    Args:
        ready: the model.
        one: the configuration, of `configurations`.
        wanted: the job's InputConfig.
        limits: its StoppingConditions.
        prices: what sizes instance types have.
    """
    spec = ready.spec
    serverless = one.get("ServerlessConfig")
    cores = len(os.sched_getaffinity(0))
    vcpu = round(serverless["MemorySizeInMB"] / MB_PER_VCPU) if serverless else prices.size(one["InstanceType"]).vcpu
    threshold = (limits.get("ModelLatencyThresholds") or [{}])[0]
    load = steps(wanted)
    if serverless:
        load = tuple(step for step in load if step.users <= serverless["MaxConcurrency"]) or load[:1]
    return Trial(
        spec=msgspec.structs.replace(
            spec,
            environment=spec.environment | one["environment"],
            threads=max(1, min(vcpu, cores)),
            memory_mb=serverless["MemorySizeInMB"] if serverless else spec.memory_mb,
        ),
        imports=ready.imports,
        steps=load,
        stop_when_flat=limits.get("FlatInvocations", "Stop" if load is DEFAULT_STEPS else "Continue") == "Stop",
        most_per_minute=limits.get("MaxInvocations"),
        percentile=float(threshold.get("Percentile", "P95").lstrip("Pp")),
        slowest_ms=threshold.get("ValueInMilliseconds"),
    )


async def measured(trial: Trial) -> Result:
    """The benchmark in its own process, which ends with this task and with the server."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "fourfold.advisor.benchmark", str(os.getpid()),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        answer, _ = await process.communicate(msgspec.json.encode(trial))
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    if process.returncode:
        return Result(error=f"The benchmark ended with status {process.returncode}; the server's log says more.")
    return msgspec.json.decode(answer, type=Result)
