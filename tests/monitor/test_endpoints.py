"""SageMaker's metrics from what the pool counts."""

from __future__ import annotations

from pathlib import Path

from fourfold.errors import ModelError, ThrottlingException
from fourfold.monitor.endpoints import EndpointFigures
from fourfold.pool.batcher import Batching
from fourfold.pool.fleet import Fleet
from fourfold.pool.local import LocalPlacer
from fourfold.pool.routes import Route, Routes, Variant
from fourfold.records import WorkerSpec


async def test_every_call_is_counted_once_and_errors_are_rates():
    fleet = Fleet(WorkerSpec("m", str(Path()), "onnx"), LocalPlacer(), Batching())
    variant = Variant("fraud", "AllTraffic", 1.0, fleet)
    routes = Routes()
    routes.publish(Route("fraud", [variant]))
    figures = EndpointFigures(routes)
    figures.sample()
    for _ in range(6):
        variant.stats.record(0.004, 200)
    variant.stats.failed(0.002, ModelError("no", original_status=500))
    variant.stats.failed(0.002, ModelError("no", original_status=415))
    variant.stats.failed(0.001, ThrottlingException("full"))
    fleet.batcher.times.record(0.001, 8)

    found = {point.metric.name: point.statistics for point in figures.datapoints(10.0, {})}
    assert found["Invocations"].value("Sum") == found["Invocations"].value("SampleCount") == 9
    assert found["Invocation5XXErrors"].value("Sum") == 1
    assert found["Invocation4XXErrors"].value("Sum") == 2
    assert found["Invocation4XXErrors"].value("Average") == 2 / 9
    assert found["InvocationModelErrors"].value("Sum") == 2
    assert found["ModelLatency"].value("Average") == 1000
    assert round(found["OverheadLatency"].value("Sum")) == 29_000 - 8_000
    assert found["ConcurrentRequestsPerModel"].value("Maximum") == 0
    assert list(figures.datapoints(10.0, {})) == []
