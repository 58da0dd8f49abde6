"""``stagerun run`` and ``resume``: a run in the foreground, and how it ended."""

import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, TextIO

import trio
from attrs import define, field

from stagerun.cli.board import Board
from stagerun.cli.display import Screen, bars_fit
from stagerun.cli.exits import CANCELLED, FAILED, USAGE, exit_status
from stagerun.cli.inputs import InputFile, InputStream, open_input
from stagerun.cli.load import load_pipeline
from stagerun.cli.progress import Progress
from stagerun.cli.reading import reading
from stagerun.cli.signals import Signals, leave_at_once
from stagerun.cli.tables import print_summary
from stagerun.cli.terminal import (
    closed_pipes_ignored,
    complain,
    console,
    reserved_stdout,
    span,
    write_json,
)
from stagerun.engine.admission import Changed
from stagerun.engine.handle import Run
from stagerun.engine.opening import open_runtime
from stagerun.engine.runtime import Runtime
from stagerun.errors import StagerunError, StoreError, UsageError
from stagerun.model.pipeline import Pipeline
from stagerun.model.status import Cause
from stagerun.rules.settings import apply_settings

__all__ = ["resume_run", "run_target"]

_LEAVING: Final = 5.0
"""Seconds that the runtime gets for its own end once the run's ending is on disk."""
_LEAVING_SURVIVORS: Final = 0.25
"""The same when something does not stop, which may hold the runtime for ever."""


def run_target(
    target: str,
    *,
    input_: str | None,
    database: Path,
    as_json: bool,
    params: Mapping[str, Any],
    labels: Mapping[str, str],
) -> int:
    """Run the pipeline that *target* names and return the exit status.

    Raises:
        UsageError: Target, input, params or labels are wrong; nothing was started.
        PolicyError: A setting in the environment is wrong.
        StoreError: The database cannot be used.
    """
    with ExitStack() as stack:
        out = stack.enter_context(reserved_stdout()) if as_json else sys.stdout
        pipeline, found_at = load_pipeline(target)
        pipeline = apply_settings(pipeline, os.environ)
        if input_ is None and pipeline.source is None:
            raise UsageError(
                f"pipeline {pipeline.name!r} has no source of its own: give items with --input"
            )
        items = _opened(input_)

        async def begin(runtime: Runtime) -> Run:
            return await runtime.start(
                pipeline, items, params=dict(params), labels=dict(labels), target=found_at
            )

        return _attend(pipeline, begin, items, database=database, out=out, as_json=as_json)


def resume_run(
    identifier: str,
    target: str | None,
    *,
    failed: bool,
    changed: Changed,
    input_: str | None,
    database: Path,
    as_json: bool,
) -> int:
    """Go on with a run that has ended and return the exit status; without a target, its own.

    Raises:
        UsageError: The run cannot go on so, or nothing tells where its pipeline is.
        StoreError: The database cannot be used.
    """
    with ExitStack() as stack:
        out = stack.enter_context(reserved_stdout()) if as_json else sys.stdout
        with reading(database) as reader:
            document = reader.document(identifier)
        if target is None:
            target = document["target"]
            if target is None:
                raise UsageError(
                    f"run {document['id']} was started without a target: give the one of pipeline"
                    f" {document['pipeline']!r} (stagerun resume RUN module:name)"
                )
            complain(f"resuming run {document['id']} with {target}")
        pipeline, _ = load_pipeline(target)
        pipeline = apply_settings(pipeline, os.environ)
        items = _opened(input_)

        async def begin(runtime: Runtime) -> Run:
            return await runtime.resume(
                document["id"], pipeline, failed=failed, changed=changed, items=items
            )

        return _attend(pipeline, begin, items, database=database, out=out, as_json=as_json)


def _opened(input_: str | None) -> InputFile | InputStream | None:
    items = None if input_ is None else open_input(input_)
    if isinstance(items, InputStream) and items.from_person:
        complain("items, please: one JSON value a line; Ctrl-D ends the list")
    return items


def _attend(
    pipeline: Pipeline,
    begin: Callable[[Runtime], Awaitable[Run]],
    items: InputFile | InputStream | None,
    *,
    database: Path,
    out: TextIO | None,
    as_json: bool,
) -> int:
    attendance = _Attendance(
        pipeline=pipeline, begin=begin, items=items, database=database, out=out, as_json=as_json
    )
    try:
        return trio.run(attendance.main)
    except BaseExceptionGroup as group:
        error = _only(group)
        if not isinstance(error, StagerunError):
            raise
        if isinstance(error, StoreError) and attendance.started:
            complain(error)
            return FAILED
        raise error from error.__cause__


