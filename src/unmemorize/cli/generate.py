"""The command ``generate``."""

from typing import Annotated

import typer
from diffusers import DiffusionPipeline

from unmemorize import testbed
from unmemorize._generation import GenerationSettings
from unmemorize.cli._common import RunArgument, console, is_bundled, progress_bar, takes_model
from unmemorize.runs import Run, Variant, generate_all

_DEFAULTS = GenerationSettings()


@takes_model
def command(
    pipe: DiffusionPipeline,
    run: RunArgument,
    neurons: Annotated[
        list[Variant],
        typer.Option(help="What is off: nothing, the initial selection, the refined neurons, or as many random others. Repeatable."),
    ] = [Variant.ORIGINAL, Variant.REFINED],  # noqa: B006 -- typer reads it, nothing changes it
    images: Annotated[int, typer.Option(min=1, help="Images per prompt.")] = _DEFAULTS.images,
    seed: Annotated[int, typer.Option(help="Of the initial noise; never that of localization.")] = _DEFAULTS.seed,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Of DDIM. [default: 50; the bundled model has its own]", show_default=False)
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Classifier-free. [default: 7; the bundled model has its own]", show_default=False)
    ] = None,
    scale: Annotated[float, typer.Option(help="What switched-off outputs are multiplied by.")] = _DEFAULTS.scale,
    batch: Annotated[int, typer.Option(min=1, help="Images per pass.")] = _DEFAULTS.batch,
) -> None:
    """Step 4: images of every memorized prompt of a run, each with its own neurons off, the same seeds throughout.

    They go to RUN/images/VARIANT, with a record that says how each came to be.
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
    for variant in neurons:
        with progress_bar(f"generate {variant}") as progress:
            made = generate_all(folder, pipe, variant, settings, progress=progress)
        console.print(f"{variant}: {made.folder}")
