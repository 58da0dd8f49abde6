"""The documents of the API as JSON schemas, by name. Tests compare them with real answers."""

from typing import Any, Final

from stagerun.model.outcome import Outcome
from stagerun.model.status import Status
from stagerun.store.itemlist import LEVELS

__all__ = ["OUTCOMES", "SCHEMAS", "STATUSES"]

Schema = dict[str, Any]

STATUSES: Final = tuple(status.value for status in Status)
OUTCOMES: Final = tuple(outcome.label for outcome in Outcome)


def _object(**members: Schema) -> Schema:
    return {"type": "object", "required": list(members), "properties": members}


def _list(of: Schema) -> Schema:
    return {"type": "array", "items": of}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _or_null(schema: Schema) -> Schema:
    kind = schema.get("type")
    return schema | {"type": [kind, "null"]} if kind else {"anyOf": [schema, {"type": "null"}]}


def _told(schema: Schema, meaning: str) -> Schema:
    return schema | {"description": meaning}


_TEXT: Final[Schema] = {"type": "string"}
_WHOLE: Final[Schema] = {"type": "integer"}
_REAL: Final[Schema] = {"type": "number"}
_FLAG: Final[Schema] = {"type": "boolean"}
_TIME: Final[Schema] = {"type": "string", "format": "date-time"}
_ANY: Final[Schema] = {}
_MAP: Final[Schema] = {"type": "object"}
_STATUS: Final[Schema] = {"type": "string", "enum": list(STATUSES)}
_TEXTS: Final[Schema] = {"type": "object", "additionalProperties": _TEXT}
_COUNTS: Final[Schema] = {"type": "object", "additionalProperties": _WHOLE}

_MAYBE_TEXT, _MAYBE_TIME, _MAYBE_REAL = _or_null(_TEXT), _or_null(_TIME), _or_null(_REAL)
_MAYBE_WHOLE = _or_null(_WHOLE)
_ERROR: Final = _or_null(_object(code=_MAYBE_TEXT, message=_MAYBE_TEXT))

_HEAD: Final = {
    "id": _told(_TEXT, "128 bits, in hexadecimal"),
    "pipeline": _TEXT,
    "target": _told(_MAYBE_TEXT, "where the pipeline can be found, module:name"),
    "generation": _told(_WHOLE, "from 1; each resume opens the next one"),
    "status": _STATUS,
    "verdict": _told(_TEXT, "alive, blocked, stalled, slow, dead, ended and others"),
    "cause": _told(_MAYBE_TEXT, "why it ended, from a closed list"),
    "step": _told(_MAYBE_TEXT, "the stage it is in"),
    "message": _MAYBE_TEXT,
    "percent": _told(_MAYBE_REAL, "null while the number of items is unknown"),
    "done": _MAYBE_REAL,
    "total": _MAYBE_REAL,
    "labels": _TEXTS,
    "params": _ANY,
    "source_length": _told(_MAYBE_WHOLE, "items that the source has, when it is known"),
    "created_at": _TIME,
    "started_at": _MAYBE_TIME,
    "updated_at": _TIME,
    "last_heartbeat_at": _MAYBE_TIME,
    "finished_at": _MAYBE_TIME,
    "deadline_at": _MAYBE_TIME,
    "requested_at": _told(_MAYBE_TIME, "when somebody asked for its cancellation"),
    "stopped_at": _told(_MAYBE_TIME, "when all its work had really stopped"),
    "survivors": _told(_list(_ANY), "what still ran when it ended"),
    "error": _ERROR,
}
_STAGE: Final = _object(
    name=_TEXT,
    kind=_TEXT,
    workers=_WHOLE,
    deadline=_told(_MAYBE_REAL, "seconds for one item"),
    status=_TEXT,
    percent=_MAYBE_REAL,
    started_at=_MAYBE_TIME,
    finished_at=_MAYBE_TIME,
    error=_ERROR,
    accepted=_WHOLE,
    **dict.fromkeys(OUTCOMES, _WHOLE),
    in_flight=_WHOLE,
    waiting=_WHOLE,
)
_LINE: Final = _object(
    seq=_WHOLE,
    time=_TIME,
    level={"type": "string", "enum": list(LEVELS)},
    stage=_MAYBE_TEXT,
    item=_MAYBE_WHOLE,
    message=_TEXT,
)
_ITEM: Final = _object(
    stage=_TEXT,
    item=_WHOLE,
    outcome={"type": "string", "enum": list(OUTCOMES)},
    attempts=_WHOLE,
    started_at=_TIME,
    seconds=_REAL,
    cause=_MAYBE_TEXT,
    message=_MAYBE_TEXT,
    error=_MAYBE_TEXT,
    late_seconds=_told(_MAYBE_REAL, "how long cut work went on"),
    generation=_WHOLE,
)
_SLOT: Final = {
    "at": _told(_TIME, "when it was due, or asked for"),
    "asked_by": _told(_MAYBE_TEXT, "null: its time had come"),
    "decided_at": _told(_MAYBE_TIME, "null: asked for, and no process has taken it yet"),
    "decision": _or_null({"type": "string", "enum": ["fired", "skipped"]}),
    "missed": _told(_WHOLE, "slots just before it that nobody was there for"),
    "reason": _told(_MAYBE_TEXT, "why there is no run"),
    "run": _MAYBE_TEXT,
    "status": _told(_or_null(_STATUS), "of the run by now"),
    "finished_at": _MAYBE_TIME,
}
_SCHEDULE: Final = {
    "name": _TEXT,
    "pipeline": _TEXT,
    "state": {"type": "string", "enum": ["waiting", "paused", "unserved"]},
    "cron": _MAYBE_TEXT,
    "every": _told(_MAYBE_REAL, "seconds between two slots"),
    "zone": _told(_TEXT, "the time zone that cron is meant in"),
    "overlap": {"type": "string", "enum": ["skip", "queue", "cancel_previous"]},
    "active": _told(_WHOLE, "runs of it that may be under way at once"),
    "next_at": _MAYBE_TIME,
    "paused_at": _MAYBE_TIME,
    "created_at": _TIME,
    "served_by": _told(_WHOLE, "processes"),
    "fired": _WHOLE,
    "skipped": _WHOLE,
    "missed": _WHOLE,
    "last": _or_null(_ref("Slot")),
}
_NEXT: Final = _told(_MAYBE_TEXT, "give it as `after` for the next page; null: this was the last")

