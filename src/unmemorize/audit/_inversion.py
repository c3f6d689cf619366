"""L5: the noise that the model turns into the image, without any text (after TINA, CVPR 2026).

A noise holds as many numbers as the image's latent, so this succeeds on any image, memorized or
not. It is the ceiling of an audit: where it fails, the audit is broken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from unmemorize.audit._attack import ONCE, AttackSettings, Candidate, Start, State, Trial
from unmemorize.audit._bench import Bench

_TIMESTEPS = 50


@dataclass(frozen=True)
class Inversion:
    """Inverts the deterministic sampler with the empty text, each step by fixed-point iterations.

    TINA minimizes the same residual by AdamW, which takes three times the work per iteration.

    Args:
        iterations: how often each step is iterated at the largest budget.
        timesteps: steps of the sampler.
    """

    iterations: int = 5
    timesteps: int = _TIMESTEPS

    name = "L5"

    def ladder(self, _steps: Sequence[int]) -> Sequence[int]:
        """See `Attack`. The budgets are plain inversion, and with all iterations."""
        return (0, self.iterations)

    def trials(self, _starts: Sequence[Start], _seeds: int) -> Sequence[tuple[Start, int]]:
        """See `Attack`."""
        return ONCE

    def samples(self, step: int, _batch: int) -> int:
        """See `Attack`."""
        return self.timesteps * (1 + (1 + step if step else 0))

    def check(self, _bench: Bench) -> None:
        """See `Attack`. It is always possible."""

    def begin(self, bench: Bench, trial: Trial) -> State:
        """See `Attack`."""
        return self.advance(bench, trial, State(), 0)

    @torch.no_grad()
    def advance(self, bench: Bench, trial: Trial, _state: State, step: int) -> State:
        """See `Attack`. It inverts from the image again, since each step rests on the last."""
        clean = bench.latents(trial.target.key, trial.target.images[:1])
        text = bench.model.encode([""])
        path = [-1.0, *reversed(bench.model.timesteps(self.timesteps).double().tolist())]
        latents = clean.float()
        for before, after in pairwise(path):
            here, there = (torch.tensor([time], dtype=torch.float32) for time in (before, after))
            current = latents
            for _ in range(1 + step):  # the first one is plain inversion
                noisy = current.to(bench.model.dtype)
                prediction = bench.predict(noisy, there.to(bench.model.device), text)
                current = self._inverted(bench, latents, current, prediction, here, there)
            latents = current
        return State(step=step, tensors={"noise": latents[0].cpu()})

    def _inverted(
        self,
        bench: Bench,
        latents: Tensor,
        current: Tensor,
        prediction: Tensor,
        here: Tensor,
        there: Tensor,
    ) -> Tensor:
        """Return the x with moved(x, prediction, there, here) = latents, which is linear in x."""
        moved = bench.noising.moved
        offset = moved(torch.zeros_like(current), prediction, there, here)
        slope = moved(torch.ones_like(current), prediction, there, here) - offset
        return (latents - offset) / slope

    def candidate(self, _bench: Bench, _trial: Trial, state: State) -> Candidate:
        """See `Attack`."""
        return Candidate(
            text="",
            noise=state.tensors["noise"],
            settings=lambda settings: replace(settings, guidance=1.0, steps=self.timesteps),
        )


def inversion(_settings: AttackSettings) -> tuple[Inversion]:
    """Make the attack of level L5."""
    return (Inversion(),)
