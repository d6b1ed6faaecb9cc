"""What SageMaker's own metrics say of endpoints, taken from what the pool counts anyway.

`AWS/SageMaker` has calls, errors, latencies and concurrency, `/aws/sagemaker/Endpoints` CPU and memory of the workers,
all by EndpointName and VariantName. An error metric has a value for each call, 1 or 0, so that its average is a rate.
Microseconds and percent as SageMaker has them: https://docs.aws.amazon.com/sagemaker/latest/dg/monitoring-cloudwatch.html
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from fourfold.datapoints import ENDPOINTS, SAGEMAKER, Datapoint, Statistics, metric
from fourfold.pool.components import Components
from fourfold.pool.elastic import ElasticFleet
from fourfold.pool.fleet import Fleet
from fourfold.pool.multimodel import MultiModel, multi_model_of
from fourfold.pool.processes import total_bytes, usage
from fourfold.pool.routes import Routes, Variant
from fourfold.pool.several import Several
from fourfold.pool.stats import CallStats

Pooled = Fleet | ElasticFleet | Several

Processes = Mapping[int, tuple[float, int]]
"""CPU seconds used so far, and resident bytes, by process id."""


@dataclass
class _Before:
    """What a variant's counts were the last time, and what was seen since."""

    stats: CallStats
    calls: int = 0
    seconds: float = 0.0
    client: int = 0
    server: int = 0
    model: int = 0
    hits: int = 0
    misses: int = 0
    starts: int = 0
    start_seconds: float = 0.0
    concurrent: Statistics = field(default_factory=Statistics)
    provisioned_use: Statistics = field(default_factory=Statistics)


