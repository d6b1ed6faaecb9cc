"""The connection to the database and the thread that all of its work runs on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

T = TypeVar("T")


class Store:
    """A database at an SQLAlchemy URL.

    SQLite gets one thread and one connection: it has one writer anyway, and reads are short. PostgreSQL gets
    `threads` of each.
    """

    def __init__(self, url: str, *, threads: int = 8) -> None:
        sqlite = url.startswith("sqlite")
        self._engine = sa.create_engine(
            url, **({"connect_args": {"check_same_thread": False}} if sqlite else {"pool_size": threads})
        )
        if sqlite:
            sa.event.listen(self._engine, "connect", _configure_sqlite)
            sa.event.listen(self._engine, "begin", _begin_immediate)
        self._threads = ThreadPoolExecutor(1 if sqlite else threads, thread_name_prefix="store")

    @property
    def engine(self) -> sa.Engine:
        return self._engine

    def run_now(self, query: Callable[[Connection], T]) -> T:
        """Run a query on the calling thread: at start-up and in tests, never on the event loop."""
        with self._engine.begin() as connection:
            return query(connection)

    async def run(self, query: Callable[[Connection], T]) -> T:
        """Run a query in one transaction on the store's thread; when this returns, the change is durable."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.run_now, query)

    def close(self) -> None:
        self._threads.shutdown(wait=True)
        self._engine.dispose()


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # SQLAlchemy's begin event sends BEGIN itself
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # a commit that was acknowledged has reached the disk
    cursor.execute("PRAGMA busy_timeout=10000")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")  # take the write lock at once: no deadlock on upgrade
