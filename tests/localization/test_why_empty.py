"""Why a memorized prompt has no neurons, in words and in the record."""

from __future__ import annotations

import pytest

from unmemorize import Neurons
from unmemorize.localization import Limit
from unmemorize.localization._records import Effects
from unmemorize.localization._refinement import Refinement
from unmemorize.localization._selection import LayerCandidates, Selection
from unmemorize.localization._why_empty import why_empty

TWO = {"a.to_v": LayerCandidates((1, 2), ())}


@pytest.mark.parametrize(
    ("selection", "effects", "reason"),
    [
        (Selection({}, 0.31, 5.0, 0, False), None, "the score is 0.310 with nothing switched off"),
        (
            Selection({}, 0.81, 1.25, 0, True),
            None,
            "selected down to theta = 1.25, and the score is still 0.810",
        ),
        (
            Selection(TWO, 0.2, 5.0, 0, False),
            None,
            "the score stays below 0.420 with all of the 2 candidates on again",
        ),
        (
            Selection(TWO, 0.2, 5.0, 0, False),
            Effects("backward", 0.1, {}),
            "none of the 2 candidates changes the prediction",
        ),
    ],
)
def test_the_reason_follows_from_the_search(
    selection: Selection, effects: Effects | None, reason: str
) -> None:
    refinement = Refinement(Neurons(), selection.score, minimal=None, effects=effects)
    assert reason in why_empty(selection, refinement, Limit(0.42))
