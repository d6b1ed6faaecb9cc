"""Metrics and their datapoints, one a minute: what CloudWatch's operations read past the last hour."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fourfold.datapoints import Metric, Statistics
from fourfold.store.schema import metadata

metrics = sa.Table(
    "metrics",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False, comment="hash of the other three"),
    sa.Column("namespace", sa.String, nullable=False),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("dimensions", sa.JSON, nullable=False, comment="sorted pairs"),
    sa.Column("unit", sa.String, nullable=False),
    sa.Column("newest", sa.Float, nullable=False, comment="time of the newest datapoint"),
    sa.Index("metrics_by_name", "namespace", "name"),
)

datapoints = sa.Table(
    "datapoints",
    metadata,
    sa.Column("metric", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("minute", sa.BigInteger, primary_key=True, autoincrement=False, comment="its start, since the epoch"),
    sa.Column("samples", sa.Float, nullable=False),
    sa.Column("total", sa.Float, nullable=False),
    sa.Column("minimum", sa.Float, nullable=False),
    sa.Column("maximum", sa.Float, nullable=False),
    sa.Column("sketch", sa.LargeBinary, nullable=True, comment="MessagePack of bin to count; null: unknown"),
    sa.Index("datapoints_by_age", "minute"),
)


class Known(NamedTuple):
    """A metric that has datapoints."""

    metric: Metric
    unit: str
    newest: float


Pending = Mapping[tuple[Metric, int], Statistics]
"""Statistics of a metric in the minute that starts there."""

_sketches = msgspec.msgpack.Decoder(dict[int, float])


def add(db: Connection, pending: Pending, units: Mapping[Metric, str]) -> None:
    """Count in what was measured, at most some hundreds; minutes that are there already are added to."""
    newest: dict[Metric, float] = {}
    for metric, minute in pending:
        newest[metric] = max(newest.get(metric, 0.0), minute)
    ids = {metric: identity(metric) for metric in newest}
    _note(db, ids, newest, units)
    there = datapoints.c.metric.in_(ids.values()), datapoints.c.minute.in_({minute for _, minute in pending})
    known = {(row.metric, row.minute): _statistics(row) for row in db.execute(sa.select(datapoints).where(*there))}
    new, changed = [], []
    for (metric, minute), statistics in pending.items():
        before = known.get((ids[metric], minute))
        if before is None:
            new.append({"metric": ids[metric], "minute": minute} | _columns(statistics))
        else:
            before.merge(statistics)
            changed.append({"its_metric": ids[metric], "its_minute": minute} | _columns(before))
    if new:
        db.execute(datapoints.insert(), new)
    if changed:
        here = datapoints.c.metric == sa.bindparam("its_metric"), datapoints.c.minute == sa.bindparam("its_minute")
        db.execute(datapoints.update().where(*here), changed)


def read(db: Connection, metric: Metric, start: float, end: float) -> list[tuple[int, Statistics]]:
    """The minutes of a metric that start in [start, end), oldest first."""
    query = sa.select(datapoints).where(
        datapoints.c.metric == identity(metric), datapoints.c.minute >= start, datapoints.c.minute < end
    )
    return [(row.minute, _statistics(row)) for row in db.execute(query.order_by(datapoints.c.minute))]


def since(db: Connection, minute: float) -> list[tuple[Known, int, Statistics]]:
    """Every metric's minutes from this one on."""
    ids = {identity(one.metric): one for one in known(db)}
    rows = db.execute(sa.select(datapoints).where(datapoints.c.minute >= minute))
    return [(ids[row.metric], row.minute, _statistics(row)) for row in rows]


def known(db: Connection) -> list[Known]:
    """Every metric that has datapoints."""
    query = sa.select(metrics).order_by(metrics.c.namespace, metrics.c.name, metrics.c.id)
    return [
        Known(
            Metric(row.namespace, row.name, tuple((key, value) for key, value in row.dimensions)), row.unit, row.newest
        )
        for row in db.execute(query)
    ]


def purge(db: Connection, before: float) -> None:
    """Forget what is older."""
    db.execute(datapoints.delete().where(datapoints.c.minute < before))
    db.execute(metrics.delete().where(metrics.c.newest < before))


def identity(metric: Metric) -> int:
    """A metric's key: 63 bits, so that a row stays small."""
    digest = hashlib.blake2b(msgspec.json.encode(metric), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def _note(
    db: Connection, ids: Mapping[Metric, int], newest: Mapping[Metric, float], units: Mapping[Metric, str]
) -> None:
    """Know that these metrics have datapoints, and since when none."""
    known = set(db.execute(sa.select(metrics.c.id).where(metrics.c.id.in_(ids.values()))).scalars())
    new, changed = [], []
    for metric, id in ids.items():
        values = {"unit": units.get(metric, "None"), "newest": newest[metric]}
        if id in known:
            changed.append({"its_id": id} | values)
        else:
            named = {"namespace": metric.namespace, "name": metric.name, "dimensions": list(metric.dimensions)}
            new.append({"id": id} | named | values)
    if new:
        db.execute(metrics.insert(), new)
    if changed:
        db.execute(metrics.update().where(metrics.c.id == sa.bindparam("its_id")), changed)


def _columns(statistics: Statistics) -> dict[str, Any]:
    sketch = None if statistics.sketch is None else msgspec.msgpack.encode(statistics.sketch)
    return {
        "samples": statistics.count,
        "total": statistics.total,
        "minimum": statistics.minimum,
        "maximum": statistics.maximum,
        "sketch": sketch,
    }


def _statistics(row: sa.Row[Any]) -> Statistics:
    sketch = None if row.sketch is None else _sketches.decode(row.sketch)
    return Statistics(row.samples, row.total, row.minimum, row.maximum, sketch)
