"""Run folders: what determines a result, what is done, and how to go on."""

from unmemorize.runs._images import OVERALL, ImageFormat, ImageSet, generate_all, image_sets
from unmemorize.runs._metrics import evaluate_all, quality_all
from unmemorize.runs._neuron_sets import NeuronSet
from unmemorize.runs._run import Run
from unmemorize.runs._steps import (
    detect_all,
    detections_csv,
    localization_config,
    localize_all,
    open_run,
    prompt_to_json,
    read_localizations,
    run_prompts,
    start_run,
)

__all__ = [
    "OVERALL",
    "ImageFormat",
    "ImageSet",
    "NeuronSet",
    "Run",
    "detect_all",
    "detections_csv",
    "evaluate_all",
    "generate_all",
    "image_sets",
    "localization_config",
    "localize_all",
    "open_run",
    "prompt_to_json",
    "quality_all",
    "read_localizations",
    "run_prompts",
    "start_run",
]
