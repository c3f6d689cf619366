"""The command ``threshold``."""

import shutil
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from unmemorize import testbed
from unmemorize._bundled import is_bundled
from unmemorize._errors import ThresholdError
from unmemorize._files import atomic_write
from unmemorize._prompts import as_prompts
from unmemorize.cli._common import (
    bounded_rate,
    partial_of,
    prompts_or_bundled,
    refuse_unwritable,
    refuse_without_output,
    threshold_words,
)
from unmemorize.cli._console import print_answer, print_hint, print_line, show_progress
from unmemorize.cli._execution_options import EngineOptions
from unmemorize.cli._model_options import ModelOptions, PromptsOption, PublishedOption
from unmemorize.cli._settings_options import OptionsOf
from unmemorize.detection import (
    USUAL_RATE,
    Calibration,
    DetectionLevel,
    LocalizationLevel,
    NoiseSettings,
    calibrate_threshold,
    calibration_prompts,
    default_detector,
    default_threshold,
    default_threshold_path,
    prompts_needed,
)
from unmemorize.report import plot_threshold

_PICTURE = ".png"
"""The suffix of the histogram, which is written beside the file."""


def command(
    *,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
    prompts: PromptsOption = None,
    detector: str | None = None,
    published: PublishedOption = False,
    calibration: OptionsOf[Calibration] = OptionsOf[Calibration](),
    noise: OptionsOf[NoiseSettings] = OptionsOf[NoiseSettings](),
    model: ModelOptions = ModelOptions(),
    workers: EngineOptions = EngineOptions(),
) -> None:
    """Calibrate detection and localization on prompts that are not memorized (step 2).

    Without --prompts, 500 ordinary captions of this package are used, and the result is kept in the
    cache of the user, where detect and localize find it (localize that of the default detector).
    Captions like those that you will ask about are better, since the error rate holds for prompts
    like those of the calibration.

    The file holds two parts. Detection calls a prompt memorized above a level that bounds the rate
    of false positives. Localization compares noise differences with tau = mean + 1 standard
    deviation of each prompt's most similar pair of seeds, whatever detector called the prompt. A
    histogram (.png) is written beside the file. Detection and localization read the settings of
    the noise differences from it. The same command resumes after an interruption.

    Args:
        output: Threshold file to write (.json). Needed with --prompts, --reduction, --deviations
            and --max-fpr.
        detector: Name of the detector, such as seed-similarity or late-noise-magnitude, which is
            the default for models with guidance. docs/detectors.md says what each one does and
            costs.
    """
    if output is None:
        refuse_without_output(ThresholdError, prompts=prompts, **calibration.values)
    else:
        _refuse_picture(output)
        refuse_unwritable(output, ThresholdError)
    loaded = model.load()
    chosen = calibration.published() if published else calibration.settings()
    settings = noise.published() if published else noise.settings()
    with show_progress("threshold") as progress:
        execution = workers.execution(progress)
        if output is None or (prompts is None and not is_bundled(loaded.pipe)):
            threshold = default_threshold(
                loaded,
                detector=detector,
                settings=settings,
                calibration=chosen,
                execution=execution,
            )
        else:
            threshold = calibrate_threshold(
                loaded,
                prompts_or_bundled(
                    loaded, prompts, lambda: as_prompts(testbed.captions("calibration"))
                ),
                detector=detector,
                settings=settings,
                calibration=chosen,
                folder=partial_of(output),
                execution=execution,
            )
    named = detector or default_detector(loaded, settings, chosen)
    path = output or default_threshold_path(loaded, named, settings, chosen)
    place = f"{path}"
    if output is not None:
        threshold.save(output)
        shutil.rmtree(partial_of(output), ignore_errors=True)
        picture = output.with_suffix(_PICTURE)
        atomic_write(picture, plot_threshold(threshold), ThresholdError)
        place = f"{output}, {picture}"
    print_line(f"{_detection(threshold.detect)}\n{_localization(threshold.localize)}\n{place}")
    print_answer(threshold, file=path)
    which = () if detector is None or output is not None else ("--detector", detector)
    words = threshold_words(output, None, noise, published=published)
    print_hint("unmemorize detect", *which, *words, model.option, "-o RUN")


def _refuse_picture(output: Path) -> None:
    """Refuse a file that the histogram would replace.

    Raises:
        ThresholdError: it is named like a picture.
    """
    if output.suffix.lower() == _PICTURE:
        raise ThresholdError(
            f"{output}: the histogram is written there. Name the threshold file "
            f"{output.with_suffix('.json')}."
        )


def _detection(level: DetectionLevel) -> str:
    text = f"detection: tau = {level.tau:.4f} of {level.detector}; {bounded_rate(level)}."
    if level.max_fpr is None:
        return text
    lower = USUAL_RATE if level.max_fpr > USUAL_RATE else level.max_fpr / 10
    needed = calibration_prompts(level.made(), prompts_needed(lower))
    return f"{text} A rate of {lower:.3g} takes at least {needed} prompts."


def _localization(level: LocalizationLevel) -> str:
    return (
        f"localization: tau = {level.tau:.4f} ({level.mean:.4f} + {level.deviations:g} x "
        f"{level.std:.4f} over {level.reduction}), for the criterion seeds {level.tau_seeds:.4f}."
    )
