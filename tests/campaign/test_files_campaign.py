"""A small share of the campaign on files, and that its checks can fail."""

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from stagerun import StoreError
from stagerun.store.opening import connect
from tests.campaign import files, mutations
from tests.campaign.crowdruns import EXECUTED
from tests.campaign.filefaults import AT_THE_OPENING, UNDER_WAY, Opening, UnderWay

pytestmark = pytest.mark.real


def row(name: str) -> Opening | UnderWay:
    return next(each for each in (*AT_THE_OPENING, *UNDER_WAY) if each.name == name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for parent in (tmp_path, *tmp_path.parents):  # another user is to come through
        if parent.stat().st_uid == os.geteuid() and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    return tmp_path


@pytest.mark.parametrize("name", ["it is garbage", "it may not be written", "it is renamed"])
def test_a_fault_is_told_as_the_table_says(folder: Path, name: str) -> None:
    fault = row(name)
    if reason := files.unavailable(fault):
        pytest.skip(reason)
    assert files.row_violations(fault, folder) == []


def test_a_row_that_promises_too_much_is_found(folder: Path) -> None:
    garbage = row("it is garbage")
    assert isinstance(garbage, Opening)
    promised = Opening("too much", garbage.make)
    assert "the library came to" in files.row_violations(promised, folder)[0]


def test_damage_gives_sentences_and_no_tracebacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(EXECUTED, "2")
    assert mutations.replay(1, 1, tmp_path) == ()


def test_a_reader_that_lets_an_error_through_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_path: Path) -> None:
        raise sqlite3.DatabaseError("database disk image is malformed")

    monkeypatch.setenv(EXECUTED, "2")
    monkeypatch.setattr(mutations, "examine", broken)
    (found,) = mutations.replay(1, 1, tmp_path)
    assert "the doctor: Traceback" in found
    assert found.startswith("python -m tests.campaign.files --only 1 --seed 1")


def test_a_lock_at_the_opening_is_waited_for_and_then_told(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as foreign:
        foreign.execute("BEGIN IMMEDIATE")  # before there is a schema
        began = time.monotonic()
        with pytest.raises(StoreError, match="another program keeps it locked"):
            connect(path, patience=0.2)
        assert time.monotonic() - began < 5
        foreign.execute("COMMIT")
        connect(path, patience=0.2).close()
        foreign.execute("BEGIN IMMEDIATE")
        connect(path, patience=0.0).close()  # its commits will wait, and tell
