"""What must not be kept: secrets, taken out of every text before it is stored, logged or shown.

Errors, tracebacks, log lines and reports are texts; items, params and results are values that the
next stage needs, and are kept as they are. The shapes are the usual ones; whoever has secrets of
another shape names it in ``STAGERUN_REDACT``, a regular expression.

Each shape has a sign, a few letters with which it begins. Signs are looked for first, which takes
nanoseconds, and a pattern is tried only where a sign stands. So a text without secrets costs next
to nothing, and one that is made to be slow takes microseconds a kilobyte: where a pattern may run
on without a bound, it either takes what it has run over or stops where the next sign can begin.
"""

import os
import re
from collections.abc import Mapping
from functools import cache
from typing import Final

from stagerun.errors import SettingError

__all__ = ["PUT", "SETTING", "check", "is_secret_name", "own", "redacted"]

PUT: Final = "[redacted]"
"""What stands where a secret was."""
SETTING: Final = "STAGERUN_REDACT"

_WORD: Final = r"(?:(?<![a-z])|(?-i:(?<=[a-z\d])(?=[A-Z])))"  # also in dbPass
_KEY_OF: Final = "|".join(
    rf"(?<={whose})|(?<={whose}[_-])" for whose in ("api", "access", "private", "secret")
)
_NAMES: Final = {
    "pass": rf"pass(?:words?|wd|phrase|code)|{_WORD}pass",
    "pwd": rf"{_WORD}pwd",
    "secret": r"secrets?",
    "token": r"token",
    "key": rf"(?:{_KEY_OF})keys?",
    "authorization": r"authorization",
    "cookie": r"cookies?",
    "credential": r"credentials?",
    "sess": r"sess(?:ion)?[_-]?id",
    "sig": rf"{_WORD}sig(?:nature|(?=\s?=|\Z))",
}
"""Names of secrets by their signs, in any case; more may stand before them, as in ``db_token``."""

_UNCOUNTED: Final = (
    r"(?![_-]?(?:counts?|limits?|sizes?|len(?:gths?)?|totals?|used|usage|types?)(?![a-z]))"
)
"""Comes after a name: ``token_count`` is no secret."""

_SECRET_NAME: Final = rf"(?is:.*(?:{'|'.join(_NAMES.values())}){_UNCOUNTED}(?:[_-].*)?)"
_QUOTE: Final = r"\\{0,3}[\"']"  # escaped in JSON that is a text of JSON
_GAP: Final = r"[ \t]{0,30}+\s{0,3}+"
_IN_BRACKETS: Final = r"[\[({](?:[^\[\](){}\r\n]++|[\[({][^\[\](){}\r\n]*+[\])}])*+"
_VALUE: Final = (
    r"(?!\[redacted\])"
    r"(?![^\w\s\[({\"']{1,2}(?:\s|\Z))"  # lone punctuation: Unexpected token: < in JSON
    rf"(?:b?(?P<open>{_QUOTE})(?>[^\r\n]*?(?<!\\)(?P=open)|[^\r\n]*)"
    rf"|{_IN_BRACKETS}|[^\s,;&)}}\]\"']+(?<!\\))"
)
_HEADER_VALUE: Final = (  # to the end of the line, or to the quote that began before the name
    r"(?!\[redacted\])(?:[^\r\n\"']++|\"[^\r\n\"]*+\"|'[^\r\n']*+')++"
)


def _named(name: str) -> tuple[str, str]:
    """Shape ``name=value``, ``"name": "value"``, ``name: value`` and ``("name", "value")``."""
    kept = (
        rf"(?i:{name}){_UNCOUNTED}(?:[_-][\w-]{{0,40}}+)?"
        rf"(?:(?:{_QUOTE})?{_GAP}[=:][=>]?+|(?P<pair>{_QUOTE}{_GAP},)){_GAP}"
    )
    return kept, rf"(?(pair)(?=b?{_QUOTE})){_VALUE}(?(pair)(?={_GAP}[)\]]|\Z))"


def _header(name: str) -> tuple[str, str]:
    """Shape ``Name: value`` to the end of the line, beside what every name has."""
    kept, value = _named(name)
    header = rf"(?i:{name})(?P<header>{_GAP}:{_GAP})"
    return rf"{header}|{kept}", rf"(?(header){_HEADER_VALUE}|{value})"


