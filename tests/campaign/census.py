"""What became of a crowd: what its processes were told and did, held against their database."""

import itertools
import math
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec

from stagerun.store.opening import STEPS
from tests.campaign.crowd import ABANDONED
from tests.campaign.crowdhistory import History, Process
from tests.campaign.crowdruns import GRACE, SIZES, UNMARKED, outcome
from tests.campaign.images import look
from tests.campaign.told import Told
from tests.conftest import sums_hold

__all__ = ["SETTLED_WITHIN", "judge", "slots", "takeovers", "waits"]

SETTLED_WITHIN: Final = 6.0
"""Seconds after which a dead process's runs are settled beside one that lives."""
SETTLED_AT_START: Final = 1.0
"""Seconds that the next start may take to do so."""
LEFT_WITHIN: Final = GRACE + 1.0
"""Seconds from SIGTERM to the exit."""
SHARE: Final = 0.25
"""Seconds more for each one that leaves at the same time: they share the processors."""
STARVED_AFTER: Final = 5.0
"""Seconds after which whoever still waits for a commit starves."""


def judge(history: History, path: Path, replay: str) -> dict[str, Any]:
    """Return what is wrong, what was counted, and what took how long."""
    executions = _executions(path.with_name("executed"), history)
    wrong = [
        *history.wrong,
        *history.told.contradictions,
        *_processes(history),
        *waits(history),
        *_executed_twice(executions, history),
        *(f"{key} has {len(ids)} runs" for key, ids in history.keys.items() if len(ids) > 1),
    ]
    with closing(sqlite3.connect(path, isolation_level=None, timeout=20)) as connection:
        wrong += look(connection, history.told, whole=True)
        wrong += takeovers(connection, history)
        wrong += _endings(connection)
        wrong += slots(connection)
        try:
            sums_hold(connection)
        except AssertionError as error:
            wrong.append(str(error))
        (runs,) = connection.execute("SELECT count(*) FROM runs").fetchone()
        (generations,) = connection.execute("SELECT count(*) FROM generations").fetchone()
    for place, told in history.saved.items():
        if Path(place).exists():
            with closing(sqlite3.connect(place)) as connection:
                wrong += [
                    f"the backup {place}: {each}" for each in look(connection, told, whole=True)
                ]
    for place in history.copies:
        history.counts[f"copies by cp that are {_quality(place)}"] += 1
    names = {signal.SIGKILL: "kill -9", signal.SIGSTOP: "SIGSTOP", signal.SIGTERM: "SIGTERM",
             signal.SIGINT: "SIGINT"}  # fmt: skip
    for number, name in names.items():
        history.counts[name] += sum(len(each.signalled(number)) for each in history.processes)
    history.counts["foreign locks"] += len(history.locks)
    history.counts["processes"] += len(history.processes)
    history.counts["runs"] += runs
    history.counts["generations"] += generations
    history.counts["executions"] += len(executions)
    return {
        "violations": [f"{replay}: {each}" for each in wrong],
        "counts": dict(history.counts),
        "took": {name: [b - a for a, b in spans] for name, spans in history.took.items()},
    }


# -- processes ------------------------------------------------------------------------------------


def _processes(history: History) -> Iterator[str]:
    """Yield who ended otherwise than it should, or too late."""
    for each in history.processes:
        said = each.errors.read_text(errors="replace")
        who = f"{each.role} {each.target} (pid {each.pid}, {_sent(each)})"
        if each.gone_at is None:
            yield f"{who} has not ended"
        elif not each.is_killed and each.status not in _expected(each):
            yield f"{who} ended with {each.status}: {said[-2000:]}"
        elif (
            "Traceback" in said and not each.limited and (each.begun_at_signal or not each.signals)
        ):
            yield f"{who} ended with a traceback: {said[-2000:]}"
        if each.leaving is not None and not each.is_early:
            began, gone = each.leaving
            history.took.setdefault(f"leave ({each.role} {each.target})", []).append(each.leaving)
            beside = [p for p in history.processes if p.leaving and p.leaving[0] < gone]
            others = sum(p.leaving is not None and p.leaving[1] > began for p in beside) - 1
            if history.free(began, gone) > LEFT_WITHIN + SHARE * others:
                yield f"{who} took {gone - began:.1f} s to leave, {others} beside it: {said[-900:]}"


def _sent(process: Process) -> str:
    return ", ".join(number.name for number, _, _ in process.signals) or "undisturbed"


def _expected(process: Process) -> tuple[int, ...]:
    """Return the statuses with which a process may end that nobody has killed."""
    if process.role != "command":
        return (0, -signal.SIGTERM) if process.is_early else (0,)
    if process.is_early:
        return (0, 1, 3, 130, -signal.SIGTERM, -signal.SIGINT)
    done = (0,) if process.target == "steady" else ()
    if process.said.stat().st_size:  # its run's ending: it was hit on its very last steps
        done = (*done, -signal.SIGTERM, -signal.SIGINT)
    if process.signalled(signal.SIGINT):
        return (130, *done)
    return (3, *done) if process.signals else done


