"""How well a score tells memorized prompts from others: AUROC, and the share found at a false positive rate of 1 %."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, binary_sensitivity_at_specificity

from unmemorize._errors import MetricError

FPR = 0.01
_RESAMPLES = 500


@dataclass(frozen=True)
class Separation:
    """A number in [0, 1] with its 95 % bootstrap interval (percentiles of 500 resamples, drawn within each class, fixed seed)."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def auroc(memorized: Sequence[float], others: Sequence[float]) -> Separation:
    """The probability that a memorized prompt scores higher than another one, ties counted half.

    Raises:
        MetricError: one of the two is empty.

    >>> auroc([0.9, 0.8], [0.1, 0.85]).value
    0.75
    """
    return _bootstrap(binary_auroc, memorized, others)


def tpr_at_fpr(memorized: Sequence[float], others: Sequence[float], fpr: float = FPR) -> Separation:
    """The share of memorized prompts found by the lowest score threshold that at most a share ``fpr`` of the others reaches.

    Raises:
        MetricError: one of the two is empty.

    >>> tpr_at_fpr([0.9, 0.8], [0.1, 0.85]).value
    0.5
    """
    return _bootstrap(
        lambda scores, labels: binary_sensitivity_at_specificity(scores, labels, 1 - fpr)[0],
        memorized,
        others,
    )


def _bootstrap(
    measure: Callable[[Tensor, Tensor], Tensor], memorized: Sequence[float], others: Sequence[float]
) -> Separation:
    positive, negative = (
        np.asarray(memorized, dtype=np.float64),
        np.asarray(others, dtype=np.float64),
    )
    if not len(positive) or not len(negative):
        raise MetricError(
            f"{len(positive)} memorized and {len(negative)} unmemorized prompts: telling them apart needs some of both."
        )
    labels = torch.cat(
        [torch.ones(len(positive), dtype=torch.long), torch.zeros(len(negative), dtype=torch.long)]
    )

    def of(
        first: np.ndarray[tuple[int], np.dtype[np.float64]],
        second: np.ndarray[tuple[int], np.dtype[np.float64]],
    ) -> float:
        share = float(measure(torch.from_numpy(np.concatenate([first, second])), labels))
        return min(
            max(share, 0.0), 1.0
        )  # the area is summed up in float32, and may come out a last bit above 1

    rng = np.random.default_rng(0)
    drawn = [
        of(rng.choice(positive, len(positive)), rng.choice(negative, len(negative)))
        for _ in range(_RESAMPLES)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Separation(of(positive, negative), float(low), float(high))
