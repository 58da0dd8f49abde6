"""Where a process is killed: at named points of stagerun, at SQL statements, at writes of its disk.

They are armed in the child that is to die, and exist nowhere else.
"""

import functools
import importlib
import inspect
import itertools
import os
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

from attrs import frozen

from tests.campaign import shim

__all__ = ["DISK", "FAILPOINTS", "SIDES", "Failpoint", "Strike", "arm", "count"]

SIDES: Final = ("before", "after")
DISK: Final[tuple[shim.Kind, ...]] = ("write", "fsync", "truncate", "unlink")
"""Calls of SQLite's that change a file, by the names of the shim."""


@frozen
class Failpoint:
    """A function of ours on the path of a promise, where it is looked up."""

    module: str
    attribute: str

    def place(self) -> tuple[Any, str, Any]:
        """Return what holds it, its name there, and itself."""
        holder: Any = importlib.import_module(f"stagerun.{self.module}")
        *path, name = self.attribute.split(".")
        for step in path:
            holder = getattr(holder, step)
        return holder, name, inspect.getattr_static(holder, name)


FAILPOINTS: Final[Mapping[str, Failpoint]] = {
    name: Failpoint(*place)
    for name, place in {
        # The file and its schema.
        "file-made": ("store.opening", "_create_for_owner_only"),
        "settings-made": ("store.opening", "_set_up"),
        "log-made": ("store.opening", "_to_wal"),
        "schema-made": ("store.opening", "migrate"),
        "step-read": ("store.opening", "_statements"),
        "writer-opened": ("store.writer", "connect"),
        "reader-opened": ("store.aio", "read_only"),
        # The owner.
        "lock-file-made": ("store.owner", "_locked"),
        "page-moved": ("store.page", "Page.move"),
        "owner-claimed": ("store.aio", "AioStore.claim"),
        "owner-composed": ("store.owners", "owner"),
        "owner-registered": ("engine.household", "Household._register"),
        "beat-composed": ("store.owners", "beat"),
        "owner-ending-composed": ("store.owners", "end_owner"),
        "owner-ended": ("engine.household", "Household.close"),
        "lock-released": ("store.aio", "AioStore.release"),
        "lock-let-go": ("store.owner", "OwnerFile.let_go"),
        # The live page.
        "page-occupied": ("store.page", "Page.occupy"),
        "page-shown": ("store.page", "Page.show"),
        "page-left": ("store.page", "Page.leave"),
        "page-committed": ("store.page", "Page.committed"),
        "page-pulse": ("store.page", "Page.pulse"),
        "nobody-blamed": ("store.page", "Page.blame_nobody"),
        # A start.
        "start-composed": ("store.starting", "create_run"),
        "start-stored": ("engine.admission", "accept"),
        "list-stored": ("engine.intake", "_store_items"),
        "start-admitted": ("engine.admission", "Admission.accept"),
        "start-answered": ("engine.runs", "Runs.born"),
        "key-looked-up": ("engine.admission", "Admission._known"),
        "key-freed": ("engine.admission", "free_key"),
        "turn-composed": ("store.starting", "take_turn"),
        "turn-taken": ("engine.run", "take_turn"),
        "line-left": ("engine.run", "end_in_line"),
        # Items.
        "source-fed": ("engine.source", "SourceActor._feed"),
        "item-kept": ("engine.source", "SourceActor._keep"),
        "item-given": ("engine.source", "SourceActor._give"),
        "item-begun": ("engine.desk", "Desk.begin"),
        "item-settled": ("engine.settling", "Settling.settle"),
        "item-tried-again": ("engine.settling", "Settling._try_again"),
        "outcome-posted": ("engine.register", "Register.outcome"),
        "failure-posted": ("engine.register", "Register.failure"),
        "result-passed-on": ("engine.desk", "Item.hand_on"),
        "child-emitted": ("engine.emission", "Emitter.emit"),
        "key-admitted": ("engine.keys", "Keys.admit"),
        "member-enlisted": ("engine.kinds", "CollectActor._enlist"),
        "groups-formed": ("engine.kinds", "CollectActor.form_groups"),
        "report-noted": ("engine.desk", "Desk.report"),
        # The commit.
        "outcome-composed": ("engine.ledger", "Ledger.unit"),
        "transaction-composed": ("engine.recorder", "Recorder.compose"),
        "transaction-begun": ("store.writer", "execute"),
        "transaction-checked": ("store.opening", "Files.check"),
        "committed-not-heard": ("engine.recorder", "Recorder.committed"),
        "published": ("engine.ledger", "Ledger.publish"),
        "checkpoint": ("store.log", "move"),
        # The ending.
        "stage-finished": ("engine.register", "Register.finish"),
        "ending-concluded": ("engine.run", "conclude"),
        "ending-written": ("engine.run", "RunActor._write_ending"),
        "ending-composed": ("store.writes", "end"),
        "result-told": ("engine.run", "RunActor.result"),
        "last-will": ("engine.ledger", "Ledger.carry_out_will"),
        "late-stages-composed": ("store.lateness", "end_stages"),
        # A cancellation.
        "cancel-asked": ("engine.handle", "Run.cancel"),
        "cancel-heard": ("engine.run", "RunActor.stop"),
        "cancel-noted": ("engine.run", "RunActor._note_request"),
        "cancel-stored": ("engine.run", "RunActor.stop_stored"),
        "request-filed": ("store.requests", "file"),
        "request-taken": ("store.requests", "take"),
        "request-closed": ("store.requests", "close"),
        "request-answered": ("engine.requests", "Requests._cancel"),
        "work-halted": ("engine.crew", "Crew.halt"),
        # A resume.
        "resume-asked": ("engine.runtime", "Runtime.resume"),
        "resume-composed": ("engine.admission", "next_generation"),
        "resume-opened": ("engine.admission", "Admission.reopen"),
        "suspects-first": ("engine.backlog", "Suspects.go_first"),
        "suspect-alone": ("engine.backlog", "Suspects._try_alone"),
        "backlog-fed": ("engine.backlog", "feed_waiting"),
        "source-read-again": ("engine.reread", "Reread.number"),
        # Recovery.
        "owner-probed": ("store.aio", "probe"),
        "dead-in-hand-read": ("store.aio", "suspects"),
        "settling-composed": ("store.owners", "settle_owner"),
        "dead-settled": ("engine.household", "recover"),
        "overdue-looked": ("engine.overdue", "Overdue.look"),
        "heir-looked": ("engine.heir", "Heir.look"),
        "run-adopted": ("engine.heir", "Heir._take_over"),
        # Schedules.
        "schedule-declared": ("engine.timetable", "Timetable._declare"),
        "schedule-served": ("store.schedules", "serve"),
        "slot-claimed": ("store.slots", "claim_slot"),
        "slot-decided": ("engine.timetable", "Timetable._decide"),
        "trigger-filed": ("store.schedules", "trigger"),
        "trigger-fired": ("store.slots", "fire_asked"),
        # What is no longer kept.
        "run-forgotten": ("store.retention", "forget"),
        "rows-swept": ("store.retention", "sweep"),
        "run-swept": ("store.retention", "swept"),
        "files-tidied": ("store.aio", "remove_stale_files"),
        "pruned": ("engine.runtime", "prune"),
        # The leaving.
        "drain": ("engine.runtime", "Runtime._shut_down"),
        "runs-interrupted": ("engine.runs", "Runs.close"),
        "runs-ended": ("engine.runs", "Runs.all_ended"),
        "household-left": ("engine.household", "Household.leave"),
        "store-stopped": ("store.aio", "AioStore.stop"),
        "connection-closed": ("store.connection", "Connection.close"),
    }.items()
}
"""Each is one function; the process dies before it begins or after it has ended."""


