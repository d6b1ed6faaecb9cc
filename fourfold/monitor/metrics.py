"""Prometheus metrics on `GET /metrics`: read from the parts when asked, so that counting costs the hot path nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from fourfold.pool.elastic import ElasticFleet
from fourfold.pool.fleet import Fleet
from fourfold.pool.multimodel import MultiModel, multi_model_of
from fourfold.pool.processes import resident_bytes
from fourfold.pool.routes import Routes, Variant
from fourfold.pool.several import Several
from fourfold.pool.stats import BUCKETS

Labels: TypeAlias = tuple[str, str]
LABELS = ("endpoint", "variant")
AnyFleet: TypeAlias = Fleet | ElasticFleet | Several


class Metrics:
    """Everything that one server tells about itself.

    Args:
        routes: endpoints that can be called.
        refused: calls that never reached a variant, by error code.
    """

    def __init__(self, routes: Routes, refused: dict[str, int]) -> None:
        self._routes = routes
        self._refused = refused
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def render(self) -> bytes:
        """The text format, version 0.0.4."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        found = [
            ((route.name, variant.name), variant)
            for route in list(self._routes.values())
            for variant in {variant.name: variant for variant in route.variants}.values()
        ]
        fleets = [
            (key, variant.backend)
            for key, variant in found
            if isinstance(variant.backend, Fleet | ElasticFleet | Several)
        ]
        yield from _calls(found)
        yield from _captures(found)
        yield from _batches(fleets)
        yield from _workers(fleets)
        yield from _cold_starts([(key, fleet) for key, fleet in fleets if isinstance(fleet, ElasticFleet)])
        hosts = [(key, multi_model_of(fleet)) for key, fleet in fleets]
        yield from _loaded_models([(key, models) for key, models in hosts if models is not None])
        yield from self._server()

    def _server(self) -> Iterator[Metric]:
        refused = CounterMetricFamily(
            "fourfold_refused", "Invocations that reached no variant, by error", labels=("code",)
        )
        for code, count in self._refused.items():
            refused.add_metric((code,), count)
        memory = GaugeMetricFamily("fourfold_server_memory_bytes", "Resident memory of the gateway process")
        memory.add_metric((), resident_bytes("self"))
        yield from (refused, memory)


def _calls(found: Iterable[tuple[Labels, Variant]]) -> Iterator[Metric]:
    invocations = _counter("fourfold_invocations", "Calls answered, by HTTP status", "status")
    latency = HistogramMetricFamily(
        "fourfold_invocation_seconds", "Time from a call's arrival to its answer", labels=LABELS
    )
    for key, variant in found:
        for status, count in variant.stats.by_status.items():
            invocations.add_metric((*key, str(status)), count)
        latency.add_metric(key, _cumulative(variant.stats.buckets), variant.stats.seconds)
    yield from (invocations, latency)


def _captures(found: Iterable[tuple[Labels, Variant]]) -> Iterator[Metric]:
    captured = _counter("fourfold_captured_calls", "Sampled calls that data capture has written")
    dropped = _counter("fourfold_capture_dropped_calls", "Sampled calls that data capture had to drop")
    for key, variant in found:
        if variant.stats.captured or variant.stats.not_captured:
            captured.add_metric(key, variant.stats.captured)
            dropped.add_metric(key, variant.stats.not_captured)
    yield from (captured, dropped)


def _batches(fleets: Iterable[tuple[Labels, AnyFleet]]) -> Iterator[Metric]:
    queue = _gauge("fourfold_queue_length", "Calls that wait for a worker")
    throttled = _counter("fourfold_throttled", "Calls refused because too many waited")
    batches = _counter("fourfold_batches", "Model calls")
    batched = _counter("fourfold_batched_calls", "Calls that went in these batches")
    for key, fleet in fleets:
        queue.add_metric(key, len(fleet.batcher))
        throttled.add_metric(key, fleet.batcher.rejected)
        batches.add_metric(key, fleet.batcher.batches)
        batched.add_metric(key, fleet.batcher.batched_calls)
    yield from (queue, throttled, batches, batched)


def _workers(fleets: Iterable[tuple[Labels, AnyFleet]]) -> Iterator[Metric]:
    workers = _gauge("fourfold_workers", "Workers that are ready")
    restarts = _counter("fourfold_worker_restarts", "Workers replaced after they ended")
    memory = _gauge("fourfold_worker_memory_bytes", "Resident memory of a worker's process", "pid")
    for key, fleet in fleets:
        workers.add_metric(key, len(fleet.ready))
        restarts.add_metric(key, fleet.restarts)
        for pid in {worker.pid for worker in fleet.ready}:
            memory.add_metric((*key, str(pid)), resident_bytes(pid))
    yield from (workers, restarts, memory)


def _cold_starts(fleets: Iterable[tuple[Labels, ElasticFleet]]) -> Iterator[Metric]:
    starts = _counter("fourfold_cold_starts", "Workers started because a call came")
    templates = _counter("fourfold_cold_starts_without_load", "Those that forked a process with the model loaded")
    seconds = _counter("fourfold_cold_start_seconds", "Time that these starts took, by part", "part")
    billed = _counter(
        "fourfold_billed_gb_seconds",
        "Serverless compute since the endpoint was made: time x memory; kind is processing, provisioned or kept",
        "kind",
    )
    for key, fleet in fleets:
        starts.add_metric(key, fleet.cold_starts.count)
        templates.add_metric(key, fleet.cold_starts.from_template)
        for part, took in fleet.cold_starts.sums.parts().items():
            seconds.add_metric((*key, part), took)
        for kind, used in fleet.used.gb_seconds.items():
            billed.add_metric((*key, kind), used)
    yield from (starts, templates, seconds, billed)


def _loaded_models(endpoints: Iterable[tuple[Labels, MultiModel]]) -> Iterator[Metric]:
    loaded = _gauge("fourfold_loaded_models", "Models of a multi-model endpoint in memory")
    hits = _counter("fourfold_model_cache_hits", "Calls whose model was loaded")
    misses = _counter("fourfold_model_cache_misses", "Calls whose model was not loaded")
    unloads = _counter("fourfold_model_unloads", "Models that had to go for others")
    for key, models in endpoints:
        loaded.add_metric(key, models.loaded)
        hits.add_metric(key, models.hits)
        misses.add_metric(key, models.misses)
        unloads.add_metric(key, models.unloads)
    yield from (loaded, hits, misses, unloads)


def _counter(name: str, words: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(name, words, labels=(*LABELS, *labels))


def _gauge(name: str, words: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, words, labels=(*LABELS, *labels))


def _cumulative(buckets: list[int]) -> list[tuple[str, float]]:
    total = 0
    result = []
    for bound, count in zip((*map(str, BUCKETS), "+Inf"), buckets, strict=True):
        total += count
        result.append((bound, float(total)))
    return result
