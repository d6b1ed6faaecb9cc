"""A database that is migrated and one that is made at once are the same."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic.script import ScriptDirectory

from fourfold.store import Store, migrate
from fourfold.store.migrate import upgrade
from fourfold.store.schema import metadata


def test_migrations_lead_to_the_schema(tmp_path):
    new, old = Store(f"sqlite:///{tmp_path}/new.db"), Store(f"sqlite:///{tmp_path}/old.db")
    old.run_now(lambda db: db.exec_driver_sql("CREATE TABLE something (a INTEGER)"))  # not empty: it is migrated
    upgrade(new)
    upgrade(old)
    upgrade(old)
    made, migrated = described(new), described(old)
    del migrated["something"]
    assert migrated == made
    assert set(metadata.tables) < set(made)
    new.close()
    old.close()


def test_the_newest_revision_is_the_one_that_a_new_database_gets():
    scripts = Path(migrate.__file__).parent / "migrations"
    assert ScriptDirectory(str(scripts)).get_heads() == [migrate.NEWEST]


def described(store: Store) -> dict[str, tuple[object, object]]:
    """Columns and indexes of every table."""
    look = sa.inspect(store.engine)
    return {
        table: (
            {
                c["name"]: (str(c["type"]), c["nullable"], c["default"], c["primary_key"])
                for c in look.get_columns(table)
            },
            {index["name"]: index["column_names"] for index in look.get_indexes(table)},
        )
        for table in look.get_table_names()
    }
