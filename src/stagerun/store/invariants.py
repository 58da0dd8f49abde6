"""What must hold in every database at every commit, as questions for what contradicts it.

Each returns the run's identifier (or NULL) and what is wrong with it; nothing when all is well.
"""

from attrs import frozen

# ruff: noqa: S608 - the questions are put together from the constants of this file alone

__all__ = ["CHECKS", "Check"]


@frozen
class Check:
    """One invariant: its name, the question for what contradicts it, and what to do then."""

    name: str
    sql: str
    advice: str


_REPORT = (
    "nothing in stagerun writes this: keep a copy of the file, and report it if no hand or other"
    " program has changed it"
)
_RECOVER = "`stagerun recover` settles it"
_PLACE = "'generation ' || g.generation || "
_STAGE = "'generation ' || s.generation || ', stage ' || s.name || ': ' || "

_COUNTED = """i.run = s.run AND i.stage = s.stage AND i.generation <= s.generation AND
    i.generation >= CASE WHEN i.outcome IN (0, 4) THEN s.since
                         WHEN i.outcome = 3 THEN s.generation ELSE s.failed_since END"""
"""Which outcomes count in a stage of a generation: docs/decisions/0004-resume.md."""

_OUTCOMES = ("ok", "failed", "timed_out", "cancelled", "skipped", "crashed")
_SUMS = ", ".join(
    f"count(*) FILTER (WHERE i.outcome = {number}) AS {name}"
    for number, name in enumerate(_OUTCOMES)
)
_DIFFERENCES = " OR ".join(f"s.{name} <> c.{name}" for name in _OUTCOMES)
_TOLD = " || ', ' || ".join(f"s.{name} || ' {name} (' || c.{name} || ')'" for name in _OUTCOMES)

_COMPLETE = "g.status IN ('succeeded', 'failed', 'cancelled') AND g.cause <> 'internal'"
"""Nothing of the generation was left to be written. A cause, or a large result, is written before
its outcome, in the same commit or the one before: a death may fall between them."""

_BY_RUN = (
    "labels", "generations", "stages", "items", "results", "failures", "emissions", "members",
    "keys", "superseded", "deaths", "events", "requests",
)  # fmt: skip

