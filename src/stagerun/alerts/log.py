"""Alerts in the log, beside everything else that stagerun says."""

from typing import Literal

from attrs import field, frozen, validators

from stagerun.logs import RunLog
from stagerun.model.alert import Alert

__all__ = ["Log"]


@frozen(kw_only=True)
class Log:
    """Says alerts in the log, of the logger ``stagerun``: those about a run as lines of it."""

    level: Literal["info", "warning", "error"] = field(
        default="warning", validator=validators.in_(("info", "warning", "error"))
    )
    name: str = "log"

    def deliver(self, alert: Alert) -> None:
        """See ``Sink``."""
        run = alert.run or {}
        log = RunLog(pipeline=run.get("pipeline"), run=run.get("id"))
        speak = {"info": log.info, "warning": log.warning, "error": log.error}[self.level]
        speak("alert (%s): %s", alert.rule, alert.summary)
