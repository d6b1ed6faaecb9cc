"""Answers to rows of text as tables, where a job writes Parquet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from fourfold.formats.base import ArrayModel
from fourfold.formats.codecs.parquet import to_table
from fourfold.modes.batch import columnar, filters, join
from fourfold.modes.batch.reading import Reader
from fourfold.modes.batch.rows import Answered
from fourfold.modes.batch.split.base import Record


class RowTables:
    """Turns rows that were answered into tables.

    Args:
        model: what answered.
        kept: names of the input's columns, which stand before the answers as text; empty: answers only.
        bad: told of each row that does not have a cell for each column, and why that is bad.
    """

    def __init__(self, model: ArrayModel, kept: list[str], bad: Callable[[Record, str], None]) -> None:
        self._model = model
        self._kept = kept
        self._bad = bad

    def table(self, answer: Answered) -> Any:
        """Answers beside their rows, without the bad ones."""
        if not self._kept:
            return to_table(answer.outputs)
        assert answer.records is not None
        width = len(self._kept)
        rows = [join.cells(record.body) for record in answer.records]
        for record, row in zip(answer.records, rows, strict=True):
            if len(row) != width:
                self._bad(record, f"the row has {len(row)} cells, the first has {width}")
        good = [i for i, row in enumerate(rows) if len(row) == width]
        columns = zip(*(rows[i] for i in good), strict=True) if good else [()] * width
        cells = pa.Table.from_arrays(
            [pa.array(column, pa.string()) for column in columns], schema=columnar.as_text(self._kept)
        )
        return columnar.beside(cells, to_table({name: array[good] for name, array in answer.outputs.items()}))

    def empty(self) -> Any:
        """The table of an object without rows."""
        tables = columnar.Tables(self._model, [], filters.parse("$"), join=bool(self._kept))
        return tables.empty(columnar.as_text(self._kept))


def column_names(reader: Reader) -> list[str]:
    """Names of a CSV object's columns: the header's, or c0, c1, …"""
    if reader.header:
        return [name.strip() for name in join.cells(reader.header.encode())]
    first = reader.first_record()
    return [f"c{i}" for i in range(len(join.cells(first.body)))] if first else []
