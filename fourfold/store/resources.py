"""Queries on named resources: whatever has a name, an ARN, a status, two times and a document.

Models, endpoint configs, endpoints, transform jobs and their like share this table, so that every List operation
filters, sorts and pages in one query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fourfold.store.schema import resources


@dataclass
class Resource:
    kind: str
    name: str
    arn: str
    created_at: float
    modified_at: float
    status: str = ""
    document: dict[str, Any] = field(default_factory=dict)


def get(db: Connection, kind: str, name: str) -> Resource | None:
    """The resource, or None."""
    row = db.execute(_SELECT.where(resources.c.kind == kind, resources.c.name == name)).one_or_none()
    return None if row is None else Resource(**row._mapping)


def insert(db: Connection, resource: Resource) -> None:
    """Add it. Raises sqlalchemy.exc.IntegrityError where the name is taken."""
    db.execute(resources.insert().values(vars(resource)))


def save(db: Connection, resource: Resource) -> None:
    """Write back a resource that was read in the same transaction."""
    db.execute(
        resources.update()
        .where(resources.c.kind == resource.kind, resources.c.name == resource.name)
        .values(status=resource.status, modified_at=resource.modified_at, document=resource.document)
    )


def delete(db: Connection, kind: str, name: str) -> bool:
    """Remove it. False where there was none."""
    where = (resources.c.kind == kind, resources.c.name == name)
    return bool(db.execute(resources.delete().where(*where)).rowcount)


def delete_older(db: Connection, kind: str, than: float) -> None:
    """Remove all of a kind that were created before a time."""
    db.execute(resources.delete().where(resources.c.kind == kind, resources.c.created_at < than))


def every(db: Connection, kind: str, statuses: Sequence[str] | None = None, containing: str = "") -> list[Resource]:
    """All resources of one kind, or those in one of some statuses, oldest first.

    Args:
        containing: a text that stands in the document. Thousands of others then need not be read.
    """
    query = _SELECT.where(resources.c.kind == kind).order_by(resources.c.created_at, resources.c.name)
    if statuses is not None:
        query = query.where(resources.c.status.in_(statuses))
    if containing:
        query = query.where(sa.cast(resources.c.document, sa.Text).contains(containing, autoescape=True))
    return [Resource(**row._mapping) for row in db.execute(query)]


def below(db: Connection, kind: str, beginning: str) -> list[Resource]:
    """Resources of a kind whose name begins so, oldest first."""
    here = (resources.c.kind == kind, resources.c.name.startswith(beginning, autoescape=True))
    found = db.execute(_SELECT.where(*here).order_by(resources.c.created_at, resources.c.name))
    return [one for one in (Resource(**row._mapping) for row in found) if one.name.startswith(beginning)]


def with_arn(db: Connection, kind: str, arn: str) -> Resource | None:
    """The resource, or None."""
    row = db.execute(_SELECT.where(resources.c.kind == kind, resources.c.arn == arn)).one_or_none()
    return None if row is None else Resource(**row._mapping)


def with_member(db: Connection, kind: str, member: str, text: str) -> list[Resource]:
    """Resources of a kind whose document has this text as a member, oldest first."""
    where = (resources.c.kind == kind, resources.c.document[member].as_string() == text)
    query = _SELECT.where(*where).order_by(resources.c.created_at, resources.c.name)
    return [Resource(**row._mapping) for row in db.execute(query)]


_SELECT = sa.select(
    resources.c.kind,
    resources.c.name,
    resources.c.arn,
    resources.c.created_at,
    resources.c.modified_at,
    resources.c.status,
    resources.c.document,
)
