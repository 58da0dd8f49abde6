"""A disk, as far as power loss goes: what is on it for certain, and what may be."""

import random
import shutil
from pathlib import Path
from typing import Final

from attrs import define, field

from tests.campaign.shim import Change, Op

__all__ = ["Platter"]

SECTOR: Final = 512
"""Bytes that are written whole or not at all."""
TORN: Final = 0.2
"""Share of the writes that were not synced, and have begun, of which some sectors are missing."""


@define(eq=False)
class _File:
    """A file: what is on the disk for certain, and what may be."""

    synced: bytearray = field(factory=bytearray)
    pending: list[Change] = field(factory=list)

    def image(self, dice: random.Random, share: float) -> bytearray:
        """Return the file as a power loss may leave it."""
        if not self.pending:
            return self.synced
        left = bytearray(self.synced)
        for change in self.pending:
            if dice.random() < share:
                _apply(change, left, dice if dice.random() < TORN else None)
        return left


@define(eq=False)
class Platter:
    """The files of a database, by their names, as changes come in.

    Entries of the folder (a file that was deleted) become certain with the next fsync of any file,
    as file systems with an ordered journal have it; data only with one of its own file. An fsync
    that failed has let go of what was to be written: it is there or not, and no later one helps.
    """

    fate: random.Random
    """Draws what a failed fsync has left."""
    files: dict[str, _File] = field(factory=dict)
    deleted: dict[str, _File] = field(factory=dict)

    @property
    def pending(self) -> bool:
        """Whether a power loss now could leave more than one image."""
        return bool(self.deleted) or any(file.pending for file in self.files.values())

    def take(self, change: Change) -> None:
        """Take the next change of the record."""
        name = Path(change.path).name
        match change.op:
            case Op.WRITE | Op.TRUNCATE:
                self.files.setdefault(name, _File()).pending.append(change)
            case Op.UNLINK:
                if name in self.files:
                    self.deleted.setdefault(name, self.files.pop(name))
            case Op.SYNC | Op.FAILED_SYNC:
                file = self.files.setdefault(name, _File())
                for write in file.pending:
                    if change.op is Op.SYNC or self.fate.random() < 0.5:
                        _apply(write, file.synced)
                file.pending.clear()
                if change.op is Op.SYNC:
                    self.deleted.clear()

    def put(self, folder: Path, database: str, dice: random.Random) -> None:
        """Write the files into *folder* as a power loss may leave them, and nothing else."""
        for old in folder.glob(f"{database}*"):
            if old.is_dir():
                shutil.rmtree(old)
            else:
                old.unlink()
        share = dice.choice((0.5, 0.5, 0.5, 0.5, 0.1, 0.9, 0.0, 1.0))
        undeleted = {name: file for name, file in self.deleted.items() if dice.random() < 0.5}
        files = self.files | undeleted
        for name, file in files.items():
            (folder / name).write_bytes(file.image(dice, share))
        match dice.randrange(4):  # its content is void after a crash; it may be there all the same
            case 0:
                (folder / f"{database}-shm").write_bytes(dice.randbytes(32_768))
            case 1:
                (folder / f"{database}-shm").write_bytes(bytes(dice.choice((0, 3, 32_768))))


def _apply(change: Change, content: bytearray, torn_by: random.Random | None = None) -> None:
    """Make a change in the content; of a torn write some sectors only."""
    if change.op is Op.TRUNCATE:
        del content[change.offset :]
        content.extend(bytes(change.offset - len(content)))
        return
    end = change.offset + len(change.data)
    content.extend(bytes(max(0, end - len(content))))
    if torn_by is None:
        content[change.offset : end] = change.data
        return
    place = change.offset
    while place < end:
        after = min(end, (place // SECTOR + 1) * SECTOR)
        if torn_by.random() < 0.5:
            start = place - change.offset
            content[place:after] = change.data[start : start + after - place]
        place = after
