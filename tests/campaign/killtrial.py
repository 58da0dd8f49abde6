"""One trial: lives in a row on one file, killed where it says; the last one finishes what is left.

Each life but the first looks at the file as the killed one has left it, before it opens it.
"""

import random
import shutil
import signal
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio
from attrs import define, field, frozen

from stagerun.engine.unwrap import unwrapped
from stagerun.testing.determinism import deterministic
from tests.campaign import failpoints
from tests.campaign.aftermath import next_life
from tests.campaign.failpoints import Strike
from tests.campaign.forks import Blow, Life, live
from tests.campaign.histories import History, examine
from tests.campaign.killplants import PLANTS
from tests.campaign.told import Say
from tests.campaign.workloads import WORKLOADS, first_life
from tests.campaign.works import SideFile

__all__ = ["Played", "Room", "Trial"]

_READ: Final = 0.25
"""Share of trials whose first life is read by SQL meanwhile; else its handles are looked at."""
_LONGEST_TEXT: Final = 3_000
_ENTRIES: Final = 40
"""Counts that are said at once."""


@frozen
class Trial:
    """Everything about it follows from this."""

    seed: int
    workload: str
    fresh: bool
    """Whether there is no file when it begins; else there is one with the schema."""
    strikes: tuple[Strike, ...]

    def __str__(self) -> str:
        return ",".join([self.workload, "fresh" if self.fresh else "made", *map(str, self.strikes)])

    @classmethod
    def of(cls, seed: int, text: str) -> "Trial":
        """Read what ``str()`` gave."""
        workload, kind, *strikes = text.split(",")
        return cls(seed, workload, kind == "fresh", tuple(map(Strike.of, strikes)))

    @property
    def replay(self) -> str:
        """The command that does just this again."""
        return f"python -m tests.campaign.kills --seed {self.seed} --only {self}"

    def dice(self, life: int = 0) -> random.Random:
        return random.Random(f"{self.seed} {self} {life}")


@define
class Played:
    """What came of one."""

    lives: list[Life] = field(factory=list)
    history: History = field(factory=History)
    wrong: list[str] = field(factory=list)
    killed: list[bool] = field(factory=list)
    """By strike, whether it struck."""


@define(eq=False)
class Room:
    """Where trials are played, one after the other."""

    folder: Path
    plant: str = ""
    """A defect, by its name, that each life has."""
    path: Path = field(init=False)
    """The database."""
    side: Path = field(init=False)
    _made: Path = field(init=False)
    _errors: Path = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.path, self.side = self.folder / "x.db", self.folder / "side"
        self._made, self._errors = self.folder / "made", self.folder / "errors"
        made = self.play(Trial(0, "nothing", fresh=True, strikes=()))
        if made.wrong:
            raise RuntimeError(f"the file for all trials cannot be made: {made.wrong}")
        shutil.copyfile(self.path, self._made)

    def play(self, trial: Trial) -> Played:
        """Play a trial to its end."""
        self._clear(fresh=trial.fresh)
        played = Played()
        for number, strike in enumerate((*trial.strikes, None), 1):
            ended = self._live(trial, number, strike, played)
            if strike is not None:
                played.killed.append(ended.killed)
            elif ended.killed:
                played.wrong.append("the last life was killed by somebody else")
        played.wrong += played.history.wrong + played.history.told.contradictions
        return played

    def count(self, trial: Trial) -> tuple[dict[str, dict[str, int]], float]:
        """Return how often the life after the trial's strikes comes by each place, by kind.

        And how many seconds it took.
        """
        self._clear(fresh=trial.fresh)
        played, counts = Played(), dict[str, dict[str, int]]()
        for number, strike in enumerate((*trial.strikes, None), 1):
            self._live(trial, number, strike, played, counted=strike is None)
        if played.wrong or played.history.wrong:
            raise RuntimeError(f"{trial} is not to be counted: {played}")
        for words in played.lives[-1].told:
            if words[0] == "count":
                counts.setdefault(words[1], {}).update(words[2])
        return counts, played.lives[-1].seconds

    def _clear(self, *, fresh: bool) -> None:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        shutil.rmtree(f"{self.path}.owners", ignore_errors=True)
        self.side.unlink(missing_ok=True)
        if not fresh:
            shutil.copyfile(self._made, self.path)

    def _live(
        self,
        trial: Trial,
        number: int,
        strike: Strike | None,
        played: Played,
        *,
        counted: bool = False,
    ) -> Life:
        life = partial(self._life, trial, number, strike, played.history, counted=counted)
        ended = live(life, self._errors, _blows(strike))
        played.lives.append(ended)
        if ended.wrong:
            played.wrong.append(f"life {number}: {ended.wrong[-_LONGEST_TEXT:]}")
        for words in ended.told:
            if words[0] != "count":
                played.history.hear(words)
        return ended

    # -- in the child -----------------------------------------------------------------------------

    def _life(
        self,
        trial: Trial,
        number: int,
        strike: Strike | None,
        history: History,
        say: Say,
        *,
        counted: bool,
    ) -> None:
        def tell(words: list[Any]) -> None:
            history.hear(words)
            say(words)

        if number > 1:
            _examine(self, history, say, f"after life {number - 1}")
        if self.plant:
            PLANTS[self.plant]()
        counts = failpoints.count() if counted else None
        if strike is not None:
            failpoints.arm(strike)
        side, workload = SideFile.opened(self.side, number), WORKLOADS[trial.workload]
        with deterministic(trial.dice(number).getrandbits(32)), unwrapped():
            if number == 1:
                reader = trial.dice().random() < _READ and not counted
                trio.run(partial(first_life, workload, self.path, side, say, reader=reader))
            else:
                trio.run(next_life, workload, self.path, side, tell, history)
        if counts is not None:
            _say_counts(counts(), say)
        elif strike is None:
            _examine(self, history, say, "in the end", over=True)


def _blows(strike: Strike | None) -> list[Blow]:
    """Return what the parent does to the one who is to die."""
    match strike:
        case Strike(kind="moment", place=seconds):
            return [Blow(float(seconds), signal.SIGKILL)]
        case Strike(kind="drain", place=seconds):
            asked, killed = map(float, seconds.split("+"))
            return [Blow(asked, signal.SIGTERM), Blow(asked + killed, signal.SIGKILL)]
    return []


def _examine(room: Room, history: History, say: Say, when: str, *, over: bool = False) -> None:
    for words in examine(room.path, room.side, history, over=over):
        say(["wrong", f"{when}: {words}"[:_LONGEST_TEXT]])


def _say_counts(counts: Mapping[str, Mapping[str, int]], say: Say) -> None:
    for kind, found in counts.items():
        entries = [*found.items()]
        for first in range(0, len(entries), _ENTRIES):
            say(["count", kind, dict(entries[first : first + _ENTRIES])])
