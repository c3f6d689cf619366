"""L2: tokens in front of a caption (after Zhang et al., "UnlearnDiffAtk", ECCV 2024).

Each token is a distribution over the vocabulary. Its largest entry is used, and gradients pass to
the distribution as if it had been used itself. After each step the distribution is projected onto
the simplex. The published attack goes through the noise levels one after the other; here they are
drawn at random in each step, as in all attacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from unmemorize.audit._attack import AttackSettings, Candidate, Start, State, Trial, every_trial
from unmemorize.audit._bench import Bench
from unmemorize.audit._objectives import IMAGE, IMAGELESS, Objective
from unmemorize.audit._soft_tokens import caption_of, start_caption
from unmemorize.audit._text_encoder import TextEncoder
from unmemorize.pipelines import Conditioning

_RATE = 0.01
_DECAY = 0.1


@dataclass(frozen=True)
class HardTokens:
    """An attack on tokens in front of a caption.

    Args:
        objective: what it minimizes.
        count: how many tokens.
        rate: the learning rate (Adam).
    """

    objective: Objective = IMAGE
    count: int = 5
    rate: float = _RATE

    @property
    def name(self) -> str:
        """See `Attack`."""
        return f"L2{self.objective.suffix}"

    def ladder(self, steps: Sequence[int]) -> Sequence[int]:
        """See `Attack`."""
        return steps

    def trials(self, starts: Sequence[Start], seeds: int) -> Sequence[tuple[Start, int]]:
        """See `Attack`. From noise means tokens without a caption."""
        return every_trial(starts, seeds)

    def samples(self, step: int, batch: int) -> int:
        """See `Attack`."""
        return self.objective.samples(step, batch)

    def check(self, bench: Bench) -> None:
        """See `Attack`."""
        bench.one_stream()
        TextEncoder(bench.model, "", self.count)

    def begin(self, bench: Bench, trial: Trial) -> State:
        """See `Attack`. The distributions start at random."""
        encoder = self._encoder(bench, trial)
        shape = (self.count, len(encoder.vectors))
        value = torch.rand(shape, generator=trial.generator("start"), dtype=torch.float32)
        return self.objective.begun(bench, trial, {"value": _projected(value, encoder.allowed)})

    def advance(self, bench: Bench, trial: Trial, state: State, step: int) -> State:
        """See `Attack`."""
        encoder, caption = self._encoder(bench, trial), caption_of(bench, trial)
        allowed = encoder.allowed.to(bench.model.device)

        def text(values: Tensor) -> Conditioning:
            (value,) = values
            hard = F.one_hot(value.argmax(1), value.shape[1]).to(value)
            straight_through = hard + value - value.detach()
            vectors = straight_through @ encoder.vectors.detach().to(value)
            return bench.with_embedding(caption, encoder.encode(vectors), bench.batch)

        (advanced,) = self.objective.descended(
            bench,
            [trial],
            [state],
            step,
            rate=self.rate,
            decay=_DECAY,
            text=text,
            project=lambda values: _projected(values[0], allowed)[None],
        )
        return advanced

    @torch.no_grad()
    def candidate(self, bench: Bench, trial: Trial, state: State) -> Candidate:
        """See `Attack`. The words need not be read as these very tokens when they are typed."""
        encoder = self._encoder(bench, trial)
        numbers = state.tensors["value"].argmax(1)
        embedding = encoder.encode(encoder.vectors[numbers.to(encoder.vectors.device)])
        return Candidate(
            text=caption_of(bench, trial),
            embedding=embedding.detach().float().cpu(),
            words=f"{encoder.typed(numbers)} {start_caption(bench, trial)}".strip(),
        )

    def _encoder(self, bench: Bench, trial: Trial) -> TextEncoder:
        return TextEncoder(bench.model, start_caption(bench, trial), self.count)


def _projected(value: Tensor, allowed: Tensor) -> Tensor:
    """Return the nearest distribution over the allowed tokens for each row, (count, vocabulary).

    It is max(value - theta, 0) with the theta for which the entries sum to 1 (Duchi et al. 2008).
    """
    value = value.masked_fill(~allowed, -torch.inf)
    falling = value.sort(1, descending=True).values
    number = torch.arange(1, value.shape[1] + 1, device=value.device)
    thresholds = (falling.cumsum(1) - 1) / number
    support = (falling > thresholds).sum(1, keepdim=True)
    return (value - thresholds.gather(1, support - 1)).clamp_min(0)


def hard_tokens(settings: AttackSettings) -> tuple[HardTokens]:
    """Make the attack of level L2."""
    return (HardTokens(rate=_RATE if settings.rate else 0.0),)


def hard_tokens_imageless(settings: AttackSettings) -> tuple[HardTokens]:
    """Make the attack of level L2 without an image."""
    return (HardTokens(IMAGELESS, rate=_RATE if settings.rate else 0.0),)
