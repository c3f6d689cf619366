"""Step 3: which neurons carry the image that a prompt has memorized."""

from unmemorize.localization._detect import detect, detect_prompts
from unmemorize.localization._localize import localize, localize_prompt
from unmemorize.localization._records import Detection, Localization, Spent, Trial
from unmemorize.localization._settings import Criterion, LocalizationSettings, RefinementMethod

__all__ = [
    "Criterion",
    "Detection",
    "Localization",
    "LocalizationSettings",
    "RefinementMethod",
    "Spent",
    "Trial",
    "detect",
    "detect_prompts",
    "localize",
    "localize_prompt",
]
