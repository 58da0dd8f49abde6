"""The HTTP side: an ASGI app to be mounted, with an API, live events and a dashboard."""

from stagerun.web.backend import Limits
from stagerun.web.service import Service

__all__ = ["Limits", "Service"]
