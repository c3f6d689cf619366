"""Statistics, threshold and defaults of the bundled model: the artefacts that a user of another model makes first."""

from __future__ import annotations

import json
from typing import Literal

from unmemorize._files import atomic_write
from unmemorize._progress import Progress, silent
from unmemorize.detection import Calibration, calibrate_threshold
from unmemorize.engines import Execution
from unmemorize.pipelines import Model
from unmemorize.statistics import compute_statistics
from unmemorize.testbed._assets import captions
from unmemorize.testbed._layout import DEFAULTS, STATISTICS, THRESHOLD

_REDUCTION: Literal["prompts"] = "prompts"
"""Over all pairs, tau would lie below the most similar pair of half of the unmemorized prompts."""
_DEFAULTS = {"criterion": "seeds", "reduction": _REDUCTION, "guidance": 3.0, "steps": 30}


def calibrate(model: Model, *, progress: Progress = silent) -> None:
    """Write statistics (trained captions), threshold (calibration captions) and defaults.

    They go into the package.

    Raises:
        UnmemorizeError: the package folder cannot be written.
    """
    execution = Execution(progress=progress)
    compute_statistics(model, captions("train"), execution=execution).save(STATISTICS)
    calibration = Calibration(reduction=_REDUCTION)
    threshold = calibrate_threshold(
        model, captions("calibration"), calibration=calibration, execution=execution
    )
    threshold.save(THRESHOLD)
    atomic_write(DEFAULTS, json.dumps(_DEFAULTS, indent=1) + "\n")
