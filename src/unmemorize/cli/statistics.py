"""The command ``statistics``."""

import shutil
from itertools import islice
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from unmemorize import testbed
from unmemorize._bundled import is_bundled
from unmemorize._errors import StatisticsError
from unmemorize._prompts import as_prompts
from unmemorize.cli._common import (
    partial_of,
    prompts_or_bundled,
    refuse_unwritable,
    refuse_without_output,
)
from unmemorize.cli._console import print_answer, print_hint, print_line, show_progress
from unmemorize.cli._execution_options import EngineOptions, parse_shard
from unmemorize.cli._model_options import ModelOptions, PromptsOption
from unmemorize.statistics import (
    compute_statistics,
    default_statistics,
    default_statistics_path,
)


def command(
    *,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
    prompts: PromptsOption = None,
    batch: PositiveInt = 64,
    shard: Annotated[str | None, Parameter(metavar="I/N")] = None,
    raw: Path | None = None,
    model: ModelOptions = ModelOptions(),
    workers: EngineOptions = EngineOptions(),
) -> None:
    """Measure how strongly each value neuron responds to ordinary prompts (step 1).

    Give many captions that are not memorized (the paper uses 50,000). Without any, 2,000 ordinary
    captions of this package are measured, and the result is kept in the cache of the user, where
    localize finds it. Captions like those of the training are better. Neurons that respond far
    more strongly to one prompt become candidates later. In models whose value layers read the text
    itself, such as Stable Diffusion, only the text encoder and these layers run. Other models run
    their denoiser once per prompt, up to the last of these layers. The number of prompts is not
    limited by memory, and the same command resumes after an interruption.

    Args:
        output: Statistics file to write (.safetensors). Needed with --prompts, --shard and --raw.
        batch: Prompts per pass of the text encoder.
        shard: Measure only every N-th prompt, starting with the I-th; see merge-statistics.
        raw: Folder for the activations of every single prompt, with one file per batch.
    """
    if output is None:
        refuse_without_output(StatisticsError, prompts=prompts, shard=shard, raw=raw)
    else:
        refuse_unwritable(output, StatisticsError)
    part = parse_shard(shard)
    loaded = model.load()
    is_plain = prompts is None and part is None and raw is None
    with show_progress("statistics") as progress:
        execution = workers.execution(progress)
        if output is None or (is_plain and not is_bundled(loaded.pipe)):
            statistics = default_statistics(loaded, batch=batch, execution=execution)
        else:
            given = prompts_or_bundled(
                loaded, prompts, lambda: as_prompts(testbed.captions("train"))
            )
            start, step = (part.number - 1, part.count) if part else (0, 1)
            statistics = compute_statistics(
                loaded,
                islice(given, start, None, step),
                batch=batch,
                raw=raw,
                folder=partial_of(output),
                execution=execution,
            )
    if output is not None:
        statistics.save(output)
        shutil.rmtree(partial_of(output), ignore_errors=True)
    place = output or default_statistics_path(loaded)
    print_line(f"{statistics.count} prompts, {len(statistics.mean)} value layers: {place}")
    print_answer(prompts=statistics.count, value_layers=len(statistics.mean), file=place)
    if part is None:
        print_hint("unmemorize threshold", model.option)
    else:
        print_hint(
            f"when all {part.count} shards are done, unmemorize merge-statistics FILE... -o MERGED"
        )
