"""What a benchmark is told and what it answers: plain data between the server and the process that measures."""

from __future__ import annotations

import msgspec

from fourfold.records import WorkerSpec


class Step(msgspec.Struct, frozen=True):
    """So many users for so long; each sends its next request when it has its answer."""

    users: int
    seconds: float


class Trial(msgspec.Struct, frozen=True):
    """What to load, and how."""

    spec: WorkerSpec
    imports: tuple[str, ...]
    steps: tuple[Step, ...]
    bodies: tuple[bytes, ...] = ()
    """Requests, sent in turn. Empty: random numbers of the shape that the model names."""
    content_type: str = "application/json"
    stop_when_flat: bool = False
    most_per_minute: int | None = None
    """End with the step that reaches this rate."""
    percentile: float = 95.0
    """The latency that is reported, and held against `slowest_ms`."""
    slowest_ms: float | None = None
    """End with the step whose latency is above this; the step before it counts."""


class Result(msgspec.Struct, frozen=True):
    """What was measured: the best step within the limits."""

    per_minute: int = 0
    latency_ms: float = 0.0
    users: int = 0
    cpu_percent: float = 0.0
    """Processor time of the worker over its share of the machine: 100 means that all its threads were busy."""
    memory_mb: float = 0.0
    setup_ms: float = 0.0
    """From the wish for a worker to the loaded model, with the framework imported before."""
    error: str = ""
