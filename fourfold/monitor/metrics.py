"""Prometheus metrics on `GET /metrics`: read from the parts when asked, so that counting costs the hot path nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from fourfold.pool.elastic import ElasticFleet
from fourfold.pool.fleet import Fleet
from fourfold.pool.multimodel import multi_model_of
from fourfold.pool.processes import resident_bytes
from fourfold.pool.routes import Routes
from fourfold.pool.several import Several
from fourfold.pool.stats import BUCKETS


class Metrics:
    """Everything that one server tells about itself.

    Args:
        routes: endpoints that can be called.
        refused: calls that never reached a variant, by error code.
        more: further collectors, each a callable that yields metric families.
    """

    def __init__(
        self, routes: Routes, refused: dict[str, int], more: Iterable[Callable[[], Iterable[Metric]]] = ()
    ) -> None:
        self._routes = routes
        self._refused = refused
        self._more = tuple(more)
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def render(self) -> bytes:
        """The text format, version 0.0.4."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        labels = ("endpoint", "variant")
        invocations = CounterMetricFamily(
            "fourfold_invocations", "Calls answered, by HTTP status", labels=(*labels, "status")
        )
        latency = HistogramMetricFamily(
            "fourfold_invocation_seconds", "Time from a call's arrival to its answer", labels=labels
        )
        queue = GaugeMetricFamily("fourfold_queue_length", "Calls that wait for a worker", labels=labels)
        throttled = CounterMetricFamily("fourfold_throttled", "Calls refused because too many waited", labels=labels)
        batches = CounterMetricFamily("fourfold_batches", "Model calls", labels=labels)
        batched = CounterMetricFamily("fourfold_batched_calls", "Calls that went in these batches", labels=labels)
        workers = GaugeMetricFamily("fourfold_workers", "Workers that are ready", labels=labels)
        restarts = CounterMetricFamily("fourfold_worker_restarts", "Workers replaced after they ended", labels=labels)
        memory = GaugeMetricFamily(
            "fourfold_worker_memory_bytes", "Resident memory of a worker", labels=(*labels, "pid")
        )
        cold = CounterMetricFamily("fourfold_cold_starts", "Workers started because a call came", labels=labels)
        cold_seconds = CounterMetricFamily(
            "fourfold_cold_start_seconds", "Time that these starts took, by part", labels=(*labels, "part")
        )
        templates = CounterMetricFamily(
            "fourfold_cold_starts_without_load", "Those that forked a process with the model loaded", labels=labels
        )
        billed = CounterMetricFamily(
            "fourfold_billed_gb_seconds",
            "Serverless compute since the endpoint was made: time x memory; kind is processing, provisioned or kept",
            labels=(*labels, "kind"),
        )
        loaded = GaugeMetricFamily(
            "fourfold_loaded_models", "Models of a multi-model endpoint in memory", labels=labels
        )
        hits = CounterMetricFamily("fourfold_model_cache_hits", "Calls whose model was loaded", labels=labels)
        misses = CounterMetricFamily("fourfold_model_cache_misses", "Calls whose model was not loaded", labels=labels)
        unloads = CounterMetricFamily("fourfold_model_unloads", "Models that had to go for others", labels=labels)
        for route in list(self._routes.values()):
            for variant in {variant.name: variant for variant in route.variants}.values():
                key = (route.name, variant.name)
                stats = variant.stats
                for status, count in stats.by_status.items():
                    invocations.add_metric((*key, str(status)), count)
                latency.add_metric(key, _cumulative(stats.buckets), stats.seconds)
                fleet = variant.backend
                if not isinstance(fleet, Fleet | ElasticFleet | Several):
                    continue
                queue.add_metric(key, len(fleet.batcher))
                throttled.add_metric(key, fleet.batcher.rejected)
                batches.add_metric(key, fleet.batcher.batches)
                batched.add_metric(key, fleet.batcher.batched_calls)
                workers.add_metric(key, len(fleet.ready))
                restarts.add_metric(key, fleet.restarts)
                models = multi_model_of(fleet)
                if models is not None:
                    loaded.add_metric(key, models.loaded)
                    hits.add_metric(key, models.hits)
                    misses.add_metric(key, models.misses)
                    unloads.add_metric(key, models.unloads)
                for worker in fleet.ready:
                    memory.add_metric((*key, str(worker.pid)), resident_bytes(worker.pid))
                if isinstance(fleet, ElasticFleet):
                    cold.add_metric(key, fleet.cold_starts.count)
                    templates.add_metric(key, fleet.cold_starts.from_template)
                    for part, seconds in fleet.cold_starts.sums.parts().items():
                        cold_seconds.add_metric((*key, part), seconds)
                    for kind, used in fleet.used.gb_seconds.items():
                        billed.add_metric((*key, kind), used)
        refused = CounterMetricFamily(
            "fourfold_refused", "Invocations that reached no variant, by error", labels=("code",)
        )
        for code, count in self._refused.items():
            refused.add_metric((code,), count)
        server = GaugeMetricFamily("fourfold_server_memory_bytes", "Resident memory of the gateway process")
        server.add_metric((), resident_bytes("self"))
        yield from (
            invocations, latency, queue, throttled, batches, batched, workers, restarts, memory,
            cold, templates, cold_seconds, billed, loaded, hits, misses, unloads,
            refused, server,
        )  # fmt: skip
        for collector in self._more:
            yield from collector()


def _cumulative(buckets: list[int]) -> list[tuple[str, float]]:
    total = 0
    result = []
    for bound, count in zip((*map(str, BUCKETS), "+Inf"), buckets, strict=True):
        total += count
        result.append((bound, float(total)))
    return result
