"""What the model server says: made of the words it was given, the same for the same text.

There is no model here. Prose is a few sentences over the salient words of a text. A value for a
JSON schema has the types, sizes and ranges that the schema asks for, its strings are those words.
A vector is the sum of its text's words, so texts with words in common lie close together.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from math import ceil, floor, sqrt
from typing import Any, Final

__all__ = ["embedding", "prose", "salient", "value"]

DIMENSIONS: Final = 64
USUAL_WORDS: Final = 80
MOST_WORDS: Final = 2000
USUAL_ITEMS: Final = 3
DEEPEST: Final = 8
"""Levels of a value: a schema may contain itself."""

COMMON: Final = """
    about above after again against also although always among another around because become been
    before being below between both came come could does doing done down during each either else
    even ever every first from given gives going have having here however into itself just keep
    kept last less like made make makes many might more most much must need never nobody none
    nothing often once only other others over quite rather really said same says seem shall should
    since some something somebody still such take than that their them themselves then there these
    they thing things this those though through thus today told took under until upon used uses
    using very want wants well went were what when where whether which while whom whose will with
    within without would year years your yours answer please write following text question
"""
SENTENCES: Final = (
    "First comes {a}, and {b} follows from it.",
    "What is said of {a} holds for {b} as well.",
    "Between {a} and {b} stands {c}.",
    "Nobody doubts {a}; with {b} it is another matter.",
    "So {a} leads to {b}, and {b} back to {c}.",
    "Where {a} ends, {b} has already begun.",
)


def salient(text: str) -> list[str]:
    """Return the words that a text is about, the most frequent first; at least one."""
    common = set(COMMON.split())
    words = [word for word in _words(text) if len(word) > 3 and word not in common]
    by_count = sorted(Counter(words).items(), key=lambda pair: -pair[1])  # stable: as they came
    return [word for word, _ in by_count] or ["silence"]


def prose(text: str, length: int | None = None) -> str:
    """Return sentences over the salient words of a text, of about `length` words."""
    wanted = min(USUAL_WORDS if length is None else max(1, length), MOST_WORDS)
    words, shapes = cycle(salient(text)), cycle(SENTENCES)
    said: list[str] = []
    while len(said) < wanted:
        a, b, c = next(words), next(words), next(words)
        said += next(shapes).format(a=a, b=b, c=c).split()
    return " ".join(said[:wanted]).rstrip(".,;") + "."


def embedding(text: str) -> list[float]:
    """Return the text's vector, of length one."""
    sums = [0] * DIMENSIONS
    for word in _words(text) or [text]:
        digest = hashlib.blake2b(word.encode(errors="replace"), digest_size=DIMENSIONS).digest()
        sums = [total + byte - 127 for total, byte in zip(sums, digest, strict=True)]
    length = sqrt(sum(each * each for each in sums)) or 1.0
    return [each / length for each in sums]


def value(schema: Mapping[str, Any], text: str) -> Any:
    """Return a value that satisfies a JSON schema, its strings made of the words of a text.

    Of an `enum` the member that the text speaks of most is taken. Not known are `not`, `if`,
    `patternProperties`, and a `pattern` that no plain word or phrase can match.
    """
    return _Writer(schema, text).value(schema, "", 0)


