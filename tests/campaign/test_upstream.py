"""The part on faulty upstreams: a share of it, and proof that its judge sees what goes wrong."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from attrs import evolve

from stagerun.http import Client, Response
from stagerun.testing.upstream import Upstream
from tests.campaign import upstream
from tests.campaign.upstreamfaults import PLACES, Item

pytestmark = pytest.mark.real


def test_a_few_rounds_come_to_nothing_that_is_wrong() -> None:
    part = upstream.run(rounds=1, seed=7)
    assert part.violations == ()
    assert part.trials == 24


def test_a_seed_draws_the_same_each_time() -> None:
    def drawn(seed: int) -> list[Item]:
        nowhere = Upstream("http://127.0.0.1:1", Path())
        places = dict.fromkeys(PLACES, "http://127.0.0.1:1/")
        world = upstream.World(cast("Any", None), Path(), nowhere, places)
        chance = random.Random(seed)
        return [upstream._item(world, f"/{number}", chance, number) for number in range(30)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def unbounded(patch: pytest.MonkeyPatch) -> None:
    """Calls forget their total."""
    real = Client.__init__

    def init(self: Client, client: Any, *, total: float, max_bytes: int) -> None:
        real(self, client, total=total * 4, max_bytes=max_bytes)

    patch.setattr(Client, "__init__", init)


def too_eager(patch: pytest.MonkeyPatch) -> None:
    """What cannot go better is tried again."""
    patch.setattr(upstream, "worth_another_try", lambda _: True)


def mixed_up(patch: pytest.MonkeyPatch) -> None:
    """An item gets the answer of the one before it."""
    real, last = Client.get, list[Response]()

    async def get(self: Client, url: str, params: Any = None) -> Response:
        last.append(await real(self, url, params))
        return evolve(last[-1], content=last[-2].content) if len(last) > 1 else last[-1]

    patch.setattr(Client, "get", get)


def restless(patch: pytest.MonkeyPatch) -> None:
    """Nobody heeds Retry-After."""
    patch.setattr("stagerun.http.parse_retry_after", lambda _text, _now: None)


def big_eater(patch: pytest.MonkeyPatch) -> None:
    """Bodies are read whatever their size."""
    real = Client.__init__

    def init(self: Client, client: Any, *, total: float, max_bytes: int) -> None:
        real(self, client, total=total, max_bytes=max_bytes * 10**6)

    patch.setattr(Client, "__init__", init)


@pytest.mark.parametrize(
    ("plant", "seen_as", "rounds"),
    [
        (unbounded, "and lasted", 1),
        (too_eager, "asked again after", 1),
        (mixed_up, "the value is not its own", 1),
        (restless, "the server wanted 0.1 s", 3),
        (big_eater, "which is HttpTooLarge", 3),
    ],
)
def test_a_planted_bug_is_seen(
    plant: Callable[[pytest.MonkeyPatch], None],
    seen_as: str,
    rounds: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch)
    for seed in range(2, 6):  # on a busy machine a round may end before the bug has shown
        found = upstream.run(rounds=rounds, seed=seed).violations
        if any(seen_as in each for each in found):
            return
    pytest.fail(f"it was not seen: {found}")
