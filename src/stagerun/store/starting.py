"""The statements by which a run begins, or waits for its turn, and ends there."""

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from stagerun.model.pipeline import Pipeline
from stagerun.model.stage import Stage
from stagerun.model.status import Ending, Status
from stagerun.store.transaction import Rows, Statement, Unit
from stagerun.store.writes import INSERT, WIDTH

__all__ = [
    "OWNER_LIVES",
    "Claim",
    "begin",
    "create_run",
    "declared",
    "end_queued",
    "free_key",
    "more_items",
    "refused",
    "store_items",
    "take_turn",
]


@frozen
class Claim:
    """What must hold for a run to be made, and what is written together with it."""

    condition: str
    """SQL that is true or false."""
    parameters: tuple[Any, ...]
    body: tuple[Statement, ...]


OWNER_LIVES = "EXISTS (SELECT 1 FROM owners w WHERE w.owner = {owner} AND w.ended_at IS NULL)"
"""Work is opened by an owner that nobody has ended; see docs/decisions/0003."""


def create_run(
    *,
    identifier: str,
    pipeline: Pipeline,
    owner: int,
    now: int,
    params: bytes,
    labels: Mapping[str, str],
    source: str,
    source_length: int | None,
    target: str | None,
    request_key: str | None,
    queued: bool,
    concurrency_key: str | None = None,
    concurrency: int | None = None,
    own_source: bool = False,
    claim: Claim | None = None,
) -> Unit:
    """Return the unit that makes a run with its first generation; its guard returns the number.

    With *queued* it waits for ``begin``, as a run whose items are yet to be stored does.

    The guard refuses when ``request_key`` has been used: the run exists already. When the owner
    has been ended by somebody: nobody would ever settle what it opens. And when the claim does not
    hold any more.
    """
    status = "queued" if queued else "running"
    this = "(SELECT run FROM runs WHERE id = ?)"
    deadline = None if pipeline.deadline is None else now + int(pipeline.deadline * 1e6)
    guard = Statement(
        "INSERT INTO runs (id, pipeline, target, generation, created_at, params, source,"
        " source_length, request_key, concurrency_key, concurrency, on_interrupt, resumes,"
        " own_source) SELECT ?, ?, ?, 1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? WHERE"
        f" {OWNER_LIVES.format(owner='?')} AND {'1' if claim is None else claim.condition}"
        " ON CONFLICT (request_key) DO NOTHING RETURNING run",
        (
            identifier,
            pipeline.name,
            target,
            now,
            params,
            source,
            source_length,
            request_key,
            concurrency_key,
            concurrency,
            pipeline.on_interrupt,
            pipeline.resumes,
            own_source,
            owner,
            *(() if claim is None else claim.parameters),
        ),
    )
    body = [
        Statement(
            "INSERT INTO generations (run, generation, owner, status, created_at, started_at,"  # noqa: S608 - `this` is the constant above
            f" updated_at, deadline_at) VALUES ({this}, 1, ?, ?, ?, ?, ?, ?)",
            (identifier, owner, status, now, None if queued else now, now, deadline),
        )
    ]
    body += [
        Statement(
            "INSERT INTO stages (run, generation, stage, name, kind, version, workers, deadline)"  # noqa: S608 - as above
            f" VALUES ({this}, 1, ?, ?, ?, ?, ?, ?)",
            (identifier, index, *declared(stage)),
        )
        for index, stage in enumerate(pipeline.stages)
    ]
    body += [
        Statement(f"INSERT INTO labels VALUES ({this}, ?, ?)", (identifier, name, value))  # noqa: S608 - as above
        for name, value in labels.items()
    ]
    return Unit(guard, body if claim is None else [*body, *claim.body])


def declared(stage: Stage) -> tuple[str, str, int, int, int | None]:
    """Return what a generation keeps of a stage: name, kind, version, workers and deadline."""
    deadline = None if stage.deadline is None else int(stage.deadline * 1e6)
    return stage.name, stage.kind.value, stage.version, stage.workers, deadline


def free_key(request_key: str) -> Unit:
    """Return the unit that lets a key be used again; refused unless its run was never started.

    That is one whose process died while it stored the items: nobody was told that it exists, and
    nobody can resume it. Whoever asks again with the same key means to start it.
    """
    return Unit(
        Statement(
            "UPDATE runs SET request_key = NULL WHERE request_key = ? AND source = 'stored'"
            " AND generation = 1 AND EXISTS (SELECT 1 FROM generations g JOIN stages s"
            " USING (run, generation) WHERE g.run = runs.run AND g.generation = 1 AND s.stage = 0"
            " AND g.status = 'interrupted' AND s.accepted <> runs.source_length)",
            (request_key,),
        )
    )