class _Writer:
    def __init__(self, root: Mapping[str, Any], text: str) -> None:
        self._root = root
        self._text = text
        self._lowered = text.lower()
        self._phrases = _phrases(salient(text))

    def value(self, schema: Any, path: str, depth: int) -> Any:
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._member(schema["enum"], path)
        if parts := schema.get("anyOf") or schema.get("oneOf"):
            return self.value(self._choice(parts, depth), path, depth)
        makers = {
            "object": self._object,
            "array": self._array,
            "string": self._string,
            "integer": self._integer,
            "number": self._number,
            "boolean": self._boolean,
        }
        make = makers.get(_type(schema))
        return make and make(schema, path, depth)

    def _resolved(self, schema: Any) -> Mapping[str, Any]:
        """Follow references, and lay the parts of `allOf` over each other."""
        found = schema if isinstance(schema, Mapping) else {"type": "string"}
        for _ in range(DEEPEST):
            reference = found.get("$ref")
            if not isinstance(reference, str):
                break
            target: Any = self._root
            for step in reference.removeprefix("#").strip("/").split("/"):
                target = target[step] if step else target
            found = target
        for part in found.get("allOf", ()):
            found = {**found, **self._resolved(part)}
        return found

    def _choice(self, parts: Sequence[Any], depth: int) -> Any:
        """The first that is more than null; deep down the first that ends."""
        ends = [part for part in parts if _type(self._resolved(part)) not in {"object", "array"}]
        if depth > DEEPEST and ends:
            return ends[0]
        full = [part for part in parts if _type(self._resolved(part)) != "null"]
        return (full or parts)[0]

    def _object(self, schema: Mapping[str, Any], path: str, depth: int) -> dict[str, Any]:
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        names = [name for name in properties if depth <= DEEPEST or name in required]
        made = {name: self.value(properties[name], f"{path}/{name}", depth + 1) for name in names}
        others = schema.get("additionalProperties")
        if isinstance(others, Mapping):
            for _ in range(USUAL_ITEMS if depth <= DEEPEST else 0):
                name = next(self._phrases).split()[0]
                made[name] = self.value(others, f"{path}/{name}", depth + 1)
        return made

    def _array(self, schema: Mapping[str, Any], path: str, depth: int) -> list[Any]:
        least, most = schema.get("minItems", 0), schema.get("maxItems", MOST_WORDS)
        count = min(max(USUAL_ITEMS if depth <= DEEPEST else 0, least), most)
        firsts = schema.get("prefixItems", [])
        rest = schema.get("items", {"type": "string"})
        if rest is False:
            count = len(firsts)
        parts = [*firsts, *[rest] * (count - len(firsts))]
        return [self.value(part, f"{path}/{i}", depth + 1) for i, part in enumerate(parts)]

    def _string(self, schema: Mapping[str, Any], _path: str, _depth: int) -> str:
        least, most = schema.get("minLength", 0), schema.get("maxLength", 2000)
        phrase = next(self._phrases)
        while len(phrase) < least:
            phrase = f"{phrase} {next(self._phrases)}"
        word = phrase.split()[0]
        snake = "_".join(phrase.split())
        shapes = [phrase, word, snake, word.title(), snake.upper(), "2030-01-02", "1", "#aabbcc"]
        fixed = {"date": "2030-01-02", "date-time": "2030-01-02T03:04:05Z", "time": "03:04:05Z"}
        if schema.get("format") in fixed:
            return fixed[schema["format"]]
        pattern = schema.get("pattern")
        fit = [shape for shape in shapes if pattern is None or re.search(pattern, shape)]
        fitting = [shape for shape in fit if least <= len(shape) <= most]
        return fitting[0] if fitting else phrase[:most]

    def _integer(self, schema: Mapping[str, Any], path: str, _depth: int) -> int:
        step = schema.get("multipleOf", 1)
        low, high = _range(schema, nudge=1)
        low, high = ceil(low / step), floor(high / step)
        return int((low + self._drawn(path, max(1, high - low + 1))) * step)

    def _number(self, schema: Mapping[str, Any], path: str, depth: int) -> float:
        step = schema.get("multipleOf")
        if step:
            return float(self._integer(schema, path, depth))
        low, high = _range(schema, nudge=0)
        return round(low + (high - low) * (1 + self._drawn(path, 98)) / 100, 6)

    def _boolean(self, _schema: Mapping[str, Any], path: str, _depth: int) -> bool:
        return bool(self._drawn(path, 2))

    def _member(self, members: Sequence[Any], path: str) -> Any:
        counts = [self._lowered.count(str(member).lower()) for member in members]
        best = [m for m, count in zip(members, counts, strict=True) if count == max(counts)]
        return best[self._drawn(path, len(best))]

    def _drawn(self, path: str, among: int) -> int:
        """A number below `among` that the text and the place in the value decide."""
        digest = hashlib.blake2b(f"{path} {self._text}".encode(errors="replace"), digest_size=8)
        return int.from_bytes(digest.digest()) % among


def _type(schema: Mapping[str, Any]) -> str:
    named = schema.get("type")
    if isinstance(named, list):
        named = next((each for each in named if each != "null"), "null")
    if named is None:
        named = "object" if "properties" in schema else "array" if "items" in schema else "string"
    return str(named)


def _range(schema: Mapping[str, Any], nudge: int) -> tuple[float, float]:
    """The least and the greatest number; ten apart where the schema leaves it open."""
    low, high = schema.get("minimum"), schema.get("maximum")
    if "exclusiveMinimum" in schema:
        low = schema["exclusiveMinimum"] + nudge
    if "exclusiveMaximum" in schema:
        high = schema["exclusiveMaximum"] - nudge
    if low is None:
        low = min(1, high - 9) if high is not None else 1
    return low, low + 9 if high is None else high


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", re.sub(r"\[\[[\w-]+\]\]", " ", text.lower()))


def _phrases(words: list[str]) -> Iterator[str]:
    """Each word by itself; when all have been said, pairs and triples of them."""
    yield from words
    for size in cycle((2, 3)):
        for start in range(len(words)):
            yield " ".join(words[(start + i) % len(words)] for i in range(size))
