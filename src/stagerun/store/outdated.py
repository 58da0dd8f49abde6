"""What is kept of alerts no longer: those told long ago, and endings that all have looked at."""

import sqlite3
from typing import Final

from stagerun.store.driver import Question
from stagerun.store.transaction import Statement, Unit

__all__ = ["SWEEP", "drop_outdated", "outdated"]

_CHUNK: Final = 1_000
"""Rows of one transaction at most."""


def outdated(before: int | None) -> Question[bool]:
    """Ask whether something need not be kept.

    That are alerts raised *before*, names that nobody has served since, and endings of pruned runs
    or that all have looked at. None: alerts and names are kept however old they are.
    """

    def ask(connection: sqlite3.Connection) -> bool:
        old = (_OLD_ALERTS, _OLD_BOOKS, _SEEN_ENDINGS, _OLD_ENDINGS)
        sql = f"SELECT {' OR '.join(f'EXISTS ({each})' for each in old)}"
        return bool(connection.execute(sql, (before,)).fetchone()[0])

    return ask


def drop_outdated(before: int | None) -> Unit:
    """Return the unit that deletes some of that."""
    return Unit(
        None,
        (
            Statement(f"DELETE FROM alerts WHERE alert IN ({_OLD_ALERTS})", (before,)),  # noqa: S608 - a constant
            *(
                Statement(f"DELETE FROM {table} WHERE name IN ({_OLD_BOOKS})", (before,))  # noqa: S608 - constants
                for table in ("alert_episodes", "alert_listeners", "alert_books")
            ),
            SWEEP,
            Statement(f"DELETE FROM endings WHERE ending IN ({_OLD_ENDINGS})"),  # noqa: S608 - a constant
        ),
    )


_OLD_ALERTS: Final = f"SELECT alert FROM alerts WHERE raised_at < ?1 LIMIT {_CHUNK}"  # noqa: S608 - a constant
_OLD_BOOKS: Final = """
    SELECT name FROM alert_books b WHERE looked_at < ?1
    AND NOT EXISTS (SELECT 1 FROM alert_listeners l JOIN owners o ON o.owner = l.owner
                    WHERE l.name = b.name AND o.ended_at IS NULL)
"""
# Where one that has listened does not come back, endings go with their runs, or with its book.
_SEEN_ENDINGS: Final = f"""
    SELECT ending FROM endings
    WHERE ending <= coalesce((SELECT min(ending) FROM alert_books), {2**62}) LIMIT {_CHUNK}
"""  # noqa: S608 - constants
_OLD_ENDINGS: Final = f"""
    SELECT ending FROM endings WHERE run NOT IN (SELECT run FROM runs) LIMIT {_CHUNK}
"""  # noqa: S608 - constants
SWEEP: Final = Statement(f"DELETE FROM endings WHERE ending IN ({_SEEN_ENDINGS})")  # noqa: S608 - a constant
"""Deletes some of the endings that all have looked at."""
