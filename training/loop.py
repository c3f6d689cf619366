"""The loop that every part is trained by: resumable, the same each time, with an averaged copy."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

logger = logging.getLogger(__name__)

SAVE_SECONDS = 600.0
LOG_STEPS = 50


@dataclass(frozen=True)
class Schedule:
    """Length and learning rate: linear warm-up, a cosine down to 5 %, and a linear end.

    Attributes:
        steps: length of the training.
        learning_rate: the highest.
        warm_up: steps until the learning rate is at its highest.
        horizon: length of the cosine, by default that of the training.
        cool_down: steps at the end over which the rate falls to 5 % of what the cosine has then.
            It makes a good end of a training that is shorter than its cosine.
        decay: how much of the averaged weights remains at each step.
        seed: of every random number.
    """

    steps: int
    learning_rate: float = 1e-3
    warm_up: int = 200
    horizon: int = 0
    cool_down: int = 0
    decay: float = 0.998
    seed: int = 0

    def rate(self, step: int) -> float:
        """The learning rate at a step."""
        rise = min(1.0, (step + 1) / self.warm_up)
        horizon = self.horizon or self.steps
        fall = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / horizon))
        left = (self.steps - step) / self.cool_down if self.cool_down else 1.0
        return self.learning_rate * rise * fall * max(0.05, min(1.0, left))


@dataclass(frozen=True)
class Trained:
    """The result of a training.

    Attributes:
        weights: the averaged weights.
        curve: mean losses over each stretch of steps, with the step at its end.
        seconds: wall-clock time over all sessions, without what an interruption lost.
    """

    weights: Mapping[str, Tensor]
    curve: tuple[Mapping[str, float], ...]
    seconds: float


StepLoss = Callable[[np.random.Generator], tuple[Tensor, Mapping[str, float]]]


def to_tensor(images: NDArray[np.uint8]) -> Tensor:
    """Images (B, H, W, 3) as floats in [-1, 1], shape (B, 3, H, W)."""
    return torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1


def train(
    name: str,
    module: nn.Module,
    loss_of: StepLoss,
    schedule: Schedule,
    work: Path,
    *,
    after_step: Callable[[], None] | None = None,
) -> Trained:
    """Train ``module`` in place, resuming from ``work/NAME.pt``.

    Each step has its own seeds, so a resumed training is the undisturbed one.

    Args:
        name: of the checkpoint and in the log.
        module: what is trained; parameters without gradients stay.
        loss_of: the loss of a step and what to log. Its randomness comes from the generator that it
            is given, or from torch's global one.
        schedule: length, learning rate, seed.
        work: folder of the checkpoint, which is written every ten minutes.
        after_step: called after every optimiser step.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(
        parameters, lr=schedule.learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )
    averaged = {key: value.detach().clone() for key, value in module.state_dict().items()}
    checkpoint, first, earlier = work / f"{name}.pt", 0, 0.0
    curve: list[dict[str, float]] = []
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        module.load_state_dict(state["module"])
        optimiser.load_state_dict(state["optimiser"])
        averaged, first, curve = state["averaged"], state["step"], state["curve"]
        earlier = state["seconds"]
        logger.info("%s: resumed at step %d of %d", name, first, schedule.steps)
    logged: dict[str, list[float]] = {}
    saved = began = time.monotonic()
    for step in range(first, schedule.steps):
        torch.manual_seed(schedule.seed * 1_000_003 + step)
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate(step)
        loss, parts = loss_of(np.random.default_rng([schedule.seed, step]))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        if after_step is not None:
            after_step()
        keep = min(schedule.decay, (step + 1) / (step + 10))
        for key, value in module.state_dict().items():
            if value.is_floating_point():
                averaged[key].lerp_(value, 1 - keep)
        for key, part in parts.items():
            logged.setdefault(key, []).append(part)
        last = step + 1 == schedule.steps
        now = time.monotonic()
        if (step + 1) % LOG_STEPS == 0 or last:
            means = {key: round(float(np.nanmean(values)), 5) for key, values in logged.items()}
            curve.append({"step": step + 1, **means})
            text = " ".join(f"{key} {value:.4f}" for key, value in means.items())
            pace = (now - began) / (step + 1 - first)
            logger.info("%s %d/%d %.2f s/step %s", name, step + 1, schedule.steps, pace, text)
            logged.clear()
            if now - saved > SAVE_SECONDS or last:
                _save(
                    checkpoint,
                    {
                        "module": module.state_dict(),
                        "optimiser": optimiser.state_dict(),
                        "averaged": averaged,
                        "step": step + 1,
                        "curve": curve,
                        "seconds": earlier + now - began,
                    },
                )
                saved = now
    return Trained(averaged, tuple(curve), earlier + time.monotonic() - began)


def _save(checkpoint: Path, state: Mapping[str, object]) -> None:
    partial = checkpoint.with_suffix(".part")
    torch.save(dict(state), partial)
    os.replace(partial, checkpoint)