def _only(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """Return the one exception of a group, however deep; None when there are more."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        if len(found.exceptions) != 1:
            return None
        found = found.exceptions[0]
    return found


@define(eq=False, kw_only=True)
class _Attendance:
    """One run in the foreground, from its start to its last word."""

    pipeline: Pipeline
    begin: Callable[[Runtime], Awaitable[Run]]
    items: InputFile | InputStream | None
    database: Path
    out: TextIO | None
    as_json: bool
    started: bool = False
    _left: trio.Event = field(factory=trio.Event)
    """Set when the runtime has been left."""
    _signals: Signals = field(init=False)

    async def main(self) -> int:
        """Host the run, show it, and leave even when stages refuse to stop."""
        self._signals = Signals(self.pipeline.grace)
        with self._signals.heard():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._signals.tick)
                with ExitStack() as stack:
                    screen = stack.enter_context(Screen().lines()) if bars_fit() else None
                    run: Run = await nursery.start(self._host)
                    self.started = True
                    if screen is not None:
                        stack.enter_context(self._drawn(run, screen))
                    await self._ended(run)
                self._signals.rest()
                with reading(self.database) as reader:
                    document = reader.document(run.id)
                    status = self._tell(document, reader.failures(document))
                patience = _LEAVING_SURVIVORS if document["survivors"] else _LEAVING
                with trio.move_on_after(patience):
                    await self._left.wait()
                if not self._left.is_set():
                    leave_at_once(status)  # a task that does not stop holds the runtime
                nursery.cancel_scope.cancel()
        return status

    async def _host(self, task_status: trio.TaskStatus[Run]) -> None:
        """Keep the runtime open while the run lasts, and hear what signals ask for."""
        async with open_runtime(self.database) as runtime:
            self._signals.blame_nobody = runtime.blame_nobody
            run = await self.begin(runtime)
            task_status.started(run)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._cancel_when_asked, run)
                nursery.start_soon(self._leave_when_asked, nursery.cancel_scope)
                await self._ended(run)
                nursery.cancel_scope.cancel()
        self._left.set()

    async def _cancel_when_asked(self, run: Run) -> None:
        await self._signals.cancel.wait()
        await run.cancel("cancelled by SIGINT", cause=Cause.SIGNAL)

    async def _leave_when_asked(self, scope: trio.CancelScope) -> None:
        await self._signals.shutdown.wait()
        scope.cancel()  # leaving the runtime interrupts the run

    async def _ended(self, run: Run) -> None:
        """Wait for the end, whoever writes it."""
        try:
            await run.wait()
        except StoreError:
            with reading(self.database) as reader:
                if reader.document(run.id)["finished_at"] is None:
                    raise

    @contextmanager
    def _drawn(self, run: Run, screen: Screen) -> Iterator[None]:
        """Draw the bars until the block is left."""
        limit, began = self.pipeline.deadline, time.monotonic()

        def read() -> Progress:
            return Progress(
                pipeline=self.pipeline.name,
                id=run.id,
                status=run.status,
                verdict="blocked" if self._signals.blocked_for else "alive",
                percent=run.percent,
                source_length=run.source_length,
                stages=run.counts,
                deadline_in=None if limit is None else began + limit - time.monotonic(),
                notice=self._notice() or _hidden(screen.hidden),
            )

        keep = self.as_json or self.out is None or not self.out.isatty()
        self._signals.screen_in_use = True
        with screen.bars(Board(read), keep=keep):
            yield
        self._signals.screen_in_use = False

    def _notice(self) -> str:
        notices = []
        if blocked := self._signals.blocked_for:
            notices.append(f"a stage has blocked the event loop for {span(blocked)}")
        if self._signals.status == CANCELLED:
            notices.append("cancelling; Ctrl-C again leaves at once")
        elif self._signals.status is not None:
            notices.append("shutting down")
        return "; ".join(notices)

    def _tell(self, document: dict[str, Any], failures: list[dict[str, Any]]) -> int:
        """Print the run's document or table; return the exit status."""
        if self.as_json:
            write_json(document, self.out)
        elif self.out is not None:
            with closed_pipes_ignored(self.out):
                print_summary(console(self.out), document, failures, self.database)
                self.out.flush()
        broken = self.items.error if isinstance(self.items, InputStream) else None
        if broken is not None:
            complain(broken)
            return USAGE
        return exit_status(document["status"])


def _hidden(count: int) -> str:
    return f"{count:,} more warnings: see `stagerun logs`" if count else ""
