"""Run folders: what determines a result, what is done, and how to go on."""

from unmemorize.runs._drive import Tally, drive
from unmemorize.runs._images import IMAGES, OVERALL, ImageFormat, ImageSet, generate_all, image_sets
from unmemorize.runs._merge import merge_runs
from unmemorize.runs._metrics import evaluate_all, quality_all
from unmemorize.runs._neuron_sets import NeuronSet
from unmemorize.runs._parquet import export_parquet
from unmemorize.runs._prompts import open_run, prompt_count, run_prompts, start_run, stream_prompts
from unmemorize.runs._run import Run
from unmemorize.runs._status import Status, status_of
from unmemorize.runs._steps import (
    DETECTIONS,
    LOCALIZATIONS,
    calibrate_in,
    detect_all,
    difference_file,
    localization_config,
    localize_all,
    read_detections,
    read_localizations,
    record_localization,
    save_neurons,
    stream_localizations,
    write_detections_csv,
)

__all__ = [
    "DETECTIONS",
    "IMAGES",
    "LOCALIZATIONS",
    "OVERALL",
    "ImageFormat",
    "ImageSet",
    "NeuronSet",
    "Run",
    "Status",
    "Tally",
    "calibrate_in",
    "detect_all",
    "difference_file",
    "drive",
    "evaluate_all",
    "export_parquet",
    "generate_all",
    "image_sets",
    "localization_config",
    "localize_all",
    "merge_runs",
    "open_run",
    "prompt_count",
    "quality_all",
    "read_detections",
    "read_localizations",
    "record_localization",
    "run_prompts",
    "save_neurons",
    "start_run",
    "status_of",
    "stream_localizations",
    "stream_prompts",
    "write_detections_csv",
]
