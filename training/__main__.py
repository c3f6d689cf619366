"""Train the bundled model: ``python -m training WORK``. The same command resumes a training."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from unmemorize import TestbedError


def main() -> int:
    """Parse the command line, train what is missing, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument(
        "work",
        type=Path,
        nargs="?",
        default=Path("work/testbed"),
        help="folder for downloads and checkpoints, about 1 GB",
    )
    work: Path = parser.parse_args().work
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        from training.assemble import train_all
    except ImportError as problem:
        print(
            f"training needs more packages ({problem}). pip install 'unmemorize[testbed]'",
            file=sys.stderr,
        )
        return 1
    try:
        train_all(work)
    except TestbedError as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
