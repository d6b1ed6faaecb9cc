"""The plan of a transform job: its objects, and the shards that they are cut into, each with its own state.

A shard goes `pending` → `running` → `done`, or `failed`. Whoever runs one holds a claim with a lease and an attempt
number; when the lease runs out, the next may claim it, and what the first one says afterwards is not believed, because
its attempt number is old. So any number of gateways and workers may take from one plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fourfold.store.schema import metadata

objects = sa.Table(
    "transform_objects",
    metadata,
    sa.Column("job", sa.String, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, comment="place in the listing"),
    sa.Column("url", sa.String, nullable=False),
    sa.Column("output", sa.String, nullable=False, comment="where its .out goes"),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("state", sa.String, nullable=False, comment="pending, done, failed"),
    sa.Column("reason", sa.String, nullable=False, server_default="", comment="why it failed"),
    sa.Column("records", sa.BigInteger, nullable=False, server_default="0", comment="answered"),
    sa.Column("errors", sa.BigInteger, nullable=False, server_default="0", comment="bad records that were skipped"),
    sa.Index("transform_objects_by_state", "job", "state"),
)

shards = sa.Table(
    "transform_shards",
    metadata,
    sa.Column("job", sa.String, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("object", sa.Integer, nullable=True, comment="the object it is a part of; null: it holds whole objects"),
    sa.Column("state", sa.String, nullable=False, comment="pending, running, done, failed"),
    sa.Column("owner", sa.String, nullable=False, server_default="", comment="who claimed it last"),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="0", comment="the fence: grows with each claim"),
    sa.Column("lease_until", sa.Float, nullable=False, server_default="0", comment="seconds since the epoch"),
    sa.Column("work", sa.JSON, nullable=False, comment="what is to be done, as data"),
    sa.Column("result", sa.JSON, nullable=True, comment="what came of it"),
    sa.Column("records", sa.BigInteger, nullable=False, server_default="0", comment="answered"),
    sa.Column("errors", sa.BigInteger, nullable=False, server_default="0", comment="bad records that were skipped"),
    sa.Index("transform_shards_by_state", "job", "state", "number"),
    sa.Index("transform_shards_by_object", "job", "object"),
)


@dataclass(frozen=True, eq=False)
class Claim:
    """The right to run one shard, until the lease ends or somebody else claims it."""

    job: str
    number: int
    object: int | None
    attempt: int
    work: Any


@dataclass(frozen=True)
class Outcome:
    """What became of one object."""

    object: int
    reason: str = ""
    """Why it failed; empty where it did not."""
    records: int = 0
    errors: int = 0


@dataclass(frozen=True)
class Progress:
    """How far a job is."""

    objects: int = 0
    objects_done: int = 0
    objects_failed: int = 0
    shards: int = 0
    shards_done: int = 0
    records: int = 0
    errors: int = 0
    waits: bool = False
    """Do all of its workers stand still because calls need the cores? Known to who runs them only."""


def add(db: Connection, new_objects: Sequence[Mapping[str, Any]], new_shards: Sequence[Mapping[str, Any]]) -> None:
    """Write a piece of a plan."""
    if new_objects:
        db.execute(objects.insert(), [{"state": "pending", **row} for row in new_objects])
    if new_shards:
        db.execute(shards.insert(), [{"state": "pending", **row} for row in new_shards])


def drop(db: Connection, job: str) -> None:
    """Forget a job's plan."""
    db.execute(objects.delete().where(objects.c.job == job))
    db.execute(shards.delete().where(shards.c.job == job))


def claim(db: Connection, job: str, owner: str, now: float, lease: float) -> Claim | None:
    """The next shard that nobody works on; None where there is none now."""
    free = sa.or_(shards.c.state == "pending", sa.and_(shards.c.state == "running", shards.c.lease_until < now))
    row = db.execute(
        sa.select(shards)
        .where(shards.c.job == job, free)
        .order_by(shards.c.number)
        .limit(1)
        .with_for_update(skip_locked=True)
    ).one_or_none()
    if row is None:
        return None
    db.execute(
        shards.update()
        .where(shards.c.job == job, shards.c.number == row.number)
        .values(state="running", owner=owner, attempt=row.attempt + 1, lease_until=now + lease)
    )
    return Claim(job, row.number, row.object, row.attempt + 1, row.work)


def renew(db: Connection, claims: Iterable[Claim], until: float) -> None:
    """Keep claims for longer; those that were lost stay lost."""
    for held in claims:
        db.execute(shards.update().where(*_held(held)).values(lease_until=until))


def release(db: Connection, owner: str) -> None:
    """Give back what an owner holds: it has started anew, and nothing of what it ran is alive."""
    db.execute(shards.update().where(shards.c.owner == owner, shards.c.state == "running").values(state="pending"))


def put_back(db: Connection, held: Claim) -> None:
    """Give a claim back, so that the shard is tried again; the attempt counts."""
    db.execute(shards.update().where(*_held(held)).values(state="pending"))


def unfinished(db: Connection, job: str) -> int:
    """How many shards are pending or running."""
    query = sa.select(sa.func.count()).where(shards.c.job == job, shards.c.state.in_(("pending", "running")))
    return int(db.execute(query).scalar_one())


