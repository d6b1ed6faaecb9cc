"""Statements that run thousands of times a second: SQLAlchemy writes their text once, then the driver gets it as it is.

    FIND = Prepared(sa.select(calls.c.state).where(calls.c.number == sa.bindparam("number")))
    FIND(db, number=5)  # [("queued",)]

    ADD = Block(("number", "state"), lambda rows: calls.insert().values(rows))
    ADD(db, [(5, "queued"), (6, "queued")])

Building, caching and binding a statement anew costs SQLAlchemy about 0.15 ms, and passing a ready text on 0.03 ms; the
statement itself takes less. Values come and go unchanged, so this is for columns of plain types: text, numbers, bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

Rows = Sequence[tuple[Any, ...]]

MOST_ROWS = 64
"""Rows of a block that go to the database in one statement; a power of two."""


class _Text(NamedTuple):
    """A statement as one kind of database takes it."""

    text: str
    order: tuple[str, ...] | None
    """Names of the parameters by place; None: they go by name."""
    fixed: dict[str, Any]


class Prepared:
    """A statement with named parameters (`sa.bindparam`).

    Args:
        statement: any SQLAlchemy statement.
    """

    def __init__(self, statement: Any) -> None:
        self._statement = statement
        self._texts: dict[str, _Text] = {}

    def __call__(self, db: Connection, **values: Any) -> Rows:
        """Run it once; the rows that it returns."""
        found = self._texts.get(db.dialect.name)
        if found is None:
            found = self._texts[db.dialect.name] = _text(self._statement, db)
        values = found.fixed | values
        return _run(db, found.text, values if found.order is None else [values[name] for name in found.order])


class Block:
    """A statement over many rows, which go to the database together.

    A row at a time would be a step of the driver for each, and each step gives up the interpreter's lock and waits for
    it again: beside a busy event loop that costs more than the statement.

    Args:
        names: of the values in a row.
        make: the statement for some rows, each a dict of parameters by name. These come in the order of `names` and
            of the rows, and none between them.
    """

    def __init__(self, names: Sequence[str], make: Callable[[list[dict[str, Any]]], Any]) -> None:
        self._names = tuple(names)
        self._make = make
        self._texts: dict[tuple[str, int], tuple[_Text, int]] = {}

    def __call__(self, db: Connection, rows: Sequence[Sequence[Any]], **values: Any) -> Rows:
        """Run it for some rows; the rows that it returns.

        Args:
            rows: values in the order of `names`.
            values: the other parameters.
        """
        found: list[tuple[Any, ...]] = []
        begin = 0
        while begin < len(rows):
            size = min(MOST_ROWS, 1 << (len(rows) - begin).bit_length() - 1)  # few sizes: the driver keeps their plans
            found += self._some(db, rows[begin : begin + size], values)
            begin += size
        return found

    def _some(self, db: Connection, rows: Sequence[Sequence[Any]], values: dict[str, Any]) -> Rows:
        key = db.dialect.name, len(rows)
        prepared = self._texts.get(key)
        if prepared is None:
            prepared = self._texts[key] = self._prepare(db, len(rows))
        (text, order, fixed), first = prepared
        values = fixed | values
        given = chain.from_iterable(rows)
        if order is None:
            return _run(db, text, values | dict(zip(self._parameters(len(rows)), given, strict=True)))
        after = first + len(rows) * len(self._names)
        before = [values[name] for name in order[:first]]
        return _run(db, text, [*before, *given, *[values[name] for name in order[after:]]])

    def _prepare(self, db: Connection, rows: int) -> tuple[_Text, int]:
        """The text for so many rows, and the place of their first parameter."""
        statement = self._make([{name: sa.bindparam(_nth(name, i)) for name in self._names} for i in range(rows)])
        found = _text(statement, db)
        expected = self._parameters(rows)
        first = found.order.index(expected[0]) if found.order is not None else 0
        if found.order is not None and list(found.order[first : first + len(expected)]) != expected:
            raise AssertionError(f"the rows are not together in: {found.text}")
        return found, first

    def _parameters(self, rows: int) -> list[str]:
        return [_nth(name, i) for i in range(rows) for name in self._names]


def _run(db: Connection, text: str, values: Any) -> Rows:
    """Run a text within the transaction of a connection. Raises what SQLAlchemy raises."""
    errors = db.dialect.loaded_dbapi.Error
    cursor = db.connection.cursor()
    try:
        cursor.execute(text, values)
        return cursor.fetchall() if cursor.description else []
    except errors as error:
        raise sa.exc.DBAPIError.instance(text, values, error, errors, dialect=db.dialect) from error
    finally:
        cursor.close()


def _text(statement: Any, db: Connection) -> _Text:
    compiled = statement.compile(dialect=db.dialect)
    fixed = {name: value for name, value in compiled.params.items() if value is not None}
    return _Text(str(compiled), tuple(compiled.positiontup) if compiled.positional else None, fixed)


def given(columns: Sequence[sa.Column[Any]], rows: list[dict[str, Any]]) -> sa.CTE:
    """Rows of a block as a table, with the names and types of some columns."""
    table = sa.values(*(sa.column(column.name, column.type) for column in columns), name="given")
    return table.data(
        [
            tuple(sa.type_coerce(row[column.name], column.type) for column in columns)
            for row in rows
        ]
    ).cte("given")  # fmt: skip


def _nth(name: str, i: int) -> str:
    return f"{name}_of_{i}"  # not `name_1`: SQLAlchemy names its own parameters so
