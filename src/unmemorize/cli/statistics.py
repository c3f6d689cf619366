"""The command ``statistics``."""

import re
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from diffusers import DiffusionPipeline

from unmemorize import testbed
from unmemorize._errors import PromptError
from unmemorize._prompts import as_prompts, iter_prompts
from unmemorize._statistics import compute_statistics
from unmemorize.cli._common import PromptsOption, console, is_bundled, progress_bar, takes_model


@takes_model
def command(
    pipe: DiffusionPipeline,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write them (.safetensors).")],
    prompts: PromptsOption = None,
    batch: Annotated[int, typer.Option(min=1, help="Prompts per pass of the text encoder.")] = 64,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Only every N-th prompt from the I-th; see merge-statistics.", show_default=False),
    ] = None,
    raw: Annotated[Path | None, typer.Option(help="Folder for the single activations, a file per batch.", show_default=False)] = None,
) -> None:
    """Step 1: how strongly each value neuron answers to prompts that are not memorized.

    Give many ordinary captions (the paper takes 50,000); neurons that answer far more strongly to one prompt are candidates later.
    Where the value layers read the text itself (Stable Diffusion), only they and the text encoder run; other models run their denoiser once
    per prompt, or up to the first of these layers. Any number of prompts fits into memory.
    """
    if prompts is None and not is_bundled(pipe):
        raise PromptError("no prompts given. Name a prompt file with --prompts.")
    start, count = _shard(shard) if shard else (0, 1)
    given = islice(iter_prompts(prompts), start, None, count) if prompts else as_prompts(testbed.captions("train"))[start::count]
    with progress_bar("statistics") as progress:
        statistics = compute_statistics(pipe, given, batch=batch, raw=raw, progress=progress)
    statistics.save(output)
    console.print(f"{statistics.count} prompts, {len(statistics.mean)} value layers: {output}")


def _shard(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise PromptError(f"--shard {text}: not a part of a whole. Write it as 1/4, 2/4, 3/4 and 4/4.")
    return int(found[1]) - 1, int(found[2])
