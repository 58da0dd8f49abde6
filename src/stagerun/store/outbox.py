"""The outbox of alerts: what waits for its delivery, who has taken it upon itself, what came of it.

A delivery is stored in the transaction that raises its alert, and open until it is settled: so it
outlives its process. Whoever delivers claims it first, and settles it afterwards; a process that
dies in between leaves it to the next one. An alert can come twice by that, and never not at all.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from attrs import frozen

from stagerun.model.alert import Alert
from stagerun.store.driver import Question
from stagerun.store.transaction import Statement, Unit

__all__ = [
    "Parcel",
    "claim",
    "due",
    "give_up",
    "keep",
    "overdue",
]

_LEASE: Final = 120_000_000
"""Microseconds for which a claim holds, at most; a delivery takes half of it at most."""
_CHUNK: Final = 1_000
"""Rows of one transaction at most."""


@frozen(kw_only=True)
class Parcel:
    """One delivery: an alert on its way to a sink. Times in microseconds."""

    alert: Alert
    sink: str
    tries: int = 0
    """How many have failed, or the one that has not."""
    next_try_at: int
    delivered_at: int | None = None
    given_up_at: int | None = None
    error: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What it is known by."""
        return self.alert.id, self.sink

    @property
    def settled(self) -> bool:
        """Whether there is nothing more to be done."""
        return self.delivered_at is not None or self.given_up_at is not None


def keep(parcel: Parcel) -> Statement:
    """Return the statement that stores a delivery as it stands. What was settled stays so."""
    alert = parcel.alert
    return Statement(
        "INSERT INTO alerts (id, name, sink, rule, body, raised_at, tries, next_try_at,"
        " delivered_at, given_up_at, error) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (id, sink) DO UPDATE SET tries = excluded.tries,"
        " next_try_at = excluded.next_try_at, claimed_by = NULL, claimed_until = NULL,"
        " delivered_at = excluded.delivered_at, given_up_at = excluded.given_up_at,"
        " error = excluded.error WHERE delivered_at IS NULL",
        (
            alert.id,
            alert.alerts,
            parcel.sink,
            alert.rule,
            json.dumps(alert.document()),
            int(alert.raised_at.timestamp() * 1e6),
            parcel.tries,
            parcel.next_try_at,
            parcel.delivered_at,
            parcel.given_up_at,
            parcel.error,
        ),
    )


# A claim is void when its owner has ended, in time, and when a clock was set back: by more than the
# moment that lies between two processes' readings of it.
_IDLE: Final = f"""
    delivered_at IS NULL AND given_up_at IS NULL
    AND (claimed_until IS NULL OR claimed_until NOT BETWEEN ?3 AND ?3 + {2 * _LEASE}
         OR claimed_by IN (SELECT owner FROM owners WHERE ended_at IS NOT NULL))
"""  # noqa: S608 - a constant
_CLAIMABLE: Final = f"{_IDLE} AND next_try_at <= ?3"
_OVERDUE: Final = f"name = ?1 AND raised_at < ?2 AND {_IDLE}"


def due(name: str, sinks: Collection[str], now: int) -> Question[list[Parcel]]:
    """Ask for the first delivery of each sink whose time has come."""

    def ask(connection: sqlite3.Connection) -> list[Parcel]:
        found = []
        for sink in sinks:
            row = connection.execute(
                "SELECT body, sink, tries, next_try_at, error, id, rule, raised_at FROM alerts"  # noqa: S608 - a constant
                f" WHERE name = ?1 AND sink = ?2 AND {_CLAIMABLE}"
                " ORDER BY next_try_at, alert LIMIT 1",
                (name, sink, now),
            ).fetchone()
            if row is not None:
                found.append(_parcel(name, row))
        return found

    return ask


def claim(parcel: Parcel, owner: int, now: int) -> Unit:
    """Return the unit by which a process takes a delivery upon itself; refused: it is another's."""
    return Unit(
        Statement(
            "UPDATE alerts SET claimed_by = ?4, claimed_until = ?5"  # noqa: S608 - a constant
            f" WHERE id = ?1 AND sink = ?2 AND {_CLAIMABLE}",
            (*parcel.key, now, owner, now + _LEASE),
        )
    )


def overdue(name: str, before: int, now: int) -> Question[dict[str, int]]:
    """Ask how many deliveries of alerts that were raised *before* are still open, by their sinks.

    Also of sinks that are no more; not of those that are under way.
    """

    def ask(connection: sqlite3.Connection) -> dict[str, int]:
        sql = f"SELECT sink FROM alerts WHERE {_OVERDUE} LIMIT {_CHUNK}"  # noqa: S608 - constants
        return dict(Counter(sink for (sink,) in connection.execute(sql, (name, before, now))))

    return ask


def give_up(name: str, before: int, now: int) -> Unit:
    """Return the unit that gives those up; refused: another process has done so."""
    old = f"SELECT alert FROM alerts WHERE {_OVERDUE} LIMIT {_CHUNK}"  # noqa: S608 - constants
    why = "it could not be tried in time"
    return Unit(
        Statement(
            f"UPDATE alert_books SET version = version WHERE name = ?1 AND EXISTS ({old})",  # noqa: S608 - constants
            (name, before, now),
        ),
        (
            Statement(
                "UPDATE alerts SET given_up_at = ?3, error = coalesce(error, ?4),"  # noqa: S608 - constants
                f" claimed_by = NULL, claimed_until = NULL WHERE alert IN ({old})",
                (name, before, now, why),
            ),
        ),
    )


def _parcel(name: str, row: Sequence[Any]) -> Parcel:
    body, sink, tries, next_try_at, error, identifier, rule, raised_at = row
    try:
        alert = Alert.of(json.loads(body))
    except (KeyError, TypeError, ValueError):  # written by hand: people are told all the same
        summary = f"alert {identifier} cannot be read any more; its rule was {rule}"
        at = datetime.fromtimestamp(raised_at / 1e6, UTC)
        alert = Alert(id=identifier, alerts=name, rule=rule, summary=summary, raised_at=at)
    return Parcel(alert=alert, sink=sink, tries=tries, next_try_at=next_try_at, error=error)
