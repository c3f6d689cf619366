"""Optimizers whose whole state is in tensors, so that an attack can be resumed exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from unmemorize.audit._attack import State, Trial
from unmemorize.audit._bench import Bench

_MOMENTS = ("exp_avg", "exp_avg_sq")
_SLOPE = 2.0**-4
"""About how fast the loss that is differentiated changes with each predicted value. float16 holds
numbers from 6e-8 to 65504, so sums of many such slopes fit in, and so do small shares of them."""


def adam(
    parameters: Mapping[str, Tensor], state: State, rate: float, *, decay: float = 0.0
) -> torch.optim.Adam:
    """Make Adam for parameters, with the moments of a state.

    Args:
        parameters: leaf tensors by name.
        state: what `saved` returned, or the beginning of an attack.
        rate: the learning rate.
        decay: the weight decay.
    """
    optimizer = torch.optim.Adam(parameters.values(), lr=rate, weight_decay=decay)
    for name, parameter in parameters.items():
        if f"{name}.{_MOMENTS[0]}" in state.tensors:
            moments = {
                moment: state.tensors[f"{name}.{moment}"].clone().to(parameter.device)
                for moment in _MOMENTS
            }
            optimizer.state[parameter] = {
                "step": torch.tensor(state.step, dtype=torch.float32),
                **moments,
            }
    return optimizer


def joined(states: Sequence[State], name: str) -> State:
    """Return the moments of several attacks of one age as those of one stacked tensor."""
    known = [f"{name}.{moment}" for moment in _MOMENTS if f"{name}.{moment}" in states[0].tensors]
    moments = {key: torch.stack([state.tensors[key] for state in states]) for key in known}
    return State(step=states[0].step, tensors=moments)


def saved(parameters: Mapping[str, Tensor], optimizer: torch.optim.Adam) -> dict[str, Tensor]:
    """Return parameters and moments as tensors on the CPU."""
    tensors = {name: parameter.detach().cpu() for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        for moment in _MOMENTS:
            tensors[f"{name}.{moment}"] = optimizer.state[parameter][moment].detach().cpu()
    return tensors


def slopes_of(errors: Tensor, values: Sequence[Tensor], *, attacks: int = 1) -> tuple[Tensor, ...]:
    """Differentiate the mean square of errors.

    It changes so little with each predicted value that float16 would round gradients to few digits
    or to 0. So it is differentiated in smaller units. They are a power of two, which leaves the
    digits of float32 alone.

    Args:
        errors: of the predicted values, of any shape.
        values: what the gradients are with respect to, in float32.
        attacks: how many attacks the errors belong to, in equal parts. The sum of their means is
            differentiated, so each attack has its own gradient.
    """
    own = errors.reshape(attacks, -1)
    scale = 2.0 ** math.floor(math.log2(_SLOPE * own.shape[1]))
    gradients = torch.autograd.grad(scale * own.square().mean(1).sum(), values)
    return tuple(gradient / scale for gradient in gradients)


def drawn_batch(
    bench: Bench, trial: Trial, latents: Tensor, step: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw what one step of an attack sees, from the step's own generator.

    Args:
        bench: the model.
        trial: whose generator is used.
        latents: clean ones, (M, C, H, W). Each sample takes one of them.
        step: the number of the step, from 0.

    Returns:
        Clean latents and noise, (B, C, H, W), and noise levels in [0, 1), (B,).
    """
    generator = trial.generator(step)
    levels = torch.rand(bench.batch, generator=generator, dtype=torch.float32)
    noise = torch.randn((bench.batch, *latents.shape[1:]), generator=generator, dtype=torch.float32)
    rows = torch.randint(len(latents), (bench.batch,), generator=generator)
    return latents[rows.to(latents.device)], noise, levels