@frozen
class Strike:
    """Where a process dies: a kind, a place of that kind, and the how many-eth time it is there."""

    kind: str
    """``point``, ``sql``, ``disk``, ``moment`` (the parent's clock) or ``drain`` (the same, with
    SIGTERM before)."""
    place: str
    """A failpoint and a side, a side, a kind of call and a side; else seconds."""
    number: int = 0

    def __str__(self) -> str:
        return f"{self.kind}:{self.place}:{self.number}"

    @classmethod
    def of(cls, text: str) -> "Strike":
        """Read what ``str()`` gave."""
        kind, place, number = text.split(":")
        return cls(kind, place, int(number))


Hit = Callable[[str], None]


def arm(strike: Strike) -> None:
    """Have this process die there."""
    if strike.kind == "disk":
        call, side = strike.place.split(".")
        mode = shim.KILL if side == "before" else shim.KILL_AFTER
        (kind,) = [known for known in DISK if known == call]
        shim.arm(strike.number, kind, mode)
        return
    numbers = itertools.count(1)  # one step: several threads come by

    def hit(place: str) -> None:
        if place == strike.place and next(numbers) == strike.number:
            os.kill(os.getpid(), signal.SIGKILL)

    if strike.kind == "sql":
        _watch_statements(hit)
    elif strike.kind == "point":
        name, _ = strike.place.split(".")
        _watch_function(name, hit)


def count() -> Callable[[], dict[str, dict[str, int]]]:
    """Count how often this process comes by each place, but for those of the parent's clock.

    Returns:
        What gives the counts so far, by kind.
    """
    points, statements = Counter[str](), Counter[str]()
    for name in FAILPOINTS:
        _watch_function(name, lambda place: points.update([place]))
    _watch_statements(lambda place: statements.update([place]))
    if shim.is_loaded():
        shim.disarm()

    def counted() -> dict[str, dict[str, int]]:
        calls = {kind: shim.calls(kind) for kind in DISK} if shim.is_loaded() else {}
        disk = {f"{kind}.{side}": calls[kind] for kind in calls for side in SIDES}
        return {"point": dict(points), "sql": dict(statements), "disk": disk}

    return counted


def _watch_function(name: str, hit: Hit) -> None:
    """Put a function in the place of a failpoint's that says when it is called and left."""
    holder, attribute, function = FAILPOINTS[name].place()
    before, after = (f"{name}.{side}" for side in SIDES)
    wrapped = function.__func__ if isinstance(function, staticmethod) else function

    @functools.wraps(wrapped)
    async def call_async(*args: Any, **options: Any) -> Any:
        hit(before)
        result = await wrapped(*args, **options)
        hit(after)
        return result

    @functools.wraps(wrapped)
    def call(*args: Any, **options: Any) -> Any:
        hit(before)
        result = wrapped(*args, **options)
        hit(after)
        return result

    watched: Any = call_async if inspect.iscoroutinefunction(wrapped) else call
    if isinstance(function, staticmethod):
        watched = staticmethod(watched)
    setattr(holder, attribute, watched)


def _watch_statements(hit: Hit) -> None:
    """Have the writing connection say when it executes a statement, and when that is done."""
    before, after = SIDES

    class Watched(sqlite3.Connection):
        def execute(self, *args: Any) -> sqlite3.Cursor:
            hit(before)
            cursor = super().execute(*args)
            hit(after)
            return cursor

    connect: Callable[..., sqlite3.Connection] = sqlite3.connect

    def connected(*args: Any, **options: Any) -> sqlite3.Connection:
        if options.get("timeout") == 0:  # that is how the one that writes is opened
            options["factory"] = Watched
        return connect(*args, **options)

    sqlite3.connect = connected  # type: ignore[assignment] # of this process, until it dies
