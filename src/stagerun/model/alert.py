"""Alerts: what people are told of, and by which ways. Values that check themselves."""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from attrs import field, frozen

from stagerun.errors import PolicyError, UsageError
from stagerun.model.policy import number, whole
from stagerun.model.status import Status

__all__ = ["DEFAULT_RULES", "Alert", "Alerts", "Call", "Rule", "Sink", "several"]

_KINDS: Final = ("ended", "stalled", "running", "older", "store_degraded", "loop_blocked")
_ENDINGS: Final = frozenset(
    status.value for status in Status if status not in (Status.QUEUED, Status.RUNNING)
)


@frozen(kw_only=True)
class Alert:
    """Something that people should know. The same alert may come twice: then its ``id`` is one."""

    id: str
    """128 bits in hexadecimal."""
    alerts: str
    """The name of the ``Alerts`` that has raised it."""
    rule: str
    """``ended``, ``stalled``, ``running``, ``older``, ``store_degraded``, ``loop_blocked``; or
    ``digest``: so many alerts were held back."""
    summary: str
    """One line, without secrets."""
    raised_at: datetime
    """UTC."""
    run: Mapping[str, Any] | None = None
    """The run that it is about, if it is about one."""
    facts: Mapping[str, Any] = field(factory=dict)
    """The numbers that the summary speaks of."""

    def document(self) -> dict[str, Any]:
        """Return it as it is sent and stored: JSON's types alone."""
        return {
            "id": self.id,
            "alerts": self.alerts,
            "rule": self.rule,
            "summary": self.summary,
            "raised_at": self.raised_at.isoformat(timespec="milliseconds"),
            "run": None if self.run is None else dict(self.run),
            "facts": dict(self.facts),
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Alert":
        """Return the alert that has this document.

        Raises:
            KeyError, TypeError, ValueError: It is not the document of one.
        """
        raised_at = datetime.fromisoformat(document["raised_at"]).astimezone(UTC)
        return cls(**{**document, "raised_at": raised_at})


class Sink(Protocol):
    """A way by which alerts reach people."""

    @property
    def name(self) -> str:
        """Under which its deliveries are stored: no other sink beside it may have the same."""

    def deliver(self, alert: Alert) -> Any:
        """Hand an alert over; raise when that failed, and it is tried again.

        It is called in a thread of its own and may block. When it is an async function, it is run
        there on a trio of its own. Either is left behind at its deadline.
        """


def _named(_owner: Any, _attribute: Any, value: Any) -> None:
    fits = isinstance(value, str) and value.strip() and value.isprintable() and len(value) <= 100
    if not fits:
        raise UsageError(f"the name of alerts and of their sinks is a short text, got {value!r}")


@frozen
class Call:
    """A function of one's own as a sink: it gets each `Alert`, and may be async (on trio)."""

    function: Callable[[Alert], Any]
    name: str = field(kw_only=True, validator=_named)

    @name.default
    def _function_name(self) -> str:
        return str(getattr(self.function, "__name__", type(self.function).__name__))

    def deliver(self, alert: Alert) -> Any:
        """See ``Sink``."""
        return self.function(alert)


def _statuses(statuses: Iterable[str]) -> frozenset[str]:
    return frozenset(statuses)


def _labels(labels: Mapping[str, str] | None) -> Mapping[str, str]:
    return dict(labels or {})


def _texts(_owner: Any, _attribute: Any, value: Mapping[Any, Any]) -> None:
    if not all(isinstance(each, str) for pair in value.items() for each in pair):
        raise UsageError(f"labels are texts by their names, got {dict(value)!r}")


@frozen(kw_only=True)
class Rule:
    """What alerts are raised for. Made by ``ended()``, ``stalled()`` and the others."""

    kind: str = field()
    statuses: frozenset[str] = field(default=(), converter=_statuses)
    limit: float = field(default=0.0, validator=number(zero=True))
    pipeline: str | None = None
    """Only its runs; None: those of all."""
    labels: Mapping[str, str] = field(default=None, converter=_labels, validator=_texts)
    """Only runs that have all of them."""

    @kind.validator
    def _kind_is_known(self, _attribute: Any, value: str) -> None:
        if value not in _KINDS:
            raise UsageError(f"there is no rule {value!r}: there are {', '.join(_KINDS)}")

    @statuses.validator
    def _statuses_are_endings(self, _attribute: Any, value: frozenset[str]) -> None:
        if unknown := sorted(map(str, value - _ENDINGS)):
            known = ", ".join(sorted(_ENDINGS))
            raise UsageError(f"no run ends as {', '.join(unknown)}: there are {known}")


DEFAULT_RULES: Final = (
    Rule(kind="ended", statuses=("timed_out", "failed", "interrupted")),
    Rule(kind="stalled"),
    Rule(kind="running", limit=5),
    Rule(kind="older", limit=900.0),
    Rule(kind="store_degraded"),
    Rule(kind="loop_blocked"),
)
"""What every team asks for that has watched such jobs by hand."""


def _as_sinks(given: Any) -> tuple[Sink, ...]:
    if not isinstance(given, Iterable) or isinstance(given, str | bytes):
        raise UsageError(f"Alerts takes a list of sinks, got {type(given).__name__}")
    return tuple(_as_sink(each) for each in given)


def _as_sink(given: Any) -> Sink:
    # Not shown as it is: an address may be the secret.
    if isinstance(given, type):
        raise UsageError(f"a sink is made before it is used: {given.__name__}(...)")
    if hasattr(given, "deliver") and hasattr(given, "name"):
        sink: Sink = given
        return sink
    if callable(given):
        return Call(given)
    raise UsageError(f"a sink is Log(), Slack(...), or a function, got {type(given).__name__}")


def _as_rules(given: Any) -> tuple[Rule, ...]:
    rules = tuple(given) if isinstance(given, Iterable) else (given,)
    if not all(isinstance(each, Rule) for each in rules):
        raise UsageError("rules takes a list of ended(), stalled(), running() and the like")
    return rules


@frozen
class Alerts:
    """Who is told what. Given to ``open_runtime(alerts=...)`` or to ``Service(alerts=...)``.

    Processes that share a database and a name share their alerts, too: each is raised once, and
    whoever comes first delivers it. They should have the same rules and sinks.

    Raises:
        PolicyError: An option is out of its range.
        UsageError: What is given is no sink or no rule, or two sinks have one name.
    """

    sinks: tuple[Sink, ...] = field(converter=_as_sinks)
    rules: tuple[Rule, ...] = field(kw_only=True, default=DEFAULT_RULES, converter=_as_rules)
    name: str = field(kw_only=True, default="alerts", validator=_named)
    per_minute: int = field(kw_only=True, default=30, validator=whole())
    """Alerts of one kind in a minute; what is beyond is held back and told of as a number."""
    quiet: float = field(kw_only=True, default=300.0, validator=number())
    """Seconds for which a condition must have been over to be told again."""
    deadline: float = field(kw_only=True, default=10.0, validator=number())
    """Seconds for one try to deliver."""
    give_up_after: float = field(kw_only=True, default=86_400.0, validator=number())
    """Seconds after which an alert that could not be delivered is given up."""

    @sinks.validator
    def _one_name_each(self, _attribute: Any, value: tuple[Sink, ...]) -> None:
        if not value:
            raise UsageError("Alerts has no sink: with Log() they go to the log")
        names = [sink.name for sink in value]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UsageError(
                f"two sinks are named {twice[0]!r}, and an alert could not be told to have reached"
                " both: give one of them another name=..."
            )

    @deadline.validator
    def _deadline_is_short(self, _attribute: Any, value: float) -> None:
        if value > 60:
            raise PolicyError("Alerts.deadline", f"must be at most 60 seconds, got {value!r}")


def several(given: Alerts | Iterable[Alerts] | None) -> tuple[Alerts, ...]:
    """Return the alerts that somebody has given: none, one or several.

    Raises:
        UsageError: It is something else, or two have one name.
    """
    if given is None:
        return ()
    found = tuple(given) if isinstance(given, list | tuple) else (given,)
    for each in found:
        if not isinstance(each, Alerts):
            raise UsageError(f"alerts takes Alerts([...]), or a list of them, got {each!r}")
    names = [each.name for each in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(
            f"two Alerts are named {twice[0]!r}, and would take each other's:"
            " give one of them another name=..."
        )
    return found
