"""How much of each mode a workload needs: instances, memory, concurrency; the latency that follows, the usage billed.

One function a mode. Each tries every instance type (or memory size) that could hold the model and gives back all that
work, with what they would use in a month; `search` prices them and picks. Latencies here are closed forms
(`queueing`); `simulate` has the finer picture.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal

from fourfold.advisor import queueing
from fourfold.advisor.prices import Instance, Prices
from fourfold.advisor.scenario import Mode
from fourfold.advisor.usage import SERVERLESS_MEMORY_MB, Usage
from fourfold.advisor.workload import DAYS_PER_MONTH, GIB, HOURS_PER_MONTH, Workload

BUSY = 0.8
"""Utilisation that capacity is planned for; above it, small errors in the load become long waits."""
PLATFORM_MS = 10.0
"""Routing, TLS and the container's HTTP hop on a warm endpoint, client in the same region. An assumption."""
TRANSFER_MS_PER_MB = 8.0
"""1 Gbit/s between the client and the endpoint."""
INSTANCE_START_S = 300.0
"""From the wish for an instance to its first answer: provisioning, image, model. AWS gives no figure."""
SCALE_IN_S = 600.0
"""An idle asynchronous instance is kept so long: ten one-minute datapoints, as in the developer guide's examples."""
COLD_START_S = 3.0
"""A serverless cold start with a small model; AWS says "up to minutes" for large ones."""
COLD_START_S_PER_GB = 2.0
KEPT_WARM_S = 300.0
"""A serverless instance without requests is assumed to stay warm so long; AWS does not document it."""
SERVERLESS_CONCURRENCY = 200
"""Greatest MaxConcurrency of an endpoint (SageMaker's service model, ServerlessMaxConcurrency)."""
LOST = 0.001
"""Share of requests that a serverless endpoint's MaxConcurrency may turn away in its busiest minutes."""
QUEUE_S = 3600.0
"""How long an asynchronous request may wait where nothing is said about it."""
INSTANCES = 1000
"""More instances than this are not a plan."""

BURSTABLE = {"t2", "t3"}
BURSTABLE_BASE = 0.15
"""Share of each vCPU that a burstable type may use all day without spending its CPU credits (t2.xlarge: 22.5 %,
t2.2xlarge: 17 %, less a margin). They are offered for loads below it only."""
GPU_MEMORY_GIB = {"g4dn": 16, "g5": 24, "g6": 24, "p4d": 40}
"""Memory of one GPU by instance family (T4, A10G, L4, A100), from the instance families' product pages."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds from the client's request to its answer; for a batch, to the end of the run."""

    p50: float
    p95: float
    p99: float

    def plain(self) -> dict[str, float]:
        return {"p50": round(self.p50, 1), "p95": round(self.p95, 1), "p99": round(self.p99, 1)}


@dataclass(frozen=True)
class Sizing:
    """One configuration of one mode, and what it uses."""

    mode: Mode
    latency: Latency
    usages: tuple[Usage, ...]
    service_s: float
    """Seconds of model time for one request or record."""
    instance: Instance | None = None
    hours: float = 0.0
    """Instance-hours a month."""
    count: int = 0
    """Instances at the busiest time."""
    floor: int = 0
    """Instances at the quietest time."""
    concurrency: int = 1
    """Requests that one instance works on at once."""
    hourly: tuple[int, ...] = ()
    """Instances in each hour of the day, where they change."""
    memory_mb: int = 0
    max_concurrency: int = 0
    provisioned: int = 0
    warm_p99_ms: float = 0.0
    """p99 without cold starts."""
    assumptions: tuple[str, ...] = ()


def sizings(mode: Mode, work: Workload, prices: Prices) -> list[Sizing]:
    """Every configuration of a mode that can carry the load; empty where none can hold the model or the load."""
    return list(
        {"real-time": realtime, "asynchronous": asynchronous, "batch": batch, "serverless": serverless}[mode](
            work, prices
        )
    )


