"""What the page shows, in words.

The page opens before the model and its libraries are loaded, so nothing here imports them.
"""

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
class ProbeAnswer:
    """Whether a prompt is memorized, with some images of it."""

    detection: Detection
    images: tuple[Image.Image, ...]

    @property
    def verdict(self) -> str:
        """The verdict as a sentence."""
        if not self.detection.memorized:
            return (
                "No memorization seen. Different initial noise leads to different images: no two "
                "seeds are as similar as tau. The test may still miss images that are memorized "
                "in another way."
            )
        return (
            f"Memorized. {len(self.detection.memorized_seeds)} of {self.detection.seeds} seeds "
            "lead to nearly the same image, whatever their initial noise is."
        )


@dataclass(frozen=True)
class PromptNeurons:
    """The neurons that can be switched off for a prompt.

    Args:
        prompt: the prompt.
        neurons: localized for this prompt, or read from a file.
        folder: where exported files go.
        scale: the factor that a neuron file names for their outputs.
        localization: how they were localized. None for neurons from a file.
    """

    prompt: Prompt
    neurons: Neurons
    folder: Path
    scale: float = 0.0
    localization: Localization | None = None

    @property
    def sentence(self) -> str:
        """How many neurons there are, or why there are none."""
        count = len(self.neurons)
        if count:
            origin = "localized" if self.localization else "in the file"
            return f"{count} neuron{'s' if count > 1 else ''} {origin}."
        if self.localization and self.localization.memorized:
            reason = self.localization.why_empty.rstrip(".")
            because = f": {reason}." if reason else "."
            return f"The prompt is memorized, but no neuron was found{because}"
        return "Not memorized, so there are no neurons to switch off."

    @property
    def theta_exhausted(self) -> bool | None:
        """Whether localization ended above the threshold. None for neurons from a file."""
        return self.localization.theta_exhausted if self.localization else None

    @property
    def labels(self) -> Mapping[str, tuple[str, int]]:
        """A label for each neuron. Localized ones show their z-score, the highest first."""
        if self.localization is None:
            return {f"{layer} #{index}": (layer, index) for layer, index in self.neurons}
        z_scores = self.localization.z_scores
        scored = [
            (z_score, layer, index)
            for layer, indices in self.neurons.layers.items()
            for index, z_score in zip(indices, z_scores[layer], strict=True)
        ]
        return {
            f"{layer} #{index} (z = {z_score:.1f})": (layer, index)
            for z_score, layer, index in sorted(scored, reverse=True)
        }

    def select(self, labels: Sequence[str]) -> Neurons:
        """Return the neurons with these labels. Labels of other neurons are ignored."""
        by_label = self.labels
        return type(self.neurons).of(by_label[label] for label in labels if label in by_label)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Images of the same seeds with all neurons on and with some off.

    Args:
        before, after: the images.
        copies_before, copies_after: their similarity to the training image, in [-1, 1].
        why_unknown: why there are no such scores, as the beginning of a sentence.
        warning: that a copy is left or may be left, see `copy_warning`.
    """

    before: tuple[Image.Image, ...]
    after: tuple[Image.Image, ...]
    copies_before: tuple[float, ...] = ()
    copies_after: tuple[float, ...] = ()
    why_unknown: str = ""
    warning: str = ""

    @property
    def sentence(self) -> str:
        """The copy scores as a sentence."""
        if self.why_unknown:
            return f"{self.why_unknown}, so there is no copy score: look at the images."
        return (
            "Copy score to the training image (about 1 is a copy, about 0 is another image), "
            f"median over the images: {median(self.copies_before):.2f} before, "
            f"{median(self.copies_after):.2f} now. The closest image: "
            f"{max(self.copies_before):.2f} before, {max(self.copies_after):.2f} now."
        )
