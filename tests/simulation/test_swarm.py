"""A few seeds of the swarm in every test run; the campaign does thousands."""

import pytest

from tests.simulation.plants import PLANTS
from tests.simulation.swarm import live


@pytest.mark.parametrize("seed", range(12))
def test_a_system_under_fire_keeps_its_promises(seed: int) -> None:
    verdict = live(seed)
    assert verdict.violations == (), "\n".join(verdict.log)
    assert verdict.counts["runs"]


def test_the_same_seed_gives_the_same_trace() -> None:
    assert [live(5).trace, live(5).trace] == [live(5).trace] * 2
    assert live(6).trace != live(5).trace


def test_a_red_seed_is_red_ten_times_out_of_ten() -> None:
    verdicts = [live(0, "one-worker-more") for _ in range(10)]
    assert verdicts[0].violations
    assert {verdict.violations for verdict in verdicts} == {verdicts[0].violations}
    assert {verdict.trace for verdict in verdicts} == {verdicts[0].trace}


@pytest.mark.parametrize("plant", ["gaps-in-the-events", "one-worker-more", "no-retries"])
def test_a_bug_on_purpose_is_found_and_taken_out_again(plant: str) -> None:
    assert any(PLANTS[plant].is_found(live(seed, plant).violations) for seed in range(30))
    assert live(0).violations == ()


def test_there_are_enough_bugs_on_purpose() -> None:
    assert len(PLANTS) >= 12