_SHAPES: Final[Mapping[str, Mapping[str, tuple[str, str]]]] = {
    "": {
        **{sign: _named(name) for sign, name in _NAMES.items()},
        "authorization": _header(_NAMES["authorization"]),
        "cookie": _header(_NAMES["cookie"]),
        # where no header's name stands before them
        "bearer": (r"(?<!\w)(?i:bearer)\s{1,3}", r"(?=[\w.~+/=-]*?\d)[\w.~+/=-]{8,}+"),
        "basic": (r"(?<!\w)(?i:basic)\s{1,3}", r"(?=[\w.~+/=-]*?\d)[\w.~+/=-]{8,}+"),
        # keys of well-known services
        "akia": (r"(?<!\w)", r"AKIA[0-9A-Z]{16}(?!\w)"),
        "aiza": (r"(?<!\w)", r"AIza[\w-]{30,}+"),
    },
    # JSON web tokens; nothing that belongs to them stands before one
    ".": {"eyj": (r"(?<![\w-])", r"eyJ[\w-]{10,}+\.[\w-]{5,}+\.[\w-]{5,}+")},
    # user:password@ in an address, to its last @
    "@": {"://": (r"://", r"[^\s/:@\"']*+:[^\s/\"']+(?=@)")},
    "-": {
        "sk-": (r"(?<!\w)", r"sk-[\w-]{16,}+"),
        "glpat-": (r"(?<!\w)", r"glpat-[\w-]{16,}+"),
        "xox": (r"(?<!\w)", r"xox[abeprs]-[\w-]{10,}+"),
        # a private key, whole or cut
        "-----begin": (
            r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----",
            r"(?!\[redacted\])(?s:.{0,8000}?(?=-----END)|.{0,8000}+)",
        ),
    },
    "_": {
        "sk_": (r"(?<!\w)", r"sk_(?:live|test)_\w{10,}+"),
        "rk_": (r"(?<!\w)", r"rk_(?:live|test)_\w{10,}+"),
        "gh": (r"(?<!\w)", r"gh[opsur]_\w{20,}+"),
        "github_pat_": (r"(?<!\w)", r"github_pat_\w{20,}+"),
        "hf_": (r"(?<!\w)", r"hf_[^\W_]{20,}+"),
        "npm_": (r"(?<!\w)", r"npm_[^\W_]{30,}+"),
    },
}
"""A character without which none of them can be there (any text has ""), signs in lower case, and
what stands where the sign begins: what is kept, and the secret after it."""


def redacted(text: str) -> str:
    """Return *text* without the secrets in it.

    ``STAGERUN_REDACT`` is read from the process's environment; see `own`.
    """
    parts: list[str] = []
    done = 0
    for start, end in _secrets(text):
        if start >= done:
            parts += text[done:start], PUT
        done = max(done, end)
    if done:
        text = "".join(parts) + text[done:]
    pattern = own()
    return text if pattern is None else pattern.sub(PUT, text)


def is_secret_name(name: str) -> bool:
    """Tell whether a value of such a name should not be shown."""
    return _compiled("", _SECRET_NAME).fullmatch(name[:200]) is not None


@cache
def own() -> "re.Pattern[str] | None":
    """Return the pattern that the process's environment names.

    It is read once in a process: children have it from their parent, readers need no runtime. Who
    changes the environment later, a test for one, calls ``own.cache_clear()``.

    Raises:
        SettingError: It cannot be used.
    """
    return check(os.environ)


def check(environ: Mapping[str, str]) -> "re.Pattern[str] | None":
    """Return the pattern that *environ* names, if it names one.

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
    return pattern if given else None


def _secrets(text: str) -> list[tuple[int, int]]:
    """Return where secrets begin and end, in order; they may overlap."""
    lowered = text.lower()
    if len(lowered) != len(text):  # of all letters only this one becomes two
        lowered = text.replace("\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}", "i").lower()
    places: list[tuple[int, int]] = []
    for needed, shapes in _SHAPES.items():
        if needed in text:
            for sign, shape in shapes.items():
                if sign in lowered:
                    places += _places(text, lowered, sign, _compiled(*shape))
    places.sort()
    return places


def _places(
    text: str, lowered: str, sign: str, pattern: "re.Pattern[str]"
) -> list[tuple[int, int]]:
    places = []
    at = lowered.find(sign)
    while at >= 0:
        found = pattern.match(text, at)
        if found is None:
            at += len(sign)
        else:
            at = found.end()
            places.append((found.end(1), at))
        at = lowered.find(sign, at)
    return places


@cache
def _compiled(kept: str, secret: str) -> "re.Pattern[str]":
    """Compile when first needed: most texts have no sign. What is kept is the first group."""
    return re.compile(f"({kept}){secret}")
