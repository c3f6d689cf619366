"""Why a memorized prompt has no neurons."""

from __future__ import annotations

from unmemorize.localization._criteria import Limit
from unmemorize.localization._refinement import Refinement
from unmemorize.localization._selection import Selection


def why_empty(selection: Selection, refinement: Refinement, limit: Limit) -> str:
    """Say why refinement left no neurons off.

    Args:
        selection: the result of the initial selection.
        refinement: the result of the refinement, without neurons.
        limit: what the scores of the refinement had to stay below.
    """
    if selection.neurons and refinement.effects is not None:
        return (
            f"none of the {len(selection.neurons)} candidates changes the prediction more than "
            "other neurons of its layer do. Try refinement=bisect, or look at the initial neurons."
        )
    if selection.neurons:
        return (
            f"the score stays below {limit.value:.3f} with all of the {len(selection.neurons)} "
            "candidates on again, so none of them is needed."
        )
    if selection.theta_exhausted:
        return (
            "no neuron of the searched layers was selected down to "
            f"theta = {selection.theta:g}, and the score is still {selection.score:.3f}. Try a "
            "lower theta_floor, or layers=all."
        )
    return (
        f"the score is {selection.score:.3f} with nothing switched off, which already passes for "
        "this criterion, so the first step shows nothing to search for."
    )
