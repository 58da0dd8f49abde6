"""Do to stagerun what the world does, count it, and write it down.

python -m tests.campaign                      # what CI does, within ten minutes
python -m tests.campaign --size release       # an hour or two
python -m tests.campaign --seeds 5000         # one part of it, or several
python -m tests.campaign --plant all          # does the simulation find bugs on purpose?
python -m tests.campaign --page RELIABILITY.md --of kept.json more.json
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec
from attrs import asdict

from tests.campaign import clocks, disk, files, images, kills, processes, upstream
from tests.campaign.page import keep, page, read
from tests.campaign.part import Part
from tests.campaign.swarming import plants, seeds, year
from tests.simulation.plants import PLANTS

_SIZES: Final[Mapping[str, Mapping[str, int]]] = {
    "ci": {
        "kills": 1_000,
        "seeds": 1_000,
        "plant": 1_000,
        "images": 20_000,
        "disk": 150,
        "processes": 3,
        "clocks": 3,
        "upstream": 10,
    },
    "release": {
        "kills": 50_000,
        "seeds": 20_000,
        "plant": 1_000,
        "images": 1_000_000,
        "disk": 0,
        "processes": 50,
        "clocks": 50,
        "files": 5,
        "upstream": 200,
        "days": 365,
    },
    "soak": {
        "kills": 250_000,
        "seeds": 105_000,
        "plant": 1_000,
        "images": 1_000_000,
        "disk": 0,
        "processes": 1_000,
        "clocks": 200,
        "files": 50,
        "upstream": 2_000,
        "days": 365,
    },
}
"""How many trials of each part. `disk`: 0 is every call, in turn."""


def main() -> int:
    """Run what was asked for; 1 if anything was violated."""
    given = _options()
    if given.of:
        given.page.write_text(page(read(given.of)))
        return 0
    asked = {name: getattr(given, name) for name in _SIZES["soak"] if getattr(given, name) != ""}
    asked = {name: value for name, value in asked.items() if value is not None}
    parts = list[Part]()
    for part in _parts(asked or dict(_SIZES[given.size]), given):
        parts.append(part)
        told = f"{part.name}: {part.trials:,} trials, {len(part.violations)} violations"
        print(f"{told}, {part.seconds:.0f} s", file=sys.stderr, flush=True)
        for line in [part.skipped, *part.violations]:
            if line:
                print(f"  {line}", file=sys.stderr, flush=True)
        if given.keep is not None:
            keep(parts, given.keep)
    if given.json:
        encoded = msgspec.json.encode([asdict(part) for part in parts])
        print(msgspec.json.format(encoded).decode())
    if given.page is not None:
        with tempfile.TemporaryDirectory() as folder:
            kept = Path(folder) / "kept.json"
            keep(parts, kept)
            given.page.write_text(page(read([kept])))
    return int(any(part.violations for part in parts))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaign",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", choices=[*_SIZES], default="ci")
    parser.add_argument("--kills", type=int, metavar="N", help="kill -9")
    parser.add_argument("--seeds", type=int, metavar="N", help="simulated systems")
    parser.add_argument("--plant", choices=["all", *PLANTS], help="look for bugs on purpose")
    parser.add_argument("--images", type=int, metavar="N", help="files after a power loss")
    parser.add_argument("--disk", type=int, metavar="N", help="faults of the disk; 0: all")
    parser.add_argument("--processes", type=int, metavar="N", help="rounds of several processes")
    parser.add_argument("--clocks", type=int, metavar="N", help="rounds of clocks that jump")
    parser.add_argument("--files", type=int, metavar="N", help="rounds of files gone bad")
    parser.add_argument("--upstream", type=int, metavar="N", help="rounds of faulty servers")
    parser.add_argument("--days", type=int, metavar="N", help="simulated days of schedules")
    parser.add_argument("--first", type=int, default=0, help="the first seed of the simulation")
    parser.add_argument("--most", type=int, default=1_000, help="seeds in which to find a plant")
    parser.add_argument("--seed", type=int, default=1, help="of the other parts")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="write them to a file")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the page")
    parser.add_argument("--of", type=Path, nargs="+", default=[], help="... of kept files")
    return parser.parse_args()


def _parts(asked: Mapping[str, int | str], given: argparse.Namespace) -> Iterator[Part]:
    """Run the parts that were asked for, in the order of what they find."""
    with (
        tempfile.TemporaryDirectory(prefix="stagerun-campaign-") as place,
        tempfile.TemporaryDirectory(prefix="stagerun-campaign-", dir=images.scratch()) as quick,
    ):
        folder, memory, seed = Path(place), Path(quick), given.seed
        folder.chmod(0o711)  # some parts have files that another user is refused

        def planted(which: int | str) -> Part:
            return plants(given.most, None if which in ("all", 1_000) else str(which))

        do: Mapping[str, Callable[[int], Part]] = {
            "kills": lambda count: kills.run(count, seed, _fresh(memory)),
            "seeds": lambda count: seeds(count, given.first),
            "plant": planted,
            "images": lambda count: images.run(count, seed, _fresh(memory)),
            "disk": lambda count: disk.run(count or None, seed, _fresh(folder)),
            "processes": lambda count: processes.run(count, seed, _fresh(folder)),
            "clocks": lambda count: clocks.run(count, seed, _fresh(folder)),
            "files": lambda count: files.run(count, seed, _fresh(folder)),
            "upstream": lambda count: upstream.run(count, seed),
            "days": lambda count: year(count, seed, _fresh(folder)),
        }
        for name, run in do.items():
            if name in asked:
                yield run(asked[name])  # type: ignore[arg-type] # a plant is asked for by name


def _fresh(folder: Path) -> Path:
    place = Path(tempfile.mkdtemp(dir=folder))
    place.chmod(0o711)
    return place


if __name__ == "__main__":
    sys.exit(main())
