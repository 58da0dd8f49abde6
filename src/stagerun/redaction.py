"""What must not be kept: secrets, taken out of every text before it is stored, logged or shown.

Errors, tracebacks, log lines and reports are texts; items, params and results are values that the
next stage needs, and are kept as they are. The patterns know the usual shapes; whoever has secrets
of another shape names it in ``STAGERUN_REDACT``, a regular expression.

All patterns are linear: whatever a stage prints, they take microseconds a kilobyte.
"""

import os
import re
from collections.abc import Mapping
from functools import cache
from typing import Final

from stagerun.errors import SettingError

__all__ = ["PUT", "SETTING", "check", "is_secret_name", "redacted"]

PUT: Final = "[redacted]"
"""What stands where a secret was."""
SETTING: Final = "STAGERUN_REDACT"

_NAME: Final = (
    r"pass(?:word|wd|phrase|code)?|pwd|secrets?|token|api[_-]?key|access[_-]?key|private[_-]?key"
    r"|authorization|cookie|credentials?|session[_-]?id|signature"
)
_SECRETS: Final = re.compile(
    # user:password@ in an address
    r"(?P<userinfo>(?<=://)[^\s/:@\"']{0,200}:[^\s/@\"']{1,500}(?=@))"
    # Authorization: whatever, to the end of the line
    r"|(?<![\w-])(?P<header>(?:proxy-)?(?:authorization|(?:set-)?cookie)[\"']?\s{0,3}:\s{0,3})"
    r"(?P<rest>(?!\[redacted\])[^\s\"'][^\r\n\"']{0,2000})"
    # name=value, "name": "value", name: value
    rf"|(?<![\w-])(?P<named>(?:[\w-]{{0,40}}[_-])?(?:{_NAME})(?:[_-]\w{{0,20}})?[\"']?\s{{0,3}}[=:]\s{{0,3}})"
    r"(?P<value>(?!\[redacted\])(?:\"[^\"\r\n]{0,2000}\"?|'[^'\r\n]{0,2000}'?|[^\s,;&)}\]\"']{1,2000}))"
    # Bearer and Basic, where no header's name stands before them
    r"|(?<!\w)(?P<scheme>bearer|basic)\s{1,3}(?=[\w.~+/=-]{0,2000}\d)[\w.~+/=-]{8,2000}"
    # the shapes of well-known services' keys, and JSON web tokens
    r"|(?<!\w)(?P<shape>sk-[\w-]{16,200}|gh[pousr]_\w{20,200}|github_pat_\w{20,200}"
    r"|xox[abprs]-[\w-]{10,200}|AKIA[0-9A-Z]{16}|eyJ[\w-]{10,2000}\.[\w-]{5,4000}\.[\w-]{5,2000})"
    # a private key, whole or cut
    r"|(?P<pem>-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[^-]{0,8000})",
    re.IGNORECASE,
)
_SECRET_NAME: Final = re.compile(rf"(?:.*[_-])?(?:{_NAME})(?:[_-].*)?", re.IGNORECASE)


def redacted(text: str) -> str:
    """Return *text* without the secrets in it."""
    text = _SECRETS.sub(_put, text)
    own = _own(os.environ.get(SETTING, ""))
    return text if own is None else own.sub(PUT, text)


def is_secret_name(name: str) -> bool:
    """Tell whether a value of such a name should not be shown."""
    return _SECRET_NAME.fullmatch(name[:200]) is not None


def check(environ: Mapping[str, str]) -> None:
    """Refuse a pattern that cannot be used.

    Raises:
        SettingError: It is no regular expression, or one that matches nothing at all.
    """
    given = environ.get(SETTING, "")
    try:
        pattern = re.compile(given)
    except re.error as error:
        raise SettingError(SETTING, f"must be a regular expression: {error}") from error
    if given and pattern.search(""):
        raise SettingError(SETTING, f"matches the empty text, and so everything: {given!r}")


def _put(found: "re.Match[str]") -> str:
    match found.lastgroup:
        case "value":
            return f"{found['named']}{PUT}"
        case "rest":
            return f"{found['header']}{PUT}"
        case "scheme":
            return f"{found['scheme']} {PUT}"
    return PUT


@cache
def _own(given: str) -> "re.Pattern[str] | None":
    return re.compile(given) if given else None
