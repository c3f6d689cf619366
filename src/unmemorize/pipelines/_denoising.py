"""One run of the denoiser of a model, as its pipeline calls it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unmemorize._errors import ModelError
from unmemorize.pipelines._denoiser import uncompiled
from unmemorize.pipelines._encoded import Conditioning
from unmemorize.pipelines._packing import unpack

if TYPE_CHECKING:
    from unmemorize.pipelines._model import Model


def denoised(
    model: Model, latents: Tensor, timestep: Tensor, text: Conditioning, *, gradient: bool
) -> Tensor:
    """Run the denoiser without guidance, see `Model.predict`.

    Prompts that the pipeline does not pad to one length are run in groups of equal length.
    """
    groups = text.groups()
    if len(groups) == 1:
        return _denoised_together(model, latents, timestep, text, gradient)
    outputs: dict[int, Tensor] = {}
    for rows, part in groups:
        times = timestep[rows] if timestep.ndim else timestep
        output = _denoised_together(model, latents[rows], times, part, gradient)
        outputs |= zip(rows, output, strict=True)
    return torch.stack([outputs[row] for row in range(len(latents))])


def _denoised_together(
    model: Model, latents: Tensor, timestep: Tensor, text: Conditioning, gradient: bool
) -> Tensor:
    layout = model.layout
    time = timestep.to(latents.device)
    if layout.scale != 1:
        time = time * layout.scale
    time = time.to(layout.dtype)
    arguments = text.arguments()
    arguments["timestep"] = time.expand(len(latents)) if layout.repeated else time
    arguments["return_dict"] = False
    with torch.set_grad_enabled(gradient), uncompiled(model.pipe):
        output: Tensor = model.denoiser(model.to_denoiser(latents), **arguments)[0].float()
    output = unpack(output) if layout.packed else output
    output = output[:, : latents.shape[1]]  # further channels are a learned variance
    if output.shape != latents.shape:
        raise ModelError(
            f"{model.name}: the denoiser takes {latents.shape[1]} channels and predicts "
            f"{output.shape[1]}. It expects an image with a mask, or the like, beside the "
            "noise. Load a text-to-image model."
        )
    if not bool(torch.isfinite(output).all()):
        raise ModelError(f"{model.name}: the denoiser returns NaN or infinity. {model.remedy}")
    return output
