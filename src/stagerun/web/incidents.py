"""What nobody has foreseen: the log gets all of it, and whoever asked gets a number."""

import logging
import secrets

from starlette.types import Scope

from stagerun.web.problems import Problem

__all__ = ["incident"]

_log = logging.getLogger("stagerun.web")


def incident(error: BaseException, scope: Scope) -> Problem:
    """Log *error* under a new number, and return the problem that names nothing but the number."""
    number = secrets.token_hex(4)
    route = getattr(scope.get("route"), "path", "no route")  # never the address: it may hold names
    _log.error("incident %s: %s %s", number, scope.get("method"), route, exc_info=error)
    return Problem(
        500,
        f"something went wrong inside the service; its log tells what, as incident {number}",
        kind="incident",
        incident=number,
    )
