"""Where the attention to the end token is bright at the end of a run.

Source: Chen et al. (ICLR 2025), whose code is at chenchen-usyd/BE-PRSS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from unmemorize._errors import ModelError
from unmemorize.detection._detector import Score, check_settings, make_scores
from unmemorize.detection._moment import GUIDANCE, STEPS, Moment
from unmemorize.detection._trace import Trace


@dataclass(frozen=True, kw_only=True)
class BrightEnding:
    """Scores a prompt by what the text changes where the end token is attended to at the end.

    The mask is the probability of the first end token at the last step, the mean over heads and
    the layers of the first block of a U-Net's way down. The score is the mean over all steps of
    ||d * mask||_2 / mean(mask), where d is what the text changes.

    Args:
        seeds: initial noises.
        steps: steps of the run.
        guidance: its scale of guidance.
    """

    name: ClassVar[str] = "bright-ending"
    seeds: int = 1
    steps: int = STEPS
    guidance: float = GUIDANCE

    def __post_init__(self) -> None:
        check_settings(self)
        Moment(0, self.steps)

    @property
    def watched(self) -> tuple[Moment, ...]:
        """The moment at which attention is asked for."""
        return (Moment(-1, self.steps, self.guidance),)

    def score(self, trace: Trace) -> Sequence[Score]:
        """See `Detector`."""
        masks = self._masks(trace)[:, :, None]  # (prompts, seeds, 1, H, W)
        norms = torch.stack(
            [
                (trace.text_differences(self.seeds, moment) * masks).flatten(2).norm(dim=2)
                for moment in (
                    Moment(step, self.steps, self.guidance) for step in range(self.steps)
                )
            ]
        )
        values = norms.mean(0) / masks.mean((2, 3, 4))
        return make_scores(values, self.seeds, samples=2 * self.steps - 1, shared=1)

    def maps(self, trace: Trace) -> Tensor:
        """See `Locating`."""
        return self._masks(trace).mean(1)

    def _masks(self, trace: Trace) -> Tensor:
        """Return the masks at the size of the latents, (prompts, seeds, H, W)."""
        if not hasattr(trace.model.denoiser, "down_blocks"):
            raise ModelError(
                f"{trace.model.name}: its denoiser has no way down to smaller images, so it has no "
                "finest layers. Use score-difference, which also says where."
            )
        ends = trace.end_tokens()
        maps = trace.attention(self.seeds, self.watched[0]).maps
        columns = torch.stack([maps[row, ..., end] for row, end in enumerate(ends)])
        height, width = trace.model.latent_shape[1:]
        side = round((columns.shape[-1] * height / width) ** 0.5)
        masks = columns.mean(2).unflatten(-1, (side, -1))  # (prompts, seeds, h, w)
        return interpolate(masks, (height, width), mode="bilinear", align_corners=False)
