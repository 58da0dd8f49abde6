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

from attrs import frozen

from stagerun.errors import SettingError

__all__ = ["PUT", "SETTING", "check", "is_secret_name", "redacted"]

PUT: Final = "[redacted]"
"""What stands where a secret was."""
SETTING: Final = "STAGERUN_REDACT"

_NAMES: Final = (
    r"pass(?:word|wd|phrase|code)?|pwd|secrets?|token|(?:api|access|private)[_-]?key"
    r"|authorization|cookie|credentials?|session[_-]?id|signature"
)
_VALUE: Final = (
    r"(?!\[redacted\])(?:\"[^\"\r\n]{0,2000}\"?|'[^'\r\n]{0,2000}'?|[^\s,;&)}\]\"']{1,2000})"
)


@frozen
class _Shape:
    """One shape of secrets: what it looks like, and the words without which none can be there."""

    signs: tuple[str, ...]
    """In lower case. A text without them is not searched: that is what makes it quick."""
    pattern: str
    """Its group ``kept``, if there is one, stays."""


_SECRET_NAME: Final = rf"(?:.*(?:[^A-Za-z]|[a-z](?=[A-Z])))?(?i:{_NAMES})(?:[_-].*)?"
_SHAPES: Final = (
    # user:password@ in an address
    _Shape(("://",), r"(?<=://)[^\s/:@\"']{0,200}:[^\s/@\"']{1,500}(?=@)"),
    # a header, to the end of the line
    _Shape(
        ("authorization", "cookie"),
        r"(?P<kept>(?<![\w-])(?i:(?:proxy-)?authorization|(?:set-)?cookie)[\"']?\s{0,3}:\s{0,3})"
        r"(?!\[redacted\])[^\s\"'][^\r\n\"']{0,2000}",
    ),
    # name=value, "name": "value", name: value; also api_token, dbPassword
    _Shape(
        (
            *("passw", "pass=", "pass:", "pass =", "passphrase", "passcode", "pwd"),
            *("secret", "token", "apikey", "api_key", "api-key", "access_key"),
            *("access-key", "accesskey", "private_key", "private-key", "privatekey"),
            *("authorization", "cookie", "credential", "session", "signature"),
        ),
        rf"(?P<kept>(?:(?<![A-Za-z])|(?<=[a-z0-9])(?=[A-Z]))(?i:{_NAMES})(?:[_-]\w{{0,20}})?[\"']?"
        rf"\s{{0,3}}[=:]\s{{0,3}}){_VALUE}",
    ),
    # Bearer and Basic, where no header's name stands before them
    _Shape(
        ("bearer", "basic"),
        r"(?P<kept>(?<!\w)(?i:bearer|basic)\s{1,3})"
        r"(?=[\w.~+/=-]{0,2000}\d)[\w.~+/=-]{8,2000}",
    ),
    # keys of well-known services, and JSON web tokens
    _Shape(
        ("sk-", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "xox", "akia", "eyj"),
        r"(?<!\w)(?:sk-[\w-]{16,200}|gh[pousr]_\w{20,200}|github_pat_\w{20,200}"
        r"|xox[abprs]-[\w-]{10,200}|AKIA[0-9A-Z]{16}"
        r"|eyJ[\w-]{10,2000}\.[\w-]{5,4000}\.[\w-]{5,2000})",
    ),
    # a private key, whole or cut
    _Shape(("private key-----",), r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[^-]{0,8000}"),
)


def redacted(text: str) -> str:
    """Return *text* without the secrets in it."""
    lowered = text.lower()
    for shape in _SHAPES:
        if any(sign in lowered for sign in shape.signs):
            text = _compiled(shape.pattern).sub(_put, text)
    own = os.environ.get(SETTING)
    return _compiled(own).sub(PUT, text) if own else text


def is_secret_name(name: str) -> bool:
    """Tell whether a value of such a name should not be shown."""
    return _compiled(_SECRET_NAME).fullmatch(name[:200]) is not None


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
    return found.groupdict().get("kept", "") + PUT


@cache
def _compiled(pattern: str) -> "re.Pattern[str]":
    """Compile when first needed: most programs keep no secret."""
    return re.compile(pattern)
