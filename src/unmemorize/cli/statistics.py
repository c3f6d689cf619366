"""The command ``statistics``."""

import shutil
from itertools import islice
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from unmemorize import testbed
from unmemorize._errors import StatisticsError
from unmemorize._prompts import as_prompts
from unmemorize.cli._common import prompts_or_bundled, refuse_unwritable
from unmemorize.cli._console import print_hint, print_line, show_progress
from unmemorize.cli._execution_options import EngineOptions, parse_shard
from unmemorize.cli._model_options import ModelOptions, PromptsOption
from unmemorize.statistics import compute_statistics


def command(
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    prompts: PromptsOption = None,
    batch: PositiveInt = 64,
    shard: Annotated[str | None, Parameter(metavar="I/N")] = None,
    raw: Path | None = None,
    model: ModelOptions = ModelOptions(),
    workers: EngineOptions = EngineOptions(),
) -> None:
    """Measure how strongly each value neuron responds to ordinary prompts (step 1).

    Give many captions that are not memorized (the paper uses 50,000). Neurons that respond far
    more strongly to one prompt become candidates later. In models whose value layers read the text
    itself, such as Stable Diffusion, only the text encoder and these layers run. Other models run
    their denoiser once per prompt, up to the last of these layers. The number of prompts is not
    limited by memory, and the same command resumes after an interruption.

    Args:
        output: Statistics file to write (.safetensors).
        batch: Prompts per pass of the text encoder.
        shard: Measure only every N-th prompt, starting with the I-th; see merge-statistics.
        raw: Folder for the activations of every single prompt, with one file per batch.
    """
    refuse_unwritable(output, StatisticsError)
    part = parse_shard(shard)
    start, step = (part.number - 1, part.count) if part else (0, 1)
    loaded = model.load()
    given = prompts_or_bundled(loaded, prompts, lambda: as_prompts(testbed.captions("train")))
    partial = output.with_name(f".{output.name}.partial")
    with show_progress("statistics") as progress:
        statistics = compute_statistics(
            loaded,
            islice(given, start, None, step),
            batch=batch,
            raw=raw,
            folder=partial,
            execution=workers.execution(progress),
        )
    statistics.save(output)
    shutil.rmtree(partial)
    print_line(f"{statistics.count} prompts, {len(statistics.mean)} value layers: {output}")
    if part is None:
        print_hint("unmemorize threshold")
    else:
        print_hint(f"unmemorize merge-statistics, when all {part.count} shards are done")