def finish(
    db: Connection, held: Claim, result: Any, outcomes: Sequence[Outcome], *, records: int = 0, errors: int = 0
) -> bool:
    """Write what came of a shard, and of the objects that it settles. False: the claim was lost, nothing is written.

    An object that failed takes its other shards with it.
    """
    state = "failed" if any(outcome.reason for outcome in outcomes) else "done"
    values = {"state": state, "result": result, "records": records, "errors": errors}
    if not db.execute(shards.update().where(*_held(held)).values(values)).rowcount:
        return False
    for outcome in outcomes:
        settle(db, held.job, outcome)
    return True


def settle(db: Connection, job: str, outcome: Outcome) -> None:
    """Write what became of an object."""
    state = "failed" if outcome.reason else "done"
    db.execute(
        objects.update()
        .where(objects.c.job == job, objects.c.number == outcome.object)
        .values(state=state, reason=outcome.reason, records=outcome.records, errors=outcome.errors)
    )
    if outcome.reason:
        open_ = shards.c.state.in_(("pending", "running"))
        db.execute(
            shards.update().where(shards.c.job == job, shards.c.object == outcome.object, open_).values(state="failed")
        )


def scatter(db: Connection, held: Claim, works: Sequence[Any]) -> None:
    """Put smaller shards in the place of one that ends its workers, so that the guilty object fails alone."""
    if not db.execute(shards.update().where(*_held(held)).values(state="done", result=None)).rowcount:
        return
    last: int = db.execute(sa.select(sa.func.max(shards.c.number)).where(shards.c.job == held.job)).scalar_one()
    rows = [{"job": held.job, "number": last + 1 + i, "object": None, "work": work} for i, work in enumerate(works)]
    add(db, [], rows)


def results(db: Connection, job: str, object_number: int) -> list[Any] | None:
    """The results of an object's shards, in order; None while one is missing."""
    rows = db.execute(
        sa.select(shards.c.state, shards.c.result)
        .where(shards.c.job == job, shards.c.object == object_number)
        .order_by(shards.c.number)
    ).all()
    return [row.result for row in rows] if all(row.state == "done" for row in rows) else None


def whole(db: Connection, job: str) -> list[int]:
    """Objects in several shards that are pending although all of these are done: they wait to be assembled."""
    missing = sa.select(shards.c.object).where(
        shards.c.job == job, shards.c.state != "done", shards.c.object.is_not(None)
    )
    started = sa.select(shards.c.object).where(shards.c.job == job, shards.c.object.is_not(None))
    query = sa.select(objects.c.number).where(
        objects.c.job == job,
        objects.c.state == "pending",
        objects.c.number.in_(started),
        objects.c.number.not_in(missing),
    )
    return list(db.execute(query.order_by(objects.c.number)).scalars())


def get_object(db: Connection, job: str, number: int) -> Any:
    """One row of `transform_objects`."""
    return db.execute(sa.select(objects).where(objects.c.job == job, objects.c.number == number)).one()


def finished(db: Connection, job: str) -> list[Any]:
    """Rows (`url`, `output`) of the objects that are done, in order."""
    query = sa.select(objects.c.url, objects.c.output).where(objects.c.job == job, objects.c.state == "done")
    return list(db.execute(query.order_by(objects.c.number)).all())


def failures(db: Connection, job: str, limit: int = 100) -> list[Any]:
    """Rows of the objects that failed, in order, at most `limit`."""
    query = sa.select(objects).where(objects.c.job == job, objects.c.state == "failed").order_by(objects.c.number)
    return list(db.execute(query.limit(limit)).all())


def with_errors(db: Connection, job: str, limit: int = 100) -> list[Any]:
    """Rows of the objects that have bad records reported, in order, at most `limit`."""
    query = sa.select(objects).where(objects.c.job == job, objects.c.errors > 0).order_by(objects.c.number)
    return list(db.execute(query.limit(limit)).all())


def retry(db: Connection, job: str) -> None:
    """Make what failed or was interrupted pending again: the job is resumed. What is done stays done."""
    db.execute(
        objects.update().where(objects.c.job == job, objects.c.state == "failed").values(state="pending", reason="")
    )
    db.execute(
        shards.update()
        .where(shards.c.job == job, shards.c.state.in_(("running", "failed")))
        .values(state="pending", attempt=0)
    )


def progress(db: Connection, job: str) -> Progress:
    """Counts over a job's plan."""
    of_objects = _counts(db, objects, job)
    of_shards = _counts(db, shards, job)
    return Progress(
        objects=sum(row.rows for row in of_objects.values()),
        objects_done=of_objects["done"].rows if "done" in of_objects else 0,
        objects_failed=of_objects["failed"].rows if "failed" in of_objects else 0,
        shards=sum(row.rows for row in of_shards.values()),
        shards_done=of_shards["done"].rows if "done" in of_shards else 0,
        records=sum(int(row.records) for row in of_shards.values()),
        errors=sum(int(row.errors) for row in of_shards.values()),
    )


def _counts(db: Connection, table: sa.Table, job: str) -> dict[str, Any]:
    """By state: how many rows, and their records and errors together."""
    total = sa.func.sum(table.c.records).label("records"), sa.func.sum(table.c.errors).label("errors")
    query = sa.select(table.c.state, sa.func.count().label("rows"), *total)
    return {row.state: row for row in db.execute(query.where(table.c.job == job).group_by(table.c.state))}


def _held(held: Claim) -> tuple[Any, ...]:
    return (
        shards.c.job == held.job,
        shards.c.number == held.number,
        shards.c.attempt == held.attempt,
        shards.c.state == "running",
    )