def refused(unit: Unit, identifier: str, ending: Ending, now: int) -> Unit:
    """Return the unit that makes a run as *unit* does, and ends it at once."""
    end_ = Statement(
        "UPDATE generations SET status = ?, cause = ?, message = ?, finished_at = ?,"
        " ended_by = owner WHERE run = (SELECT run FROM runs WHERE id = ?)",
        (ending.status.value, ending.cause.value, ending.message, now, identifier),
        expected=1,
    )
    return Unit(unit.guard, (*unit.body, end_))


def begin(run: int, now: int, items: Rows, accepted: int, *, waits: bool) -> Unit:
    """Return the unit that stores the last of a queued run's items and lets it run.

    *waits*: it stays queued, for its turn.
    """
    status, started_at = ("queued", None) if waits else ("running", now)
    generation = 1
    return Unit(
        Statement(
            "UPDATE generations SET status = ?, started_at = ?, updated_at = ?"
            " WHERE run = ? AND generation = ? AND status = 'queued'",
            (status, started_at, now, run, generation),
        ),
        (
            items,
            Statement(
                "UPDATE stages SET accepted = ? WHERE run = ? AND generation = ? AND stage = 0",
                (accepted, run, generation),
                expected=1,
            ),
        ),
    )


def more_items(run: int, first: int, values: Sequence[bytes]) -> Unit:
    """Return the unit that stores a part of a queued run's items."""
    return Unit(None, (store_items(run, first, values),))


def take_turn(
    run: int, generation: int, *, key: str, places: int, deadline_at: int | None, now: int
) -> Unit:
    """Return the unit that lets a queued run begin; refused while no place is free.

    Its guard counts the runs that hold one, and those that came before it and still wait.
    """
    others = (
        # By status first: of the runs that ever had the key most have ended.
        "SELECT count(*) FROM generations o CROSS JOIN runs r ON r.run = o.run"
        " AND r.generation = o.generation WHERE r.concurrency_key = ?"
    )
    return Unit(
        Statement(
            "UPDATE generations SET status = 'running', started_at = ?, updated_at = ?,"  # noqa: S608 - a constant
            " deadline_at = ? WHERE run = ? AND generation = ? AND status = 'queued'"
            f" AND ({others} AND o.status = 'running') < ?"
            f" AND ({others} AND o.status = 'queued' AND r.run < generations.run) = 0"
            f" AND {OWNER_LIVES.format(owner='generations.owner')}",
            (now, now, deadline_at, run, generation, key, places, key),
        )
    )


def end_queued(run: int, generation: int, ending: Ending, now: int) -> Unit:
    """Return the unit that ends a run which never began; refused when it does not wait any more.

    Nobody works on it, so anybody may: the statement is fenced by the status alone.
    """
    requested_at = now if ending.status is Status.CANCELLED else None
    return Unit(
        Statement(
            "UPDATE generations SET status = ?, cause = ?, message = ?, requested_at = ?,"
            " stopped_at = ?, finished_at = ?, updated_at = ?"
            " WHERE run = ? AND generation = ? AND status = 'queued'",
            (
                ending.status.value,
                ending.cause.value,
                ending.message,
                requested_at,
                now,
                now,
                now,
                run,
                generation,
            ),
        ),
        (
            Statement(
                "UPDATE stages SET status = 'skipped', finished_at = ?"
                " WHERE run = ? AND generation = ?",
                (now, run, generation),
            ),
            Statement("UPDATE runs SET events = events + 1 WHERE run = ?", (run,)),
            Statement(
                "INSERT INTO events SELECT run, events, ?, ?, 'run', NULL, NULL, NULL, ?"
                " FROM runs WHERE run = ?",
                (generation, now, ending.status.value, run),
            ),
        ),
    )


def store_items(run: int, first: int, values: Sequence[bytes]) -> Rows:
    """Return the rows that keep items given as a list, before the start is acknowledged."""
    flat: list[Any] = []
    for position, value in enumerate(values, first):
        flat += (run, 0, position, 0, 0, position, None, value)
    return Rows(INSERT["emissions"], WIDTH["emissions"], flat)
