"""The bundled model: a small text-to-image diffusion model that really memorizes known images, with the truth about where."""

from unmemorize.testbed._assets import (
    Planted,
    UnusedPhotograph,
    captions,
    clip_path,
    defaults,
    descriptor_path,
    path,
    planted,
    statistics_path,
    threshold_path,
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
    "unused",
]
