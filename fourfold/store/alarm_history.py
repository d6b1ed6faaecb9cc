"""What became of alarms: made and changed, from one state to another, actions that ran."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fourfold.store.schema import metadata

KEPT = 30 * 86400.0
"""Seconds that an entry is kept, as CloudWatch does."""
MOST = 100_000
"""Entries that are kept, of all alarms together."""

history = sa.Table(
    "alarm_history",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("alarm", sa.String, nullable=False),
    sa.Column("at", sa.Float, nullable=False, comment="seconds since the epoch"),
    sa.Column("kind", sa.String, nullable=False, comment="ConfigurationUpdate, StateUpdate or Action"),
    sa.Column("summary", sa.String, nullable=False),
    sa.Column("data", sa.Text, nullable=False, comment="JSON"),
    sa.Index("alarm_history_by_alarm", "alarm", "number"),
    sa.Index("alarm_history_by_age", "at"),
)


class Entry(NamedTuple):
    alarm: str
    at: float
    kind: str
    summary: str
    data: str


@dataclass(frozen=True)
class Asked:
    """Which entries are wanted, and in which order.

    Attributes:
        alarm, kind: None stands for all.
        start, end: seconds since the epoch; the end is not wanted.
        size: most entries of a page.
        after: the number that the page before came with.
        oldest_first: by default the newest are.
    """

    alarm: str | None = None
    kind: str | None = None
    start: float = 0.0
    end: float = math.inf
    size: int = 100
    after: int | None = None
    oldest_first: bool = False


def add(db: Connection, entry: Entry) -> None:
    """Note what happened; what is too old or too much goes."""
    (number,) = db.execute(history.insert().values(entry._asdict())).inserted_primary_key or (0,)
    db.execute(history.delete().where((history.c.at < entry.at - KEPT) | (history.c.number <= number - MOST)))


def page(db: Connection, asked: Asked) -> tuple[Sequence[Entry], int | None]:
    """A page of entries, and the number after which the next one begins; None: there is none."""
    number = history.c.number
    conditions = [history.c.at >= asked.start, history.c.at < asked.end]
    conditions += [] if asked.alarm is None else [history.c.alarm == asked.alarm]
    conditions += [] if asked.kind is None else [history.c.kind == asked.kind]
    if asked.after is not None:
        conditions.append(number > asked.after if asked.oldest_first else number < asked.after)
    order = number.asc() if asked.oldest_first else number.desc()
    rows = db.execute(sa.select(history).where(*conditions).order_by(order).limit(asked.size + 1)).all()
    entries = [Entry(row.alarm, row.at, row.kind, row.summary, row.data) for row in rows[: asked.size]]
    return entries, rows[asked.size - 1].number if len(rows) > asked.size else None
