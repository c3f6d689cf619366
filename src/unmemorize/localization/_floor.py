"""The choice of the criterion: the paper's, unless the prompt has a floor there.

With all searched neurons off, little of the prompt is left in the prediction, yet a seed may still
resemble its own unblocked difference, because both begin with the same noise. Where this keeps the
score above the threshold, no set of neurons can pass under the criterion "unblocked".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from unmemorize.detection import LocalizationLevel, SimilarityName
from unmemorize.localization._criteria import Limit
from unmemorize.localization._evaluator import Evaluator
from unmemorize.localization._passes import Pass, Passes
from unmemorize.localization._settings import Criterion, LocalizationSettings
from unmemorize.neurons import Neurons


def fixed_criterion(settings: LocalizationSettings, level: LocalizationLevel) -> Criterion | None:
    """Return the criterion if it does not depend on the prompt, else None.

    Thresholds in the settings belong to one criterion. With the criterion "auto" this is the
    paper's, and so it is where the other one has no level.

    Raises:
        ThresholdError: the level of the criterion is not known.
    """
    if settings.criterion != "auto":
        level.of_criterion(settings.criterion)
        return settings.criterion
    given = (
        settings.initial_threshold,
        settings.refinement_threshold,
        settings.relative_threshold,
    )
    is_open = level.tau_seeds is not None and all(value is None for value in given)
    return None if is_open else "unblocked"


def has_floor(
    passes: Passes,
    unblocked: Pass,
    seeds: Sequence[int],
    searched: Mapping[str, nn.Linear],
    tau: float,
    similarity: SimilarityName,
) -> bool:
    """Tell whether the score of "unblocked" stays above tau with all searched neurons off.

    It takes one pass over the seeds at most, and one seed where there is a floor for the first.

    Args:
        passes: runs the denoiser.
        unblocked: the pass with nothing switched off.
        seeds: the seeds that localization looks at.
        searched: the searched value layers.
        tau: the threshold of this criterion.
        similarity: how noise differences are compared.
    """
    everything = Neurons({path: range(layer.out_features) for path, layer in searched.items()})
    evaluator = Evaluator(passes, unblocked, seeds, "unblocked", similarity)
    return evaluator.below(everything, Limit(tau, strict=False)) is None
