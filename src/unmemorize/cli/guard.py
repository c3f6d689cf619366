"""The command ``guard``."""

import shutil
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from unmemorize import testbed
from unmemorize._bundled import is_bundled
from unmemorize._errors import ThresholdError
from unmemorize._prompts import as_prompts
from unmemorize.cli._common import (
    partial_of,
    prompts_or_bundled,
    refuse_unwritable,
    refuse_without_output,
)
from unmemorize.cli._console import print_answer, print_hint, print_line, show_progress
from unmemorize.cli._model_options import ModelOptions, PromptsOption
from unmemorize.guarding import (
    calibrate_guard,
    default_guard_path,
    default_guard_threshold,
)


def command(
    *,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
    prompts: PromptsOption = None,
    max_fpr: float | None = None,
    model: ModelOptions = ModelOptions(),
) -> None:
    """Calibrate a guard, which stops copies while a pipeline draws them.

    One image per caption is drawn no further than its first denoising step. Without --prompts, 500
    ordinary captions of this package are used, and the result is kept in the cache of the user,
    where um.guard and generate --guard find it. Captions like those that you will draw are better,
    since the rate of false alarms holds for images of prompts like these. The same command resumes
    after an interruption.

    Args:
        output: Threshold file of the guard to write (.json). Needed with --prompts and --max-fpr.
        max_fpr: Share of false alarms to bound, in (0, 1). The default is 0.01, or the smallest
            that the number of captions allows.
    """
    if output is None:
        refuse_without_output(ThresholdError, prompts=prompts, max_fpr=max_fpr)
    else:
        refuse_unwritable(output, ThresholdError)
    loaded = model.load()
    is_plain = prompts is None and max_fpr is None
    with show_progress("guard") as progress:
        if output is None or (is_plain and not is_bundled(loaded.pipe)):
            threshold = default_guard_threshold(loaded, progress=progress)
        else:
            threshold = calibrate_guard(
                loaded,
                prompts_or_bundled(
                    loaded, prompts, lambda: as_prompts(testbed.captions("calibration"))
                ),
                max_fpr=max_fpr,
                folder=partial_of(output),
                progress=progress,
            )
    if output is not None:
        threshold.save(output)
        shutil.rmtree(partial_of(output), ignore_errors=True)
    path = output or default_guard_path(loaded)
    print_line(
        f"guard: tau = {threshold.tau:.4f} at timestep {threshold.timestep:g}; at most "
        f"{threshold.max_fpr:.3g} of images of prompts like the {len(threshold.scores)} of "
        "its calibration are expected above it; of other prompts it may be more.\n"
        f"{path}"
    )
    print_answer(threshold, file=path)
    guarded = ("--guard",) if output is None else ("--guard-threshold", output)
    print_hint("unmemorize generate RUN", *guarded, model.option)
