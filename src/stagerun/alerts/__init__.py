"""Alerts: who is told when runs end badly, stand still, or are many; and by which ways.

from stagerun.alerts import Alerts, Slack, ended, stalled

alerts = Alerts([Slack(url)], rules=[ended("failed", "timed_out"), stalled()])
async with open_runtime("runs.db", alerts=alerts) as runtime: ...
"""

from stagerun.alerts.log import Log
from stagerun.alerts.mail import Mail
from stagerun.alerts.webhook import Slack, Webhook, signature
from stagerun.alerts.when import ended, loop_blocked, older, running, stalled, store_degraded
from stagerun.errors import DeliveryError
from stagerun.model.alert import Alert, Alerts, Call, Rule, Sink

__all__ = [
    "Alert",
    "Alerts",
    "Call",
    "DeliveryError",
    "Log",
    "Mail",
    "Rule",
    "Sink",
    "Slack",
    "Webhook",
    "ended",
    "loop_blocked",
    "older",
    "running",
    "signature",
    "stalled",
    "store_degraded",
]
