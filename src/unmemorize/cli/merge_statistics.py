"""The command ``merge-statistics``."""

from functools import reduce
from pathlib import Path
from typing import Annotated

import typer

from unmemorize.cli._console import console
from unmemorize.statistics import Statistics


def command(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILES...", help="Statistics of different prompts.", show_default=False
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where to write them (.safetensors).")
    ],
) -> None:
    """Join activation statistics that were computed in shards; the result is that of all prompts at once, in whatever order."""
    merged = reduce(Statistics.merge, map(Statistics.load, files))
    merged.save(output)
    console.print(f"{merged.count} prompts, {len(merged.mean)} value layers: {output}")
