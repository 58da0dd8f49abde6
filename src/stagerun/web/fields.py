"""What the bodies of requests may hold."""

from typing import Any, Final

from stagerun.store.codec import storable
from stagerun.web.backend import Limits
from stagerun.web.bodies import Field
from stagerun.web.runs import KEY

__all__ = ["CANCEL", "RESUME", "start_fields"]

_LABELS: Final = 50
_LABEL: Final = 200
"""Characters of a label's name, and of its text, at most."""
_REASON: Final = 500
"""Characters of a cancellation's reason at most."""


def start_fields(limits: Limits) -> tuple[Field, ...]:
    return (
        Field(
            name="pipeline",
            about="Which pipeline, by its name.",
            schema={"type": "string"},
            check=lambda value: None if isinstance(value, str) else "must be text",
            required=True,
        ),
        Field(
            name="items",
            about="What goes through the stages; without it the pipeline's own source gives them.",
            schema={"type": "array", "maxItems": limits.items},
            check=lambda value: _list(value, limits.items),
        ),
        Field(
            name="params",
            about="What every stage can read as ctx.params.",
            schema={"type": "object"},
            check=lambda value: None if isinstance(value, dict) else "must be an object, {...}",
        ),
        Field(
            name="labels",
            about="Text to text; runs can be listed by them.",
            schema={"type": "object", "additionalProperties": {"type": "string"}},
            check=_labels,
        ),
        Field(
            name="key",
            about="Makes repeated starts one: the second is answered with the first run.",
            schema={"type": "string", "minLength": 1, "maxLength": KEY},
            check=lambda value: _text(value, KEY),
        ),
    )


CANCEL: Final = (
    Field(
        name="reason",
        about="One line for people; stages read it too.",
        schema={"type": "string", "minLength": 1, "maxLength": _REASON},
        check=lambda value: _text(value, _REASON),
    ),
)
RESUME: Final = (
    Field(
        name="failed",
        about="Whether failed, timed-out and crashed items run again, too.",
        schema={"type": "boolean", "default": False},
        check=lambda value: None if isinstance(value, bool) else "must be true or false",
    ),
    Field(
        name="changed",
        about="What to do when stages have changed since.",
        schema={"type": "string", "enum": ["refuse", "repeat"], "default": "refuse"},
        check=lambda value: (
            None if value in ("refuse", "repeat") else "must be 'refuse' or 'repeat'"
        ),
    ),
)


def _list(value: Any, most: int) -> str | None:
    if not isinstance(value, list):
        return "must be a list, [...]"
    return None if len(value) <= most else f"must have {most} items at most, has {len(value)}"


def _labels(value: Any) -> str | None:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        return "must be an object of texts, {...}"
    if len(value) > _LABELS or any(len(each) > _LABEL for pair in value.items() for each in pair):
        return f"must be {_LABELS} labels at most, their names and texts {_LABEL} characters long"
    fine = all(name and storable(name) == name for name in value)
    return None if fine else "must have names that are not empty and can be stored"


def _text(value: Any, most: int) -> str | None:
    if not isinstance(value, str) or not 0 < len(value) <= most:
        return f"must be text of 1 to {most} characters"
    return None if value.isprintable() else "must be one line of characters that can be printed"
