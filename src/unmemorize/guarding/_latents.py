"""Change the latents of some images while a pipeline draws them.

A hook on the denoiser sees copies of the latents, and what it changes there is lost. The latents
themselves pass through ``scheduler.step``, which is replaced on the scheduler of the pipeline.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor

_SAMPLE = 2
"""The place of the sample among the arguments of ``scheduler.step``."""


def redrawn_signs(noise: Tensor, rows: Sequence[int], attempt: int) -> Tensor:
    """Draw signs that turn the initial noise of some images into other noise.

    Gaussian noise with random signs is Gaussian noise that is not correlated with what it was, at
    whatever scale the sampler keeps it.

    Args:
        noise: the noise of all images, (images, ...).
        rows: the images that get other noise. The others keep theirs.
        attempt: seeds the CPU generator, so the same call gives the same images again.

    Returns:
        1 or -1, (images, ...).
    """
    generator = torch.Generator().manual_seed(attempt)
    drawn = torch.randint(2, noise.shape, generator=generator).to(noise.device, noise.dtype) * 2 - 1
    signs = torch.ones_like(drawn)
    signs[list(rows)] = drawn[list(rows)]
    return signs


@contextmanager
def changed_latents(scheduler: Any, signs: Tensor | None, blank: Sequence[int]) -> Iterator[None]:
    """Change latents in the steps of a scheduler while the context lasts.

    Args:
        scheduler: the pipeline's.
        signs: what the latents of the next step are multiplied by, (images, ...); None changes
            nothing.
        blank: the images whose latents become 0 after every step, which draws a flat image.
    """
    step = scheduler.step
    pending = [] if signs is None else [signs]

    @wraps(step)  # pipelines look at its signature
    def changed(*args: Any, **kwargs: Any) -> Any:
        if pending:
            args, kwargs = _multiplied(args, kwargs, pending.pop())
        result = step(*args, **kwargs)
        result[0][list(blank)] = 0
        return result

    scheduler.step = changed
    try:
        yield
    finally:
        del scheduler.step


def _multiplied(
    args: tuple[Any, ...], kwargs: dict[str, Any], signs: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if "sample" in kwargs:
        return args, {**kwargs, "sample": kwargs["sample"] * signs}
    changed = list(args)
    changed[_SAMPLE] = changed[_SAMPLE] * signs
    return tuple(changed), kwargs
