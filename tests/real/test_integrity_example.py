import hashlib
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from examples.integrity.files import Row, state_of
from examples.integrity.pipeline import (
    Answer,
    answer_to,
    check,
    pages,
    pipeline,
    records,
    report,
    worth_another_try,
)
from examples.integrity.service import installed_entities, running_service
from examples.integrity.site import Page
from stagerun import Counts, Pipeline, Result, Retry, open_runtime

pytestmark = pytest.mark.real


def with_pages(**options: Any) -> Pipeline:
    """The example with other policies of `pages`; its files are few, so no threads are needed."""
    stages = [pages.with_options(**options), records, check.with_options(mode="inline"), report]
    return pipeline.with_options(stages=stages, deadline=30)


RETRY = Retry(attempts=3, base=0.01, on=worth_another_try)
PATIENT = with_pages(retry=RETRY)
QUICK = with_pages(deadline=4, retry=evolve(RETRY, attempt_deadline=0.6))
TOLERANT = with_pages(deadline=4, retry=evolve(RETRY, attempt_deadline=0.6), least_ok=0.75)
TWELVE = {"entities": 2, "records": 1500, "retry_after": 0}  # pages of 250 records


async def test_every_record_is_checked_or_dropped_for_want_of_a_hash(tmp_path: Path) -> None:
    rows = [row for entity in planned().values() for row in entity]
    hashed = sum(row["sha256"] is not None for row in rows)
    assert 0 < hashed < len(rows) == 3000
    async with running_service(**TWELVE) as address:
        result = await ended(tmp_path, {"address": address}, pipeline)  # threads and all
    assert sums(result) == {
        "pages": {"accepted": 12, "ok": 12},
        "records": {"accepted": 12, "ok": 12},
        "check": {"accepted": 3000, "ok": hashed, "skipped": 3000 - hashed},
        "report": {"accepted": 2, "ok": 2},
    }


async def test_the_report_of_an_entity_accounts_for_all_its_records(tmp_path: Path) -> None:
    async with running_service(**TWELVE, hang=3) as address:
        reports = await reported(tmp_path, {"address": address})
    assert {each["entity"] for each in reports} == {*planned()}
    assert sum(each["unseen"] for each in reports) == 3 * 250
    for each in reports:
        without = sum(row["sha256"] is None for row in planned()[each["entity"]])
        assert each.pop("expected") == sum(v for v in each.values() if isinstance(v, int)) == 1500
        assert 0 < each["without_hash"] <= without
        assert each["changed"] == each["missing"] == each["unchecked"] == 0


async def test_three_hung_pages_of_twelve_end_timed_out_and_the_run_succeeded(
    tmp_path: Path,
) -> None:
    async with running_service(**TWELVE, hang=3) as address:
        result = await ended(tmp_path, {"address": address}, TOLERANT)
    assert (result.status, result.cause) == ("succeeded", "completed")
    assert sums(result)["pages"] == {"accepted": 12, "ok": 9, "timed_out": 3}
    assert sums(result)["check"]["accepted"] == 9 * 250


async def test_too_many_hung_pages_fail_the_run_for_its_least_share(tmp_path: Path) -> None:
    async with running_service(**TWELVE, hang=6) as address:
        result = await ended(tmp_path, {"address": address})
    assert (result.status, result.cause) == ("failed", "least_ok")
    assert "pages: 6 of 12 items ok (6 timed out)" in result.message
    assert sums(result)["pages"] == {"accepted": 12, "ok": 6, "timed_out": 6}


async def test_a_dripping_page_is_cut_like_a_silent_one(tmp_path: Path) -> None:
    async with running_service(**TWELVE, drip=1) as address:
        result = await ended(tmp_path, {"address": address})
    assert result.status == "succeeded"
    assert sums(result)["pages"] == {"accepted": 12, "ok": 11, "timed_out": 1}


@pytest.mark.parametrize("mode", ["busy", "reset"])
async def test_a_page_that_is_well_the_second_time_is_fetched_in_two_attempts(
    mode: str, tmp_path: Path
) -> None:
    async with running_service(**TWELVE, **{mode: 2}) as address:
        result = await ended(tmp_path, {"address": address}, PATIENT)
    assert result.status == "succeeded"
    assert sums(result)["pages"] == {"accepted": 12, "ok": 12}
    assert attempts_at_pages(tmp_path) == [1] * 10 + [2] * 2


