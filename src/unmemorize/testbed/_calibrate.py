"""Statistics, thresholds and defaults of the bundled model.

Users of another model make these first.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from unmemorize._bundled import THRESHOLDS
from unmemorize._files import atomic_write
from unmemorize.detection import BUNDLED, calibrate_threshold
from unmemorize.engines import Execution, Progress, silent
from unmemorize.pipelines import Model
from unmemorize.statistics import compute_statistics
from unmemorize.testbed._assets import captions
from unmemorize.testbed._layout import ASSETS, DEFAULTS, STATISTICS

_DEFAULTS = {"criterion": "seeds", "guidance": 3.0, "steps": 30}


def calibrate(model: Model, *, progress: Progress = silent) -> None:
    """Write statistics, thresholds and defaults into the package.

    Statistics are those of the captions seen in training. The thresholds are calibrated on captions
    held out for that.

    Args:
        model: the bundled model.
        progress: called with the prompts done and the prompts in all.

    Raises:
        UnmemorizeError: the package folder cannot be written.
    """
    execution = Execution(progress=progress)
    compute_statistics(model, captions("train"), execution=execution).save(STATISTICS)
    with TemporaryDirectory() as folder:  # rules of the same detector and noise share its scores
        for rule, (detector, noise, calibration) in BUNDLED.items():
            threshold = calibrate_threshold(
                model,
                captions("calibration"),
                detector=detector,
                settings=noise,
                calibration=calibration,
                folder=Path(folder) / f"{detector}-{noise.similarity}",
                execution=execution,
            )
            threshold.save(ASSETS / THRESHOLDS[rule])
    atomic_write(DEFAULTS, json.dumps(_DEFAULTS, indent=1) + "\n")
