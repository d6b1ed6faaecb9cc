"""What must survive a crash: one database, reached without blocking the event loop.

    store = Store("sqlite:////data/fourfold.db")
    model = await store.run(lambda db: resources.get(db, "model", "fraud"))

A query is a plain function whose first argument is a SQLAlchemy connection; `run` gives it a transaction of its own on
the store's thread, commits when it returns (with SQLite: synced to disk) and rolls back when it raises.
"""

from fourfold.store.database import Store

__all__ = ["Store"]
