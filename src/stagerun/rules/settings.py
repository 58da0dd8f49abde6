"""Settings: operators set every policy of a pipeline by environment variables, without code.

A name is ``STAGERUN_<PIPELINE>_<OPTION>`` or ``STAGERUN_<PIPELINE>_<STAGE>_<OPTION>``, with names
upper-cased and ``-`` become ``_``. ``OPTIONS`` is the one list of them; docs/settings.md and
.env.example are compared with it. What a value may be is the model's decision alone: a text that
cannot be read goes to the model as it is, which refuses it in the words of its own rule.

When a name can be read in two ways, an option of the pipeline goes before one of a stage, and the
longer stage name before the shorter one. Stages whose upper-cased names are equal share their
variables.
"""

import difflib
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import Any, Final, TypeVar

from attrs import evolve, frozen

from stagerun.errors import PolicyError, SettingError
from stagerun.model.pipeline import Pipeline
from stagerun.model.stage import Stage

__all__ = [
    "GLOBALS",
    "OPTIONS",
    "Option",
    "Unit",
    "apply_settings",
    "current_settings",
    "unknown_settings",
]

_Owner = TypeVar("_Owner", Pipeline, Stage)


def apply_settings(pipeline: Pipeline, environ: Mapping[str, str]) -> Pipeline:
    """Return the same pipeline with the policies that *environ* sets.

    Raises:
        SettingError: A value cannot be read or is out of its range. It names the variable.
    """
    if not _meant(pipeline, environ):
        return pipeline
    for variable, target in _targets(pipeline).items():
        if variable in environ:
            text = environ[variable]
            try:
                pipeline = target.changed(pipeline, target.option.unit.parse(text))
            except PolicyError as error:
                raise SettingError(variable, _in_words(error.problem, text)) from None
    return pipeline


def current_settings(pipeline: Pipeline) -> dict[str, str]:
    """Return every variable of *pipeline* with its policy now, as an operator would write it.

    Applying it changes nothing, unless stages with different policies share their variables.
    """
    return {
        variable: _spelled(target.current(pipeline))
        for variable, target in _targets(pipeline).items()
    }


def unknown_settings(
    pipeline: Pipeline, environ: Mapping[str, str], others: Iterable[Pipeline] = ()
) -> list[str]:
    """Return one warning for each variable that seems meant for *pipeline* but sets nothing.

    They are no errors: ``STAGERUN_CRAWL_DEEP_WORKERS`` is a mistake for a pipeline ``crawl``
    without a stage ``deep``, and right for a pipeline ``crawl-deep`` that runs elsewhere. What one
    of *others*, the pipelines known here, understands or has a closer name for is left out. Values
    are not repeated.
    """
    meant = _meant(pipeline, environ)
    if not meant:
        return []
    prefix = _prefix(pipeline)
    known = set(_targets(pipeline)) | set(GLOBALS)
    closer = []
    for other in others:
        known.update(_targets(other))
        if len(_prefix(other)) > len(prefix):
            closer.append(_prefix(other))
    return [
        _warning(variable, pipeline)
        for variable in meant
        if variable not in known and not variable.upper().startswith(tuple(closer))
    ]


def _meant(pipeline: Pipeline, environ: Mapping[str, str]) -> list[str]:
    """Return the variables that seem meant for *pipeline*: most programs have none."""
    prefix = _prefix(pipeline)
    return sorted(variable for variable in environ if variable.upper().startswith(prefix))


def _targets(pipeline: Pipeline) -> dict[str, "_Target"]:
    """Every variable of *pipeline* and what it sets. Of two readings the later one wins here."""
    targets = dict[str, _Target]()
    for stage in sorted(pipeline.stages, key=lambda each: len(each.name)):
        for option in OPTIONS:
            if option.fits(stage):
                variable = _prefix(stage, _prefix(pipeline)) + option.name
                rival = targets.get(variable)
                shared = rival.stages if rival is not None and rival.option is option else ()
                targets[variable] = _Target(option, (*shared, stage.name))
    for option in OPTIONS:
        if option.fits(pipeline):
            targets[_prefix(pipeline) + option.name] = _Target(option)
    return targets


