"""The command ``statistics``."""

import shutil
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from unmemorize import testbed
from unmemorize._errors import PromptError
from unmemorize._prompts import as_prompts, iter_prompts
from unmemorize.cli._common import is_bundled
from unmemorize.cli._console import console, progress_bar
from unmemorize.cli._model_options import PromptsOption, takes_model
from unmemorize.cli._options import takes_engine
from unmemorize.engines import Engine, Execution, Shard
from unmemorize.pipelines import Model
from unmemorize.statistics import compute_statistics


@takes_engine
@takes_model
def command(
    pipe: Model,
    engine: Engine,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where to write them (.safetensors).")
    ],
    prompts: PromptsOption = None,
    batch: Annotated[int, typer.Option(min=1, help="Prompts per pass of the text encoder.")] = 64,
    shard: Annotated[
        Shard | None,
        typer.Option(
            metavar="I/N",
            parser=Shard.parse,
            help="Only every N-th prompt from the I-th; see merge-statistics.",
            show_default=False,
        ),
    ] = None,
    raw: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the single activations, a file per batch.", show_default=False
        ),
    ] = None,
) -> None:
    """Step 1: how strongly each value neuron answers to prompts that are not memorized.

    Give many ordinary captions (the paper takes 50,000); neurons that answer far more strongly to one prompt are candidates later.
    Where the value layers read the text itself (Stable Diffusion), only they and the text encoder run; other models run their denoiser once
    per prompt, or up to the first of these layers. Any number of prompts fits into memory, and the same command goes on after an
    interruption.
    """
    if prompts is None and not is_bundled(pipe):
        raise PromptError("no prompts given. Name a prompt file with --prompts.")
    start, count = (shard.number - 1, shard.count) if shard else (0, 1)
    given = (
        islice(iter_prompts(prompts), start, None, count)
        if prompts
        else as_prompts(testbed.captions("train"))[start::count]
    )
    partial = output.with_name(f".{output.name}.partial")
    with progress_bar("statistics") as progress:
        statistics = compute_statistics(
            pipe,
            given,
            batch=batch,
            raw=raw,
            folder=partial,
            execution=Execution(engine=engine, progress=progress),
        )
    statistics.save(output)
    shutil.rmtree(partial)
    console.print(f"{statistics.count} prompts, {len(statistics.mean)} value layers: {output}")
