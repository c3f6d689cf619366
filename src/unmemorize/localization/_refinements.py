"""The methods of refinement by name, as `LocalizationSettings.refinement` chooses them."""

from __future__ import annotations

from collections.abc import Mapping

from unmemorize.localization._bisection import refine_by_bisection
from unmemorize.localization._complete import refine_completely
from unmemorize.localization._greedy import refine_greedily
from unmemorize.localization._refinement import Refine
from unmemorize.localization._settings import RefinementMethod

REFINEMENTS: Mapping[RefinementMethod, Refine] = {
    "complete": refine_completely,
    "bisect": refine_by_bisection,
    "greedy": refine_greedily,
}
