"""The command ``import-upstream``."""

from pathlib import Path
from typing import Annotated

import typer

from unmemorize._errors import PromptError
from unmemorize._prompts import read_prompts
from unmemorize.cli._console import console
from unmemorize.export import import_results, read_statistics
from unmemorize.localization import read_localizations
from unmemorize.pipelines import Model


def command(
    file: Annotated[
        Path,
        typer.Argument(help="Published statistics (.pt) or results (.csv).", show_default=False),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Statistics file (.safetensors), or run folder for results."
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="The model they belong to. [default: any with the layers of Stable Diffusion v1]",
            show_default=False,
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            "-p",
            help="Prompt file that says which captions are VM and TM, for results.",
            show_default=False,
        ),
    ] = None,
    count: Annotated[
        int,
        typer.Option(
            min=2, help="Prompts that the statistics were computed over; the file does not say."
        ),
    ] = 50_000,
) -> None:
    """Read the published files of Finding NeMo: activation statistics, or the neurons found, as a run folder to go on with.

    The files name no weights. With --model they are bound to that model; without, they are taken for any model with the same layers.
    """
    bound = Model.load(model) if model else None
    if file.suffix in (".pt", ".pth"):
        statistics = read_statistics(file, bound, count=count)
        statistics.save(output)
        console.print(f"{statistics.count} prompts, {len(statistics.mean)} value layers: {output}")
    elif file.suffix == ".csv":
        run = import_results(file, output, bound, prompts=read_prompts(prompts) if prompts else ())
        found = read_localizations(run)
        console.print(
            f"{len(found)} prompts, {sum(record.memorized for record in found.values())} of them with neurons: {output}"
        )
    else:
        raise PromptError(
            f"{file}: neither statistics (.pt) nor results (.csv). Name one of the published files."
        )
