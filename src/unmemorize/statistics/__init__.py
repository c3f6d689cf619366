"""Step 1: how strongly each value neuron responds to ordinary prompts."""

from unmemorize.statistics._activations import activations
from unmemorize.statistics._compute import compute_statistics
from unmemorize.statistics._kept import default_statistics, default_statistics_path
from unmemorize.statistics._ordinary import (
    side_effect_captions,
    statistics_captions,
    threshold_captions,
)
from unmemorize.statistics._statistics import Statistics

__all__ = [
    "Statistics",
    "activations",
    "compute_statistics",
    "default_statistics",
    "default_statistics_path",
    "side_effect_captions",
    "statistics_captions",
    "threshold_captions",
]
