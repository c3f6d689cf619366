"""Where in the image a prompt is memorized."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import DiffusionPipeline
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from unmemorize._errors import ThresholdError
from unmemorize._prompts import Prompt, as_prompt
from unmemorize.detection._detector import Detector, Locating, watched_by
from unmemorize.detection._detectors import DETECTORS, as_detector
from unmemorize.detection._moment import STEPS
from unmemorize.detection._noise import NoiseSettings
from unmemorize.detection._trace import Trace
from unmemorize.pipelines import Model

REGION_SAMPLES = 2 * STEPS
"""Denoiser samples of a map by the default detector: a guided run, to the end."""


@torch.inference_mode(False)  # some maps are derivatives, whatever mode the caller is in
def memorized_region(
    pipe: DiffusionPipeline | Model,
    prompt: str | Prompt,
    *,
    detector: str | Detector = "score-difference",
    settings: NoiseSettings | None = None,
) -> NDArray[np.float32]:
    """Return a map of where a prompt is memorized in the images that it leads to.

    Its values compare the places of one image. They are no probabilities, and whether the prompt is
    memorized at all is for `detect` to say.

    Args:
        pipe: a loaded pipeline.
        prompt: the prompt.
        detector: a detector that has maps: score-difference, curvature or bright-ending.
        settings: whose seed draws the initial noise; by default as in `detect`.

    Returns:
        The map at the size of the image, (height, width), mean over the seeds of the detector,
        upsampled bilinearly from the size of the latents.

    Raises:
        ThresholdError: the detector has no maps.
        ModelError: the model has nothing that the detector looks at.

    Source: Kim and Lee (ICML 2026); Chen et al. (ICLR 2025) for bright-ending.

    Examples:
        >>> from unmemorize import load_pipeline
        >>> from unmemorize.detection import ScoreDifference
        >>> pipe = load_pipeline("testbed")
        >>> few = ScoreDifference(steps=2)
        >>> memorized_region(pipe, "chelsea the ginger tabby stares", detector=few).shape
        (64, 64)
    """
    model, maker = Model.of(pipe), as_detector(detector)
    if not isinstance(maker, Locating):
        known = [name for name in DETECTORS.names() if hasattr(DETECTORS.get(name), "maps")]
        raise ThresholdError(f"{maker.name}: it does not say where. Use one of {', '.join(known)}.")
    trace = Trace(model, [as_prompt(prompt).text], settings, watched=watched_by(maker))
    scale = getattr(model.pipe, "vae_scale_factor", 1)
    latents = maker.maps(trace)[:, None].float().cpu()
    height, width = (side * scale for side in model.latent_shape[1:])
    image = interpolate(latents, (height, width), mode="bilinear", align_corners=False)
    region: NDArray[np.float32] = image[0, 0].numpy()
    return region
