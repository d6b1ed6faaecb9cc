"""What serverless endpoints have used, summed by the minute: the record that a bill is made from.

A row is one variant at one memory size in one minute. Rows outlive their endpoint, as a bill does; `total` leaves out
what an earlier endpoint of the same name used.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fourfold.store import resources
from fourfold.store.schema import metadata

usage = sa.Table(
    "serverless_usage",
    metadata,
    sa.Column("endpoint", sa.String, primary_key=True),
    sa.Column("variant", sa.String, primary_key=True),
    sa.Column("memory_mb", sa.Integer, primary_key=True),
    sa.Column("minute", sa.BigInteger, primary_key=True, comment="seconds since the epoch / 60"),
    sa.Column("calls", sa.BigInteger, nullable=False),
    sa.Column("billed_ms", sa.BigInteger, nullable=False, comment="processing, on demand"),
    sa.Column("provisioned_ms", sa.BigInteger, nullable=False, comment="processing within ProvisionedConcurrency"),
    sa.Column("kept_ms", sa.BigInteger, nullable=False, comment="workers kept warm x time"),
    sa.Index("serverless_usage_by_minute", "minute"),
)

COUNTS = ("calls", "billed_ms", "provisioned_ms", "kept_ms")
KEPT_MINUTES = 400 * 24 * 60
"""Rows are removed when they are older: a year's bill and a month to look at it."""


@dataclass(frozen=True)
class Key:
    """What a row is about."""

    endpoint: str
    variant: str
    memory_mb: int


@dataclass
class Counts:
    """What was used; times in milliseconds."""

    calls: int = 0
    billed_ms: int = 0
    provisioned_ms: int = 0
    kept_ms: int = 0

    def add(self, more: Counts) -> None:
        self.calls += more.calls
        self.billed_ms += more.billed_ms
        self.provisioned_ms += more.provisioned_ms
        self.kept_ms += more.kept_ms


@dataclass
class Total:
    """What a variant has used in all; compute in MB-milliseconds, since its memory size may have changed."""

    calls: int = 0
    billed: int = 0
    provisioned: int = 0
    kept: int = 0

    @property
    def gb_seconds(self) -> dict[str, float]:
        """GB-seconds: `processing` on demand, `provisioned` processing, and `kept` warm."""
        return {
            kind: mb_ms / 1024 / 1000
            for kind, mb_ms in (("processing", self.billed), ("provisioned", self.provisioned), ("kept", self.kept))
        }

    def add(self, memory_mb: int, counts: Counts) -> None:
        self.calls += counts.calls
        self.billed += counts.billed_ms * memory_mb
        self.provisioned += counts.provisioned_ms * memory_mb
        self.kept += counts.kept_ms * memory_mb


def add(db: Connection, minute: int, rows: Iterable[tuple[Key, Counts]]) -> None:
    """Add to the sums of one minute."""
    for key, counts in rows:
        names = dict(zip(("endpoint", "variant", "memory_mb"), astuple(key), strict=True), minute=minute)
        values = dict(zip(COUNTS, astuple(counts), strict=True))
        where = [usage.c[name] == value for name, value in names.items()]
        more = {name: usage.c[name] + value for name, value in values.items()}
        if not db.execute(usage.update().where(*where).values(more)).rowcount:
            db.execute(usage.insert().values(names | values))


def total(db: Connection, endpoint: str, variant: str) -> Total:
    """All that a variant has used since its endpoint was made, to the minute; nothing where there is no endpoint."""
    found = resources.get(db, "endpoint", endpoint)
    result = Total()
    if found is None:
        return result
    sums = [sa.func.sum(usage.c[name]).label(name) for name in COUNTS]
    query = (
        sa.select(usage.c.memory_mb, *sums)
        .where(usage.c.endpoint == endpoint, usage.c.variant == variant, usage.c.minute >= int(found.created_at // 60))
        .group_by(usage.c.memory_mb)
    )
    for row in db.execute(query):
        result.add(row.memory_mb, Counts(*(int(row._mapping[name]) for name in COUNTS)))
    return result


def prune(db: Connection, now: float) -> None:
    """Remove what is older than KEPT_MINUTES."""
    db.execute(usage.delete().where(usage.c.minute < int(now // 60) - KEPT_MINUTES))
