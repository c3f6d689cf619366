"""Maps of where in an image the memorized prompts of a mitigation are memorized.

RUN/regions/00003.png    the map of prompt 3: black is nothing, white the largest value of this map
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unmemorize._errors import ModelError, ThresholdError
from unmemorize._files import atomic_write, png_bytes
from unmemorize.detection import memorized_region
from unmemorize.engines import Progress, silent
from unmemorize.mitigation import MitigationResult
from unmemorize.pipelines import Model
from unmemorize.runs import Run

REGIONS = "regions"
"""The folder of the maps in a run."""


def region_file(index: int) -> str:
    """Return where a run keeps the map of a prompt.

    Examples:
        >>> region_file(3)
        'regions/00003.png'
    """
    return f"{REGIONS}/{index:05d}.png"


def record_regions(run: Run, model: Model, progress: Progress = silent) -> str:
    """Write the map of each memorized prompt of a finished mitigation, once for each run.

    Maps are those of `memorized_region` by its default detector. One takes about as long as an
    image of 50 steps.

    Args:
        run: the mitigation.
        model: its unedited model.
        progress: called with maps.

    Returns:
        Why the model has no maps; empty where it has.
    """
    outcomes = [each for each in MitigationResult.load(run).outcomes if each.confirmed]
    for done, outcome in enumerate(outcomes, 1):
        path = run.folder / region_file(outcome.index)
        if not path.exists():
            try:
                region = memorized_region(model, outcome.prompt)
            except (ModelError, ThresholdError) as problem:
                return str(problem)
            atomic_write(path, png_bytes(_picture(region)), ModelError)
        progress(done, len(outcomes))
    return ""


def _picture(region: NDArray[np.float32]) -> Image.Image:
    largest = float(region.max())
    shares = region / largest if largest > 0 else region
    return Image.fromarray(np.round(255 * shares).astype(np.uint8))
