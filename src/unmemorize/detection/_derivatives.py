"""Products of vectors with the Jacobian of the predicted noise, with respect to the sample.

At first steps it is that of `NoiseLevel.scored`. Attention runs without its fast kernels, which
cannot be differentiated twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from unmemorize.detection._moment import Moment
from unmemorize.detection._trace import Trace
from unmemorize.detection._without_text import known_without_text
from unmemorize.pipelines import Conditioning


def jacobian_products(
    trace: Trace, seeds: int, moment: Moment, vectors: Tensor, *, text: bool
) -> Tensor:
    """Return J v for each sample: a pass, a backward pass, and one backward through that.

    J^T u is linear in u, and its derivative with respect to u in direction v is J v. The forward
    mode of torch would take less but does not know every layer.

    Args:
        trace: the trace.
        seeds: how many initial noises.
        moment: where to look.
        vectors: v, (prompts, seeds, C, H, W).
        text: whether the predictions are those with text.

    Returns:
        float32 of shape (prompts, seeds, C, H, W).
    """
    samples = _samples(trace, seeds, moment)
    products = []
    for rows, prompts in trace.batches(seeds):
        conditioning = trace.conditioning(prompts if text else [None] * len(prompts))
        x = samples[rows].detach().requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):
            output = _scored(trace, moment, x, conditioning)
        direction = torch.zeros_like(output).requires_grad_()
        (transposed,) = torch.autograd.grad(output, x, direction, create_graph=True)
        vector = vectors.flatten(0, 1)[rows].to(x.dtype)
        products.append(torch.autograd.grad(transposed, direction, vector)[0].float())
    return _grid(products, trace, seeds)


def energy_gradients(trace: Trace, seeds: int, moment: Moment) -> Tensor:
    """Return the gradient of half the squared norm of each prediction, J^T prediction.

    Args:
        trace, seeds, moment: as in `jacobian_products`.

    Returns:
        float32 of shape (prompts, seeds, C, H, W).
    """
    samples = _samples(trace, seeds, moment)
    gradients = [
        _energy_gradient(trace, moment, samples[rows], trace.conditioning(prompts))
        for rows, prompts in trace.batches(seeds)
    ]
    return _grid(gradients, trace, seeds)


def energy_gradients_without_text(trace: Trace, seeds: int, moment: Moment) -> Tensor:
    """Return the same without text on untouched noise, (1, seeds, C, H, W), once for a model."""
    known = known_without_text(trace.model, trace.settings.seed, moment, "energy gradients")
    noise = _samples(trace, seeds, moment)[:seeds]
    for seed in range(seeds):
        if (None, seed) not in known:
            text = trace.conditioning([None])
            known[None, seed] = _energy_gradient(trace, moment, noise[seed, None], text)[0]
    return torch.stack([known[None, seed] for seed in range(seeds)])[None]


def text_gradients(
    trace: Trace, seeds: int, moment: Moment, vectors: Callable[[int], Tensor], count: int
) -> Tensor:
    """Return the mean over vectors v of v * (J^T v), J of the prediction with minus without text.

    For entries of -1 and 1 this estimates the diagonal of J (Hutchinson 1989).

    Args:
        trace, seeds, moment: as in `jacobian_products`.
        vectors: returns the i-th vector, (C, H, W), the same for all samples.
        count: how many vectors.

    Returns:
        float32 of shape (prompts, seeds, C, H, W).
    """
    samples = _samples(trace, seeds, moment)
    means = []
    for rows, prompts in trace.batches(seeds):
        x = samples[rows].detach().requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):
            with_text, without = (
                trace.level(moment).noise(
                    _predict(trace, moment, x, trace.conditioning(some)), x.float()
                )
                for some in (prompts, [None] * len(prompts))
            )
        difference = with_text - without
        mean = torch.zeros_like(difference)
        for index in range(count):
            vector = vectors(index).to(x.device)
            (gradient,) = torch.autograd.grad(
                (difference * vector).sum(), x, retain_graph=index < count - 1
            )
            mean += vector * gradient.float() / count
        means.append(mean.detach())
    return _grid(means, trace, seeds)


def _energy_gradient(trace: Trace, moment: Moment, samples: Tensor, text: Conditioning) -> Tensor:
    x = samples.detach().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        energy = _scored(trace, moment, x, text).square().sum() / 2
    return torch.autograd.grad(energy, x)[0].float()


def _grid(rows: Sequence[Tensor], trace: Trace, seeds: int) -> Tensor:
    grid: Tensor = torch.cat(list(rows)).unflatten(0, (len(trace), seeds))
    return grid


def _samples(trace: Trace, seeds: int, moment: Moment) -> Tensor:
    return trace.samples(seeds, moment).flatten(0, 1).to(trace.model.dtype)


def _scored(trace: Trace, moment: Moment, x: Tensor, text: Conditioning) -> Tensor:
    return trace.level(moment).scored(_predict(trace, moment, x, text), x.float())


def _predict(trace: Trace, moment: Moment, x: Tensor, text: Conditioning) -> Tensor:
    return trace.model.predict(x, trace.timestep(moment), text, gradient=True)