def waits(history: History) -> Iterator[str]:
    """Yield what took too long, and note how long the dead stayed unsettled."""
    settled = history.took.setdefault("dead until settled", [])
    for owner, (pid, cause, seen) in history.owners.items():
        process = history.process(pid)
        if process.killed_at is None or cause not in ("dead", "lease"):
            continue
        settled.append((process.killed_at, seen))
        if history.core(process.killed_at, seen) > SETTLED_WITHIN:
            yield f"owner {owner[:8]} was settled {seen - process.killed_at:.1f} s after its death"
    for began, ended in history.took.get("open (heir)", ()):
        if ended - began > SETTLED_AT_START:
            yield f"the next start took {ended - began:.2f} s"
    for began, ended in history.took.get("start", ()):
        if history.core(began, ended) > STARVED_AFTER:
            yield f"a start took {ended - began:.1f} s: it starved"


# -- who had what in hand -------------------------------------------------------------------------


def _executions(file: Path, history: History) -> dict[tuple[str, str, str], list[list[Any]]]:
    """Return process, beginning and end of each execution, by run, stage and item."""
    found: dict[tuple[str, str, str], list[list[Any]]] = {}
    for line in file.read_text().splitlines():
        pid, mark, place, item, what, at = line.split()
        spans = found.setdefault((mark, place, item), [])
        if what == "begins":
            spans.append([int(pid), float(at), None])
        else:
            next(s for s in reversed(spans) if s[0] == int(pid) and s[2] is None)[2] = float(at)
    for spans in found.values():
        for span in spans:
            process = history.process(span[0])
            process.has_begun = True
            first = min((at for _, at, _ in process.signals), default=0.0)
            process.begun_at_signal |= span[1] < first
    return found


def _executed_twice(
    executions: dict[tuple[str, str, str], list[list[Any]]], history: History
) -> Iterator[str]:
    """Yield items that two living processes had in hand at once."""
    for what, spans in executions.items():
        if what[0] == UNMARKED:
            continue
        for one, two in itertools.combinations(sorted(spans, key=lambda span: span[1]), 2):
            ended = [at for at in (one[2], history.process(one[0]).killed_at) if at is not None]
            if one[0] != two[0] and two[1] < min(ended, default=float("inf")):
                yield f"{what} was executed by {two[0]} while {one[0]} had it in hand"


def takeovers(
    connection: sqlite3.Connection, history: History, *, trusts_wall: bool = True
) -> Iterator[str]:
    """Yield owners that were taken for dead while their process lived."""
    for owner, pid, cause, ended_at in connection.execute(
        "SELECT id, pid, ended_cause, ended_at FROM owners WHERE ended_cause <> 'closed'"
    ):
        history.counts["takeovers"] += 1
        process = history.process(pid)
        dead_from = process.may_be_dead_from()
        if dead_from == math.inf or (trusts_wall and ended_at / 1e6 < dead_from):
            who = f"owner {owner[:8]} (pid {pid}, {_sent(process)})"
            yield f"{who} was taken for {cause}, and lived"


# -- the database ---------------------------------------------------------------------------------


def _endings(connection: sqlite3.Connection) -> Iterator[str]:
    steps = connection.execute("SELECT count(*) FROM schema_steps").fetchone()
    if steps != (len(STEPS),):
        yield f"the schema was made in {steps[0]} steps"
    for run, status in connection.execute(
        "SELECT r.id, g.status FROM runs r JOIN generations g USING (run, generation)"
        f" WHERE g.finished_at IS NULL OR ({ABANDONED})"
    ):
        yield f"run {run[:8]} is left {status}"
    twice = connection.execute(
        "SELECT run, stage, item FROM items WHERE outcome IN (0, 4)"
        " GROUP BY run, stage, item HAVING count(*) > 1"
    ).fetchall()
    if twice:
        yield f"final outcomes that were given twice: {twice[:3]}"
    yield from _results(connection)


def _results(connection: sqlite3.Connection) -> Iterator[str]:
    """Yield runs that succeeded otherwise than one that nobody disturbs."""
    for run, pipeline in connection.execute(
        "SELECT run, pipeline FROM runs r JOIN generations g USING (run, generation)"
        " WHERE g.status = 'succeeded'"
    ).fetchall():
        rows = connection.execute(
            "SELECT result FROM items WHERE run = ? AND stage = 1 AND outcome = 0", (run,)
        )
        came = sorted(msgspec.msgpack.decode(value) for (value,) in rows)
        (condemned,) = connection.execute(
            "SELECT count(*) FROM items WHERE run = ? AND outcome = 5", (run,)
        ).fetchone()
        due = [value for n in range(1, SIZES[pipeline] + 1) if (value := outcome(n)) is not None]
        if not {*came} <= {*due} or len(came) < len(due) - condemned or len({*came}) < len(came):
            yield f"run number {run} ({pipeline}) came to {came}, {condemned} items condemned"


def slots(connection: sqlite3.Connection, *, clock_jumps: bool = False) -> Iterator[str]:
    """Yield slots of the schedule that were not decided exactly once."""
    decided = connection.execute("SELECT at, missed, run FROM slots ORDER BY at").fetchall()
    for (before, *_), (at, missed, _) in itertools.pairwise(decided):
        if at == before:
            yield f"the slot at {at} was decided twice"
        elif at - before != (missed + 1) * 1_000_000 and not clock_jumps:
            yield f"between two slots are {(at - before) / 1e6} s, and {missed} count as missed"
    fired = [run for *_, run in decided if run is not None]
    if len({*fired}) < len(fired):
        yield "two slots are one run"


def _quality(place: str) -> str:
    """Return what a copy is that was made while others wrote."""
    try:
        with closing(sqlite3.connect(place)) as connection:
            return "unsound" if any(look(connection, Told(), whole=True)) else "sound"
    except sqlite3.Error:
        return "not readable"
