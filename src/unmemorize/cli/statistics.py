"""The command ``statistics``."""

from pathlib import Path
from typing import Annotated

import typer
from diffusers import DiffusionPipeline

from unmemorize import testbed
from unmemorize._prompts import as_prompts
from unmemorize._statistics import compute_statistics
from unmemorize.cli._common import PromptsOption, console, progress_bar, prompts_or_default, takes_model


@takes_model
def command(
    pipe: DiffusionPipeline,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write them (.safetensors).")],
    prompts: PromptsOption = None,
    batch: Annotated[int, typer.Option(min=1, help="Prompts per pass of the text encoder.")] = 64,
) -> None:
    """Step 1: how strongly each value neuron answers to prompts that are not memorized.

    Give many ordinary captions (the paper takes 50,000); neurons that answer far more strongly to one prompt are candidates later.
    Only the text encoder and the value layers run.
    """
    given = prompts_or_default(pipe, prompts, lambda: as_prompts(testbed.captions("train")))
    with progress_bar("statistics") as progress:
        statistics = compute_statistics(pipe, given, batch=batch, progress=progress)
    statistics.save(output)
    console.print(f"{statistics.count} prompts, {len(statistics.mean)} value layers: {output}")
