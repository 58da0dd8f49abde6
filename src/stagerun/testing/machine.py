"""A computer in virtual time: its clocks, its disk, and processes that live and die on it.

What runs there is the real engine, with its real rules and SQL, on a real database file. Virtual
are the clock, which waits for nobody, and what the world does: a kill, a lock, a sleep.
"""

import random
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import trio
from attrs import define, evolve, field

from stagerun.engine.env import Env
from stagerun.engine.opening import open_runtime
from stagerun.engine.runtime import Runtime
from stagerun.errors import RuntimeClosedError, StoreError
from stagerun.model.pipeline import Pipeline
from stagerun.model.schedule import Schedule
from stagerun.store.transaction import Receipt, Rows, Transaction
from stagerun.store.writes import INSERT
from stagerun.testing.mortal import ProcessDied, mortal
from stagerun.testing.store import SimulatedStore

__all__ = ["BEGIN", "Machine", "Observer", "Process"]

T = TypeVar("T")

_FACTS: Final = tuple(INSERT[table] for table in INSERT if table not in ("events", "failures"))
"""Rows that say what became of items; in others are words, with numbers of processes and such."""
BEGIN: Final = 1_772_409_600.0
"""2 March 2026, 00:00 UTC: when the clock on the wall begins, unless somebody says otherwise."""


class Observer(Protocol):
    """Somebody who looks at a machine. All it is told is told in the event loop."""

    def composed(self, process: "Process") -> None:
        """Hear that a process is about to commit."""

    def committed(self, process: "Process", connection: sqlite3.Connection) -> None:
        """Hear that a process has committed, and has not heard of it yet."""

    def called(self, process: "Process", stage: str, value: Any) -> None:
        """Hear that a process calls a stage's function."""


@define(eq=False)
class Machine:
    """Its clocks, its disk, and who lives on it."""

    path: Path
    """The database's file."""
    seed: int = 0
    begin: float = BEGIN
    pace: float = 1.0
    """How many times slower than in production signs of life come, and looks at others."""
    latency: float = 0.0
    """Seconds that a commit takes in the mean."""
    settings: Mapping[str, str] = field(factory=dict)
    """Operators' settings, as environment variables."""
    observers: list[Observer] = field(factory=list)
    chance: random.Random = field(init=False)
    refusals: list[str] = field(factory=list)
    """By SQLite's names, the errors with which commits are refused just now."""
    slowness: float = 0.0
    """Seconds that each commit takes just now, beyond its latency."""
    log: list[str] = field(factory=list)
    """What has happened, a line each, for people; the same for the same seed."""
    harm: list[tuple[float, str]] = field(factory=list)
    """When and what has befallen it: for whoever must tell bad luck from a defect."""
    files: dict[int, object] = field(factory=dict)
    """Which life of a process holds which owner's file, by its number."""
    places: dict[str, int] = field(factory=dict)
    """Which file was last put where an owner's file stands, by the owner."""
    lost: set[int] = field(factory=set)
    """Files that somebody has deleted."""
    hands: dict[str, list[tuple[int, int, int, int]]] = field(factory=dict)
    """What dead owners had in hand."""
    _ahead: float = 0.0
    _trace: Any = field(factory=lambda: blake2b(digest_size=8))
    _numbers: int = 0

    def __attrs_post_init__(self) -> None:
        self.chance = random.Random(self.seed)  # noqa: S311 - it shall follow from the seed

    def wall(self) -> float:
        """Return the time on the wall, in seconds since 1970."""
        return self.begin + trio.current_time() + self._ahead

    def set_clock(self, seconds: float) -> None:
        """Set the clock on the wall forward, or back where *seconds* are negative."""
        self._ahead += seconds

    def new_id(self) -> str:
        """Return what production draws from the operating system."""
        return f"{self.chance.getrandbits(128):032x}"

    def new_file(self, process: "Process") -> int:
        """Return the number of a new file that *process* holds."""
        self._numbers += 1
        self.files[self._numbers] = process.life
        return self._numbers

    def note(self, line: str, *, detail: str = "", harm: bool = False) -> None:
        """Write down what happened just now. *detail* differs from one process to the next."""
        line = f"{trio.current_time():.3f} {line}"
        self._trace.update(line.encode())
        self.log.append(line + detail)
        if harm:
            self.harm.append((trio.current_time(), line))

    def traced(self, process: "Process", transaction: Transaction, receipt: Receipt) -> None:
        """Take a commit into the trace: who did it and when, and all outcomes and results in it.

        But not what differs from one process of the operating system to the next.
        """
        said = [
            None if unit.guard is None or "pid" in unit.guard.sql else unit.guard.parameters
            for unit in transaction.units
        ]
        said += [
            rows.parameters
            for unit in transaction.units
            for rows in unit.body
            if isinstance(rows, Rows) and rows.insert.startswith(_FACTS)
        ]
        what = (round(trio.current_time(), 6), process.number, said, receipt.guards)
        self._trace.update(repr(what).encode())

    @property
    def trace(self) -> str:
        """Sums up all that was committed so far, when, and by whom."""
        return str(self._trace.hexdigest())


