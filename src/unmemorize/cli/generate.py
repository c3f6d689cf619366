"""The command ``generate``."""

from pathlib import Path
from typing import Annotated

import typer

from unmemorize import testbed
from unmemorize._prompts import Kind, read_prompts
from unmemorize.cli._common import is_bundled, tell_of_the_rest
from unmemorize.cli._console import console, progress_bar
from unmemorize.cli._model_options import takes_model
from unmemorize.cli._options import RunArgument, ShardOption, takes_engine
from unmemorize.engines import Engine, Execution
from unmemorize.generation import GenerationSettings, ImageFormat, ImageSet, NeuronSet, generate_all
from unmemorize.pipelines import Model
from unmemorize.runs import Run

_DEFAULTS = GenerationSettings()


@takes_engine
@takes_model
def command(
    pipe: Model,
    engine: Engine,
    run: RunArgument,
    neurons: Annotated[
        list[str],
        typer.Option(
            help="What is off: original (nothing), initial, refined, top-K, top-K-per-layer, top-K-groups, or a neuron file (.json); "
            "random-NAME takes as many random others instead. Repeatable."
        ),
    ] = ["original", "refined"],  # noqa: B006 -- typer reads it, nothing changes it
    only: Annotated[
        Kind | None, typer.Option(help="Only the VM or TM prompts of the run.", show_default=False)
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="Other prompts than the run's memorized ones, with the neurons of all of these off.",
            show_default=False,
        ),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Images per prompt.")] = _DEFAULTS.images,
    seed: Annotated[
        int, typer.Option(help="Of the initial noise; never that of localization.")
    ] = _DEFAULTS.seed,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Of DDIM. [default: 50; the bundled model has its own]", show_default=False
        ),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            help="Classifier-free. [default: 7; the bundled model has its own]", show_default=False
        ),
    ] = None,
    scale: Annotated[
        float, typer.Option(help="What switched-off outputs are multiplied by.")
    ] = _DEFAULTS.scale,
    batch: Annotated[
        int, typer.Option(min=1, help="Images per pass, across prompts.")
    ] = _DEFAULTS.batch,
    format: Annotated[
        ImageFormat, typer.Option(help="Of the files; png keeps every pixel.")
    ] = "png",  # noqa: A002 -- the option's name
    shard: ShardOption = None,
) -> None:
    """Step 4: images of every memorized prompt of a run, each with its own neurons off, the same seeds throughout.

    They go to RUN/images/NAME, named by prompt and seed, with a record that says how each came to be. top-K are the refined neurons of most
    prompts, top-K-groups the groups of most prompts, a group being all refined neurons of one prompt.
    """
    folder = Run.load(run)
    own = testbed.defaults() if is_bundled(pipe) else {}
    settings = GenerationSettings(
        images=images,
        seed=seed,
        steps=steps or own.get("steps", _DEFAULTS.steps),
        guidance=own.get("guidance", _DEFAULTS.guidance) if guidance is None else guidance,
        scale=scale,
        batch=batch,
    )
    others, label = (read_prompts(prompts), prompts.stem) if prompts else ([], "")
    tallies = []
    for chosen in map(NeuronSet.parse, neurons):
        asked = ImageSet(neurons=chosen, only=only, prompts=others, label=label, format=format)
        with progress_bar(f"generate {asked.name(scale)}") as progress:
            tallies.append(
                generate_all(
                    folder,
                    pipe,
                    asked,
                    settings,
                    execution=Execution(engine=engine, shard=shard, progress=progress),
                )
            )
        console.print(f"{chosen.name}: {tallies[-1].run.folder}")
    tell_of_the_rest(*tallies)
