"""The bundled model: a small text-to-image model that really memorizes known images."""

from unmemorize._bundled import clip_path, descriptor_path, statistics_path, threshold_path
from unmemorize._bundled import model_path as path
from unmemorize.testbed._assets import (
    Planted,
    UnusedPhotograph,
    captions,
    defaults,
    planted,
    twin,
    unused,
)

__all__ = [
    "Planted",
    "UnusedPhotograph",
    "captions",
    "clip_path",
    "defaults",
    "descriptor_path",
    "path",
    "planted",
    "statistics_path",
    "threshold_path",
    "twin",
    "unused",
]