CHECKS = (
    Check(
        "zombies",
        f"""
        SELECT r.id, {_PLACE}' is ' || g.status || ' and its owner ended ('
               || coalesce(o.ended_cause, 'its row is gone') || ')'
        FROM generations g JOIN runs r USING (run) LEFT JOIN owners o ON o.owner = g.owner
        WHERE g.finished_at IS NULL AND g.owner IS NOT NULL
          AND (o.owner IS NULL OR o.ended_at IS NOT NULL)
        """,
        _RECOVER,
    ),
    Check(
        "zombies",
        f"""
        SELECT r.id, {_PLACE}' is ' || g.status || ', and generation ' || r.generation
               || ' is the current one'
        FROM generations g JOIN runs r USING (run)
        WHERE g.finished_at IS NULL AND g.generation <> r.generation
        """,
        _REPORT,
    ),
    Check(
        "generations",
        """
        SELECT r.id, 'its current generation is ' || r.generation || ', and it has '
               || coalesce('generations up to ' || max(g.generation), 'none')
        FROM runs r LEFT JOIN generations g ON g.run = r.run
        GROUP BY r.run HAVING max(g.generation) IS NOT r.generation
        """,
        _REPORT,
    ),
    Check(
        "sums",
        f"""
        SELECT r.id, {_STAGE}'its counters do not equal its rows (in brackets): ' || {_TOLD}
        FROM stages s JOIN runs r USING (run) JOIN (
            SELECT s.run, s.generation, s.stage, {_SUMS}
            FROM stages s LEFT JOIN items i ON {_COUNTED}
            GROUP BY s.run, s.generation, s.stage) c USING (run, generation, stage)
        WHERE {_DIFFERENCES}
        """,
        _REPORT,
    ),
    Check(
        "sums",
        f"""
        SELECT r.id, {_STAGE}'it has accepted ' || s.accepted || ' items, and the stage before has'
               || ' given it ' || u.ok
        FROM stages s JOIN runs r USING (run)
        JOIN stages u ON u.run = s.run AND u.generation = s.generation AND u.stage = s.stage - 1
        WHERE u.kind <> 'many' AND s.kind <> 'collect' AND s.accepted <> u.ok
          AND s.generation = 1
        """,
        _REPORT,
    ),
    Check(
        "sums",
        f"""
        SELECT r.id, {_STAGE}'it has accepted ' || s.accepted || ' items, and ' || e.made
               || ' were made for it'
        FROM stages s JOIN runs r USING (run)
        JOIN stages u ON u.run = s.run AND u.generation = s.generation AND u.stage = s.stage - 1
        JOIN (SELECT run, stage, count(*) AS made FROM emissions WHERE parent > 0
              GROUP BY run, stage) e ON e.run = s.run AND e.stage = s.stage
        WHERE u.kind = 'many' AND s.kind <> 'collect' AND s.accepted <> e.made AND r.generation = 1
        """,
        _REPORT,
    ),
    Check(
        "sums",
        f"""
        SELECT r.id, {_STAGE}s.in_flight || ' items are in flight after the end'
        FROM stages s JOIN runs r USING (run) JOIN generations g USING (run, generation)
        WHERE g.finished_at IS NOT NULL AND s.in_flight <> 0
        """,
        _REPORT,
    ),
    Check(
        "causes",
        """
        SELECT r.id, 'generation ' || i.generation || ', stage ' || i.stage || ', item ' || i.item
               || ' did not end ok, and no cause is recorded'
        FROM items i JOIN runs r USING (run)
        LEFT JOIN failures f USING (run, stage, item, generation)
        WHERE i.outcome NOT IN (0, 4) AND f.cause IS NULL
        """,
        _REPORT,
    ),
    Check(
        "endings",
        f"""
        SELECT r.id, {_PLACE}' has ended ' || g.status || ', and nothing says '
               || CASE WHEN g.message IS NULL THEN 'why' ELSE 'which process wrote it' END
        FROM generations g JOIN runs r USING (run)
        WHERE g.finished_at IS NOT NULL
          AND (g.message IS NULL OR (g.ended_by IS NULL AND g.started_at IS NOT NULL))
        """,
        _REPORT,
    ),
    Check(
        "endings",
        f"""
        SELECT r.id, {_STAGE}'the run succeeded, and ' || (s.accepted - s.ok - s.failed
               - s.timed_out - s.cancelled - s.skipped - s.crashed)
               || ' of the stage''s items have no outcome'
        FROM stages s JOIN runs r USING (run) JOIN generations g USING (run, generation)
        WHERE g.status = 'succeeded' AND s.accepted <> s.ok + s.failed + s.timed_out
              + s.cancelled + s.skipped + s.crashed
        """,
        _REPORT,
    ),
    Check(
        "endings",
        f"""
        SELECT r.id, {_PLACE}' is ' || g.status || ', and its last event says ' || e.body
        FROM generations g JOIN runs r USING (run) JOIN events e
          ON e.run = g.run AND e.seq = (SELECT max(seq) FROM events l WHERE l.run = g.run
                                        AND l.generation = g.generation AND l.kind = 'run')
        WHERE g.finished_at IS NOT NULL AND e.body <> g.status
           OR g.finished_at IS NULL AND e.body IN
              ('succeeded', 'failed', 'cancelled', 'timed_out', 'interrupted')
        """,
        _REPORT,
    ),
    Check(
        "events",
        """
        SELECT r.id, count(e.seq) || ' events are kept and ' || r.events_pruned || ' were pruned, '
               || 'and ' || r.events || ' were given a number (the last one kept: '
               || coalesce(max(e.seq), 'none') || ')'
        FROM runs r LEFT JOIN events e ON e.run = r.run
        GROUP BY r.run
        HAVING count(e.seq) + r.events_pruned <> r.events OR coalesce(max(e.seq), 0) > r.events
        """,
        _REPORT,
    ),
    Check(
        "orphans",
        f"""
        SELECT r.id, 'stage ' || f.stage || ', item ' || f.item || ' has a cause and no outcome'
        FROM failures f JOIN runs r USING (run) JOIN generations g USING (run, generation)
        LEFT JOIN items i USING (run, stage, item, generation)
        WHERE i.outcome IS NULL AND {_COMPLETE}
        """,
        _REPORT,
    ),
    Check(
        "orphans",
        f"""
        SELECT r.id, 'stage ' || v.stage || ', item ' || v.item || ' has a result and no outcome'
        FROM results v JOIN runs r USING (run) JOIN generations g USING (run, generation)
        LEFT JOIN items i USING (run, stage, item, generation)
        WHERE i.outcome IS NULL AND {_COMPLETE}
        """,
        _REPORT,
    ),
    Check(
        "schedules",
        """
        SELECT min(k.run), 'schedule ' || s.name || ': ' || count(*) || ' of its slots are one run'
        FROM slots k JOIN schedules s USING (schedule) WHERE k.run IS NOT NULL
        GROUP BY k.run HAVING count(*) > 1
        """,
        _REPORT,
    ),
    Check(
        "schedules",
        """
        SELECT NULL, 'schedule ' || s.name || ': a slot was ' || k.decision || ' and '
               || CASE WHEN k.run IS NULL THEN 'has no run' ELSE 'has a run' END
        FROM slots k JOIN schedules s USING (schedule)
        WHERE (k.decision IS 'fired') <> (k.run IS NOT NULL)
        """,
        _REPORT,
    ),
    Check(
        "schedules",
        """
        SELECT NULL, 'schedule ' || s.name || ': ' || count(*) || ' runs are under way, and '
               || max(r.concurrency) || ' may be'
        FROM schedules s JOIN runs r ON r.concurrency_key = 'schedule ' || s.name
        JOIN generations g USING (run, generation) WHERE g.status = 'running'
        GROUP BY s.schedule HAVING count(*) > max(r.concurrency)
        """,
        _REPORT,
    ),
    *(
        Check(
            "orphans",
            f"SELECT NULL, count(*) || ' rows of {table} belong to run number ' || run"
            f" || ', which does not exist' FROM {table}"
            " WHERE run NOT IN (SELECT run FROM runs) AND run NOT IN (SELECT run FROM pruned)"
            " GROUP BY run",
            _REPORT,
        )
        for table in _BY_RUN
    ),
)
