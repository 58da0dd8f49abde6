"""What ``start()`` is given: checked, stored, and only then acknowledged."""

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from stagerun.engine.env import Env
from stagerun.engine.recorder import Recorder
from stagerun.engine.source import Source, source_of
from stagerun.engine.turn import Turn
from stagerun.errors import SettingError, StoreError, UsageError
from stagerun.model.pipeline import Pipeline
from stagerun.model.status import Cause, Ending, Status
from stagerun.offload.place import place_of
from stagerun.store import codec, starting

__all__ = ["Order", "accept", "order_of", "refuse"]

_CHUNK = 10_000
"""Items of a list that are stored in one transaction at most."""
_CHUNK_BYTES = 4 * 2**20
"""The same in bytes."""
_PLACES = 1_000_000
"""Runs that may share a concurrency key at once at most."""


@frozen(kw_only=True)
class Order:
    """A run that was asked for; everything in it can be stored, but for a list's items."""

    pipeline: Pipeline
    source: Source
    params: Any
    encoded_params: bytes
    labels: Mapping[str, str]
    key: str | None
    target: str | None
    own_source: bool = False
    """Whether the items come from the pipeline's own source."""
    turn: Turn | None = None
    """What the run waits for before it begins."""
    identifier: str | None = None
    """The run's; None: a new one."""
    claim: starting.Claim | None = None
    """What must hold for it to be made; else somebody else has been quicker."""


def order_of(
    pipeline: Pipeline,
    items: Any,
    params: Any,
    labels: Any,
    *,
    key: str | None,
    target: str | None,
    concurrency_key: str | None = None,
    concurrency: Any = 1,
) -> Order:
    """Check what was given.

    Raises:
        UsageError: Something is not of a kind that can be used; it says which.
    """
    texts = {"key": key, "target": target, "concurrency_key": concurrency_key}
    _check_texts(texts, labels)
    whole = isinstance(concurrency, int) and not isinstance(concurrency, bool)
    if not whole or not 1 <= concurrency <= _PLACES:
        raise UsageError(
            f"concurrency must be a whole number of at least 1 and at most {_PLACES},"
            f" got {concurrency!r}"
        )
    given = items if items is not None else pipeline.source
    if given is None:
        raise UsageError(
            f"pipeline {pipeline.name!r} has no source of its own: give items to start()"
        )
    for stage in pipeline.stages:
        if stage.mode == "process":
            place_of(stage)  # refused now, not with the first item
    try:
        encoded = codec.encode(params)
    except Exception as error:
        raise UsageError(f"params cannot be stored: {codec.words(error, 300)}") from error
    return Order(
        pipeline=pipeline,
        source=source_of(given),
        params=params,
        encoded_params=encoded,
        labels=dict(labels),
        key=key,
        target=target,
        own_source=items is None,
        turn=None if concurrency_key is None else Turn(concurrency_key, concurrency),
    )


def _check_texts(texts: Mapping[str, Any], labels: Any) -> None:
    """Refuse what is no text, or text that cannot be stored."""
    for what, value in texts.items():
        if value is not None and not isinstance(value, str):
            raise UsageError(f"{what} must be text, got {value!r}")
    if not isinstance(labels, Mapping):
        raise UsageError(f"labels must be a mapping of text to text, got {labels!r}")
    for name, value in labels.items():
        if not isinstance(name, str) or not isinstance(value, str) or not name:
            raise UsageError(f"labels must be text to text, got {name!r}: {value!r}")
    pairs = [*texts.items(), *(("a label", text) for pair in labels.items() for text in pair)]
    for what, text in pairs:
        if text is not None and codec.storable(text) != text:
            raise UsageError(f"{what} holds characters that cannot be stored: {text!r}")


async def accept(
    order: Order, identifier: str, owner: int, recorder: Recorder, env: Env
) -> tuple[int, bool] | None:
    """Store a run, and its items where they are a list.

    Return the run's number, and whether it begins: it may have been cancelled meanwhile. None: the
    order's key has been used before, or the owner has been ended; nothing was stored.

    Raises:
        UsageError: An item of the list cannot be stored; the run is there, as ``failed``.
    """
    returned = await recorder.write(
        starting.create_run(
            identifier=identifier,
            pipeline=order.pipeline,
            owner=owner,
            now=env.now_us(),
            params=order.encoded_params,
            labels=order.labels,
            source=order.source.kind,
            source_length=order.source.length,
            target=order.target,
            request_key=order.key,
            queued=order.source.kind == "stored" or order.turn is not None,
            concurrency_key=None if order.turn is None else order.turn.key,
            concurrency=None if order.turn is None else order.turn.places,
            own_source=order.own_source,
            claim=order.claim,
        )
    )
    if returned is None:
        return None
    number = int(returned[0])
    if order.source.kind == "stored":
        return number, await _store_items(number, order, recorder, env)
    return number, True


async def refuse(
    pipeline: Pipeline, error: SettingError, env: Env, owner: int, recorder: Recorder
) -> None:
    """Store a run that could not begin, so that whoever looks for it finds why."""
    identifier, now = env.new_id(), env.now_us()
    run = starting.create_run(
        identifier=identifier,
        pipeline=pipeline,
        owner=owner,
        now=now,
        params=codec.encode(None),
        labels={},
        source="none",
        source_length=None,
        target=None,
        request_key=None,
        queued=True,
    )
    ending = Ending(Status.FAILED, Cause.SETTINGS, codec.words(error), codec.error_name(error))
    await recorder.write(starting.refused(run, identifier, ending, now))


async def _store_items(run: int, order: Order, recorder: Recorder, env: Env) -> bool:
    """Store a list in chunks; the run begins, or waits for its turn, with the last one.

    False: it has been ended meanwhile.
    """
    source = order.source
    encoded, first, size = list[bytes](), 1, 0
    try:
        for position, value in enumerate(source.items, 1):
            encoded.append(codec.encode(value))
            size += len(encoded[-1])
            full = len(encoded) == _CHUNK or size >= _CHUNK_BYTES
            if full and position < len(source.items):
                await recorder.write(starting.more_items(run, first, encoded))
                encoded, first, size = [], position + 1, 0
    except StoreError:
        raise
    except Exception as error:
        place = first + len(encoded)
        message = f"item {place} of the list cannot be stored ({codec.words(error, 300)})"
        ending = Ending(Status.FAILED, Cause.SOURCE_ERROR, message)
        await recorder.write(starting.end_queued(run, 1, ending, env.now_us()))
        raise UsageError(
            f"{message}: give numbers, text, bytes, lists, dicts, dataclasses or attrs classes"
        ) from error
    rows = starting.store_items(run, first, encoded)
    waits = order.turn is not None
    begin = starting.begin(run, env.now_us(), rows, len(source.items), waits=waits)
    return await recorder.write(begin) is not None
