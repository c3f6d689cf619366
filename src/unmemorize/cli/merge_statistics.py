"""The command ``merge-statistics``."""

from collections.abc import Iterable, Iterator
from functools import reduce
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from unmemorize._errors import StatisticsError
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
        files: Statistics files of different prompts. No two may be of the same ones.
        output: Statistics file to write (.safetensors).
    """
    merged = reduce(Statistics.merge, _different(files))
    merged.save(output)
    print_line(f"{merged.count} prompts, {len(merged.mean)} value layers: {output}")
    print_hint("unmemorize threshold")
    print_answer(prompts=merged.count, value_layers=len(merged.mean), file=output)


def _different(files: Iterable[Path]) -> Iterator[Statistics]:
    """Load statistics files, each of other prompts.

    Raises:
        StatisticsError: two are of the same prompts, which would count twice.
    """
    known: dict[str, Path] = {}
    for file in files:
        statistics = Statistics.load(file)
        if statistics.prompts and statistics.prompts in known:
            raise StatisticsError(
                f"{file}: statistics of the same prompts as {known[statistics.prompts]}, which "
                "would count twice. Name each shard once."
            )
        known[statistics.prompts] = file
        yield statistics
