"""Brings a database to the schema of this release.

A new database is made from the schema at once and stamped; an older one is taken through the migrations that it lacks.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection

from fourfold.store import queue, shards, tags
from fourfold.store.database import Store
from fourfold.store.schema import metadata

TABLES = (queue, shards, tags)
"""Modules with tables of their own: imported, so that a new database gets them."""


def upgrade(store: Store) -> None:
    """Make the database what this release needs. Does nothing where it is so already."""
    store.run_now(_upgrade)


def _upgrade(db: Connection) -> None:
    config = _config(db)
    newest = ScriptDirectory.from_config(config).get_current_head()
    current = MigrationContext.configure(db).get_current_revision()
    if current == newest:
        return
    if current is None and not sa.inspect(db).get_table_names():
        metadata.create_all(db)
        command.stamp(config, "head")
    else:
        command.upgrade(config, "head")


def _config(db: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = db
    return config
