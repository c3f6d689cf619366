"""The command ``detect``."""

from diffusers import DiffusionPipeline
from rich.table import Table

from unmemorize import testbed
from unmemorize._threshold import Threshold
from unmemorize.cli._common import (
    PromptsOption,
    RunOption,
    ThresholdOption,
    console,
    file_or_default,
    progress_bar,
    prompts_or_default,
    takes_model,
)
from unmemorize.runs import detect_all, open_run


@takes_model
def command(pipe: DiffusionPipeline, run: RunOption, prompts: PromptsOption = None, threshold: ThresholdOption = None) -> None:
    """Tell which prompts are memorized, without localizing neurons: one denoiser pass per seed.

    The score of a prompt is the highest similarity between the noise differences of two seeds; it is memorized when that exceeds tau.
    """
    given = prompts_or_default(pipe, prompts, lambda: [entry.prompt for entry in testbed.planted()])
    tau = Threshold.load(file_or_default(pipe, threshold, testbed.threshold_path, "threshold"))
    folder = open_run(run, pipe, given, {"command": "detect", "tau": tau.tau, "threshold_prompts": tau.prompts})
    with progress_bar("detect") as progress:
        detections = detect_all(folder, pipe, given, tau, progress=progress)
    table = Table("score", "memorized", "group", "prompt", pad_edge=False)
    for detection in sorted(detections, key=lambda found: -found.score)[:40]:
        table.add_row(f"{detection.score:.3f}", "yes" if detection.memorized else "no", detection.group, detection.prompt)
    console.print(table)
    console.print(
        f"{sum(found.memorized for found in detections)} of {len(detections)} memorized (tau = {tau.tau:.4f}): {run}/detections.jsonl"
    )
