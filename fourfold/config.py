"""Settings of a server, each with its unit, default and consequence. The command line fills them in."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fourfold.records import Partition

MIB = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """Bounds that keep one client, model or endpoint from taking the machine."""

    payload_bytes: int = 6 * MIB
    """Largest body of InvokeEndpoint. 6 MiB as in SageMaker's API model; `--max-payload` allows up to 25 MiB."""
    instances: int = 256
    """Most instances of one variant, and copies of one inference component: each is a process of this machine."""
    queue_length: int = 1024
    """Calls that may wait per variant before the next gets ThrottlingException."""
    invocation_seconds: float = 60.0
    """A call's deadline; the model's SAGEMAKER_MODEL_SERVER_TIMEOUT overrides it."""
    stream_seconds: float = 480.0
    """How long a streamed answer may take, as in SageMaker; the model's FOURFOLD_STREAM_SECONDS overrides it."""
    load_seconds: float = 600.0
    """Time for a model to load before its endpoint fails (SageMaker: SAGEMAKER_STARTUP_TIMEOUT, same default)."""
    warm_workers: int | None = None
    """Serverless workers that may be there at once before the longest idle one goes. None: until memory is short."""
    clock_skew_seconds: float = 300.0
    """How far a signature's time may be from the server's, as in AWS."""
    keep_alive_seconds: float = 75.0
    """An idle connection is closed after this time."""
    request_seconds: float = 30.0
    """A request must arrive whole within this time of its first byte, plus a second per 64 KiB."""


@dataclass(frozen=True)
class Settings:
    """One server on one data folder."""

    data_dir: Path = Path(".fourfold")
    host: str = "127.0.0.1"
    port: int = 4004
    log_level: str = "info"
    grace_seconds: float = 30.0
    """After SIGTERM: how long calls in flight may take to finish."""
    max_backlog: int = 1_000_000
    """Asynchronous calls of one endpoint that may be queued; the next gets ThrottlingException."""
    async_retention_seconds: float = 7 * 86_400.0
    """For how long the records of ended asynchronous calls are kept; their objects stay."""
    metrics_seconds: float = 10.0
    """How often what was measured becomes metrics: up to 10, the finest period that there is."""
    capture_seconds: float = 10.0
    """Data capture: how long a captured call may be held in memory before it is written to its bucket."""
    trusted_only: bool = False
    """Refuse formats that execute code when loaded."""
    public_url: str = ""
    """Address under which others reach this server, for links in what it sends. Empty: http://host:port."""
    sqs_endpoint: str = ""
    """Address of an SQS endpoint whose queues may subscribe to topics. Empty: there is none."""
    partition: Partition = field(default_factory=Partition)
    limits: Limits = field(default_factory=Limits)

    @property
    def buckets(self) -> Path:
        """`buckets/<bucket>/<key>`: objects as plain files."""
        return self.data_dir / "buckets"

    @property
    def artifacts(self) -> Path:
        """Unpacked model artifacts, by content."""
        return self.data_dir / "artifacts"

    @property
    def environments(self) -> Path:
        """Virtual environments of handlers with a requirements.txt, by content."""
        return self.data_dir / "environments"

    @property
    def logs(self) -> Path:
        return self.data_dir / "logs"

    @property
    def store_url(self) -> str:
        return f"sqlite:///{self.data_dir.resolve() / 'fourfold.db'}"

    @property
    def address_file(self) -> Path:
        """Holds the address where the folder's server listens, or did last."""
        return self.data_dir / "server.url"

    @property
    def address(self) -> str:
        """http://host:port, where the server listens."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def url(self) -> str:
        """This server's address as others reach it."""
        return self.public_url.rstrip("/") or self.address
