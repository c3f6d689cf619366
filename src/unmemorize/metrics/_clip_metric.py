"""A_CLIP: how well images show their prompt."""

from __future__ import annotations

from unmemorize.metrics._alignment import ClipAlignment
from unmemorize.metrics._metric import Instrument, Instruments, PromptImages


class AClip:
    """A_CLIP: for each seed the cosine in [-1, 1] between the image and the prompt.

    Source: section 4 of the paper.
    """

    name = "a-clip"
    label = "A_CLIP"

    def __init__(self, clip: ClipAlignment) -> None:
        self._clip = clip
        self.measured_by = Instrument(clip.name, clip.digest)

    def __call__(self, images: PromptImages) -> tuple[float, ...]:
        """See `Metric`."""
        return tuple(self._clip(images.generated, images.prompt.text).tolist())


def a_clip(instruments: Instruments) -> AClip | None:
    """Make the metric, if there is a CLIP."""
    return AClip(instruments.clip) if instruments.clip else None
