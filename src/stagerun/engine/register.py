"""What a stage writes down: one row for each item's outcome, its own status, and the log lines."""

from typing import Any

import trio

from stagerun.engine.desk import Item
from stagerun.engine.hub import Hub
from stagerun.engine.ledger import Post
from stagerun.logs import RunLog
from stagerun.model.outcome import Outcome
from stagerun.model.stage import Stage
from stagerun.model.status import Counts
from stagerun.phase import PHASE
from stagerun.rules.verdict import Ended
from stagerun.store import codec, writes
from stagerun.store.packing import ATTEMPTS, STAGE

__all__ = ["Register"]

_INLINE = 512
"""Bytes of a result that still ride in the item's own row."""
_QUIET = (Outcome.CANCELLED, Outcome.SKIPPED)


class Register:
    """The hand of one stage that writes; it decides nothing."""

    def __init__(self, stage: Stage, index: int, hub: Hub) -> None:
        self.log: RunLog = hub.log.for_stage(stage.name)
        self._stage = stage
        self._index = index
        self._kind = index << STAGE
        self._hub = hub
        self._inbox = hub.recorder.inbox
        self._began: float | None = None
        self._last_error: tuple[str, str] | None = None

    def outcome(self, item: Item, outcome: int, encoded: bytes | None, now: float) -> None:
        """Post the item's one row for this stage and generation. *outcome*: its stored value."""
        hub = self._hub
        started = item.started if item.attempts else now
        if encoded is not None and len(encoded) > _INLINE:
            hub.post(Post.RESULT, (*self._place(item), encoded), len(encoded))
            encoded = None
        self._inbox.outcome(
            hub.ledger,
            (
                item.attempts << ATTEMPTS | self._kind | outcome,
                item.number,
                started + hub.epoch,
                now - started,
                encoded,
            ),
        )

    def failure(
        self, item: Item, ended: Ended, error: BaseException | None, late: float | None
    ) -> None:
        """Post that an item ended without a result, and say it in the log.

        *late*: seconds that cut work still took to stop.
        """
        name = None if error is None else codec.error_name(error)
        message = codec.words(ended.message or error) or name or ""
        phase = PHASE.get()
        if phase and ended.outcome is Outcome.TIMED_OUT:
            message = f"{message} (HTTP phase: {phase})"
        if ended.outcome not in _QUIET:
            self._last_error = (name or ended.cause.value, message)
        detail = None if error is None else codec.detail(error)
        late_us = None if late is None else int(late * 1e6)
        row = (*self._place(item), ended.cause.value, message, name, detail, late_us)
        # Before the item: a batch may end between them, and an outcome must have its reason.
        self._hub.post(Post.FAILURE, row, len(message))
        self.outcome(item, ended.outcome.value, None, trio.current_time())
        speak = self.log.debug if ended.outcome in _QUIET else self.log.warning
        label, code = ended.outcome.label, name or ended.cause.value
        speak("item %d %s (%s): %s", item.number, label, code, message, item=item.number)

    def _place(self, item: Item) -> tuple[int, int, int, int]:
        return (self._hub.ledger.run, self._index, item.number, self._hub.ledger.generation)

    def begin(self) -> None:
        """Record and say that the stage has begun."""
        self._began = trio.current_time()
        self.log.info("stage %s started", self._stage.name)
        self._status("running", started_at=self._hub.env.now_us())
        if self._hub.tracing is not None:
            self._hub.tracing.stage_begins(self._stage.name)

    def stand(self, oldest: float | None) -> None:
        """Say how a long stage stands. *oldest*: when its oldest attempt began."""
        now = trio.current_time()
        counts = self._hub.ledger.published.counts[self._index]
        self.log.info(
            "stage %s under way for %.0f s: %d of %d settled, %d in flight, the oldest for %.1f s",
            self._stage.name,
            0.0 if self._began is None else now - self._began,
            counts.settled,
            counts.accepted,
            counts.in_flight,
            0.0 if oldest is None else now - oldest,
        )

    def finish(self, status: str, counts: Counts) -> None:
        """Record and say how the stage ended."""
        error = None if status == "succeeded" else self._last_error
        self._status(status, finished_at=self._hub.env.now_us(), error=error)
        if self._hub.tracing is not None:
            self._hub.tracing.stage_ends(self._stage.name, status, counts)
        if status == "skipped":
            return
        if self._began is None:
            said = "had nothing left to do" if status == "succeeded" else f"{status}, not begun"
            self.log.info("stage %s %s", self._stage.name, said)
            return
        words = ("failed", "timed_out", "cancelled", "crashed")
        lost = "".join(f", {getattr(counts, w)} {w}" for w in words if getattr(counts, w))
        last = f"; last error {error[0]}" if error else ""
        speak = self.log.error if status in ("failed", "timed_out") else self.log.info
        speak(
            "stage %s %s after %.3f s: %d of %d ok%s%s",
            self._stage.name,
            status,
            trio.current_time() - self._began,
            counts.ok,
            counts.accepted,
            lost,
            last,
        )

    def _status(self, status: str, **times: Any) -> None:
        ledger = self._hub.ledger
        statement = writes.stage_status(ledger.run, ledger.generation, self._index, status, **times)
        row = (self._hub.env.now_us(), self._stage.name, status, statement)
        self._hub.post(Post.STAGE, row)
