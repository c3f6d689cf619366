"""The command ``threshold``."""

import shutil
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from unmemorize import testbed
from unmemorize._errors import ThresholdError
from unmemorize._files import atomic_write
from unmemorize._prompts import as_prompts
from unmemorize.cli._common import bundled_defaults, prompts_or_bundled, refuse_unwritable
from unmemorize.cli._console import print_hint, print_line, show_progress
from unmemorize.cli._execution_options import EngineOptions
from unmemorize.cli._model_options import ModelOptions, PromptsOption, PublishedOption
from unmemorize.cli._settings_options import OptionsOf
from unmemorize.detection import (
    SEED_SIMILARITY,
    Calibration,
    NoiseSettings,
    calibrate_threshold,
)
from unmemorize.report import plot_threshold


def command(
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    prompts: PromptsOption = None,
    detector: str = SEED_SIMILARITY,
    published: PublishedOption = False,
    calibration: OptionsOf[Calibration] = OptionsOf[Calibration](),
    noise: OptionsOf[NoiseSettings] = OptionsOf[NoiseSettings](),
    model: ModelOptions = ModelOptions(),
    workers: EngineOptions = EngineOptions(),
) -> None:
    """Calibrate the score above which a prompt counts as memorized (step 2).

    By default the score compares the noise differences of a prompt's seeds. This command measures
    it on prompts that are not memorized and writes the threshold tau with the distribution behind
    it, and a histogram (.png) in the same folder. Detection and localization read the settings of
    the noise differences from this file. The same command resumes after an interruption.

    Args:
        output: Threshold file to write (.json).
        detector: Name of the detector, such as seed-similarity or noise-magnitude. Localization
            needs a threshold of seed-similarity.
    """
    refuse_unwritable(output, ThresholdError)
    loaded = model.load()
    given = list(
        prompts_or_bundled(loaded, prompts, lambda: as_prompts(testbed.captions("calibration")))
    )
    defaults = bundled_defaults(loaded, "reduction")
    chosen = calibration.published() if published else calibration.settings(**defaults)
    settings = noise.published() if published else noise.settings()
    partial = output.with_name(f".{output.name}.partial")
    with show_progress("threshold") as progress:
        threshold = calibrate_threshold(
            loaded,
            given,
            detector=detector,
            settings=settings,
            calibration=chosen,
            folder=partial,
            execution=workers.execution(progress),
        )
    threshold.save(output)
    shutil.rmtree(partial)
    picture = output.with_suffix(".png")
    atomic_write(picture, plot_threshold(threshold), ThresholdError)
    rule = (
        f"{threshold.mean:.4f} + {chosen.deviations:g} x {threshold.std:.4f} over "
        f"{threshold.reduction} of {len(given)} prompts"
        if chosen.max_fpr is None
        else f"at most {chosen.max_fpr:g} of prompts like these {len(given)} are called memorized"
    )
    seeds = threshold.tau_seeds
    criterion = "" if seeds is None else f", for the criterion seeds {seeds:.4f}"
    print_line(f"tau = {threshold.tau:.4f} ({rule}){criterion}: {output}, {picture}")
    command = "detect" if seeds is None else "localize"
    print_hint(f"unmemorize {command} --threshold {output} -o RUN")
