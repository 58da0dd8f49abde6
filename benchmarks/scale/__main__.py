"""One measurement, in this process, which imports no more than it needs. Others start it."""

import argparse
import json
import sys
from pathlib import Path

from benchmarks.process import BenchmarkError
from benchmarks.scale.series import SERIES


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("name", choices=list(SERIES))
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--items", type=int, required=True)
    parser.add_argument("--directory", type=Path, required=True)
    given = parser.parse_args()
    try:
        print(json.dumps(SERIES[given.name].measure(given.size, given.items, given.directory)))
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