SCHEMAS: Final[dict[str, Schema]] = {
    "Problem": {
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {"type": _TEXT, "title": _TEXT, "status": _WHOLE, "detail": _TEXT},
        "description": "RFC 9457; detail says for people what to do next",
    },
    "RunHead": _object(**_HEAD),
    "RunListed": _object(
        **_HEAD,
        outcomes=_told(_or_null(_COUNTS), "sums over all stages: accepted, and the six outcomes"),
    ),
    "Run": _object(
        **_HEAD,
        recent_logs=_list(_ref("LogLine")),
        stages=_list(_ref("Stage")),
        generations=_told(_list(_MAP), "the earlier ones, and how they ended"),
    ),
    "Runs": _object(runs=_list(_ref("RunListed")), next=_NEXT),
    "Stage": _STAGE,
    "LogLine": _LINE,
    "Logs": _object(run=_TEXT, logs=_list(_ref("LogLine")), next=_MAYBE_WHOLE),
    "Item": _ITEM,
    "Items": _object(items=_list(_ref("Item")), next=_NEXT),
    "Cancellation": {
        "type": "object",
        "required": ["run", "became", "status", "message"],
        "properties": {
            "run": _TEXT,
            "became": {"type": "string", "enum": ["ended", "cancelling", "asked"]},
            "status": _STATUS,
            "message": _TEXT,
            "cause": _TEXT,
            "grace": _REAL,
        },
    },
    "Why": {
        "type": "object",
        "required": ["told_by", "run", "summary"],
        "properties": {"told_by": {"type": "string", "enum": ["process", "database"]},
                       "run": _TEXT, "summary": _told(_TEXT, "all of it in one sentence")},
        "additionalProperties": True,
    },
    "Charts": _object(
        run=_TEXT,
        generation=_WHOLE,
        status=_STATUS,
        now=_TIME,
        sampled=_told(_FLAG, "whether a part of the items stands for all"),
        pace=_MAP,
        throughput=_MAP,
        timeline=_MAP,
        stages=_list(_MAP),
        errors=_list(_MAP),
        outcomes=_MAP,
    ),
    "Pipelines": _object(
        pipelines=_list(
            _object(
                name=_TEXT,
                startable=_FLAG,
                deadline=_told(_MAYBE_REAL, "seconds for a whole run"),
                has_source=_told(_FLAG, "whether it can be started without items"),
                runs=_WHOLE,
                last=_or_null(_ref("RunHead")),
                stages=_or_null(_list(_MAP)),
            )
        )
    ),
    "Durations": _object(pipeline=_TEXT, deadline=_MAYBE_REAL, runs=_list(_MAP)),
    "Schedules": _object(schedules=_list(_object(**_SCHEDULE))),
    "Schedule": _object(**_SCHEDULE, slots=_list(_ref("Slot"))),
    "Slot": _object(**_SLOT),
    "Labels": _object(labels=_list(_object(name=_TEXT, values=_list(_TEXT)))),
    "Overview": _object(counts=_COUNTS, in_hand=_or_null(_MAP), health=_MAP, owners=_WHOLE),
    "Health": _object(status=_TEXT),
    "Readiness": _object(status=_TEXT, problem=_MAYBE_TEXT),
    "Document": _told(_MAP, "an OpenAPI document: this one"),
}  # fmt: skip
