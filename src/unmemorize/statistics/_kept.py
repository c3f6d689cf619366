"""Statistics for users without captions of their own: measured once per model and kept."""

from __future__ import annotations

import logging
from pathlib import Path

from diffusers import DiffusionPipeline

from unmemorize._bundled import is_bundled, statistics_path
from unmemorize._errors import StatisticsError
from unmemorize._files import hash_texts
from unmemorize._kept import cache_folder, kept
from unmemorize.engines import Execution
from unmemorize.pipelines import Model
from unmemorize.statistics._compute import compute_statistics
from unmemorize.statistics._ordinary import statistics_captions
from unmemorize.statistics._statistics import Statistics

_logger = logging.getLogger("unmemorize")


def default_statistics(
    pipe: DiffusionPipeline | Model, *, batch: int = 64, execution: Execution | None = None
) -> Statistics:
    """Return activation statistics over ordinary captions of this package.

    They are measured once per model and kept in the cache of the user. The bundled model brings
    its own. Statistics over captions like those that the model was trained on are better, see
    `compute_statistics`.

    Args:
        pipe: a loaded pipeline.
        batch, execution: as in `compute_statistics`, where they are missing.

    Raises:
        StatisticsError: the cache cannot be written, or a caption fails.
    """
    model = Model.of(pipe)
    if is_bundled(model.pipe) and not model.loras:
        return Statistics.load(default_statistics_path(model))
    texts = statistics_captions(model)

    def load(path: Path) -> Statistics:
        statistics = Statistics.load(path)
        statistics.check(model, model.value_layers)
        return statistics

    def make(folder: Path) -> Statistics:
        _logger.warning(
            "No statistics are kept for %s: measuring them on %d ordinary captions of this "
            "package. Captions of your own, like those of the training, are better: "
            "unmemorize statistics --prompts",
            model.name,
            len(texts),
        )
        return compute_statistics(model, texts, batch=batch, folder=folder, execution=execution)

    return kept(
        default_statistics_path(model),
        load,
        make,
        Statistics.save,
        about=f"statistics of {model.name} over {len(texts)} ordinary captions",
        error=StatisticsError,
    )


def default_statistics_path(model: Model) -> Path:
    """Return where the file of `default_statistics` lies."""
    if is_bundled(model.pipe) and not model.loras:
        return statistics_path()
    key = hash_texts([model.fingerprint, str(model.dtype), *statistics_captions(model)])
    return cache_folder() / "statistics" / f"{key[:32]}.safetensors"
