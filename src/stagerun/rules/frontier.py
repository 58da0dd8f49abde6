"""What a resumed generation still has to do: pure rules over stored facts.

The life of a stored outcome over the generations of a run:

* ``ok`` and ``skipped`` are final for ever; ``failed``, ``timed_out`` and ``crashed`` until
  somebody resumes with ``--failed``; ``cancelled`` in its own generation only.
* A stage that changed (name, kind, version, or order) begins anew, and every stage behind it:
  what was recorded and made there before no longer counts.

Both are said by two numbers per stage, its ``Floors``, so that nothing stored is ever rewritten,
and at any time at most one outcome of an item counts. The rest follows:

* An item waits in a stage when it was accepted there and no outcome of it counts there.
* A one-to-many parent without a final outcome runs again. Its children are matched one by one
  (``judge_child``); what a whole attempt did not give again is superseded, with all its
  descendants. A superseded item ends ``skipped`` where it waits; what it gave no longer counts.
* Batches are not stored: whatever waits is grouped anew, and each item has its own outcome.
* The groups of a collect stage are made when nothing waits before it. A group with the same
  members and outcomes as before is kept, another one is superseded, as children are.

``store/frontier.py`` asks the same in SQL; a test holds the two together.
"""

from collections.abc import Sequence
from enum import Enum, auto

from attrs import evolve, frozen

from stagerun.model.outcome import Outcome
from stagerun.model.stage import Kind, Stage
from stagerun.model.status import Counts

__all__ = [
    "Child",
    "Floors",
    "Opening",
    "StageFacts",
    "changes",
    "condemned",
    "first_changed",
    "judge_child",
    "open_stages",
]


@frozen
class Floors:
    """From which generation on the recorded outcomes of a stage count."""

    since: int = 1
    """For all of them: the generation in which the stage, or one before it, last changed."""
    failed_since: int = 1
    """For ``failed``, ``timed_out`` and ``crashed``: the last one resumed with ``--failed``.
    Invariant: at least ``since``."""

    def counts(self, outcome: Outcome, recorded: int, generation: int) -> bool:
        """Whether an *outcome* of generation *recorded* is final, seen from *generation*."""
        match outcome:
            case Outcome.OK | Outcome.SKIPPED:
                return recorded >= self.since
            case Outcome.CANCELLED:
                return recorded >= generation
            case Outcome.FAILED | Outcome.TIMED_OUT | Outcome.CRASHED:
                return recorded >= self.failed_since


@frozen
class StageFacts:
    """What is stored about a stage of the generation that has ended."""

    name: str
    kind: Kind
    version: int
    floors: Floors
    counts: Counts


@frozen
class Opening:
    """What the next generation's row of a stage begins with."""

    floors: Floors
    counts: Counts


def first_changed(before: Sequence[StageFacts], stages: Sequence[Stage]) -> int:
    """Return the index of the first stage to be repeated as a whole; ``len(stages)``: none."""
    for index, (old, new) in enumerate(zip(before, stages, strict=False)):
        if (old.name, old.kind, old.version) != (new.name, new.kind, new.version):
            return index
    return min(len(before), len(stages))


def changes(before: Sequence[StageFacts], stages: Sequence[Stage]) -> list[str]:
    """Say in words what has changed, stage by stage; empty: nothing that matters."""
    said = []
    for number, (old, new) in enumerate(zip(before, stages, strict=False), 1):
        if (old.name, old.kind, old.version) != (new.name, new.kind, new.version):
            was = f"{old.name} ({old.kind.value}, version {old.version})"
            said.append(
                f"stage {number} was {was}, is {new.name} ({new.kind.value}, version {new.version})"
            )
    said += [f"stage {old.name} is gone" for old in before[len(stages) :]]
    said += [f"stage {new.name} is new" for new in stages[len(before) :]]
    return said


def open_stages(
    before: Sequence[StageFacts],
    stages: Sequence[Stage],
    generation: int,
    *,
    failed: bool,
    reread: bool,
    made: int,
) -> tuple[Opening, ...]:
    """Return how *generation* begins, from the sums of the one before alone: no item is read.

    Args:
        before: The stages of the generation that has ended.
        stages: The stages of the pipeline as it is now.
        generation: The number of the new generation.
        failed: Whether ``failed``, ``timed_out`` and ``crashed`` items run again.
        reread: Whether the source is a function: it gives again, and has accepted again, what has
            no final outcome in the first stage.
        made: The items made for the first changed stage that count; needed only if the stage
            before it is one to many.
    """
    changed = first_changed(before, stages)
    openings: list[Opening] = []
    for index, stage in enumerate(stages):
        if index < changed:
            opening = _carried(before[index], generation, failed=failed)
        else:
            accepted = 0
            if index == changed and stage.kind is not Kind.COLLECT:
                accepted = _fed(before, stages, openings, made)
            anew = Floors(generation, generation)
            opening = Opening(anew, Counts(name=stage.name, accepted=accepted))
        openings.append(opening)
    if reread:
        first = openings[0]
        openings[0] = evolve(first, counts=evolve(first.counts, accepted=first.counts.settled))
    return tuple(openings)


def _carried(facts: StageFacts, generation: int, *, failed: bool) -> Opening:
    """Keep what is final. What was under way or cancelled waits again, so it stays accepted."""
    sums = evolve(facts.counts, cancelled=0, in_flight=0)
    if not failed:
        return Opening(facts.floors, sums)
    floors = Floors(facts.floors.since, generation)
    return Opening(floors, evolve(sums, failed=0, timed_out=0, crashed=0))


def _fed(
    before: Sequence[StageFacts], stages: Sequence[Stage], openings: Sequence[Opening], made: int
) -> int:
    """Return how many items the stages that did not change have given to the first that did."""
    index = len(openings)
    if index == 0:
        return before[0].counts.accepted
    return made if stages[index - 1].kind is Kind.MANY else openings[-1].counts.ok


def condemned(deaths: int, alone: int) -> bool:
    """Whether an item ends ``crashed``: its process died with it three times, twice with it alone.

    One death proves nothing, for an operator's kill strikes whatever is under way; the second and
    the third are told apart by running a suspect with nothing beside it.
    """
    return deaths >= 3 and alone >= 2


class Child(Enum):
    """What an item given by a repeated parent (or a group made again) is."""

    NEW = auto()
    """It gets a number, is stored and handed on."""
    KEPT = auto()
    """It is stored and has been handed on, or is found waiting: nothing to do."""
    REPLACED = auto()
    """The earlier one under this ident is superseded; this one is ``NEW``."""


def judge_child(earlier: bytes | None, fingerprint: bytes) -> Child:
    """Compare a child with what was stored under its ident; *earlier*: its fingerprint or None."""
    if earlier is None:
        return Child.NEW
    return Child.KEPT if earlier == fingerprint else Child.REPLACED
