"""A scenario: what is known about a workload, each fact with where it came from.

Filled from text (`text.py`), from a file or flags (`load.py`) or question by question; read by the rules, the cost
model, the simulation and the search. Every member is optional: what is missing is assumed aloud by the rules.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Mode = Literal["real-time", "batch", "asynchronous", "serverless"]
MODES: tuple[Mode, ...] = ("real-time", "batch", "asynchronous", "serverless")

Pattern = Literal["steady", "diurnal", "spiky", "intermittent", "scheduled"]


@dataclass(frozen=True)
class Evidence:
    """One fact and the words, flag or file member it was read from."""

    member: str
    value: object
    source: str


@dataclass(frozen=True)
class Scenario:
    """Facts about a workload. None means unknown.

    Units stand in the names: milliseconds, seconds, MB (10^6 bytes), GB (10^9 bytes), US dollars a month.
    """

    id: str | None = None
    text: str | None = None

    latency_p99_ms: float | None = None
    """The answer is needed within this time, at the 99th percentile."""
    interactive: bool | None = None
    """Somebody or something waits for each answer (true), or nobody does (false)."""
    strict_latency: bool | None = None
    """Every answer has to come at once, the first one after a pause too: "milliseconds", "instantly", "no delay"."""
    answer_later: bool | None = None
    """The answer is mailed, notified, polled for or picked up some time after the request."""
    deadline_s: float | None = None
    """Results as a whole are needed within this time (jobs and data sets), e.g. by morning."""

    payload_mb: float | None = None
    large_payload: bool | None = None
    """Requests are said to be large (videos, scans, big files) and no figure is given."""
    response_mb: float | None = None
    processing_s: float | None = None
    """Time that the model takes for one request."""
    long_processing: bool | None = None
    """A request is said to take long (minutes, long-running) and no figure is given."""
    stream: bool | None = None

    requests_per_day: float | None = None
    peak_requests_per_second: float | None = None
    requests_per_second: float | None = None
    """Average rate while there is traffic."""
    pattern: Pattern | None = None
    active_hours_per_day: float | None = None
    idle_tolerated: bool | None = None
    """False: no capacity may be paid for while nothing is asked."""
    tolerates_cold_start: bool | None = None
    managed: bool | None = None
    """True: nobody is there to choose, run or scale machines."""

    rows: float | None = None
    """Records of a data set that is there as a whole."""
    dataset_gb: float | None = None
    whole_dataset: bool | None = None
    """The input is a data set that exists before the run (true) or requests that arrive one by one (false)."""
    runs_per_month: float | None = None

    gpu: bool | None = None
    memory_gb: float | None = None
    vpc: bool | None = None
    edge: bool | None = None
    """The answer is needed where the network cannot be waited for (vehicles, machines)."""
    multi_model: bool | None = None
    data_capture: bool | None = None
    """Inputs and outputs have to be recorded, for Model Monitor or an audit."""

    image_gb: float | None = None
    """Size of the container image."""
    marketplace: bool | None = None
    """The model is a Marketplace package, or its image lies in a private registry."""
    concurrency: float | None = None
    """Requests in work at the same time, at the peak."""

    budget_usd: float | None = None
    region: str | None = None
    trace: tuple[float, ...] | None = None
    """Arrival times in seconds from the first."""

    evidence: tuple[Evidence, ...] = field(default=())
