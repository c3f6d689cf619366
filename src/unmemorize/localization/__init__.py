"""Step 3: find the neurons that carry the image a prompt has memorized."""

from unmemorize.localization._criteria import Limit
from unmemorize.localization._evaluator import Evaluator
from unmemorize.localization._localize import localize, localize_prompt
from unmemorize.localization._records import Localization
from unmemorize.localization._runs import (
    LOCALIZATIONS,
    LocalizationRun,
    LocalizeTask,
    difference_file,
    localize_all,
    read_localizations,
    record_localization,
    save_neurons,
    stream_localizations,
)
from unmemorize.localization._selection import candidates_at, neurons_of
from unmemorize.localization._settings import Criterion, LocalizationSettings, RefinementMethod

__all__ = [
    "LOCALIZATIONS",
    "Criterion",
    "Evaluator",
    "Limit",
    "Localization",
    "LocalizationRun",
    "LocalizationSettings",
    "LocalizeTask",
    "RefinementMethod",
    "candidates_at",
    "difference_file",
    "localize",
    "localize_all",
    "localize_prompt",
    "neurons_of",
    "read_localizations",
    "record_localization",
    "save_neurons",
    "stream_localizations",
]
