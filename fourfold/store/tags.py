"""Queries on tags: key and value pairs on anything that has an ARN."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fourfold.store.schema import resources, tags


def put(db: Connection, arn: str, pairs: Mapping[str, str]) -> None:
    """Set tags; those with the same key are replaced."""
    remove(db, arn, pairs)
    if pairs:
        db.execute(tags.insert(), [{"arn": arn, "key": key, "value": value} for key, value in pairs.items()])


def of(db: Connection, arn: str) -> dict[str, str]:
    """The tags of a resource, by key."""
    rows = db.execute(sa.select(tags.c.key, tags.c.value).where(tags.c.arn == arn).order_by(tags.c.key))
    return {row.key: row.value for row in rows}


def remove(db: Connection, arn: str, keys: Iterable[str] | None = None) -> None:
    """Remove some tags, or all where no keys are named."""
    query = tags.delete().where(tags.c.arn == arn)
    db.execute(query if keys is None else query.where(tags.c.key.in_(list(keys))))


def has_resource(db: Connection, arn: str) -> bool:
    """Is there a resource of this ARN?"""
    return db.execute(sa.select(resources.c.arn).where(resources.c.arn == arn)).first() is not None
