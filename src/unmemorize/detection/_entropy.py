"""How widely the attention to the tokens of a memorized prompt is spread.

Source: Ren et al. (ECCV 2024), whose code is at renjie3/MemAttn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unmemorize._errors import ThresholdError
from unmemorize.detection._detector import Score, check_settings, make_scores
from unmemorize.detection._moment import GUIDANCE, STEPS, Moment
from unmemorize.detection._trace import Trace


def entropy(shares: Tensor) -> Tensor:
    """Return - sum q log q over the last dimension; the shares q need not add up to 1."""
    total: Tensor = torch.special.entr(shares).sum(-1)
    return total


@dataclass(frozen=True, kw_only=True)
class LayerEntropy:
    """Scores a prompt by the entropy of one cross-attention at the first step.

    Its probabilities are averaged over heads and pixels first.

    Args:
        seeds: initial noises.
        layer: the index of the attention, from 0, in the order in which they run. Models with fewer
            use their last one.
        steps: steps of the run that the timestep belongs to.
    """

    name: ClassVar[str] = "layer-entropy"
    seeds: int = 4
    layer: int = 3
    steps: int = STEPS

    def __post_init__(self) -> None:
        check_settings(self)
        if self.layer < 0:
            raise ThresholdError(f"layer={self.layer}: layers are counted from 0. Use 0 or more.")

    @property
    def watched(self) -> tuple[Moment, ...]:
        """The moments at which attention is asked for."""
        return (Moment(0, self.steps),)

    def score(self, trace: Trace) -> Sequence[Score]:
        """See `Detector`."""
        shares = trace.attention(self.seeds, self.watched[0]).tokens
        layer = min(self.layer, shares.shape[2] - 1)
        return make_scores(entropy(shares[:, :, layer]), self.seeds, samples=1)


@dataclass(frozen=True, kw_only=True)
class AttentionEntropy:
    """Scores a prompt by the entropy of all cross-attentions at the last steps (D).

    To it comes by how much the part of the end token and the padding has grown since the first
    step. This takes a whole run, and a text encoder whose end token is known.

    Args:
        seeds: initial noises.
        last: how many steps count, from the end.
        steps: steps of the run.
        guidance: its scale of guidance.
    """

    name: ClassVar[str] = "attention-entropy"
    seeds: int = 1
    last: int = 10
    steps: int = STEPS
    guidance: float = GUIDANCE

    def __post_init__(self) -> None:
        check_settings(self)
        Moment(-self.last if self.last > 0 else self.steps, self.steps)

    @property
    def watched(self) -> tuple[Moment, ...]:
        """The moments at which attention is asked for: the first step, then the last ones."""
        late = range(self.steps - self.last, self.steps)
        return tuple(Moment(step, self.steps, self.guidance) for step in (0, *late))

    def score(self, trace: Trace) -> Sequence[Score]:
        """See `Detector`."""
        ends = torch.tensor(trace.end_tokens())
        records = [trace.attention(self.seeds, moment).tokens.mean(2) for moment in self.watched]
        first, late = records[0], torch.stack(records[1:])  # (.., prompts, seeds, tokens)
        closing = torch.arange(first.shape[-1]) >= ends[:, None, None]  # (prompts, 1, tokens)
        closing = closing.to(first.device)
        grown = entropy(late * closing).mean(0) - entropy(first * closing)
        values = entropy(late).mean(0) + grown
        # without text the first step is shared and the last one not needed
        return make_scores(values, self.seeds, samples=2 * self.steps - 2, shared=1)
