"""How a run ends: pure judgements over the counts of its stages."""

from collections.abc import Sequence

from stagerun.model.pipeline import Pipeline
from stagerun.model.stage import Kind, Stage
from stagerun.model.status import Cause, Counts, Ending, Status

__all__ = ["conclude", "enough", "stage_status"]


def conclude(pipeline: Pipeline, counts: Sequence[Counts], source: Ending | None) -> Ending:
    """Return the ending of a run whose work is done.

    *source* is the ending that a broken source asks for; it comes first, then the first stage with
    too few successes, then the pipeline's own share.
    """
    if source is not None:
        return source
    for stage, sums in zip(pipeline.stages, counts, strict=True):
        if not enough(stage, sums):
            return Ending(Status.FAILED, Cause.LEAST_OK, _too_few(stage, sums))
    left = sum(sums.waiting for sums in counts)
    if left:  # a defect, or a file that was changed by hand: never told as a success
        message = f"{left} items wait and nothing gives them: `stagerun doctor` says more"
        return Ending(Status.FAILED, Cause.INTERNAL, message)
    out = counts[-1].ok
    lost = sum(c.failed + c.timed_out + c.crashed for c in counts)
    if out < pipeline.least_ok * (out + lost):
        message = (
            f"{out} of {out + lost} items came through, least_ok of the pipeline asks for"
            f" {pipeline.least_ok:.0%}"
        )
        return Ending(Status.FAILED, Cause.LEAST_OK, message)
    message = f"all work is done; {lost} items did not come through" if lost else "all work is done"
    return Ending(Status.SUCCEEDED, Cause.COMPLETED, message)


def enough(stage: Stage, counts: Counts) -> bool:
    """Whether a stage's successes suffice: its least share, and one at least if it had work."""
    judged = counts.settled - counts.skipped
    least = 0.0 if stage.kind is Kind.COLLECT else stage.least_ok  # there it is a group's share
    return judged == 0 or (counts.ok > 0 and counts.ok >= least * judged)


def stage_status(stage: Stage, counts: Counts, ending: Ending | None) -> str:
    """Return the word for where a stage stands once no more work comes to it.

    *ending* is how the run was stopped while the stage was at work; None: the stage is through.
    """
    if counts.accepted == 0:
        return "skipped"
    if ending is not None:
        return ending.status.value
    if counts.in_flight or counts.waiting:
        return "running"
    return "succeeded" if enough(stage, counts) else "failed"


def _too_few(stage: Stage, counts: Counts) -> str:
    judged = counts.settled - counts.skipped
    parts = [
        f"{number} {word}"
        for number, word in (
            (counts.failed, "failed"),
            (counts.timed_out, "timed out"),
            (counts.crashed, "crashed"),
        )
        if number
    ]
    share = "at least one" if counts.ok == 0 else f"least_ok {stage.least_ok:.0%}"
    return (
        f"stage {stage.name}: {counts.ok} of {judged} items ok"
        f" ({', '.join(parts) or 'none'}), wanted: {share}"
    )
