"""Detectors and methods of the field, side by side on one model."""

from unmemorize._prompts import ALL_GROUPS
from unmemorize.comparison._choice import chosen_detectors, chosen_methods, needs_localization
from unmemorize.comparison._compare import compare_all
from unmemorize.comparison._detectors import DetectorRow, FoundGroup
from unmemorize.comparison._drawn import UNEDITED
from unmemorize.comparison._forecast import ComparisonForecast, forecast_comparison
from unmemorize.comparison._methods import MethodRow
from unmemorize.comparison._published import Published
from unmemorize.comparison._result import Comparison
from unmemorize.comparison._settings import (
    ComparisonCaptions,
    ComparisonInputs,
    ComparisonRun,
    ComparisonSettings,
)

__all__ = [
    "ALL_GROUPS",
    "UNEDITED",
    "Comparison",
    "ComparisonCaptions",
    "ComparisonForecast",
    "ComparisonInputs",
    "ComparisonRun",
    "ComparisonSettings",
    "DetectorRow",
    "FoundGroup",
    "MethodRow",
    "Published",
    "chosen_detectors",
    "chosen_methods",
    "compare_all",
    "forecast_comparison",
    "needs_localization",
]
