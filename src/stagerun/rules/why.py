"""Why a run stands where it stands: from facts to a document, and to one sentence at its end.

Whoever gathers the facts (``engine/why.py``) reads live objects, maybe from another thread; here
everything is plain values, so that the same facts always give the same words.
"""

import math
from collections.abc import Iterator
from typing import Any

from attrs import asdict, evolve

from stagerun.rules.standing import RunFacts, StageFacts, Working

__all__ = ["SHOWN", "conclusion", "document", "next_due", "time_span"]

SHOWN = 20
"""Items of a stage in the document at most; the totals tell of the others."""


def document(facts: RunFacts) -> dict[str, Any]:
    """Return the facts as one JSON document, with the sentence that sums them up."""
    stages = tuple(evolve(each, working=each.working[:SHOWN]) for each in facts.stages)
    short = evolve(facts, stages=stages)
    due = next_due(facts)
    following = None if due is None else {"what": due[1], "in": due[0]}
    plain: dict[str, Any] = asdict(short)
    return (
        {"told_by": "process", "ended": False}
        | plain
        | {"next": following, "blocks": [], "summary": conclusion(facts)}
    )


def next_due(facts: RunFacts) -> tuple[float, str] | None:
    """Return what will happen by the clock next, and in how many seconds."""
    return min(_dues(facts), default=None)


def _dues(facts: RunFacts) -> Iterator[tuple[float, str]]:
    if facts.stopping is not None:
        yield facts.stopping.ends_in, f"the run ends {_said(facts.stopping.status)}"
    elif facts.deadline_in is not None:
        yield facts.deadline_in, "the run's deadline"
    for stage in facts.stages:
        for working in stage.working:
            if working.cut_in is not None and working.cut_for is None:
                yield working.cut_in, f"{_items(stage, working)} reaches its deadline"
            if working.stalls_in is not None and working.cut_for is None:
                yield working.stalls_in, f"{_items(stage, working)} counts as stalled"
        for pausing in stage.pausing[:1]:
            again = f"attempt {pausing.next_attempt}"
            yield pausing.resumes_in, f"item {pausing.item} of {stage.name} begins {again}"
        if stage.opening_gives_up_in is not None:
            yield stage.opening_gives_up_in, f"the resource of {stage.name} must be open"
    if facts.source is not None and facts.source.gives_up_in is not None:
        yield facts.source.gives_up_in, "the source must have given an item"


def conclusion(facts: RunFacts) -> str:
    """Say what the run waits for, and what will end the wait."""
    for look in _LOOKS:
        if (found := look(facts)) is not None:
            wait, end = found
            break
    else:
        wait, end = "Nothing holds it: its last outcomes are on their way to the disk", None
    return f"{wait}. {end or _end_of_all(facts)}."


_Wait = tuple[str, str | None]
"""What is waited for, and what ends the wait; None: only what ends the whole run."""


def _at_the_loop(facts: RunFacts) -> _Wait | None:
    """A blocked event loop holds everything, so it is named before all else."""
    blocked = facts.blocked
    if blocked is None:
        return None
    who = "Some code" if blocked.stage is None else _who(blocked.stage, blocked.item)
    if blocked.run is not None and blocked.run != facts.run:
        who += f" of another run, {blocked.run[:8]},"
    where = "" if blocked.place is None else f" at {blocked.place}"
    lasting = time_span(blocked.seconds)
    end = f"Only that code itself can end it; {_lower(_end_of_all(facts))}"
    return f"{who} blocks the event loop{where}, for {lasting} now", end


def _in_line(facts: RunFacts) -> _Wait | None:
    if facts.turn is None:
        return None
    return f"It is queued, and waits for a place of the key {facts.turn}", (
        "It begins when a run that holds one ends"
    )


def _at_the_store(facts: RunFacts) -> _Wait | None:
    store = facts.store
    if store.trouble is not None:
        end = "It is tried again and again until the database takes it"
        return f"{store.rows} rows wait for the database: {store.trouble}", end
    if store.full:
        return f"{store.rows} rows wait for the database, and the stages for them", None
    return None


def _behind_suspects(facts: RunFacts) -> _Wait | None:
    if not facts.behind_suspects:
        return None
    what = "Items that were under way when a process died are tried one at a time"
    return f"{what}, and it waits for one of another run", None


