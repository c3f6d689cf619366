"""Train the bundled model: ``python -m training WORK``. The same command resumes a training."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from unmemorize import TestbedError


def main() -> int:
    """Train what is missing, write the package's assets, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument(
        "work",
        type=Path,
        nargs="?",
        default=Path("work/testbed"),
        help="folder for downloads, checkpoints and finished parts, about 2 GB",
    )
    parser.add_argument(
        "--train-only", action="store_true", help="leave the assets of the package as they are"
    )
    arguments = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"
    )
    try:
        from training.assemble import write_assets
        from training.recipe import train_all
    except ImportError as problem:
        way_out = "pip install 'unmemorize[testbed]'"
        print(f"training needs more packages ({problem}). {way_out}", file=sys.stderr)
        return 1
    try:
        model = train_all(arguments.work)
        if not arguments.train_only:
            write_assets(model)
    except TestbedError as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
