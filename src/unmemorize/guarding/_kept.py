"""Guards for users without captions of their own: calibrated once per model and kept."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from diffusers import DiffusionPipeline

from unmemorize._bundled import bundled_captions, is_bundled
from unmemorize._errors import ThresholdError
from unmemorize._files import hash_texts
from unmemorize._kept import cache_folder, kept
from unmemorize.engines import Progress, silent
from unmemorize.guarding._calibration import calibrate_guard, probed_timestep
from unmemorize.guarding._threshold import SCHEMA, GuardThreshold
from unmemorize.pipelines import Model
from unmemorize.statistics import threshold_captions

_logger = logging.getLogger("unmemorize")


def default_guard_threshold(
    pipe: DiffusionPipeline | Model, *, progress: Progress = silent
) -> GuardThreshold:
    """Return the threshold of a guard over ordinary captions, at 1 % false alarms.

    It is made once per model and kept in the cache of the user. A threshold over captions like
    those that you will draw is better, see `calibrate_guard`.

    Args:
        pipe: a loaded pipeline.
        progress: called with the number of captions done and of all, where it is made.

    Raises:
        ThresholdError: the cache cannot be written, or a caption fails.
        ModelError: the pipeline has no classifier-free guidance.
    """
    model = Model.of(pipe)
    texts = _captions(model)

    def load(path: Path) -> GuardThreshold:
        threshold = GuardThreshold.load(path)
        threshold.check(model)
        return threshold

    def make(folder: Path) -> GuardThreshold:
        _logger.warning(
            "No guard is kept for %s: calibrating one on %d ordinary captions of this package. "
            "Captions of your own, like those you will draw, are better: "
            "unmemorize guard --prompts",
            model.name,
            len(texts),
        )
        return calibrate_guard(model, texts, folder=folder, progress=progress)

    return kept(
        default_guard_path(model),
        load,
        make,
        GuardThreshold.save,
        about=f"guard of {model.name} over {len(texts)} ordinary captions",
        error=ThresholdError,
    )


def default_guard_path(model: Model) -> Path:
    """Return where the file of `default_guard_threshold` lies."""
    settings = [SCHEMA, probed_timestep(model), model.layout.shape, str(model.dtype)]
    key = hash_texts([json.dumps([model.fingerprint, *settings]), *_captions(model)])
    return cache_folder() / "guards" / f"{key[:32]}.json"


def _captions(model: Model) -> tuple[str, ...]:
    if is_bundled(model.pipe):
        return bundled_captions("calibration")
    return threshold_captions(model)