def _at_the_stages(facts: RunFacts) -> _Wait | None:
    """The narrowest place: the last stage with a queue that others wait for, else the longest."""
    crowded = [s for s in facts.stages if s.full and s.putters and (s.working or s.pausing)]
    stages = crowded[-1:] or facts.stages
    crowd = f"; {stages[0].waiting} items wait in front of it, and it is full" if crowded else ""
    working = [(w.seconds, index, s, w) for index, s in enumerate(stages) for w in s.working]
    if working:
        _, _, stage, longest = max(working, key=lambda entry: entry[:2])
        return f"It waits for {_attempt(stage, longest)}{crowd}", _end_of(longest)
    pausing = [(p.resumes_in, index, s, p) for index, s in enumerate(stages) for p in s.pausing]
    if pausing:
        _, _, stage, first = min(pausing, key=lambda entry: entry[:2])
        others = f" and {stage.pausing_total - 1} more" if stage.pausing_total > 1 else ""
        again = f"attempt {first.next_attempt}"
        wait = f"It waits for item {first.item}{others} of stage {stage.name} to be tried again"
        return f"{wait}, after: {first.why}", f"{again.capitalize()} begins {_in(first.resumes_in)}"
    for stage in stages:
        if stage.opening_gives_up_in is not None:
            end = f"Opening is given up {_in(stage.opening_gives_up_in)}"
            return f"It waits for the resource of stage {stage.name}", end
    return None


def _at_the_source(facts: RunFacts) -> _Wait | None:
    source = facts.source
    if source is None:
        return None
    where = "" if source.place is None else f", which stands at {source.place}"
    limit = source.gives_up_in
    end = None if limit is None else f"The source is given up {_in(limit)}"
    return f"It waits for the next item of its source{where}", end


_LOOKS = (
    _at_the_loop,
    _in_line,
    _at_the_store,
    _behind_suspects,
    _at_the_stages,
    _at_the_source,
)
"""The first one that finds something tells it."""


def _attempt(stage: StageFacts, working: Working) -> str:
    where = f" at {working.places[0]}" if working.places else ""
    modes = {"thread": " in a thread", "asyncio": " in asyncio", "process": " in a process"}
    thread = f" in {working.process}" if working.process else modes.get(working.mode, "")
    return f"{_items(stage, working)}, for {time_span(working.seconds)} now{thread}{where}"


def _end_of(working: Working) -> str | None:
    if working.cut_for is not None:
        return f"It was cut {time_span(working.cut_for)} ago and is left behind after the grace"
    if working.stalls_in is not None and working.stalls_in < (working.cut_in or math.inf):
        return f"It is cut as stalled {_in(working.stalls_in)}, unless it beats"
    if working.cut_in is None:
        return None
    left = working.attempts - working.attempt
    then = f" ({left} more attempts are left)" if left > 0 else ""
    return f"It is cut at its deadline, {_in(working.cut_in)}{then}"


def _end_of_all(facts: RunFacts) -> str:
    stopping = facts.stopping
    if stopping is not None:
        asked = f"{_said(stopping.status)}: {stopping.message}"
        return (
            f"The run stops ({asked}); its ending is written {_in(stopping.ends_in)} at the latest"
        )
    if facts.deadline_in is not None:
        return f"The run's own deadline is {_in(facts.deadline_in)}"
    return "No deadline is set that would end the wait"


def _in(seconds: float) -> str:
    return "now" if seconds <= 0 else f"in {time_span(seconds)}"


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def _items(stage: StageFacts, working: Working) -> str:
    numbers = working.items
    if len(numbers) == 1:
        return f"item {numbers[0]} of {stage.name}"
    return f"the batch of {len(numbers)} items from {min(numbers, default=0)} on of {stage.name}"


def _who(stage: str, item: int | None) -> str:
    return f"Stage {stage}" if item is None else f"Item {item} of stage {stage}"


def _said(status: str) -> str:
    return status.replace("_", " ")


def time_span(seconds: float) -> str:
    """Return a length of time in words, for example ``1 min 05 s``."""
    seconds = max(0.0, seconds)
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"
