"""The actors of one run: its source and its stages, how they are fed, drained and halted."""

from collections.abc import Callable

import trio

from stagerun.engine.backlog import Suspects, backlogs_of, feed_waiting
from stagerun.engine.flag import Flag
from stagerun.engine.hub import Hub
from stagerun.engine.kinds import CollectActor, actor_for
from stagerun.engine.ledger import Post
from stagerun.engine.source import Source, SourceActor
from stagerun.engine.stage import StageActor
from stagerun.model.stage import Kind
from stagerun.model.status import Counts, Ending
from stagerun.rules.lifecycle import stage_status
from stagerun.rules.verdict import Stop
from stagerun.store import frontier

__all__ = ["Crew"]

_MARGIN = 0.5
"""Seconds beyond the grace after which a run's ending is written whatever still runs."""


class Crew:
    """One generation's source and stage actors, each stage knowing the one behind it."""

    def __init__(
        self,
        hub: Hub,
        source: Source,
        nursery: trio.Nursery,
        *,
        postpone: Callable[[float], None],
    ) -> None:
        stages = enumerate(hub.pipeline.stages)
        self.stages = [actor_for(stage, index, hub, nursery) for index, stage in stages]
        for actor, follower in zip(self.stages, self.stages[1:], strict=False):
            actor.precede(follower)
        self._suspects = Suspects(hub, self.stages, self.quiet, postpone)
        self.source = SourceActor(source, hub, self.stages[0], self._suspects)
        self._hub = hub
        self._nursery = nursery
        self._rereads = source.kind == "function"
        self._backlogs = backlogs_of(hub, self.stages, source.kind)
        self._commit = Flag()
        """Set at the next commit."""

    @property
    def behind_suspects(self) -> bool:
        """Whether a suspect of another run is tried alone, and one of this waits. Any thread."""
        return self._suspects.waits

    # -- work -----------------------------------------------------------------------------------

    async def work(self) -> None:
        """Feed and drain, stage after stage, until nothing is left to do."""
        if self._hub.ledger.generation > 1:
            await self._go_on()
        self.source.start()
        for index, backlog in self._backlogs.items():
            name = f"backlog of stage {self.stages[index].stage.name}"
            self._nursery.start_soon(backlog.feed, name=name)
        await self.source.exhausted()
        for actor in self.stages:
            await self._drain(actor)
            if not self._next_is_through(actor):
                await self._finish_drained()
        await self._take_back_descendants()
        await self._leave_source()

    async def _go_on(self) -> None:
        """Begin where the earlier generations ended: their numbers, and their suspects first."""
        hub = self._hub
        for actor in self.stages:
            if actor.stage.kind is Kind.MANY:
                question = frontier.last_number(hub.ledger.run, actor.index + 1)
                actor.children = await hub.store.ask(question)
        await self._suspects.go_first(read_again=self._rereads)

    async def _drain(self, actor: StageActor) -> None:
        """Wait until nothing is left to do in a stage. A collect stage begins only now."""
        if isinstance(actor, CollectActor):
            await self._take_back_descendants()
            await actor.form_groups()
            await feed_waiting(self._hub, actor, below=self._hub.ledger.generation + 1)
        elif actor.index in self._backlogs:
            await self._backlogs[actor.index].finished()
        actor.close()
        await actor.drained.wait()

    def _next_is_through(self, actor: StageActor) -> bool:
        """Whether the next stage will be drained at once: then one commit tells of both."""
        follower = actor.follower
        if follower is None or follower.index in self._backlogs:
            return False
        return follower.idle and not isinstance(follower, CollectActor)

    async def _finish_drained(self) -> None:
        """Write down how the stages have ended that are drained, once all of theirs is on disk."""
        await self._hub.recorder.flush(self._hub.ledger)
        counts = self._hub.ledger.published.counts
        for actor in self.stages:
            if actor.drained.is_set() and not actor.finished:
                _finish(actor, counts[actor.index], None)

    async def _take_back_descendants(self) -> None:
        """Let nothing count that was made of superseded items, however far behind them it is."""
        hub = self._hub
        kinds = [stage.kind for stage in hub.pipeline.stages]
        statements = frontier.supersede_descendants(hub.ledger.run, kinds)
        for statement in statements:
            hub.post(Post.STATEMENT, statement)
        if statements:
            await hub.recorder.flush(hub.ledger)

    async def _leave_source(self) -> None:
        """Let the source close what it has opened for the run."""
        self.source.over.set()
        with trio.move_on_after(self._hub.pipeline.source_deadline + self._hub.pipeline.grace):
            await self.source.gone.wait()
        self.source.abandon()

    async def quiet(self) -> None:
        """Wait until nothing of this run is under way, waits or pauses; or until it stops."""
        while self._hub.stop is None and not all(actor.idle for actor in self.stages):
            await self._commit.wait()  # whatever changes that is recorded

    def heard(self) -> None:
        """Hear of a commit."""
        for actor in self.stages:
            actor.let_on()
        self._commit.set()
        self._commit = Flag()

    # -- stopping -------------------------------------------------------------------------------

    def begin_no_more(self) -> None:
        """Have no stage take another item, from this moment on."""
        for actor in self.stages:
            actor.mailbox.shut = True

    async def halt(self, asked_at: float, *, at_once: bool) -> None:
        """Stop the stages: by the token, then by their scopes, then by leaving them behind."""
        grace = self._hub.pipeline.grace
        self.source.stop()
        for actor in self.stages:
            actor.stop(at_once=at_once)
        with trio.move_on_at(asked_at + (0.0 if at_once else grace)):
            await self._all_gone()
        self.source.cut()
        for actor in self.stages:
            actor.stop(at_once=True)
        with trio.move_on_at(asked_at + grace + _MARGIN):
            await self._all_gone()
        self.source.abandon()
        for actor in self.stages:
            actor.abandon_all()

    async def _all_gone(self) -> None:
        for actor in self.stages:
            await actor.drained.wait()
        self.source.over.set()
        await self.source.gone.wait()
        while self._hub.survivors:
            await self._hub.calm.wait()

    def drop(self) -> None:
        """Stop all work without a word: the database, or the engine itself, has failed."""
        self._hub.stop = self._hub.stop or Stop.RUN_FAILED
        self.source.stop()
        self.source.cut()
        for actor in self.stages:
            actor.stop(at_once=True)

    @property
    def finished(self) -> bool:
        """Whether it is written down of each stage how it has ended."""
        return all(actor.finished for actor in self.stages)

    def finish(self, ending: Ending) -> None:
        """Write down how the stages stand that were still at work when the run ended."""
        counts = self._hub.ledger.published.counts
        for actor in self.stages:
            if not actor.finished:
                _finish(actor, counts[actor.index], ending)


def _finish(actor: StageActor, counts: Counts, ending: Ending | None) -> None:
    actor.finished = True
    actor.register.finish(stage_status(actor.stage, counts, ending), counts)
