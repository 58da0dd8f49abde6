"""What is asked for, and what a training program is: plain values, checked wherever they come in.

A model is given these classes as a JSON schema, and its answer is held against them: an exercise
of forty sets, or a week of two sessions where three were asked for, is no answer.
"""

from typing import Annotated, Any, Final, Literal

from attrs import frozen
from msgspec import Meta

Line = Annotated[str, Meta(min_length=1, max_length=200)]
Text = Annotated[str, Meta(max_length=2000)]

COACH: Final = "You are a careful coach. You answer in JSON, by the schema that you are given."


@frozen
class Brief:
    """What somebody wants: a body of POST /api/programs/generate, a line of `--input`."""

    athlete: Line
    goal: Line
    weeks: Annotated[int, Meta(ge=1, le=52)]
    sessions: Annotated[int, Meta(ge=1, le=14)]
    """In each week."""
    equipment: tuple[Line, ...] = ()
    notes: Text = ""


@frozen
class Exercise:
    name: Line
    sets: Annotated[int, Meta(ge=1, le=20)]
    repetitions: Line
    """How many, or how long: "8 to 10", "20 minutes"."""
    rest_seconds: Annotated[int, Meta(ge=0, le=900)]


@frozen
class Session:
    title: Line
    kind: Literal["strength", "endurance", "mobility", "recovery"]
    minutes: Annotated[int, Meta(ge=5, le=480)]
    exercises: Annotated[list[Exercise], Meta(min_length=1, max_length=20)]


@frozen
class Week:
    number: int
    focus: Line
    sessions: list[Session]


@frozen
class Program:
    id: str
    brief: Brief
    weeks: list[Week]


def exactly(count: int, kind: Any) -> Any:
    """Return the type of a list of so many, for a schema and for checking what comes back."""
    return Annotated[list[kind], Meta(min_length=count, max_length=count)]


def ask_for_skeleton(brief: Brief) -> str:
    return f"{described(brief)}\n\nGive the focus of each of the {brief.weeks} weeks, in order."


def ask_for_week(brief: Brief, number: int, focus: str) -> str:
    return (
        f"{described(brief)}\n\nWrite the {brief.sessions} sessions of week {number} of"
        f" {brief.weeks}. Its focus: {focus}."
    )


def described(brief: Brief) -> str:
    lines = [f"A training program for: {brief.athlete}", f"Goal: {brief.goal}"]
    if brief.equipment:
        lines.append(f"Equipment: {', '.join(brief.equipment)}")
    if brief.notes:
        lines.append(f"To be minded: {brief.notes}")
    return "\n".join(lines)
