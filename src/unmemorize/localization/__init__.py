"""Step 3: which neurons carry the image that a prompt has memorized."""

from unmemorize.localization._localize import detect, localize
from unmemorize.localization._records import Detection, Localization
from unmemorize.localization._settings import Criterion, LocalizationSettings

__all__ = ["Criterion", "Detection", "Localization", "LocalizationSettings", "detect", "localize"]
