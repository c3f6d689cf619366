"""Find the neurons of a memorized prompt, and draw with some of them off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from PIL import Image

from unmemorize._errors import NeuronError
from unmemorize._prompts import Prompt
from unmemorize._words import counted
from unmemorize.engines import Progress, silent
from unmemorize.generation import NeuronEdit, generate_each
from unmemorize.localization import Localization, localize_prompt
from unmemorize.metrics import read_references
from unmemorize.neurons import NeuronFile, Neurons
from unmemorize.report import copy_warning
from unmemorize.ui._check_prompt import scores
from unmemorize.ui._studio import Studio


@dataclass(frozen=True)
class PromptNeurons:
    """The neurons of a prompt.

    Args:
        prompt: the prompt.
        localization: how they were localized.
        folder: where their file goes.
    """

    prompt: Prompt
    localization: Localization
    folder: Path

    @property
    def neurons(self) -> Neurons:
        """All of them."""
        return self.localization.neurons

    @property
    def sentence(self) -> str:
        """How many neurons there are, or why there are none."""
        if count := len(self.neurons):
            return f"{counted(count, 'neuron')} found."
        reason = self.localization.why_empty.rstrip(".")
        return f"No neuron was found{f': {reason}' if reason else ''}."

    @property
    def labels(self) -> Mapping[str, tuple[str, int]]:
        """A label with the z-score of each neuron, the highest first."""
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
        """Return the neurons with these labels.

        Raises:
            NeuronError: there is none.
        """
        by_label = self.labels
        selected = Neurons.of(by_label[label] for label in labels if label in by_label)
        if not selected:
            raise NeuronError("no neuron is chosen. Choose at least one.")
        return selected


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Images of the same seeds with all neurons on and with some off.

    Args:
        before, after: the images.
        copies_before, copies_after: their similarity to the training image, in [-1, 1]; empty where
            it is not known.
        warning: that a copy is left or may be left, see `copy_warning`.
    """

    before: tuple[Image.Image, ...]
    after: tuple[Image.Image, ...]
    copies_before: tuple[float, ...] = ()
    copies_after: tuple[float, ...] = ()
    warning: str = ""

    @property
    def sentence(self) -> str:
        """The copy scores as a sentence."""
        if not self.copies_before:
            return (
                "The training image of this prompt is not known, so there is no copy score: look "
                "at the images."
            )
        return (
            "Copy score to the training image (about 1 is a copy, about 0 is another image), "
            f"median over the images: {median(self.copies_before):.2f} before, "
            f"{median(self.copies_after):.2f} now. The closest image: "
            f"{max(self.copies_before):.2f} before, {max(self.copies_after):.2f} now."
        )


def localize(studio: Studio, prompt: Prompt, progress: Progress = silent) -> PromptNeurons:
    """Localize the neurons of a prompt.

    Args:
        studio: the model.
        prompt: the prompt.
        progress: called with denoiser samples.
    """
    found = localize_prompt(
        studio.model,
        prompt,
        studio.statistics,
        studio.threshold,
        studio.localization,
        progress=progress,
    )
    return PromptNeurons(prompt, found, studio.new_folder())


def compare(
    studio: Studio,
    found: PromptNeurons,
    selected: Neurons,
    images: int,
    progress: Progress = silent,
) -> Comparison:
    """Make images with all neurons on, and of the same seeds with some off.

    Args:
        studio: the model.
        found: the prompt and its neurons.
        selected: the neurons that are off.
        images: how many of each kind.
        progress: called with image steps.
    """
    settings = studio.drawing(images)
    before, after = generate_each(
        studio.model,
        [found.prompt.text] * 2,
        [None, NeuronEdit(selected)],
        settings=settings,
        progress=progress,
    )
    training = read_references(found.prompt.images).images
    copies = scores(studio, after, training)
    return Comparison(
        before=tuple(before),
        after=tuple(after),
        copies_before=scores(studio, before, training),
        copies_after=copies,
        warning=copy_warning(copies, found.localization.theta_exhausted),
    )


def save_neurons(studio: Studio, found: PromptNeurons, selected: Neurons) -> Path:
    """Write the selected neurons as a neuron file and return its path."""
    path = found.folder / "neurons.json"
    origin = {
        "prompt": found.prompt.text,
        "tau": studio.threshold.localize.tau,
        "criterion": studio.localization.criterion,
    }
    NeuronFile.of(studio.model, selected, found=origin).save(path)
    return path
