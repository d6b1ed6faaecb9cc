"""Brings a database to the schema of this release.

A new database is made from the schema at once and stamped; an older one is taken through the migrations that it lacks.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fourfold.store import alarm_history, datapoints, queue, shards, topics, usage  # noqa: F401 - they bring their tables
from fourfold.store.database import Store
from fourfold.store.schema import metadata

NEWEST = "0_1_0_alarm_history"
"""The newest revision in migrations/versions."""

_VERSION = sa.Table("alembic_version", sa.MetaData(), sa.Column("version_num", sa.String(32), primary_key=True))
"""Where Alembic keeps a database's revision."""


def upgrade(store: Store) -> None:
    """Make the database what this release needs. Does nothing where it is so already."""
    store.run_now(_upgrade)


def _upgrade(db: Connection) -> None:
    tables = sa.inspect(db).get_table_names()
    if not tables:
        metadata.create_all(db)
        _VERSION.create(db)
        db.execute(_VERSION.insert().values(version_num=NEWEST))
    elif _VERSION.name not in tables or db.scalar(sa.select(_VERSION.c.version_num)) != NEWEST:
        _migrate(db)


def _migrate(db: Connection) -> None:
    from alembic import command  # a fifth of the server's time to start, and needed once a release
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = db
    command.upgrade(config, "head")
