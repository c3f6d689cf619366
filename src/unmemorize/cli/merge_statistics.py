"""The command ``merge-statistics``."""

from functools import reduce
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from unmemorize.cli._console import print_answer, print_hint, print_line
from unmemorize.statistics import Statistics


def command(
    files: Annotated[list[Path], Parameter(metavar="FILE...")],
    /,
    *,
    output: Annotated[Path, Parameter(alias="-o")],
) -> None:
    """Join activation statistics that were computed in shards.

    The result equals the statistics of all prompts computed at once, in any order of the files.

    Args:
        files: Statistics files of different prompts.
        output: Statistics file to write (.safetensors).
    """
    merged = reduce(Statistics.merge, map(Statistics.load, files))
    merged.save(output)
    print_line(f"{merged.count} prompts, {len(merged.mean)} value layers: {output}")
    print_hint("unmemorize threshold")
    print_answer(prompts=merged.count, value_layers=len(merged.mean), file=output)
