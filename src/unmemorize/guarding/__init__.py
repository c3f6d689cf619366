"""Stop copies of training images while a pipeline draws them."""

from unmemorize.guarding._calibration import calibrate_guard, noise_scores, probed_timestep
from unmemorize.guarding._guard import Alarm, Guard, guard
from unmemorize.guarding._kept import default_guard_path, default_guard_threshold
from unmemorize.guarding._threshold import GuardThreshold

__all__ = [
    "Alarm",
    "Guard",
    "GuardThreshold",
    "calibrate_guard",
    "default_guard_path",
    "default_guard_threshold",
    "guard",
    "noise_scores",
    "probed_timestep",
]
