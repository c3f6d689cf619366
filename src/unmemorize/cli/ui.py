"""The command ``ui``."""

from pathlib import Path
from typing import Annotated

import typer
from diffusers import DiffusionPipeline

from unmemorize import testbed
from unmemorize._errors import ModelError
from unmemorize._generation import GenerationSettings
from unmemorize._prompts import Prompt
from unmemorize._statistics import Statistics
from unmemorize._threshold import Threshold
from unmemorize.cli._common import console, file_or_default, is_bundled, stream_or_default
from unmemorize.cli._options import PromptsOption, StatisticsOption, ThresholdOption, takes_model
from unmemorize.localization import LocalizationSettings
from unmemorize.metrics import BundledDescriptor, FileDescriptor
from unmemorize.ui import Studio


@takes_model
def command(
    pipe: DiffusionPipeline,
    prompts: PromptsOption = None,
    statistics: StatisticsOption = None,
    threshold: ThresholdOption = None,
    sscd: Annotated[
        Path | None,
        typer.Option(
            help="SSCD, for copy scores on prompts whose training images --prompts names: a file from unmemorize fetch sscd. "
            "The bundled model has a descriptor of its own.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of this machine.")] = 7860,
) -> None:
    """A page in the browser: probe a prompt, localize its neurons, switch them off one by one, and take them home.

    Only this machine can open it. On the bundled model it needs nothing else; for another one name statistics and threshold, and as
    examples a prompt file.
    """
    try:
        from unmemorize.ui._serve import serve
    except ImportError as problem:
        raise ModelError("the page needs Gradio. pip install 'unmemorize[ui]'") from problem
    measured = Statistics.load(file_or_default(pipe, statistics, testbed.statistics_path, "statistics"))
    limit = Threshold.load(file_or_default(pipe, threshold, testbed.threshold_path, "threshold"))
    own = testbed.defaults() if is_bundled(pipe) else {}
    settings = LocalizationSettings(noise=limit.settings, criterion=own.get("criterion", "unblocked"))
    generation = GenerationSettings(**{name: own[name] for name in ("steps", "guidance") if name in own})
    known = list(stream_or_default(pipe, prompts, _examples)) if prompts or own else []
    descriptor = FileDescriptor.sscd(sscd) if sscd else BundledDescriptor() if own else None
    studio = Studio(pipe, measured, limit, settings, generation, known, descriptor)
    try:
        serve(studio, port, lambda address: console.print(f"{address} (Ctrl-C stops it)"))
    finally:
        studio.close()


def _examples() -> list[Prompt]:
    """Of the bundled model: memorized prompts, and a few that are not."""
    return [*(entry.prompt for entry in testbed.planted()), *map(Prompt, testbed.captions("test")[:3])]
