"""Statistics, threshold and defaults of the bundled model: the artefacts that a user of another model makes first."""

from __future__ import annotations

import json
from typing import Literal

from diffusers import DiffusionPipeline

from unmemorize._files import atomic_write
from unmemorize._progress import Progress, silent
from unmemorize.detection import calibrate_threshold
from unmemorize.statistics import compute_statistics
from unmemorize.testbed._assets import captions
from unmemorize.testbed._layout import DEFAULTS, STATISTICS, THRESHOLD

_REDUCTION: Literal["prompts"] = "prompts"
"""Over all pairs, tau would lie below the most similar pair of half of the unmemorized prompts."""
_DEFAULTS = {"criterion": "seeds", "reduction": _REDUCTION, "guidance": 3.0, "steps": 30}


def calibrate(pipe: DiffusionPipeline, *, progress: Progress = silent) -> None:
    """Write the statistics (over all trained captions), the threshold (over the calibration captions) and the defaults into the package.

    Raises:
        UnmemorizeError: the package folder cannot be written.
    """
    compute_statistics(pipe, captions("train"), progress=progress).save(STATISTICS)
    threshold = calibrate_threshold(
        pipe, captions("calibration"), reduction=_REDUCTION, progress=progress
    )
    threshold.save(THRESHOLD)
    atomic_write(DEFAULTS, json.dumps(_DEFAULTS, indent=1) + "\n")
