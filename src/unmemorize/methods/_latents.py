"""Images as the denoiser sees them: training images, and those that it draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unmemorize._errors import MitigationError
from unmemorize.generation import Drawing, GenerationSettings, drawn_latents
from unmemorize.metrics import read_image
from unmemorize.pipelines import Model, encoded


def encoded_images(model: Model, paths: Sequence[Path], method: str) -> Tensor:
    """Encode image files as clean latents of the model's own size, (images, C, H, W).

    Images of another size are squashed. The mean of the encoder's distribution is taken.

    Raises:
        MitigationError: the pipeline has no encoder of the usual kind.
        MetricError: a file cannot be read.
    """
    vae = getattr(model.pipe, "vae", None)
    if vae is None or not hasattr(vae.config, "scaling_factor") or not hasattr(vae, "quant_conv"):
        raise MitigationError(
            f"{method}: {type(model.pipe).__name__} has no AutoencoderKL, so training images "
            "cannot be encoded. Use closed-form or wanda."
        )
    side = model.latent_shape[-1] * model.pipe.vae_scale_factor
    pixels = [
        np.asarray(
            read_image(path).resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32
        )
        for path in paths
    ]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 127.5 - 1
    return encoded(model, images).to(model.dtype)


def drawn_in_batches(
    model: Model, prompts: Sequence[str], noise: Tensor, settings: GenerationSettings
) -> Iterator[Tensor]:
    """Draw an image of each prompt, and yield the latents of each batch, (images, C, H, W).

    Args:
        model: the model.
        prompts: the prompts.
        noise: initial noise of each, (prompts, C, H, W).
        settings: steps, guidance and batch.
    """
    for start in range(0, len(prompts), settings.batch):
        some = tuple(prompts[start : start + settings.batch])
        rows = (True,) * len(some)
        drawing = Drawing(
            some, noise[start : start + len(some)], rows, settings.steps, settings.guidance
        )
        yield drawn_latents(model, drawing)
