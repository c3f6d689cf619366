"""The bundled model: a small text-to-image model that really memorizes known images."""

from unmemorize._bundled import (
    clip_path,
    defaults,
    descriptor_path,
    statistics_path,
    threshold_path,
)
from unmemorize._bundled import model_path as path
from unmemorize.testbed._assets import (
    Planted,
    UnusedPhotograph,
    captions,
    planted,
    unused,
)
from unmemorize.testbed._twins import load_twin, twin

__all__ = [
    "Planted",
    "UnusedPhotograph",
    "captions",
    "clip_path",
    "defaults",
    "descriptor_path",
    "load_twin",
    "path",
    "planted",
    "statistics_path",
    "threshold_path",
    "twin",
    "unused",
]