def realtime(work: Workload, prices: Prices) -> Iterator[Sizing]:
    room = _room_ms(work)
    # The model is the same on every type, so the servers needed are too; only their packing into instances differs.
    needed = {rate: _servers(work, rate, room / 1000) for rate in {*work.hourly, work.peak}}
    needed[work.peak] = max(needed[work.peak], math.ceil(work.at_once))
    for instance, k in _hosts(work, prices, "hosting"):
        top = math.ceil(needed[work.peak] / k)
        if top > INSTANCES:
            continue
        hourly = tuple(max(1, math.ceil(needed[rate] / k)) for rate in work.hourly)
        hours = sum(hourly) / 24 * HOURS_PER_MONTH if work.foreseeable else top * HOURS_PER_MONTH
        waits = _waits(work.peak, work.service_s, top * k)
        fixed = overhead_ms(work) + work.service_s * 1000
        latency = Latency(*(fixed + w * 1000 for w in waits))
        yield Sizing(
            "real-time",
            latency,
            (_endpoint("real-time", work, instance, hours),),
            work.service_s,
            instance=instance,
            hours=hours,
            count=max(top, *hourly),
            floor=min(hourly) if work.foreseeable else top,
            concurrency=k,
            hourly=hourly if work.foreseeable and len(set(hourly)) > 1 else (),
            warm_p99_ms=latency.p99,
            assumptions=("A warm endpoint adds 10 ms, and 8 ms for each MB sent or received.", _parallel(work)),
        )


def asynchronous(work: Workload, prices: Prices) -> Iterator[Sizing]:
    allowed = work.deadline_s or (work.latency_p99_ms / 1000 if work.latency_p99_ms else QUEUE_S)
    to_zero = allowed > INSTANCE_START_S + work.service_s
    needed = {} if to_zero else {rate: _servers(work, rate, allowed) for rate in set(work.hourly)}
    for instance, k in _hosts(work, prices, "hosting"):
        counts = [max(1, math.ceil(rate * work.service_s / (BUSY * k))) for rate in work.hourly]
        if not to_zero:
            counts = [max(1, math.ceil(needed[rate] / k)) for rate in work.hourly]
        if max(counts) > INSTANCES:
            continue
        # Poisson arrivals: an instance is up while the last arrival is younger than the scale-in time.
        up = [1 - math.exp(-rate * (SCALE_IN_S + work.service_s)) if to_zero else 1.0 for rate in work.hourly]
        hours = sum(n * share for n, share in zip(counts, up, strict=True)) * DAYS_PER_MONTH
        cold = _starting_share(work, counts, to_zero)
        fixed = overhead_ms(work) + work.service_s * 1000
        waits = _waits(max(work.hourly), work.service_s, max(counts) * k)
        start = INSTANCE_START_S * 1000
        latency = Latency(
            *(
                fixed + max(w * 1000, start if cold > tail else 0.0)
                for w, tail in zip(waits, (0.5, 0.05, 0.01), strict=True)
            )
        )
        messages = _dec(work.requests_per_month)
        around = Usage(
            "supporting",
            name="asynchronous",
            region=work.region,
            services={"s3_put": 2 * messages, "s3_get": 2 * messages, "sns_publishes": messages},
        )
        yield Sizing(
            "asynchronous",
            latency,
            (_endpoint("asynchronous", work, instance, hours), around),
            work.service_s,
            instance=instance,
            hours=hours,
            count=max(counts),
            floor=0 if to_zero else min(counts),
            concurrency=k,
            warm_p99_ms=fixed + waits[2] * 1000,
            assumptions=(
                f"An answer may take {allowed:,.0f} s.",
                "An instance takes 5 minutes to start, and is given back after 10 idle minutes.",
                "Each request is one object in, one object out, and one notification.",
                _parallel(work),
            ),
        )