@define(eq=False)
class _Life:
    """One process from its start to its death."""

    store: SimulatedStore
    runtime: Runtime | None = None
    pipelines: Mapping[str, Pipeline] = field(factory=dict)
    """Its own, by their names."""
    killed: bool = False
    leaving: bool = False
    over: trio.Event = field(factory=trio.Event)
    """It shall end, one way or the other."""
    ended: trio.Event = field(factory=trio.Event)
    scopes: set[trio.CancelScope] = field(factory=set)
    """What waits on behalf of this process."""


@define(eq=False)
class Process:
    """A program that holds a runtime open; it is killed now and then, and started again."""

    machine: Machine
    number: int
    pipelines: Sequence[Pipeline] = ()
    schedules: Sequence[Schedule] = ()
    begins_at: float = 0.0
    """When it is to be started (again), on the machine's monotonic clock."""
    _life: _Life | None = None
    _up: trio.Event = field(factory=trio.Event)

    @property
    def alive(self) -> bool:
        """Whether it has been started, and not killed since."""
        return self._life is not None and not self._life.killed

    @property
    def frozen(self) -> bool:
        """Whether it is stopped just now."""
        return self._life is not None and trio.current_time() < self._life.store.frozen_until

    @property
    def serving(self) -> bool:
        """Whether its runtime is open, and not being left."""
        life = self._life
        return life is not None and life.runtime is not None and not life.over.is_set()

    @property
    def life(self) -> object:
        """The same object as long as it is not started again."""
        return self._life

    # -- what befalls it ------------------------------------------------------------------------

    def kill(self, downtime: float) -> None:
        """End at once: nothing is written any more, not even what was under way."""
        life = self._life
        if life is None or life.killed or life.ended.is_set():
            return
        self.machine.note(f"process {self.number} is killed", harm=True)
        life.killed = True
        life.store.kill()
        self._go(life, downtime)
        for scope in life.scopes:
            scope.cancel()
        life.ended.set()

    def shut_down(self, downtime: float) -> None:
        """Leave in an orderly way."""
        life = self._life
        if life is not None and not life.over.is_set():
            self.machine.note(f"process {self.number} shuts down", harm=True)
            life.leaving = True
            self._go(life, downtime)

    def _go(self, life: _Life, downtime: float) -> None:
        self.begins_at = trio.current_time() + downtime
        if self._up.is_set():  # else those who wait for it still do
            self._up = trio.Event()
        life.over.set()

    def freeze(self, seconds: float) -> None:
        """Stand still for so long."""
        life = self._life
        if life is not None and not life.killed:
            self.machine.note(f"process {self.number} stands still for {seconds:.3f} s", harm=True)
            store = life.store
            store.frozen_until = max(store.frozen_until, trio.current_time() + seconds)

    def thaw(self) -> None:
        """Go on, if it stands still."""
        if self.frozen:
            assert self._life is not None  # noqa: S101 - so says `frozen`
            self._life.store.thaw()

    def lose_file(self) -> None:
        """Have the file deleted that says that it lives."""
        if self._life is not None and not self._life.killed and self._life.store.lose_file():
            self.machine.note(f"the file of process {self.number} is deleted", harm=True)

    # -- its life -------------------------------------------------------------------------------

    async def live(self) -> None:
        """Serve, end when told, and begin again after the downtime that was said; for ever."""
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep_until(self.begins_at)
                life = self._life = _Life(SimulatedStore(self.machine, self))
                self.machine.note(f"process {self.number} begins")
                nursery.start_soon(self._serve, life)
                await life.ended.wait()

    async def _serve(self, life: _Life) -> None:
        machine = self.machine
        env = Env(
            wall=machine.wall,
            monotonic=trio.current_time,
            cpu=trio.current_time,
            memory=lambda: (None, None),
            jitter=machine.chance.random,
            new_id=machine.new_id,
            environ={"STAGERUN_LOG_LEVEL": "CRITICAL", "STAGERUN_KEEP_DAYS": "off"}
            | dict(machine.settings),
            threads=False,
            pace=machine.pace,
        )
        body = _Body(self, life)
        pipelines = [mortal(pipeline, body) for pipeline in self.pipelines]
        life.pipelines = {pipeline.name: pipeline for pipeline in pipelines}
        schedules = [evolve(each, pipeline=mortal(each.pipeline, body)) for each in self.schedules]
        try:
            async with open_runtime(
                store=life.store, env=env, pipelines=pipelines, schedules=schedules
            ) as life.runtime:
                if not life.over.is_set():
                    self._up.set()
                await life.over.wait()
        except* StoreError:
            if not life.killed:
                if not life.leaving or not life.store.unheard:
                    raise
                # While the disk refuses, leaving is bounded: then the process ends unheard.
                machine.note(f"process {self.number} leaves without a word", harm=True)
                life.killed = True
                life.store.kill()
        finally:
            life.ended.set()

    # -- its clients ----------------------------------------------------------------------------

    async def call(self, ask: Callable[[Runtime], Awaitable[T]]) -> T:
        """Ask its runtime for something, once it is there.

        Raises:
            ProcessDied: It has died, or left, before it answered: what came of it is unknown.
        """
        while not self.serving:
            await self._up.wait()
            await trio.lowlevel.checkpoint()
        life = self._life
        assert life is not None  # noqa: S101 - it is serving
        assert life.runtime is not None  # noqa: S101 - it is serving
        body = _Body(self, life)
        try:
            await body.awake()
            with body.alive():
                answer = await ask(life.runtime)
            await body.awake()
        except RuntimeClosedError as error:
            raise ProcessDied(f"process {self.number} is being left") from error
        except StoreError as error:
            if life.killed or life.leaving:
                raise ProcessDied(f"process {self.number} has gone") from error
            raise
        return answer

    def own(self, name: str) -> Pipeline:
        """Return the pipeline of that name, as this process runs it just now."""
        assert self._life is not None  # noqa: S101 - asked from within its runtime
        return self._life.pipelines[name]


class _Body:
    """A process's one life, as its stages and its clients see it."""

    def __init__(self, process: Process, life: _Life) -> None:
        self._process = process
        self._life = life

    def called(self, stage: str, value: Any) -> None:
        self._check()
        for observer in self._process.machine.observers:
            observer.called(self._process, stage, value)

    async def awake(self) -> None:
        await self._life.store.thawed()
        self._check()

    @contextmanager
    def alive(self) -> Iterator[None]:
        self._check()
        with trio.CancelScope() as scope:
            self._life.scopes.add(scope)
            try:
                yield
            finally:
                self._life.scopes.discard(scope)
        self._check()

    def _check(self) -> None:
        if self._life.killed:
            raise ProcessDied(f"process {self._process.number} was killed")
