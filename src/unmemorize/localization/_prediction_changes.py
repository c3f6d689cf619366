"""How much neurons change the prediction: the 2-norm of the change of the noise differences.

A neuron's change is small where it carries nothing. That says more than a score, which may stay
low while a neuron that carries the image is on, because others that carry it too are off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from unmemorize.detection import noise_differences
from unmemorize.localization._effects import frozen_weights, seeds_at_once
from unmemorize.localization._passes import Passes
from unmemorize.neurons import Neurons, gated

_SEEDS = 2
"""Seeds over which changes are averaged. Those of a memorized prompt differ little in them."""
_PROJECTION_SEED = 0
"""Random projections are the same for every prompt, so that a localization can be repeated."""


class PredictionChanges:
    """Changes of the prediction of one prompt, averaged over a few of its memorized seeds.

    Args:
        passes: runs the denoiser for the prompt.
        seeds: the memorized seeds. Only the first ones are used.
    """

    def __init__(self, passes: Passes, seeds: Sequence[int]) -> None:
        self._passes = passes
        self._seeds = list(seeds[:_SEEDS])
        self._differences: dict[Neurons, Tensor] = {}

    @property
    def widths(self) -> Mapping[str, int]:
        """Layer -> its number of neurons, for the layers that are searched."""
        return {path: self._passes.model.widths[path] for path in self._passes.layers}

    def measure(self, off: Neurons, other: Neurons) -> float:
        """Return how much the prediction with ``off`` off differs from that with ``other`` off.

        Returns:
            The 2-norm of the difference of the two noise differences, averaged over the seeds. It
            takes a forward pass for each set that was not seen before.
        """
        change = self._differences_with(other) - self._differences_with(off)
        return float(change.flatten(1).norm(dim=1).mean())

    def estimate(self, off: Neurons, projections: int) -> dict[str, Tensor]:
        """Estimate the change that each single neuron makes, from backward passes.

        With ``off`` off, each neuron that is off is switched on alone, and each that is on is
        switched off alone. The slope of a random projection of the prediction, with respect to a
        gate at the neuron, has the squared norm of the neuron's first-order change as its variance.

        Args:
            off: the neurons that are off.
            projections: random projections per seed. Each takes one backward pass.

        Returns:
            layer -> (features,), float32, at least 0.

        Raises:
            RuntimeError: the denoiser has no backward pass, or it does not fit into memory.
        """
        model, scale = self._passes.model, self._passes.scale
        squares = {
            path: torch.zeros(width, dtype=torch.float32) for path, width in self.widths.items()
        }
        generator = torch.Generator().manual_seed(_PROJECTION_SEED)
        differences = []
        with torch.enable_grad(), frozen_weights(model.denoiser):
            for seeds in self._batches():
                probe = self._passes.probe.of_seeds(seeds)
                gates = self._gates(off, len(seeds))
                with gated(model, gates):
                    predicted = noise_differences(model, probe, gradient=True)
                self._passes.meter.add_forward(probe.samples, share=1.0)
                for left in reversed(range(projections)):
                    direction = torch.randn(
                        predicted.shape, generator=generator, dtype=torch.float32
                    )
                    slopes = torch.autograd.grad(
                        (predicted * direction.to(predicted.device)).sum(),
                        list(gates.values()),
                        retain_graph=left > 0,
                    )
                    self._passes.meter.add_backward(probe.samples)
                    for path, slope in zip(gates, slopes, strict=True):
                        squares[path] += slope.float().pow(2).sum(0).cpu()
                differences.append(predicted.detach())
        self._differences[off] = torch.cat(differences)
        count = projections * len(self._seeds)
        return {path: abs(1 - scale) * (sums / count).sqrt() for path, sums in squares.items()}

    def _differences_with(self, off: Neurons) -> Tensor:
        if off not in self._differences:
            self._differences[off] = self._passes.run(off, self._seeds).differences
        return self._differences[off]

    def _batches(self) -> list[list[int]]:
        size = seeds_at_once(self._passes.probe)
        starts = range(0, len(self._seeds), size)
        return [self._seeds[start : start + size] for start in starts]

    def _gates(self, off: Neurons, rows: int) -> dict[str, Tensor]:
        """Return differentiable factors (rows, features): 1, and the scale where off."""
        device, dtype = self._passes.model.device, self._passes.model.dtype
        gates = {}
        for path, width in self.widths.items():
            gate = torch.ones(rows, width, device=device, dtype=dtype)
            gate[:, list(off.layers.get(path, ()))] = self._passes.scale
            gates[path] = gate.requires_grad_()
        return gates
