"""Resume, proved on the real schema by a small reference engine without tasks and without time.

The engine hands items on in memory and reads the database only where a resumed generation does. It
is killed after every commit, and resumed: with children in another order, other batches, a changed
version, after a cancellation, with ``--failed``. What comes out must be what an engine that was
never killed gives.
"""

import sqlite3
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from random import Random
from typing import Any

import pytest
from attrs import define, evolve, field, frozen
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from stagerun.model.outcome import Outcome
from stagerun.model.pipeline import Pipeline
from stagerun.model.policy import Batch, Collect
from stagerun.model.stage import Kind, Stage
from stagerun.model.status import Cause, Counts, Ending, Status
from stagerun.rules.frontier import Child, Floors, StageFacts, first_changed, judge_child
from stagerun.rules.frontier import open_stages as opening_of
from stagerun.store import codec, frontier, groups, owners, starting, writes
from stagerun.store.frontier import Place
from stagerun.store.opening import connect
from stagerun.store.reopening import next_generation
from stagerun.store.transaction import Rows, Statement, Transaction, Unit, execute

RUN = 1
OWNER = owners.owner("me", None, now=1, pid=1, host="here", revision=None)
LABELS = [outcome.label for outcome in Outcome]
LOST = (Outcome.FAILED, Outcome.TIMED_OUT, Outcome.CRASHED)
INSERT = {
    "items": ("INSERT INTO items VALUES", 9),
    "emissions": ("INSERT INTO emissions VALUES", 8),
    "members": ("INSERT INTO members VALUES", 5),
    "keys": ("INSERT OR REPLACE INTO keys VALUES", 5),
}

# What 0004-resume asks of the schema; it is applied only while the schema does not have it.
AMENDMENTS = """
    ALTER TABLE stages ADD COLUMN since INTEGER NOT NULL DEFAULT 1;
    ALTER TABLE stages ADD COLUMN failed_since INTEGER NOT NULL DEFAULT 1;
    DROP TABLE emissions; DROP TABLE members; DROP TABLE keys;
    CREATE TABLE emissions (
        run INTEGER NOT NULL, stage INTEGER NOT NULL, item INTEGER NOT NULL,
        generation INTEGER NOT NULL, parent INTEGER NOT NULL, ident ANY NOT NULL,
        fingerprint BLOB, value BLOB NOT NULL,
        PRIMARY KEY (run, stage, item)) STRICT, WITHOUT ROWID;
    CREATE INDEX emissions_by_parent ON emissions (run, stage, parent)
        WHERE fingerprint IS NOT NULL;
    CREATE TABLE members (
        run INTEGER NOT NULL, stage INTEGER NOT NULL, item INTEGER NOT NULL,
        generation INTEGER NOT NULL, key BLOB NOT NULL,
        PRIMARY KEY (run, stage, item, generation)) STRICT, WITHOUT ROWID;
    CREATE INDEX members_by_key ON members (run, stage, key, item);
    CREATE TABLE keys (
        run INTEGER NOT NULL, stage INTEGER NOT NULL, key BLOB NOT NULL,
        generation INTEGER NOT NULL, item INTEGER NOT NULL,
        PRIMARY KEY (run, stage, key)) STRICT, WITHOUT ROWID;
"""


# -- the user's side: a pipeline of pure functions, and the world they run in ---------------------


@frozen
class Plan:
    """A pipeline in short: per stage its kind, its version, and whether it has a key."""

    stages: tuple[tuple[Kind, int, bool], ...]
    source: str = "stored"
    values: tuple[int, ...] = (1, 2, 3)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return tuple(kind for kind, _, _ in self.stages)

    def pipeline(self) -> Pipeline:
        async def function(value: Any) -> None: ...

        async def generator(value: Any) -> Any:
            yield

        return Pipeline(
            "model",
            [
                Stage(
                    function=generator if kind is Kind.MANY else function,
                    kind=kind,
                    name=f"s{index}",
                    version=version,
                    batch=Batch() if kind is Kind.BATCH else None,
                    collect=Collect() if kind is Kind.COLLECT else None,
                )
                for index, (kind, version, _) in enumerate(self.stages)
            ],
        )