class EndpointFigures:
    """Figures of the endpoints that can be called.

    Args:
        routes: where they stand.
    """

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self._before: dict[tuple[str, str], _Before] = {}
        self._cpu: dict[int, float] = {}
        self._counted: WeakKeyDictionary[Fleet, int] = WeakKeyDictionary()
        """Calls of each component's copies the last time."""
        self._refused: dict[str, int] = {}
        """Refusals of each component the last time."""
        self._at_once: dict[str, Statistics] = {}
        """Calls in flight for each copy of each component, seen since."""

    def sample(self) -> None:
        """Look at how many calls are in flight now."""
        in_flight: dict[tuple[str, str], int] = {}
        workers: dict[tuple[str, str], int] = {}
        for variant, fleet in self._variants():
            if isinstance(fleet, Components):
                self._sample_copies(fleet)
            before = self._known(variant)
            key = (variant.endpoint, variant.name)
            in_flight[key] = in_flight.get(key, 0) + fleet.batcher.in_flight()
            workers[key] = workers.get(key, 0) + len(fleet.ready)
            if isinstance(fleet, ElasticFleet) and fleet.elasticity.provisioned:
                before.provisioned_use.add(min(1.0, in_flight[key] / fleet.elasticity.provisioned))
        for key, calls in in_flight.items():
            models = max(1, workers[key])
            self._before[key].concurrent.add(calls / models, models)

    def _sample_copies(self, components: Components) -> None:
        for name in components.items():
            fleets = components.copies_of(name)
            copies = max(1, sum(len(fleet.ready) for fleet in fleets))
            calls = sum(fleet.batcher.in_flight() for fleet in fleets)
            self._at_once.setdefault(name, Statistics()).add(calls / copies)

    def pids(self) -> list[int]:
        """Processes of all workers."""
        return [worker.pid for _, fleet in self._variants() for worker in fleet.ready if worker.pid]

    @staticmethod
    def look_at_processes(pids: Iterable[int]) -> Processes:
        """Read the kernel's figures. Takes about 0.1 ms a process, so not on the event loop."""
        return {pid: usage(pid) for pid in pids}

    def datapoints(self, seconds: float, processes: Processes) -> Iterator[Datapoint]:
        """What was measured since the last time, `seconds` ago."""
        for variant, fleet in self._variants():
            names = {"EndpointName": variant.endpoint, "VariantName": variant.name}
            before = self._known(variant)
            for name, statistics, unit in (*_calls(variant, fleet, before), *_concurrency(fleet, before)):
                if statistics.count:
                    yield Datapoint(metric(SAGEMAKER, name, names), statistics, unit)
            models = multi_model_of(fleet)
            if models is not None:
                yield from _multi_model(models, before, names)
            if isinstance(fleet, Components):
                yield from self._copies(fleet)
            cpu, memory = self._instances(fleet, seconds, processes)
            if memory.count:
                yield Datapoint(metric(ENDPOINTS, "CPUUtilization", names), cpu, "Percent")
                yield Datapoint(metric(ENDPOINTS, "MemoryUtilization", names), memory, "Percent")
        self._cpu = {pid: used for pid, (used, _) in processes.items()}
        here = {(route.name, variant.name) for route in self._routes.values() for variant in route.variants}
        there = {name for _, fleet in self._variants() if isinstance(fleet, Components) for name in fleet.items()}
        self._refused = {name: before for name, before in self._refused.items() if name in there}
        self._before = {key: before for key, before in self._before.items() if key in here}

    def _variants(self) -> Iterator[tuple[Variant, Pooled]]:
        """Every fleet once; while an update moves traffic, a variant has two. Those that sleep have nothing to tell."""
        for route in list(self._routes.values()):
            if route.only is not None and self._sleeps(route.only):
                continue
            for variant in {id(variant.backend): variant for variant in route.variants}.values():
                if isinstance(variant.backend, Pooled):
                    yield variant, variant.backend

    def _sleeps(self, variant: Variant) -> bool:
        """Has it no worker, and was it not called since the last time?"""
        fleet = variant.backend
        if not isinstance(fleet, ElasticFleet) or not fleet.asleep:
            return False
        before = self._before.get((variant.endpoint, variant.name))
        return variant.stats.calls == (before.calls if before else 0)

    def _copies(self, components: Components) -> Iterator[Datapoint]:
        """Figures of inference components, by their names alone, as policies ask for them."""
        for name in components.items():
            fleets = components.copies_of(name)
            calls = sum(map(self._new_calls, fleets))
            refused = components.refused.get(name, 0)
            refusals, self._refused[name] = max(0, refused - self._refused.get(name, 0)), refused
            copies = max(1, sum(len(fleet.ready) for fleet in fleets))
            for metric_name, statistics in (
                ("Invocations", Statistics.repeated(1.0, calls)),
                ("InvocationsPerCopy", Statistics.repeated(1.0 / copies, calls)),
                ("ConcurrentRequestsPerCopy", self._at_once.pop(name, Statistics())),
                ("NoCapacityInvocationFailures", Statistics.repeated(1.0, refusals)),
            ):
                if statistics.count:
                    names = {"InferenceComponentName": name}
                    yield Datapoint(metric(SAGEMAKER, metric_name, names), statistics, "None")

    def _new_calls(self, fleet: Fleet) -> int:
        """Calls since the last time."""
        calls = fleet.batcher.batched_calls
        before, self._counted[fleet] = self._counted.get(fleet, 0), calls
        return calls - before

    def _known(self, variant: Variant) -> _Before:
        key = (variant.endpoint, variant.name)
        before = self._before.get(key)
        if before is None or before.stats is not variant.stats:
            before = self._before[key] = _Before(variant.stats)
        return before

    def _instances(self, fleet: Pooled, seconds: float, processes: Processes) -> tuple[Statistics, Statistics]:
        """Percent of a core, and of the memory that a worker may have; a value for each process."""
        limit = fleet.elasticity.memory_mb * 2**20 if isinstance(fleet, ElasticFleet) else total_bytes()
        cpu, memory = Statistics(), Statistics()
        for pid in {worker.pid for worker in fleet.ready}:
            used, size = processes.get(pid, (0.0, 0))
            if not size:
                continue
            cpu.add(max(0.0, 100.0 * (used - self._cpu.get(pid, used)) / max(seconds, 1e-3)))
            memory.add(100.0 * size / limit)
        return cpu, memory


