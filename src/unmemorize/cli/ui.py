"""The command ``ui``."""

from typing import Annotated

import typer
from diffusers import DiffusionPipeline

from unmemorize import testbed
from unmemorize._errors import ModelError
from unmemorize._generation import GenerationSettings
from unmemorize._statistics import Statistics
from unmemorize._threshold import Threshold
from unmemorize.cli._common import console, file_or_default, is_bundled, stream_or_default
from unmemorize.cli._options import PromptsOption, StatisticsOption, ThresholdOption, takes_model
from unmemorize.localization import LocalizationSettings
from unmemorize.metrics import BundledDescriptor
from unmemorize.ui import Studio


@takes_model
def command(
    pipe: DiffusionPipeline,
    prompts: PromptsOption = None,
    statistics: StatisticsOption = None,
    threshold: ThresholdOption = None,
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
    known = list(stream_or_default(pipe, prompts, lambda: [entry.prompt for entry in testbed.planted()])) if prompts or own else []
    studio = Studio(pipe, measured, limit, settings, generation, known, BundledDescriptor() if own else None)
    try:
        serve(studio, port, lambda address: console.print(f"{address} (Ctrl-C stops it)"))
    finally:
        studio.close()
