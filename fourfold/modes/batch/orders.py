"""What the runner and the workers say to each other: plain data, so that the other end may be on another machine.

    plan        Survey    →  Piece*, Planned
    run         Order     →  Beat*, Report
    assemble    Assembly  →  nothing but the end

The runner lives in the gateway and imports this instead of the modules that do the work: those bring numpy and pyarrow.
"""

from __future__ import annotations

import msgspec

from fourfold.modes.batch.options import Options
from fourfold.modes.batch.plan import Shard, Slice

SURVEY = "fourfold.modes.batch.survey:run"
RUN = "fourfold.modes.batch.shard:run"
ASSEMBLE = "fourfold.modes.batch.assemble:run"
"""What task frames name."""

SCRATCH = ".batch"
"""The bucket of parts that are not assembled yet. No S3 client can see it: its name is none that S3 allows."""


class Survey(msgspec.Struct, frozen=True):
    """What is to be planned."""

    options: Options
    root: str
    """Where objects are: the folder of buckets."""
    data_type: str
    """S3Prefix or ManifestFile."""
    source: str
    destination: str


class Piece(msgspec.Struct, frozen=True):
    """A piece of the plan: objects that are new in it, and shards."""

    objects: tuple[Slice, ...]
    """Whole, as they were found."""
    shards: tuple[Shard, ...]


class Planned(msgspec.Struct, frozen=True):
    """The end of a plan; `problem` is why there is none."""

    objects: int = 0
    problem: str = ""


class Order(msgspec.Struct, frozen=True):
    """One shard's work."""

    options: Options
    slices: tuple[Slice, ...]
    root: str
    destination: str
    """The job's output address, under which `_errors/` is."""
    parts: str
    """Address under which this attempt writes parts of objects."""
    job: str = ""
    """The job's ARN."""
    time: str = ""
    """When the job started, ISO 8601."""


class Beat(msgspec.Struct, frozen=True):
    """A sign of life: records answered and bad ones so far in this shard."""

    records: int
    errors: int


class Done(msgspec.Struct, frozen=True):
    """What became of one slice."""

    object: int
    reason: str = ""
    """Why it failed; empty where it did not."""
    records: int = 0
    errors: int = 0
    lines: int = 0
    """Line numbers of the next part begin so much later."""
    part: str = ""
    """Address of the answers, where they are a part of an object."""
    error_part: str = ""
    """Address of the bad records' report, likewise; empty where there were none."""


class Report(msgspec.Struct, frozen=True):
    """What became of a shard."""

    done: tuple[Done, ...]


class Assembly(msgspec.Struct, frozen=True):
    """One object's parts, in order."""

    root: str
    output: str
    errors: str
    parts: tuple[Done, ...]
    parquet: bool = False