@frozen
class World:
    """What differs from one generation to the next, besides the plan."""

    seed: int = 0
    turn: int = 0
    """By how many places the children of a parent are rotated."""
    failing: bool = False
    flaky: bool = False
    """Some one-to-many attempts break after some children, and are made again in another order."""
    commit: float = 0.25
    """How often a commit follows a message."""


class BrokenError(Exception):
    pass


def mark(*parts: Any) -> int:
    return zlib.crc32(repr(parts).encode())


def root(value: str) -> int:
    return int(value.partition("/")[0].partition(".")[0])


def by(value: str) -> bytes:
    return codec.encode(str(root(value) % 3))


def fails(world: World, stage: int, value: str) -> bool:
    return world.failing and mark("fail", stage, value) % 4 == 0


def apply(world: World, stage: int, version: int, value: str) -> str | None:
    """One to one; None drops."""
    if fails(world, stage, value):
        raise BrokenError
    return None if mark("drop", stage, value) % 7 == 0 else f"{value}.{stage}v{version}"


def split(world: World, stage: int, version: int, value: str, attempt: int) -> Iterator[str]:
    """One to many."""
    count = mark("fan", stage, version, value) % 4
    children = [f"{value}/{n}.{stage}v{version}" for n in range(count)]
    if fails(world, stage, value):
        yield from children[: count // 2]
        raise BrokenError
    if world.flaky and attempt == 1 and mark("flaky", stage, value) % 2:
        yield from reversed(children[: count // 2 + 1])
        raise BrokenError
    turn = world.turn % count if count else 0
    yield from children[turn:] + children[:turn]


def gather(
    world: World, stage: int, version: int, key: str, outcomes: list[tuple[int, str | None]]
) -> str:
    """Collect. The result knows nothing of numbers, only what came together."""
    if fails(world, stage, key):
        raise BrokenError
    values = sorted(value for _, value in outcomes if value is not None)
    others = sorted(outcome for outcome, value in outcomes if value is None)
    return f"{key}/{mark(values, others):x}.{stage}v{version}"


# -- the reference engine ------------------------------------------------------------------------


@define(eq=False)
class Engine:
    """One generation of the run. All that it knows from before, it asks the database."""

    connection: sqlite3.Connection
    generation: int
    plan: Plan
    world: World
    committed: Callable[[sqlite3.Connection], None]
    """Called after each commit; it may raise, which is the kill."""
    executed: Callable[[int, int, str], None] = lambda _stage, _item, _value: None
    cancel_after: int | None = None
    """How many steps before somebody cancels."""

    dice: Random = field(init=False)
    places: list[Place] = field(init=False)
    accepted: list[int] = field(init=False)
    sums: list[list[int]] = field(init=False)
    mail: list[deque[tuple[int, str, bool]]] = field(init=False)
    feeds: list[Iterator[tuple[int, str, bool]]] = field(init=False)
    formed: set[int] = field(init=False, factory=set)
    numbers: dict[int, int] = field(init=False, factory=dict)
    rows: dict[str, list[Any]] = field(init=False, factory=dict)
    others: list[Statement] = field(init=False, factory=list)
    void: set[tuple[int, int]] = field(init=False, factory=set)
    claims: dict[tuple[int, bytes], int] = field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        self.dice = Random(self.world.seed * 31 + self.generation)
        count = len(self.plan.stages)
        kinds = self.plan.kinds
        self.places = [Place.of(RUN, self.generation, kinds, k) for k in range(count + 1)]
        facts = stored_facts(self.connection, self.generation)
        self.accepted = [fact.counts.accepted for fact in facts]
        self.sums = [[getattr(fact.counts, label) for label in LABELS] for fact in facts]
        self.mail = [deque() for _ in range(count)]
        self.feeds = [self.feed(k) for k in range(count)]
        for stage in range(count + 1):
            self.numbers[stage] = frontier.last_number(RUN, stage)(self.connection)

    def work(self) -> None:
        steps = 0
        while (stage := self.next_stage()) is not None:
            if steps == self.cancel_after:
                self.cancel()
                return
            steps += 1
            self.step(stage)
        self.finish(Status.SUCCEEDED, Cause.COMPLETED)

    def next_stage(self) -> int | None:
        """Choose where to work; make groups of what is through; None when all is done."""
        ready = [k for k in range(len(self.mail)) if self.ready(k)]
        for k, kind in enumerate(self.plan.kinds):
            if kind is Kind.COLLECT and k not in self.formed and not any(r < k for r in ready):
                self.form(k)
                return self.next_stage()
        return self.dice.choice(ready) if ready else None

    def ready(self, stage: int) -> bool:
        if self.plan.kinds[stage] is Kind.COLLECT and stage not in self.formed:
            return False
        if not self.mail[stage]:
            self.mail[stage].extend(islice(self.feeds[stage], 1))
        return bool(self.mail[stage])

    def take(self, stage: int) -> tuple[int, str, bool]:
        entry = None
        if self.dice.random() < 0.5:
            entry = next(self.feeds[stage], None)
        item, value, void = entry or self.mail[stage].popleft()
        origin = self.places[stage].origin
        return item, value, void or self.is_void(origin, item)

    def feed(self, stage: int) -> Iterator[tuple[int, str, bool]]:
        """What waits from earlier generations, page by page while everything else goes on."""
        place = self.places[stage]
        if place.feed == "source" and self.plan.source == "function":
            yield from self.reread(place)
            return
        below = self.generation + (place.feed == "groups")
        after = 0
        while page := frontier.waiting(place, below, after)(self.connection):
            for after, value, void in page:
                yield after, codec.decode(value), void

    def reread(self, place: Place) -> Iterator[tuple[int, str, bool]]:
        """A function gives again; what is settled comes in the same order and is left out."""
        after, page = 0, deque[int]()
        for position, value in enumerate(self.plan.values, 1):
            while after < position:
                page = page or deque(frontier.settled(place, after)(self.connection))
                after = page.popleft() if page else len(self.plan.values) + 1
            if after != position:
                self.accepted[0] += 1
                yield position, str(value), False

    def is_void(self, origin: int, item: int) -> bool:
        sql = "SELECT 1 FROM superseded WHERE run = ? AND stage = ? AND item = ?"
        stored = self.connection.execute(sql, (RUN, origin, item)).fetchone()
        return (origin, item) in self.void or stored is not None

    def step(self, stage: int) -> None:
        kind = self.plan.kinds[stage]
        size = self.dice.randint(1, 3) if kind is Kind.BATCH else 1
        for _ in range(size):
            if self.ready(stage):
                self.attempt(stage, *self.take(stage))
        self.perhaps_commit(0.5)

    def attempt(self, stage: int, item: int, value: str, void: bool) -> None:
        kind, version, keyed = self.plan.stages[stage]
        if void or (keyed and not self.claim(stage, item, value)):
            self.settle(stage, item, value, Outcome.SKIPPED, None)
            return
        self.executed(stage, item, value)
        try:
            if kind is Kind.MANY:
                self.repeat(stage, item, value)
                result: str | None = ""
            elif kind is Kind.COLLECT:
                result = gather(self.world, stage, version, value, self.members(stage, value))
            else:
                result = apply(self.world, stage, version, value)
        except BrokenError:
            outcome = LOST[mark(stage, value) % 3]
            self.settle(stage, item, value, outcome, None)
        else:
            outcome = Outcome.SKIPPED if result is None else Outcome.OK
            self.settle(stage, item, value, outcome, result)

    def claim(self, stage: int, item: int, value: str) -> bool:
        key = codec.encode(value)
        holder = self.claims.get((stage, key))
        if holder is None or self.is_void(self.places[stage].origin, holder):
            holder = frontier.key_holder(self.places[stage], key)(self.connection)
        if holder is not None and self.is_void(self.places[stage].origin, holder):
            holder = None
        if holder is None:
            self.claims[stage, key] = holder = item
            self.post("keys", (RUN, stage, key, self.generation, item))
        return holder == item

    def repeat(self, stage: int, parent: int, value: str) -> None:
        """Attempt a one-to-many parent, twice if it is flaky."""
        try:
            self.emit_all(stage, parent, value, 1)
        except BrokenError:
            if not self.world.flaky:
                raise
            self.commit()
            self.emit_all(stage, parent, value, 2)

    def emit_all(self, stage: int, parent: int, value: str, attempt: int) -> None:
        version, follower = self.plan.stages[stage][1], self.places[stage + 1]
        earlier = frontier.children(follower, parent)(self.connection)
        keyed = stage + 1 < len(self.mail) and self.plan.stages[stage + 1][2]
        seen = set()
        for ordinal, child in enumerate(split(self.world, stage, version, value, attempt), 1):
            encoded = codec.encode(child)
            ident: Any = encoded if keyed and encoded not in seen else ordinal
            seen.add(encoded)
            known, fingerprint = earlier.pop(ident, None), codec.fingerprint(encoded)
            verdict = judge_child(known and known[1], fingerprint)
            if verdict is Child.KEPT:
                continue
            if known is not None:
                self.supersede(stage + 1, known[0])
            self.emit(stage + 1, parent, ident, fingerprint, child)
        for number, _ in earlier.values():
            self.supersede(stage + 1, number)

    def emit(self, stage: int, parent: int, ident: Any, fingerprint: bytes, child: str) -> None:
        self.numbers[stage] += 1
        number = self.numbers[stage]
        if stage < len(self.mail) and self.plan.kinds[stage] is not Kind.COLLECT:
            self.accepted[stage] += 1
            self.mail[stage].append((number, child, False))
        encoded = codec.encode(child)
        self.post(
            "emissions", (RUN, stage, number, self.generation, parent, ident, fingerprint, encoded)
        )
        self.enlist(stage, number, child)

    def supersede(self, stage: int, item: int) -> None:
        self.void.add((stage, item))
        self.others.append(writes.supersede(RUN, stage, item))

    def enlist(self, stage: int, item: int, value: str) -> None:
        if stage < len(self.mail) and self.plan.kinds[stage] is Kind.COLLECT:
            self.post("members", (RUN, stage, item, self.generation, by(value)))

    def settle(
        self, stage: int, item: int, entered: str, outcome: Outcome, result: str | None
    ) -> None:
        self.sums[stage][outcome] += 1
        many = self.plan.kinds[stage] is Kind.MANY
        encoded = codec.encode(result) if outcome is Outcome.OK and not many else None
        onward = stage + 1 < len(self.mail) and self.plan.kinds[stage + 1] is not Kind.COLLECT
        if onward and encoded is not None and result is not None:
            self.accepted[stage + 1] += 1
            self.mail[stage + 1].append((item, result, False))
        row = (RUN, stage, item, self.generation, int(outcome), 1, 0, 0, encoded)
        self.post("items", row)
        if not many:
            self.enlist(stage + 1, item, entered if result is None else result)

    def members(self, stage: int, value: str) -> list[tuple[int, str | None]]:
        after, found = 0, []
        key = codec.encode(value)
        while page := groups.members(self.places[stage], key, after)(self.connection):
            found += [(int(member.outcome), member.value) for member in page]
            after = page[-1].item
        return found

    def form(self, stage: int) -> None:
        """Make the groups of a collect stage: nothing waits before it any more."""
        place, before = self.places[stage], self.places[stage - 1]
        self.commit()
        after = 0
        while page := groups.unlisted(place, after)(self.connection):
            for item, stamp, _, value in page:
                after = item
                given = value or frontier.entered(before, item)(self.connection)
                if given is None:  # a function's item that failed at once
                    given = codec.encode(str(self.plan.values[item - 1]))
                self.post("members", (RUN, stage, item, stamp, by(codec.decode(given))))
        self.commit()
        gone, fresh = groups.changes(place)(self.connection)
        self.accepted[stage] += fresh
        self.others.append(groups.supersede(place, gone))
        self.others.append(groups.make(place, fresh))
        self.formed.add(stage)
        self.commit()

    def cancel(self) -> None:
        for _ in range(3):
            ready = [k for k in range(len(self.mail)) if self.ready(k)]
            if ready:
                stage = self.dice.choice(ready)
                item, value, _ = self.take(stage)
                self.settle(stage, item, value, Outcome.CANCELLED, None)
        self.finish(Status.CANCELLED, Cause.REQUESTED)

    def finish(self, status: Status, cause: Cause) -> None:
        ending = Ending(status, cause, "")
        self.others.append(
            writes.end(RUN, self.generation, ending, now=2, stopped_at=2, survivors=())
        )
        self.commit()

    def post(self, table: str, row: tuple[Any, ...]) -> None:
        self.rows.setdefault(table, []).extend(row)
        self.perhaps_commit(self.world.commit / 4)

    def perhaps_commit(self, chance: float) -> None:
        if self.dice.random() < chance:
            self.commit()

    def commit(self) -> None:
        """Make durable what was posted, with the sums; then everything else may be lost."""
        body: list[Statement | Rows] = [
            Rows(*INSERT[table], flat) for table, flat in self.rows.items()
        ]
        body += self.others
        if self.others:
            body += frontier.supersede_descendants(RUN, self.plan.kinds)
        for stage, (accepted, sums) in enumerate(zip(self.accepted, self.sums, strict=True)):
            counts = Counts(name="", accepted=accepted, **dict(zip(LABELS, sums, strict=True)))
            body.append(writes.stage_counts(RUN, self.generation, stage, counts))
        guard = writes.touch(RUN, self.generation, 1, None, None)
        self.rows, self.others = {}, []
        receipt = execute(self.connection, Transaction((Unit(guard, body),)))
        assert receipt.guards[0] is not None
        self.committed(self.connection)


# -- the database between two generations ---------------------------------------------------------


def begin(plan: Plan) -> sqlite3.Connection:
    """Return a database with a run whose first generation has just begun."""
    connection = connect(":memory:")
    columns = {row[1] for row in connection.execute("PRAGMA table_info(stages)")}
    if "since" not in columns:
        connection.executescript(AMENDMENTS)
    stored = [codec.encode(str(value)) for value in plan.values]
    flat = [
        part
        for position, value in enumerate(stored, 1)
        for part in (RUN, 0, position, 0, 0, position, None, value)
    ]
    execute(connection, Transaction((OWNER,)))
    unit = starting.create_run(
        identifier="r",
        pipeline=plan.pipeline(),
        owner=1,
        now=0,
        params=b"",
        labels={},
        source=plan.source,
        source_length=None,
        target=None,
        request_key=None,
        queued=False,
    )
    items: list[Statement | Rows] = []
    if plan.source == "stored":
        counts = Counts(name="", accepted=len(stored))
        items = [Rows(*INSERT["emissions"], flat), writes.stage_counts(RUN, 1, 0, counts)]
    execute(
        connection,
        Transaction((unit, Unit(None, items))),
    )
    return connection


def resume(connection: sqlite3.Connection, plan: Plan, *, failed: bool) -> int:
    """End what was killed as a recovery does, and open the next generation; return its number."""
    generation = connection.execute("SELECT generation FROM runs").fetchone()[0]
    ending = Ending(Status.INTERRUPTED, Cause.OWNER_DIED, "")
    end = writes.end(RUN, generation, ending, now=2, stopped_at=None, survivors=())
    connection.execute(end.sql, end.parameters)
    before = stored_facts(connection, generation)
    stages = plan.pipeline().stages
    changed = first_changed(before, stages)
    place = Place.of(RUN, generation, plan.kinds, changed)
    made = frontier.made(place)(connection) if place.feed == "children" else 0
    openings = opening_of(
        before,
        stages,
        generation + 1,
        failed=failed,
        reread=plan.source == "function",
        made=made,
    )
    rows = [
        (
            stage.name,
            stage.kind.value,
            stage.version,
            1,
            None,
            opening.floors.since,
            opening.floors.failed_since,
            opening.counts.accepted,
            *(getattr(opening.counts, label) for label in LABELS),
        )
        for stage, opening in zip(stages, openings, strict=True)
    ]
    unit = opened(generation + 1, rows)
    assert execute(connection, Transaction((unit,))).guards[0] is not None
    return int(generation) + 1


def opened(generation: int, stages: Any) -> Unit:
    return next_generation(
        RUN,
        generation,
        owner=1,
        now=3,
        deadline_at=None,
        opened_by="resume",
        charge=0,
        percent=None,
        queued=False,
        stages=stages,
    )


def stored_facts(connection: sqlite3.Connection, generation: int) -> list[StageFacts]:
    rows = connection.execute(
        "SELECT name, kind, version, since, failed_since, accepted, ok, failed, timed_out,"
        " cancelled, skipped, crashed FROM stages WHERE run = ? AND generation = ? ORDER BY stage",
        (RUN, generation),
    )
    return [
        StageFacts(
            name,
            Kind(kind),
            version,
            Floors(since, failed_since),
            Counts(name=name, accepted=accepted, **dict(zip(LABELS, sums, strict=True))),
        )
        for name, kind, version, since, failed_since, accepted, *sums in rows.fetchall()
    ]


def copy_of(image: bytes) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.deserialize(image)
    return connection


def results(connection: sqlite3.Connection, plan: Plan) -> list[str]:
    generation = connection.execute("SELECT generation FROM runs").fetchone()[0]
    place = Place.of(RUN, generation, plan.kinds, len(plan.stages))
    after, found = 0, []
    while page := frontier.results(place, after)(connection):
        found += [codec.decode(value) for _, value in page]
        after = page[-1][0]
    return sorted(found)


# -- what must hold ------------------------------------------------------------------------------


def check_sums(connection: sqlite3.Connection, plan: Plan) -> None:
    """Compare the sums and the SQL of the frontier with every stored row, by the rules alone."""
    generation = connection.execute("SELECT generation FROM runs").fetchone()[0]
    facts = stored_facts(connection, generation)
    void = set(connection.execute("SELECT stage, item FROM superseded").fetchall())
    passed: set[int] = set()
    for stage, fact in enumerate(facts):
        place = Place.of(RUN, generation, plan.kinds, stage)
        accepted = accepted_by_rows(connection, place, facts, passed)
        outcomes: dict[int, Outcome] = {}
        for item, recorded, number in connection.execute(
            "SELECT item, generation, outcome FROM items WHERE stage = ?", (stage,)
        ):
            if fact.floors.counts(Outcome(number), recorded, generation):
                assert item not in outcomes, "two outcomes of an item count"
                outcomes[item] = Outcome(number)
        for outcome in Outcome:
            counted = sum(o is outcome for o in outcomes.values())
            assert getattr(fact.counts, outcome.label) == counted, (stage, outcome)
        passed = {item for item, outcome in outcomes.items() if outcome is Outcome.OK}
        if place.feed == "source" and plan.source == "function":
            assert fact.counts.accepted >= len(outcomes)
            continue
        assert fact.counts.accepted == len(accepted), stage
        assert outcomes.keys() <= accepted, stage
        waiting: dict[int, bool] = {}
        after = 0
        while page := frontier.waiting(place, generation + 1, after)(connection):
            waiting |= {item: flag for item, _, flag in page}
            after = page[-1][0]
        assert list(waiting) == sorted(accepted - outcomes.keys()), stage
        assert waiting == {item: (place.origin, item) in void for item in waiting}, stage


def accepted_by_rows(
    connection: sqlite3.Connection, place: Place, facts: list[StageFacts], passed: set[int]
) -> set[int]:
    """Return the items that a stage was given, and that count; *passed*: by the one before."""
    stage = place.stage
    emissions = connection.execute(
        "SELECT item, generation, parent FROM emissions WHERE stage = ?", (stage,)
    ).fetchall()
    match place.feed:
        case "source":
            return {item for item, _, _ in emissions}
        case "children":
            floor = facts[stage - 1].floors.since
            return {item for item, made, parent in emissions if parent and made >= floor}
        case "groups":
            floor = facts[stage].floors.since
            return {item for item, made, parent in emissions if not parent and made >= floor}
        case "results":
            return passed


class Witness:
    """Sees to it that nothing final is executed again."""

    def __init__(self, connection: sqlite3.Connection, generation: int) -> None:
        self.final: set[tuple[int, int]] = set()
        history = [
            [(f.name, f.kind, f.version) for f in stored_facts(connection, g)]
            for g in range(1, generation + 1)
        ]
        sql = "SELECT stage, item, generation FROM items WHERE outcome IN (0, 4)"
        for stage, item, recorded in connection.execute(sql):
            upto = [stages[: stage + 1] for stages in history[recorded - 1 :]]
            if all(stages == upto[0] for stages in upto):
                self.final.add((stage, item))

    def executed(self, stage: int, item: int, _value: str) -> None:
        assert (stage, item) not in self.final, f"item {item} of stage {stage} was final"
        self.final.add((stage, item))


def run(
    connection: sqlite3.Connection,
    generation: int,
    plan: Plan,
    world: World,
    cancel_after: int | None = None,
) -> list[bytes]:
    """Run one generation to its end; return the database after each of its commits."""
    images: list[bytes] = []

    def committed(live: sqlite3.Connection) -> None:
        check_sums(live, plan)
        images.append(live.serialize())

    witness = Witness(connection, generation)
    check_sums(connection, plan)
    images.append(connection.serialize())
    Engine(connection, generation, plan, world, committed, witness.executed, cancel_after).work()
    return images


kinds_of_stage = st.sampled_from(list(Kind))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    kinds = draw(st.lists(kinds_of_stage, min_size=1, max_size=4))
    if kinds[0] is Kind.COLLECT:
        kinds[0] = Kind.MANY
    stages = tuple(
        (kind, 1, kind in (Kind.EACH, Kind.MANY) and draw(st.booleans())) for kind in kinds
    )
    values = draw(st.lists(st.integers(0, 9), max_size=5))
    return Plan(stages, draw(st.sampled_from(["stored", "function"])), tuple(values))


worlds = st.builds(
    World,
    seed=st.integers(0, 999),
    turn=st.integers(0, 2),
    failing=st.booleans(),
    flaky=st.booleans(),
    commit=st.sampled_from([0.1, 0.5, 1.0]),
)
twices = st.integers(0, 99)


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontier, "PAGE", 2)
    monkeypatch.setattr(groups, "PAGE", 2)


model = settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def prove(
    plan: Plan,
    world: World,
    second: tuple[Plan, World],
    twice: int,
    *,
    failed: bool = False,
    cancel_after: int | None = None,
) -> None:
    """Kill after every commit of generation 1, and of one generation 2; resume; compare.

    *second*: what generation 2 meets. *twice*: which generation 2 is killed as well.
    """
    plan2, world2 = second
    reference = begin(plan2)
    run(reference, 1, plan2, world2)
    expected = results(reference, plan2)
    images = run(begin(plan), 1, plan, world, cancel_after)
    for number, image in enumerate(images):
        connection = copy_of(image)
        later = run(connection, resume(connection, plan2, failed=failed), plan2, world2)
        assert results(connection, plan2) == expected, f"killed after commit {number}"
        if number == twice % len(images):
            for again in later:
                connection = copy_of(again)
                world3 = evolve(world2, turn=world2.turn + 1)
                run(connection, resume(connection, plan2, failed=False), plan2, world3)
                assert results(connection, plan2) == expected, f"killed after {number}, again"


@model
@given(plans(), worlds, st.integers(0, 2), twices)
def test_a_killed_run_gives_after_resume_what_an_undisturbed_one_gives(
    plan: Plan, world: World, turn: int, twice: int
) -> None:
    prove(plan, world, (plan, evolve(world, turn=turn, seed=world.seed + 1)), twice)


@model
@given(plans(), worlds, twices)
def test_failed_items_run_again_when_asked_for_and_their_groups_with_them(
    plan: Plan, world: World, twice: int
) -> None:
    world = evolve(world, failing=True)
    prove(plan, world, (plan, evolve(world, failing=False)), twice, failed=True)


@model
@given(plans(), worlds, st.integers(0, 3), twices)
def test_a_changed_version_repeats_its_stage_and_all_behind_it(
    plan: Plan, world: World, changed: int, twice: int
) -> None:
    stages = [
        (kind, version + (index == changed % len(plan.stages)), keyed)
        for index, (kind, version, keyed) in enumerate(plan.stages)
    ]
    second = evolve(plan, stages=tuple(stages))
    prove(plan, world, (second, world), twice)


def children_keep_their_names(before: Any, after: Any) -> bool:
    """Whether children are known by the same idents as before; a limit of decision 4.

    A key of the stage behind them names them. When that stage comes or goes, a parent that had
    given some of them and then fails keeps those of both names.
    """
    for index, (old, new) in enumerate(zip(before, after, strict=False)):
        if old == new and old[0] is Kind.MANY:
            behind = [stages[index + 1 : index + 2] for stages in (before, after)]
            named = [bool(stage) and stage[0][2] for stage in behind]
            if named[0] != named[1]:
                return False
    return True


@model
@given(plans(), plans(), worlds, st.integers(0, 4), twices)
def test_stages_may_be_added_removed_and_exchanged(
    plan: Plan, other: Plan, world: World, kept: int, twice: int
) -> None:
    others = tuple((kind, 2, keyed) for kind, _, keyed in other.stages[kept:])
    stages = plan.stages[:kept] + others or plan.stages
    assume(children_keep_their_names(plan.stages, stages))
    prove(plan, world, (evolve(plan, stages=stages), world), twice)


@model
@given(plans(), worlds, st.integers(0, 30), twices)
def test_a_cancelled_generation_is_finished_by_the_next(
    plan: Plan, world: World, cancel_after: int, twice: int
) -> None:
    prove(plan, world, (plan, world), twice, cancel_after=cancel_after)


@pytest.mark.parametrize("seed", range(8))
def test_what_superseded_items_had_made_is_superseded_with_them(seed: int) -> None:
    many = (Kind.MANY, 1, False)
    plan = Plan((many, many), values=(0, 3))  # of these every parent has two children at least
    world = World(seed=seed, commit=1.0)
    prove(plan, world, (plan, evolve(world, turn=1)), seed)


def test_claims_of_an_earlier_version_and_of_superseded_items_are_void() -> None:
    plan = Plan(((Kind.EACH, 1, True),), values=(1, 2))
    connection = begin(plan)
    connection.execute("INSERT INTO keys VALUES (1, 0, x'aa', 1, 1), (1, 0, x'bb', 1, 2)")
    place = Place.of(RUN, 1, plan.kinds, 0)
    assert frontier.key_holder(place, b"\xaa")(connection) == 1
    connection.execute("INSERT INTO superseded VALUES (1, 0, 1)")
    assert frontier.key_holder(place, b"\xaa")(connection) is None
    assert frontier.key_holder(place, b"\xbb")(connection) == 2
    resume(connection, Plan(((Kind.EACH, 2, True),), values=(1, 2)), failed=False)
    assert frontier.key_holder(evolve(place, generation=2), b"\xbb")(connection) is None


def test_a_generation_is_opened_once_and_only_after_the_one_before_has_ended() -> None:
    plan = Plan(((Kind.EACH, 1, False),))
    connection = begin(plan)
    unit = opened(2, ())
    assert execute(connection, Transaction((unit,))).guards == (None,)
    assert resume(connection, plan, failed=False) == 2
    assert execute(connection, Transaction((unit,))).guards == (None,)


@pytest.mark.parametrize("first", [Kind.EACH, Kind.MANY])
def test_every_page_is_read_forward_by_key(first: Kind) -> None:
    plan = Plan(((first, 1, False), (Kind.COLLECT, 1, False), (Kind.MANY, 1, False)))
    connection = begin(plan)
    source, collects, gives, behind = (Place.of(RUN, 1, plan.kinds, k) for k in range(4))
    questions = {
        "source": frontier.waiting(source, 2, 0),
        "groups": frontier.waiting(collects, 2, 0),
        "results": frontier.waiting(gives, 2, 0),
        "settled": frontier.settled(gives, 0),
        "unlisted": groups.unlisted(collects, 0),
        "members": groups.members(collects, b"", 0),
        "children": frontier.children(behind, 1),
        "last": frontier.results(behind, 0),
    }
    for name, question in questions.items():
        steps = steps_of(connection, question)
        tables = [step for step in steps if step.split()[1] in "wimuv"]
        assert tables, name
        assert all("SEARCH" in step and "run=? AND stage=?" in step for step in tables), name
        assert not any("TEMP B-TREE" in step for step in steps), name
        inner = tables[1:]
        assert all("item=?" in step for step in inner), name


def steps_of(connection: sqlite3.Connection, question: Callable[..., Any]) -> list[str]:
    """Return how SQLite answers *question*."""
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    question(connection)
    connection.set_trace_callback(None)
    rows = connection.execute(f"EXPLAIN QUERY PLAN {statements[-1]}")
    return [step for _, _, _, step in rows.fetchall()]