def _calls(variant: Variant, fleet: Pooled, before: _Before) -> list[tuple[str, Statistics, str]]:
    stats = variant.stats
    calls, seconds = stats.calls - before.calls, stats.seconds - before.seconds
    model = sum(stats.of_model.values())
    client = _from(stats.of_model, 400) + sum(n for status, n in stats.by_status.items() if 400 <= status < 500)
    client -= stats.by_status.get(424, 0)  # a model's own error counts by the status that the model gave
    server = _from(stats.of_model, 500) + sum(n for status, n in stats.by_status.items() if status >= 500)
    ours = fleet.batcher.times.seconds
    times = fleet.batcher.times.take()
    overhead = max(0.0, seconds - ours) * 1e6 / calls if calls else 0.0
    instances = fleet.instances if isinstance(fleet, Several) else len(fleet.ready)
    figures = [
        ("Invocations", Statistics.repeated(1.0, calls), "None"),
        ("InvocationsPerInstance", Statistics.repeated(1.0 / max(1, instances), calls), "None"),
        ("Invocation4XXErrors", _rate(client - before.client, calls), "None"),
        ("Invocation5XXErrors", _rate(server - before.server, calls), "None"),
        ("InvocationModelErrors", _rate(model - before.model, calls), "None"),
        ("ModelLatency", times, "Microseconds"),
        ("OverheadLatency", Statistics.repeated(overhead, calls), "Microseconds"),
    ]
    before.calls, before.seconds = stats.calls, stats.seconds
    before.client, before.server, before.model = client, server, model
    return figures


def _concurrency(fleet: Pooled, before: _Before) -> list[tuple[str, Statistics, str]]:
    figures = [("ConcurrentRequestsPerModel", before.concurrent, "None")]
    before.concurrent = Statistics()
    if isinstance(fleet, ElasticFleet):
        starts = fleet.cold_starts
        count, spent = starts.count - before.starts, starts.sums.fork + starts.sums.load - before.start_seconds
        figures.append(("ModelSetupTime", Statistics.repeated(spent * 1e6 / max(1, count), count), "Microseconds"))
        figures.append(("ServerlessProvisionedConcurrencyUtilization", before.provisioned_use, "None"))
        before.starts, before.start_seconds = starts.count, starts.sums.fork + starts.sums.load
        before.provisioned_use = Statistics()
    return figures


def _multi_model(models: MultiModel, before: _Before, names: Mapping[str, str]) -> Iterator[Datapoint]:
    """SageMaker's metrics of multi-model endpoints."""
    hits, misses = models.hits - before.hits, models.misses - before.misses
    before.hits, before.misses = models.hits, models.misses
    figures = models.take_figures()
    for name, statistics, unit in (
        ("ModelCacheHit", _rate(hits, hits + misses), "None"),
        ("ModelDownloadingTime", figures.downloading, "Microseconds"),
        ("ModelLoadingTime", figures.loading, "Microseconds"),
        ("ModelLoadingWaitTime", figures.waiting, "Microseconds"),
        ("ModelUnloadingTime", figures.unloading, "Microseconds"),
    ):
        if statistics.count:
            yield Datapoint(metric(SAGEMAKER, name, names), statistics, unit)
    yield Datapoint(metric(ENDPOINTS, "LoadedModelCount", names), Statistics.of(float(models.loaded)), "None")


def _from(statuses: Mapping[int, int], first: int) -> int:
    """How many had a status of this hundred."""
    return sum(count for status, count in statuses.items() if first <= status < first + 100)


def _rate(errors: int, calls: int) -> Statistics:
    """A value for each call: 1 for an error, 0 otherwise."""
    result = Statistics()
    for value, count in ((1.0, errors), (0.0, calls - errors)):
        if count > 0:
            result.add(value, count)
    return result