def _prefix(owner: Pipeline | Stage, before: str = "STAGERUN_") -> str:
    return f"{before}{owner.name.upper().replace('-', '_')}_"


def _warning(variable: str, pipeline: Pipeline) -> str:
    # Compared without the prefix that all of them have: it would make everything look alike.
    prefix = _prefix(pipeline)
    names = [name.removeprefix(prefix) for name in _targets(pipeline)]
    close = difflib.get_close_matches(variable.upper().removeprefix(prefix), names, n=1)
    hint = f"; did you mean {prefix}{close[0]}?" if close else ""
    return f"{variable} is no setting of pipeline {pipeline.name!r} and changes nothing in it{hint}"


def _in_words(problem: str, text: str) -> str:
    """Tell the model's rule in the words of the environment, with the text that stood there."""
    rule = problem.rpartition(", got ")[0] or problem
    for value, word in _WORDS.items():
        rule = rule.replace(str(value), word)
    return f"{rule}, got {reprlib.repr(text)}"


def _spelled(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return _WORDS[value]
    return str(value).removesuffix(".0")


@frozen
class _Target:
    """What one variable sets: an option of the pipeline, or of the stages named."""

    option: "Option"
    stages: tuple[str, ...] = ()

    def current(self, pipeline: Pipeline) -> Any:
        if not self.stages:
            return self.option.current(pipeline)
        return self.option.current(next(s for s in pipeline.stages if s.name in self.stages))

    def changed(self, pipeline: Pipeline, value: Any) -> Pipeline:
        if not self.stages:
            return self.option.changed(pipeline, value)
        stages = [
            self.option.changed(each, value) if each.name in self.stages else each
            for each in pipeline.stages
        ]
        return pipeline.with_options(stages=stages)


@frozen
class Option:
    """One policy that operators can set."""

    owner: type[Pipeline | Stage]
    path: str
    """Where it lives: ``workers``, or ``retry.attempts`` in a part of its owner."""
    unit: "Unit"
    help: str
    """One line for docs/settings.md."""

    @property
    def name(self) -> str:
        """The end of its variables' names, for example ``RETRY_ATTEMPTS``."""
        return self.path.upper().replace(".", "_")

    def fits(self, owner: Pipeline | Stage) -> bool:
        """Whether *owner* has it: only a batch stage has ``batch.size``."""
        part, _, _ = self.path.rpartition(".")
        return isinstance(owner, self.owner) and (not part or getattr(owner, part) is not None)

    def current(self, owner: Pipeline | Stage) -> Any:
        """Return its value in *owner*."""
        return attrgetter(self.path)(owner)

    def changed(self, owner: _Owner, value: Any) -> _Owner:
        """Return *owner* with another value.

        Raises:
            PolicyError: The value is out of its range.
        """
        part, _, name = self.path.rpartition(".")
        if not part:
            return owner.with_options(**{name: value})
        return owner.with_options(**{part: evolve(getattr(owner, part), **{name: value})})


@frozen
class Unit:
    """What an option counts, and how its text becomes a value."""

    name: str
    parse: Callable[[str], Any]
    """Gives a text that it cannot read back, for the model to refuse. Never raises."""


def _whole(text: str) -> Any:
    return _converted(int, text) if re.fullmatch("[0-9]+", text) else text


def _number(text: str) -> Any:
    if text == _WORDS[None]:
        return None
    return _converted(float, text) if re.fullmatch("[0-9.][0-9.eE+-]*", text) else text


def _converted(kind: Callable[[str], float], text: str) -> Any:
    # Checked before: int and float would also take blanks, 1_000, infinity and other scripts.
    try:
        return kind(text)
    except ValueError:  # such as 1.2.3, or more digits than Python converts
        return text


def _switch(text: str) -> Any:
    return {_WORDS[True]: True, _WORDS[False]: False}.get(text, text)


_WORDS: Final = {None: "off", True: "true", False: "false"}

_ATTEMPTS: Final = Unit("attempts", _whole)
_BYTES: Final = Unit("bytes", _whole)
_ITEMS: Final = Unit("items", _whole)
_RATIO: Final = Unit("ratio", _number)
_RESUMES: Final = Unit("resumes", _whole)
_SECONDS: Final = Unit("seconds", _number)
_SHARE: Final = Unit("share", _number)
_SWITCH: Final = Unit("switch", _switch)
_WORD: Final = Unit("word", str)

OPTIONS: Final = (
    Option(Pipeline, "deadline", _SECONDS, "Wall time of a whole run; beyond it, `timed_out`."),
    Option(Pipeline, "least_ok", _SHARE, "Least share of items that must come out at the end."),
    Option(Pipeline, "source_deadline", _SECONDS, "Longest wait for the source's next item."),
    Option(Pipeline, "grace", _SECONDS, "Time to stop by themselves for stages with a `ctx`."),
    Option(Pipeline, "on_interrupt", _WORD, "What becomes of a run whose process died."),
    Option(Pipeline, "resumes", _RESUMES, "How often `on_interrupt` resumes a run."),
    Option(Stage, "workers", _ITEMS, "Items, or batches, under way at once."),
    Option(Stage, "deadline", _SECONDS, "An item's whole budget here, its retries included."),
    Option(Stage, "heartbeat_timeout", _SECONDS, "Longest time without a sign of life."),
    Option(Stage, "buffer", _ITEMS, "Items that may wait here, and that may pause for a retry."),
    Option(Stage, "weight", _RATIO, "Part in the run's percentage, relative to other stages."),
    Option(Stage, "least_ok", _SHARE, "Least share of items, or of a group's, that must be `ok`."),
    Option(Stage, "commit_first", _SWITCH, "Whether results go on only when they are on disk."),
    Option(Stage, "result_limit", _BYTES, "Size of one encoded result; beyond it, `failed`."),
    Option(Stage, "http_total", _SECONDS, "One call of `stagerun.http`, up to its last byte."),
    Option(Stage, "retry.attempts", _ATTEMPTS, "Attempts at an item in all; 1 means no retry."),
    Option(Stage, "retry.attempt_deadline", _SECONDS, "One attempt at an item."),
    Option(Stage, "retry.base", _SECONDS, "Longest first pause between attempts."),
    Option(Stage, "retry.factor", _RATIO, "Growth of the longest pause with each attempt."),
    Option(Stage, "retry.cap", _SECONDS, "No pause is longer, unless an error asks for it."),
    Option(Stage, "retry.timeouts", _SWITCH, "Whether attempts that time out are tried again."),
    Option(Stage, "restart.attempts", _ATTEMPTS, "Failures in a row to open the resource."),
    Option(Stage, "restart.base", _SECONDS, "Longest first pause before it is opened again."),
    Option(Stage, "restart.cap", _SECONDS, "No pause before it is opened again is longer."),
    Option(Stage, "restart.deadline", _SECONDS, "One opening or one closing of the resource."),
    Option(Stage, "batch.size", _ITEMS, "Items in a call at most; batch stages only."),
    Option(
        Stage, "batch.wait", _SECONDS, "Longest wait for a batch to be full; batch stages only."
    ),
)
"""Every policy that operators can set. What is not here belongs to the code."""

GLOBALS: Final = {
    "STAGERUN_LOG_LEVEL": "INFO",
    "STAGERUN_LOG_FORMAT": "text",
    "STAGERUN_HTTP_TOTAL": "300",
    "STAGERUN_REVISION": "",
    "STAGERUN_REDACT": "",
    "STAGERUN_TOKEN": "",
    "STAGERUN_BLOCKED_AFTER": "0.25",
    "STAGERUN_STALLED_AFTER": "300",
    "STAGERUN_SLOW_AFTER": "900",
    "STAGERUN_KEEP_RUNS": "10000",
    "STAGERUN_KEEP_DAYS": "30",
}
"""The variables of no pipeline, with their defaults. They are read where they are used."""
