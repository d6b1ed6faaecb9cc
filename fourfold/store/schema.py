"""Tables of the store. One schema for SQLite and PostgreSQL; `migrations/` brings a database to it."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

resources = sa.Table(
    "resources",
    metadata,
    sa.Column("kind", sa.String, primary_key=True, comment="model, endpoint-config, endpoint, transform-job, ..."),
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("arn", sa.String, nullable=False, unique=True),
    sa.Column("status", sa.String, nullable=False, server_default="", comment="empty where the kind has none"),
    sa.Column("created_at", sa.Float, nullable=False, comment="seconds since the epoch"),
    sa.Column("modified_at", sa.Float, nullable=False),
    sa.Column("document", sa.JSON, nullable=False, comment="the rest, by AWS member names"),
    sa.Index("resources_by_age", "kind", "created_at", "name"),
    sa.Index("resources_by_status", "kind", "status"),
)

tags = sa.Table(
    "tags",
    metadata,
    sa.Column("arn", sa.String, primary_key=True),
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("value", sa.String, nullable=False),
)