def batch(work: Workload, prices: Prices) -> Iterator[Sizing]:
    allowed = work.deadline_s or 24 * 3600.0
    busy = work.items_per_run * work.service_s
    for instance, k in _hosts(work, prices, "batch"):
        window = max(allowed - INSTANCE_START_S, 60.0)
        count = max(1, math.ceil(busy / (k * window)))
        if count > INSTANCES:
            continue
        run_s = INSTANCE_START_S + busy / (count * k)
        usage = Usage(
            "batch",
            region=work.region,
            instance_type=instance.name,
            instance_count=Decimal(count),
            items=_dec(work.items_per_run),
            seconds_per_item=_dec(work.service_s),
            concurrency=Decimal(k),
            startup_minutes=_dec(INSTANCE_START_S / 60),
            runs_per_month=_dec(work.runs_per_month),
        )
        schedule = Usage(
            "supporting",
            name="batch",
            region=work.region,
            services={"scheduler_invocations": _dec(work.runs_per_month)},
        )
        yield Sizing(
            "batch",
            Latency(run_s * 1000, run_s * 1000, run_s * 1000),
            (usage, schedule),
            work.service_s,
            instance=instance,
            hours=(busy / k + INSTANCE_START_S * count) / 3600 * work.runs_per_month,
            count=count,
            floor=0,
            concurrency=k,
            warm_p99_ms=run_s * 1000,
            assumptions=(
                f"A run may take {allowed:,.0f} s, and its instances take 5 minutes to start.",
                "The latency of a batch is the time until its run has ended.",
                _parallel(work),
            ),
        )


def serverless(work: Workload, prices: Prices) -> Iterator[Sizing]:
    if work.gpu:
        return
    load = work.peak * work.service_s
    if load > SERVERLESS_CONCURRENCY:
        return
    limit = max(queueing.servers_without_loss(load, LOST) if load else 1, math.ceil(work.at_once))
    if limit > SERVERLESS_CONCURRENCY:
        return
    memory = next((mb for mb in SERVERLESS_MEMORY_MB if mb >= work.memory_gb * 1024), None)
    if memory is None:
        return
    cold_s = COLD_START_S + COLD_START_S_PER_GB * work.memory_gb
    warm = overhead_ms(work) + work.service_s * 1000
    cold = _cold_share(work, KEPT_WARM_S)
    on_demand = Latency(*(warm + (cold_s * 1000 if cold > tail else 0.0) for tail in (0.5, 0.05, 0.01)))
    said = (
        f"A cold start takes {cold_s:g} s, and an instance stays warm for 5 minutes after a request.",
        f"{cold:.1%} of the requests meet a cold start.",
        "The model is as fast on serverless capacity as on one vCPU.",
        "A warm endpoint adds 10 ms, and 8 ms for each MB sent or received.",
    )
    seconds = _dec(work.requests_per_month) * _dec(work.service_s)
    plain = Usage(
        "serverless",
        region=work.region,
        memory_mb=Decimal(memory),
        compute_seconds=seconds,
        data_in_gb=_gb(work.payload_mb, work),
        data_out_gb=_gb(work.response_mb, work),
    )
    yield Sizing(
        "serverless",
        on_demand,
        (plain,),
        work.service_s,
        memory_mb=memory,
        max_concurrency=limit,
        warm_p99_ms=warm,
        assumptions=said,
    )
    # Kept warm: enough for all but one request in a hundred; the rest overflow to on-demand capacity.
    kept = min(limit, queueing.servers_without_loss(load, 0.01) if load else 1)
    warmed = replace(
        plain,
        compute_seconds=None,
        provisioned_concurrency=Decimal(kept),
        provisioned_hours=_dec(HOURS_PER_MONTH),
        provisioned_duration_seconds=seconds,
    )
    yield Sizing(
        "serverless",
        Latency(warm, warm, warm),
        (warmed,),
        work.service_s,
        memory_mb=memory,
        max_concurrency=limit,
        provisioned=kept,
        warm_p99_ms=warm,
        assumptions=said,
    )


def overhead_ms(work: Workload) -> float:
    """Milliseconds beside the model: the platform and the transfer both ways."""
    return PLATFORM_MS + TRANSFER_MS_PER_MB * (work.payload_mb + work.response_mb)


def _room_ms(work: Workload) -> float:
    """Milliseconds that a request may wait at the 99th percentile. Without a target: ten services, at least 100 ms.

    Where even a request that never waits is too late, capacity is planned as without a target: the nearest plan.
    """
    usual = max(10 * work.service_s * 1000, 100.0)
    if work.latency_p99_ms is None:
        return usual
    left = work.latency_p99_ms - overhead_ms(work) - work.service_s * 1000
    return left if left >= 0 else usual


def _servers(work: Workload, rate: float, wait_s: float) -> int:
    if rate <= 0:
        return 1
    if rate * work.service_s > 1e6:
        return math.ceil(rate * work.service_s / BUSY)
    return queueing.servers_for(rate, work.service_s, wait_s, 0.99, BUSY)


