"""What is really done, beside what the database says of it: the truth of a simulated time."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import trio
from attrs import define, field

from stagerun import Counts, Status
from stagerun.store.driver import BEAT
from stagerun.testing.inspector import Inspector
from stagerun.testing.machine import Machine, Process
from tests.simulation.workloads import ATTEMPT, GRACE, Act

__all__ = ["Truth"]

_SLACK = 1.0
"""Seconds that a thing may come late, beyond what is promised, on a machine that is well."""
_LOOK = 5.0
"""Seconds between two looks at other processes, as the engine has it."""


@define(eq=False)
class _Attempt:
    life: object
    process: Process
    since: float
    swallows: bool


@define(eq=False)
class Truth:
    """Watches what stages do and what the processes ought to do about it."""

    machine: Machine
    inspector: Inspector
    processes: Sequence[Process] = ()
    workers: dict[str, int] = field(factory=dict)
    """Of each stage, by its name and its pipeline's."""
    cancelled: dict[str, tuple[int, float]] = field(factory=dict)
    """Generations whose cancellation the owner has heard of, and since when, by their run."""
    told: dict[tuple[str, int], str] = field(factory=dict)
    """Endings that somebody was told of, by run and generation."""
    calls: int = 0
    _under_way: dict[int, _Attempt] = field(factory=dict)
    _by_stage: dict[tuple[object, str, str], int] = field(factory=dict)
    _able_since: float = 0.0
    _well_since: float = 0.0
    _deaf: dict[Process, float] = field(factory=dict)
    """When a process, for the last time, could not have heard that a commit of its is refused."""
    _over: dict[tuple[str, int], float] = field(factory=dict)
    """Generations that have ended and go on, and since when at least."""
    _orphaned: dict[int, float] = field(factory=dict)
    _connection: sqlite3.Connection | None = None
    _caller: Process | None = None

    def ask(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Look into the database, as somebody who has nothing to do with stagerun."""
        if self._connection is None:
            self._connection = sqlite3.connect(self.machine.path, isolation_level=None)
        return self._connection.execute(sql, parameters).fetchall()

    def close(self) -> None:
        """Let go of the database."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def well_for(self) -> float:
        """For how many seconds nothing has been wrong with any process, or with the disk."""
        return trio.current_time() - max(self._well_since, self._last_harm)

    @property
    def _last_harm(self) -> float:
        return self.machine.harm[-1][0] if self.machine.harm else 0.0

    # -- as an observer of the machine ----------------------------------------------------------

    def composed(self, process: Process) -> None:
        """See ``Observer.composed``."""

    def committed(self, process: Process, connection: sqlite3.Connection) -> None:
        """See ``Observer.committed``."""

    def called(self, process: Process, stage: str, value: Any) -> None:
        """See ``Observer.called``: the stage's function begins right after this."""
        self._caller = process

    # -- what customers are told ----------------------------------------------------------------

    def compare_told(
        self, run: str, generation: int, status: str, counts: Sequence[Counts]
    ) -> None:
        """Hold what somebody was told just now against the disk: that may only be further on."""
        rows = self.ask(
            "SELECT g.status, s.ok + s.failed + s.timed_out + s.cancelled + s.skipped + s.crashed"
            " FROM runs r JOIN generations g USING (run)"
            " JOIN stages s ON s.run = g.run AND s.generation = g.generation"
            " WHERE r.id = ? AND g.generation = ? ORDER BY s.stage",
            run,
            generation,
        )
        where = f"run {run}, generation {generation}"
        if Status(status).terminal and rows and rows[0][0] != status:
            self.inspector.violate(f"{where}: told {status}, and it is {rows[0][0]} on disk")
        for told, (_, stored) in zip(counts, rows, strict=bool(counts)):
            if told.settled > stored:
                self.inspector.violate(
                    f"{where}: told {told.settled} done, and {stored} are on disk"
                )

    # -- what stages do -------------------------------------------------------------------------

    @contextmanager
    def attempt(self, ctx: Any, n: int, act: Act) -> Iterator[None]:
        """See ``Ground.attempt``."""
        self.calls += 1
        process = self._caller
        assert process is not None
        where = f"run {ctx.run[:8]}, stage {ctx.stage}, item {ctx.item} ({n})"
        self._check_begin(ctx, where)
        attempt = _Attempt(
            process.life, process, trio.current_time(), act.how in ("late", "swallow")
        )
        self._under_way[id(attempt)] = attempt
        place = (process.life, ctx.run, ctx.stage)
        self._by_stage[place] = self._by_stage.get(place, 0) + (not attempt.swallows)
        if self._by_stage[place] > self.workers[ctx.stage]:
            self.inspector.violate(f"{where}: more at once than the stage has workers")
        try:
            yield
        finally:
            del self._under_way[id(attempt)]
            self._by_stage[place] -= not attempt.swallows

    def _check_begin(self, ctx: Any, where: str) -> None:
        ((current,),) = self.ask("SELECT generation FROM runs WHERE id = ?", ctx.run)
        generation = ctx._desk.actor.hub.ledger.generation
        if generation != current:  # others have gone on with its run, and it has yet to hear of it
            self._check_over(ctx.run, generation, where)
            return
        final = self.ask(
            "SELECT i.generation FROM items i JOIN runs r USING (run) JOIN stages s"
            " ON s.run = r.run AND s.generation = r.generation AND s.stage = i.stage"
            " WHERE r.id = ? AND s.name = ? AND i.item = ? AND i.outcome IN (0, 4)",
            ctx.run,
            ctx.stage,
            ctx.item,
        )
        if final:
            self.inspector.violate(f"{where}: executed though its outcome was final on disk")
        if self.cancelled.get(ctx.run, (0, 0.0))[0] == generation:
            self.inspector.violate(f"{where}: begun after its owner had heard of the cancellation")
        self._check_over(ctx.run, generation, where)

    def _check_over(self, run: str, generation: int, where: str) -> None:
        """What others have ended may go on until its owner is refused a commit, and not longer."""
        mark = (run, generation)
        open_ = self.ask(
            "SELECT 1 FROM generations g JOIN runs r USING (run)"
            " WHERE r.id = ? AND g.generation = ? AND g.finished_at IS NULL",
            *mark,
        )
        now = trio.current_time()
        if not open_:
            deaf = self._deaf.get(self._caller, 0.0) if self._caller else 0.0
            since = max(self._over.setdefault(mark, now), deaf)
            if now - since > ATTEMPT + GRACE + _SLACK:
                self.inspector.violate(f"{where}: begun {now - since:.1f} s after its run was over")

    # -- what processes ought to do -------------------------------------------------------------

    async def watch(self) -> None:
        """Look every two seconds, for ever."""
        while True:
            await trio.sleep(2)
            self._look(trio.current_time())

    def _look(self, now: float) -> None:
        machine, processes = self.machine, self.processes
        harmed = machine.harm and now - self._last_harm < 2
        store_ill = bool(machine.refusals) or machine.slowness > 0.1
        if harmed or store_ill or not any(p.serving and not p.frozen for p in processes):
            self._able_since = now
        if harmed or store_ill or not all(p.serving and not p.frozen for p in processes):
            self._well_since = now
        for process in processes:
            if store_ill or not process.serving or process.frozen:
                self._deaf[process] = now + 2  # until the next look
        self._look_at_attempts(now)
        self._look_at_runs(now)

    def _look_at_attempts(self, now: float) -> None:
        for attempt in self._under_way.values():
            begun = max(attempt.since, self._well_since)
            here = attempt.process.life is attempt.life and attempt.process.serving
            if here and not attempt.swallows and now - begun > 1.01 * ATTEMPT + GRACE + _SLACK:
                self.inspector.violate(f"an attempt goes on {now - attempt.since:.1f} s, and is cut"
                                       f" at {ATTEMPT} s")  # fmt: skip
                attempt.since = now

    def _look_at_runs(self, now: float) -> None:
        machine = self.machine
        open_runs = self.ask(
            "SELECT r.id, g.generation, g.status, g.owner, o.ended_at, g.deadline_at,"
            " g.grace, o.inode FROM generations g JOIN runs r USING (run, generation)"
            " LEFT JOIN owners o ON o.owner = g.owner WHERE g.finished_at IS NULL"
        )
        for run, generation, status, owner, ended_at, deadline_at, grace, file in open_runs:
            where = f"run {run}, generation {generation} is {status}, and"
            life = self.inspector.owners.get(owner)
            alive = ended_at is None and any(p.life is life and p.alive for p in self.processes)
            if alive:
                self._orphaned.pop(owner, None)
                self._look_at_cancelled(run, generation, now)
                late = machine.wall() - (deadline_at + grace) / 1e6
                # A start that waited for the disk has an old deadline until the next beat; the
                # driver begins to wait for that anew with each commit.
                well = now - self._well_since > GRACE + 2 * BEAT * machine.pace + _SLACK
                if well and status == "running" and late > machine.pace + _SLACK:
                    self.inspector.violate(f"{where} {late:.1f} s beyond its deadline and grace")
                continue
            since = max(self._orphaned.setdefault(owner, now), self._able_since)
            looks = 1 if file not in machine.lost else 3  # its silence must be waited for
            if now - since > looks * _LOOK * machine.pace + _SLACK:
                self.inspector.violate(
                    f"{where} its process has been dead for {now - since:.1f} s in which another"
                    " one could have settled it"
                )
                self._orphaned[owner] = now
        for key, count in self.ask(
            "SELECT r.concurrency_key, count(*) FROM generations g JOIN runs r"
            " USING (run, generation) WHERE g.status = 'running' AND r.concurrency_key IS NOT NULL"
            " GROUP BY r.concurrency_key HAVING count(*) > min(r.concurrency)"
        ):
            self.inspector.violate(f"{count} runs of key {key} are under way, and one may be")

    def _look_at_cancelled(self, run: str, generation: int, now: float) -> None:
        cancelled, at = self.cancelled.get(run, (0, now))
        since = max(at, self._well_since)
        if cancelled == generation and now - since > GRACE + self.machine.pace + _SLACK:
            self.inspector.violate(f"run {run} was cancelled {now - at:.1f} s ago, and runs")
            del self.cancelled[run]
