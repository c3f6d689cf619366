"""Run folders: what determines a result, what is done, and how to go on."""

from unmemorize.runs._run import Run
from unmemorize.runs._steps import (
    Variant,
    detect_all,
    evaluate_all,
    generate_all,
    localization_config,
    localize_all,
    open_run,
    read_image,
    read_localizations,
    run_prompts,
)

__all__ = [
    "Run",
    "Variant",
    "detect_all",
    "evaluate_all",
    "generate_all",
    "localization_config",
    "localize_all",
    "open_run",
    "read_image",
    "read_localizations",
    "run_prompts",
]
