"""The command ``generate``."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from unmemorize._prompt_files import read_prompts
from unmemorize._prompts import Kind
from unmemorize.cli._common import bundled_defaults, report_missing
from unmemorize.cli._console import print_hint, print_line, show_progress
from unmemorize.cli._execution_options import EngineOptions, RunArgument, ShardOption
from unmemorize.cli._model_options import ModelOptions
from unmemorize.cli._settings_options import OptionsOf
from unmemorize.generation import GenerationSettings, ImageFormat, ImageSet, NeuronSet, generate_all
from unmemorize.runs import Run

DEFAULT_SETS = ["original", "refined"]


def command(
    run: RunArgument,
    /,
    *,
    neurons: Annotated[list[str], Parameter(show_default="original and refined")] = DEFAULT_SETS,
    only: Kind | None = None,
    prompts: Path | None = None,
    generation: OptionsOf[GenerationSettings] = OptionsOf[GenerationSettings](),
    format: ImageFormat = "png",  # noqa: A002 -- the name of the option
    shard: ShardOption = None,
    model: ModelOptions = ModelOptions(),
    workers: EngineOptions = EngineOptions(),
) -> None:
    """Generate images of memorized prompts, with and without neurons (step 4).

    Every memorized prompt of the run gets images from the same seeds, with its own neurons
    switched off. They go to RUN/images/NAME, named by prompt and seed, with a record of how each
    was made. Here top-K means the K refined neurons that occur for most prompts. A group is all
    refined neurons of one prompt, and top-K-groups means the K groups that occur for most prompts.

    Args:
        neurons: Neurons to switch off: original (none), initial, refined, top-K, top-K-per-layer,
            top-K-groups, or a neuron file (.json). With random- in front, as many random other
            neurons are switched off instead. Repeat the option for several sets of images.
        only: Use only the VM or only the TM prompts of the run.
        prompts: Generate other prompts than the memorized ones, each with the neurons of the whole
            run switched off.
        format: File format of the images. Only png keeps every pixel.
    """
    loaded = model.load()
    folder = Run.load(run)
    settings = generation.settings(**bundled_defaults(loaded, "steps", "guidance"))
    others = read_prompts(prompts) if prompts else []
    label = prompts.stem if prompts else ""
    tallies = []
    for neuron_set in map(NeuronSet.parse, neurons):
        images = ImageSet(neurons=neuron_set, only=only, prompts=others, label=label, format=format)
        with show_progress(f"generate {images.name(settings.scale)}") as progress:
            tally = generate_all(
                folder,
                loaded,
                images,
                settings,
                execution=workers.execution(progress, shard),
            )
        print_line(f"{neuron_set.name}: {tally.run.folder}")
        tallies.append(tally)
    report_missing(*tallies)
    print_hint(f"unmemorize evaluate {run}")