def _waits(rate: float, service: float, servers: int) -> tuple[float, float, float]:
    p50, p95, p99 = (queueing.mdc_wait_quantile(rate, service, servers, share) for share in (0.5, 0.95, 0.99))
    return p50, p95, p99


def _hosts(work: Workload, prices: Prices, use: str) -> Iterator[tuple[Instance, int]]:
    """Instance types that hold the model, with the requests each works on at once."""
    load = work.requests_per_day * work.service_s / 86400
    for instance in prices.instances(use, work.region):
        if instance.family == "inf2":  # needs a model compiled for Inferentia, which a scenario does not promise
            continue
        if work.gpu:
            memory = GPU_MEMORY_GIB.get(instance.family, instance.memory_gib if instance.gpus else 0)
            # A model larger than one GPU is spread over as many as it takes.
            each = math.ceil(work.memory_gb / memory) if memory else 0
            k = instance.gpus // each if each else 0
        elif instance.gpus or (instance.family in BURSTABLE and load > BURSTABLE_BASE * instance.vcpu):
            continue
        else:
            k = min(instance.vcpu, int(instance.memory_gib * 0.8 / work.memory_gb) if work.memory_gb else instance.vcpu)
        if k >= 1:
            yield instance, k


def _starting_share(work: Workload, counts: list[int], to_zero: bool) -> float:
    """Share of the asynchronous requests that wait for an instance to start.

    One that comes when the last is longer ago than the scale-in time (Poisson arrivals in each hour), those that come
    while the instance starts for it, and those of the minutes in which the count grows from one hour to the next.
    """
    total = sum(work.hourly)
    if not total:
        return 1.0 if to_zero else 0.0
    empty = sum(r * math.exp(-r * SCALE_IN_S) * (1 + r * INSTANCE_START_S) for r in work.hourly) / total
    grown = 0.0
    for h, (rate, count) in enumerate(zip(work.hourly, counts, strict=True)):
        before = 0 if to_zero and not work.hourly[h - 1] else counts[h - 1]
        if rate and count > before:
            grown += 1 + rate * INSTANCE_START_S
    return min(1.0, (empty if to_zero else 0.0) + grown / max(work.requests_per_day, 1.0))


def _cold_share(work: Workload, kept_s: float) -> float:
    """Share of the requests that start an instance which serves one request at a time and is kept `kept_s` when idle.

    In an hour with Poisson arrivals at r the number of busy instances N is Poisson with mean r × service. A request
    that finds k busy needs one more; that one was last needed longer than `kept_s` ago with probability
    e^(−r P(N ≥ k) kept). After an hour without any, the first request is cold too.
    """
    total = sum(work.hourly)
    if not total:
        return 1.0
    cold = sum(r * _cold_in_hour(r, r * work.service_s, kept_s) for r in work.hourly) / total
    mornings = sum(1 for h, r in enumerate(work.hourly) if r and not work.hourly[h - 1])
    return min(1.0, cold + mornings / max(work.requests_per_day, 1.0))


@functools.lru_cache(maxsize=4096)
def _cold_in_hour(rate: float, load: float, kept_s: float) -> float:
    if load > SERVERLESS_CONCURRENCY:
        return 0.0  # no plan, and its thousands of instances are never all idle
    cold, at_least, exactly, k = 0.0, 1.0, math.exp(-load), 0
    while at_least > 1e-9:
        cold += exactly * math.exp(-rate * at_least * kept_s)
        at_least -= exactly
        k += 1
        exactly *= load / k
    return cold


def _endpoint(mode: Mode, work: Workload, instance: Instance, hours: float) -> Usage:
    return Usage(
        mode,
        region=work.region,
        instance_type=instance.name,
        hours=_dec(hours),
        data_in_gb=_gb(work.payload_mb, work),
        data_out_gb=_gb(work.response_mb, work),
    )


def _gb(megabytes: float, work: Workload) -> Decimal:
    return _dec(megabytes * 1e6 / GIB * work.requests_per_month)


def _dec(value: float) -> Decimal:
    return Decimal(str(round(value, 9)))


def _parallel(work: Workload) -> str:
    return "One GPU works on one request at a time." if work.gpu else "One vCPU works on one request at a time."
