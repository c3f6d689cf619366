"""The command ``localize``."""

from typing import Annotated

import typer
from diffusers import DiffusionPipeline
from rich.table import Table

from unmemorize import testbed
from unmemorize._model import Model
from unmemorize._neurons import NeuronFile, Neurons
from unmemorize._statistics import Statistics
from unmemorize._threshold import Threshold
from unmemorize.cli._common import (
    PromptsOption,
    RunOption,
    StatisticsOption,
    ThresholdOption,
    console,
    file_or_default,
    is_bundled,
    progress_bar,
    prompts_or_default,
    takes_model,
)
from unmemorize.localization import Criterion, LocalizationSettings
from unmemorize.runs import localization_config, localize_all, open_run

_DEFAULTS = LocalizationSettings()


@takes_model
def command(
    pipe: DiffusionPipeline,
    run: RunOption,
    prompts: PromptsOption = None,
    statistics: StatisticsOption = None,
    threshold: ThresholdOption = None,
    criterion: Annotated[
        Criterion | None,
        typer.Option(
            help="What counts as still memorized: like the unblocked seed (paper), or seeds alike. "
            "[default: unblocked; the bundled model has its own]",
            show_default=False,
        ),
    ] = None,
    layers: Annotated[str, typer.Option(help="Value layers: default (down and middle blocks), all, or a pattern.")] = _DEFAULTS.layers,
    theta: Annotated[float, typer.Option(help="z-score at which the initial selection starts.")] = _DEFAULTS.theta,
    theta_step: Annotated[float, typer.Option(help="How much theta falls at a time.")] = _DEFAULTS.theta_step,
    theta_floor: Annotated[float, typer.Option(help="Where theta stops.")] = _DEFAULTS.theta_floor,
    scale: Annotated[float, typer.Option(help="What switched-off outputs are multiplied by.")] = _DEFAULTS.scale,
) -> None:
    """Step 3: find the neurons that carry the image of each memorized prompt.

    Candidates are neurons that answer unusually strongly to the prompt; those are kept without which the copy comes back. Prompts that
    are not memorized get no neurons. Defaults are the paper's.
    """
    given = prompts_or_default(pipe, prompts, lambda: [entry.prompt for entry in testbed.planted()])
    measured = Statistics.load(file_or_default(pipe, statistics, testbed.statistics_path, "statistics"))
    tau = Threshold.load(file_or_default(pipe, threshold, testbed.threshold_path, "threshold"))
    chosen = criterion or (testbed.defaults()["criterion"] if is_bundled(pipe) else _DEFAULTS.criterion)
    settings = LocalizationSettings(
        noise=tau.settings, criterion=chosen, layers=layers, theta=theta, theta_step=theta_step, theta_floor=theta_floor, scale=scale
    )
    folder = open_run(run, pipe, given, {"command": "localize", **localization_config(settings, measured, tau)})
    with progress_bar("localize") as progress:
        found = localize_all(folder, pipe, given, statistics=measured, threshold=tau, settings=settings, progress=progress)
    everything = Neurons.of(pair for record in found for pair in record.neurons)
    counted = {"prompts": len(found), "memorized": sum(record.memorized for record in found), "tau": tau.tau, "criterion": chosen}
    NeuronFile.of(Model(pipe), everything, scale=scale, found=counted).save(run / "neurons.json")
    table = Table("neurons", "initial", "score", "floor", "group", "prompt", pad_edge=False)
    for record in found:
        if record.memorized:
            table.add_row(
                str(len(record.neurons)),
                str(len(record.initial)),
                f"{record.score:.3f}",
                "floor" if record.floor else "",
                record.group,
                record.prompt,
            )
    console.print(table)
    console.print(f"{counted['memorized']} of {len(found)} memorized (tau = {tau.tau:.4f}): {run}/localizations.jsonl, neurons.json")
