"""How well a score separates memorized prompts from others: AUROC, and TPR at 1 % FPR."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, binary_sensitivity_at_specificity

from unmemorize._errors import MetricError
from unmemorize.metrics._bootstrap import bootstrap_interval

FPR = 0.01
_RESAMPLES = 500

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Separation:
    """How well two classes are separated.

    Args:
        value: in [0, 1].
        low, high: the 95 % bootstrap interval (percentiles of 500 resamples within each class).
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def auroc(memorized: Sequence[float], others: Sequence[float]) -> Separation:
    """Return the probability that a memorized prompt scores higher than another one.

    Ties count half.

    Args:
        memorized: scores of memorized prompts.
        others: scores of other prompts.

    Raises:
        MetricError: one of the two is empty or holds NaN.

    Examples:
        >>> auroc([0.9, 0.8], [0.1, 0.85]).value
        0.75
    """
    return _separation(binary_auroc, memorized, others)


def tpr_at_fpr(memorized: Sequence[float], others: Sequence[float], fpr: float = FPR) -> Separation:
    """Return the share of memorized prompts that are detected at a false positive rate.

    The threshold is the lowest one that at most a share ``fpr`` of the other prompts reaches.

    Args:
        memorized: scores of memorized prompts.
        others: scores of other prompts.
        fpr: the false positive rate, in [0, 1].

    Raises:
        MetricError: one of the two is empty or holds NaN, or the rate is not in [0, 1].

    Examples:
        >>> tpr_at_fpr([0.9, 0.8], [0.1, 0.85]).value
        0.5
    """
    if not 0 <= fpr <= 1:
        raise MetricError(f"fpr={fpr}: a rate lies between 0 and 1, such as 0.01.")
    return _separation(
        lambda scores, labels: binary_sensitivity_at_specificity(scores, labels, 1 - fpr)[0],
        memorized,
        others,
    )


def _separation(
    measure: Callable[[Tensor, Tensor], Tensor], memorized: Sequence[float], others: Sequence[float]
) -> Separation:
    """Apply a measure of scores (N,) and labels (N,), and find its bootstrap interval."""
    if not len(memorized) or not len(others):
        raise MetricError(
            f"{len(memorized)} memorized and {len(others)} unmemorized prompts: "
            "a separation needs some of both. Add prompts of the missing kind."
        )
    samples = [np.asarray(scores, dtype=np.float64) for scores in (memorized, others)]
    if missing := sum(int(np.isnan(scores).sum()) for scores in samples):
        raise MetricError(
            f"{missing} scores are NaN, which is neither high nor low. Score these prompts again, "
            "or leave them out."
        )

    def share(positive: Array, negative: Array) -> float:
        # ranks, because torchmetrics takes scores outside of [0, 1] for logits, and large ones tie
        distinct, ranks = np.unique(np.concatenate([positive, negative]), return_inverse=True)
        scores = torch.from_numpy(ranks / len(distinct))
        labels = torch.tensor([1] * len(positive) + [0] * len(negative))
        # the area is summed up in float32, so it may exceed 1 by the last bit
        return min(max(float(measure(scores, labels)), 0.0), 1.0)

    low, high = bootstrap_interval(samples, share, _RESAMPLES, vectorized=False)
    return Separation(share(*samples), low, high)
