"""Effects of single neurons on the score, all from one backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from unmemorize.detection import Probe, noise_differences
from unmemorize.localization._criteria import Scoring
from unmemorize.localization._passes import Pass
from unmemorize.neurons import Neurons, gated
from unmemorize.pipelines import Model

Neuron = tuple[str, int]

_DIFFERENTIATED = 32 * 1024
"""Latent values that are differentiated at once: two seeds of Stable Diffusion."""


def effects_of(
    model: Model, probe: Probe, blocked: Pass, scoring: Scoring, scale: float
) -> dict[Neuron, float]:
    """Return how fast the mean score rises when each neuron that is off is switched on again.

    The gradient of a seed needs the noise differences of the other seeds but not their graphs.
    Therefore only a few seeds are differentiated at a time. A score changes so little with each
    latent value that float16 would round most gradients to 0, so they are computed in larger units.

    Args:
        model: the model.
        probe: the prompt with all its seeds.
        blocked: the pass with the neurons off.
        scoring: makes the scores.
        scale: what the outputs of the neurons are multiplied by.

    Returns:
        neuron -> first-order change of the mean score from ``scale`` to 1.
    """
    with torch.enable_grad(), frozen_weights(model.denoiser):
        slope = _slope_of_differences(blocked, scoring)
        unit = _unit_of(slope)
        gates = _gates(model, blocked.off, scale)
        rise = {path: torch.zeros(model.widths[path], dtype=torch.float32) for path in gates}
        size = seeds_at_once(probe)
        for start in range(0, len(blocked.seeds), size):
            few = probe.of_seeds(blocked.seeds[start : start + size])
            direction = slope[start : start + size] / unit
            with gated(model, gates):
                differences = noise_differences(model, few, gradient=True)
                change = (differences * direction).sum()
                gradients = torch.autograd.grad(change, list(gates.values()))
            for path, gradient in zip(gates, gradients, strict=True):
                rise[path] += gradient[0].float().cpu()
    return {
        (path, index): float(rise[path][index]) * unit * (1 - scale) for path, index in blocked.off
    }


def _unit_of(slope: Tensor) -> float:
    """Return a power of two near the largest slope, which leaves the digits of float32 alone."""
    _, exponent = torch.frexp(slope.abs().amax())
    return 2.0 ** int(exponent)


def _slope_of_differences(blocked: Pass, scoring: Scoring) -> Tensor:
    """Return the gradient of the mean score with respect to the noise differences."""
    differences = blocked.differences.detach().requires_grad_()
    score = scoring.scores(replace(blocked, differences=differences)).mean()
    (slope,) = torch.autograd.grad(score, differences)
    return slope


def _gates(model: Model, off: Neurons, scale: float) -> dict[str, Tensor]:
    """Return differentiable factors (1, features) of each layer: 1, and ``scale`` where off."""
    widths, device, dtype = model.widths, model.device, model.dtype
    gates = {}
    for path, indices in off.layers.items():
        gate = torch.ones(1, widths[path], device=device, dtype=dtype)
        gate[:, list(indices)] = scale
        gates[path] = gate.requires_grad_()
    return gates


def seeds_at_once(probe: Probe) -> int:
    """Return how many seeds are differentiated at a time, which bounds the memory it takes."""
    per_seed = probe.latents[0].numel() * (probe.samples // len(probe.latents))
    return max(1, _DIFFERENTIATED // per_seed)


@contextmanager
def frozen_weights(denoiser: nn.Module) -> Iterator[None]:
    """Compute no gradients for weights, which would keep every activation in memory."""
    trained = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_()