async def test_a_real_site_may_be_asked_for_some_of_its_entities(tmp_path: Path) -> None:
    first, second = planned()
    async with running_service(**TWELVE | {"records": 100}) as address:
        for wanted in (second, [second]):
            [only] = await reported(tmp_path, {"address": address, "entities": wanted})
            assert only["entity"] == second
        both = await reported(tmp_path, {"address": address, "entities": f"{first},{second}"})
        assert {each["entity"] for each in both} == {first, second}
        result = await ended(tmp_path, {"address": address, "entities": "nobody"})
        assert (result.status, result.cause) == ("failed", "source_error")
        assert "has no entities ['nobody']" in result.message
        [only] = await reported(tmp_path, {"address": f"{address}/", "part": "2/2"})
        assert only["entity"] == second


async def test_without_an_address_it_serves_itself_until_the_last_page_is_settled(
    tmp_path: Path,
) -> None:
    options = {"entities_count": 2, "records": "1500", "hang": 1, "drip": 0, "busy": 1, "reset": 1}
    result = await ended(tmp_path, options)
    assert (result.status, result.cause) == ("succeeded", "completed")
    assert sums(result)["pages"] == {"accepted": 12, "ok": 11, "timed_out": 1}


async def test_a_param_that_nobody_knows_is_named(tmp_path: Path) -> None:
    result = await ended(tmp_path, {"hung": 3})
    assert (result.status, result.cause) == ("failed", "source_error")
    assert "unknown params ['hung']" in result.message


@pytest.mark.parametrize("part", ["0/2", "3/2", "2", 2, "1/x"])
async def test_a_part_that_cannot_be_is_refused(part: Any, tmp_path: Path) -> None:
    async with running_service(entities=1, records=1) as address:
        result = await ended(tmp_path, {"address": address, "part": part})
    assert (result.status, result.cause) == ("failed", "source_error")
    assert f"not {part!r}" in result.message


def test_a_file_is_intact_changed_or_missing(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    digest = hashlib.sha256(b"content").hexdigest()

    def state(size: int | None, sha256: str, path: Path = file) -> str:
        return state_of(Row(str(path), size, sha256))

    assert state(7, digest) == state(None, digest) == "intact"
    assert state(8, digest) == state(7, "0" * 64) == "changed"
    assert state(7, digest, tmp_path / "other") == "missing"
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/zero"), tmp_path / "pipe", tmp_path):
        assert state(None, digest, path) == "missing"


def test_an_answer_that_is_not_the_page_asked_for_is_refused() -> None:
    page = Page("http://there", "pip", 3)
    well = {"entity": "pip", "total": 0, "records": [], "pages": 1}
    assert answer_to(page, well) == Answer("pip", 0, [])
    for wrong in ({"entity": "rich"}, {"total": -1}, {"records": None}):
        with pytest.raises(ValueError, match="page 3 of 'pip'"):
            answer_to(page, well | wrong)


async def ended(folder: Path, params: dict[str, Any], pipeline: Pipeline = QUICK) -> Result:
    async with open_runtime(folder / "runs.db") as runtime:
        run = await runtime.start(pipeline, params=params)
        return await run.wait()


async def reported(folder: Path, params: dict[str, Any]) -> list[dict[str, Any]]:
    async with open_runtime(folder / "runs.db") as runtime:
        run = await runtime.start(QUICK, params=params)
        return [each async for each in (await run.wait()).results()]


def sums(result: Result) -> dict[str, dict[str, int]]:
    """The counts of each stage that are not zero."""
    return {counts.name: nonzero(counts) for counts in result.stages}


def nonzero(counts: Counts) -> dict[str, int]:
    names = ("accepted", "ok", "failed", "timed_out", "cancelled", "skipped", "crashed")
    return {name: getattr(counts, name) for name in names if getattr(counts, name)}


def planned() -> dict[str, list[dict[str, Any]]]:
    """The records that the service has, by entity."""
    entities = installed_entities(TWELVE["entities"], TWELVE["records"])
    return {name: entity.page(0, 1500) for name, entity in entities.items()}


def attempts_at_pages(folder: Path) -> list[int]:
    connection = sqlite3.connect(folder / "runs.db")
    try:
        return sorted(n for (n,) in connection.execute("SELECT attempts FROM items WHERE stage=0"))
    finally:
        connection.close()
