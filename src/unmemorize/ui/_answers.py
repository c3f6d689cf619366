"""What the page shows, with the words for it. Nothing here loads a library that takes seconds, since the page opens before they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from unmemorize._prompts import Prompt
    from unmemorize.detection import Detection
    from unmemorize.localization import Localization
    from unmemorize.neurons import Neurons


@dataclass(frozen=True)
class Probed:
    """Images of a prompt, and whether it is memorized."""

    detection: Detection
    images: tuple[Image.Image, ...]

    @property
    def verdict(self) -> str:
        """In words."""
        found = self.detection
        if not found.memorized:
            return (
                "No memorization seen. Different initial noise leads to different images: no two seeds are as similar as tau. "
                "The test may still miss images that are memorized in another way."
            )
        return f"Memorized. {len(found.memorized_seeds)} of {found.seeds} seeds lead to nearly the same image, whatever the initial noise."


@dataclass(frozen=True)
class Found:
    """Neurons for a prompt.

    Args:
        prompt: the prompt.
        neurons: what was localized for it, or read from a file.
        folder: for what is made of them.
        scale: what the file multiplies their outputs by.
        localization: None for those of a file.
    """

    prompt: Prompt
    neurons: Neurons
    folder: Path
    scale: float = 0.0
    localization: Localization | None = None

    @property
    def named(self) -> Mapping[str, tuple[str, int]]:
        """Each neuron by a name for people; those that were localized with their z-score, the highest first."""
        if self.localization is None:
            return {f"{layer} #{index}": (layer, index) for layer, index in self.neurons}
        z_scores = self.localization.z_scores
        scored = [
            (z, *pair)
            for pair, z in zip(
                self.neurons,
                (z for layer in self.neurons.layers for z in z_scores[layer]),
                strict=True,
            )
        ]
        return {
            f"{layer} #{index} (z = {z:.1f})": (layer, index)
            for z, layer, index in sorted(scored, reverse=True)
        }

    def chosen(self, names: Sequence[str]) -> Neurons:
        """Those of some names; what is none of its names is passed over."""
        named = self.named
        return type(self.neurons).of(named[name] for name in names if name in named)


@dataclass(frozen=True)
class Comparison:
    """Images of the same seeds, all neurons on, and some off; with their similarity to the training image, or why it is not known."""

    before: tuple[Image.Image, ...]
    after: tuple[Image.Image, ...]
    copies_before: tuple[float, ...] = ()
    copies_after: tuple[float, ...] = ()
    unknown: str = ""

    @property
    def sentence(self) -> str:
        """In words."""
        if self.unknown:
            return f"{self.unknown}, so there is no copy score: look at the images."
        before, after = median(self.copies_before), median(self.copies_after)
        return (
            f"Copy score to the training image (about 1 is a copy, about 0 another image), median over the images: {before:.2f} before, "
            f"{after:.2f} now. The closest one: {max(self.copies_before):.2f} before, {max(self.copies_after):.2f} now."
        )
