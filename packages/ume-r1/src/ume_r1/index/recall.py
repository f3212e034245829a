"""How many of the true nearest neighbours an approximate search finds."""

from __future__ import annotations

from ume_r1.index.rows import Narrow, matrix
from ume_r1.index.table import Table

_QUERIES = 32
_TOP = 10


def recall(table: Table, column: str) -> float:
    """Recall@10 of the column's index against exact search.

    Queries are rows from all over the table, themselves not counted among what they find.
    """
    found = 0
    for number in range(_QUERIES):
        rows, _ = table.page(number * len(table) // _QUERIES, 1)
        if rows.num_rows:
            own = rows["path"][0].as_py()
            vector = matrix(rows[column])[0]
            near, true = (
                {
                    row["path"]
                    for row in table.nearest(vector, column, _TOP + 1, Narrow(), exact=e)[0]
                }
                for e in (False, True)
            )
            found += len((near & true) - {own})
    return found / (_QUERIES * _TOP)
