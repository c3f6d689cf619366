"""What the page does, without the page: one model, used by one visitor at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

import numpy as np
from diffusers import DiffusionPipeline
from PIL import Image

from unmemorize._errors import NeuronError, PromptError
from unmemorize._generation import GenerationSettings, generate_each
from unmemorize._model import Model
from unmemorize._neurons import NeuronFile, Neurons
from unmemorize._prompts import Prompt
from unmemorize._statistics import Statistics
from unmemorize._threshold import Threshold
from unmemorize.export import export_lora
from unmemorize.localization import Detection, Localization, LocalizationSettings, detect_prompts
from unmemorize.metrics import Descriptor, copy_scores, read_references
from unmemorize.report import write_report
from unmemorize.runs import (
    ImageSet,
    NeuronSet,
    Run,
    evaluate_all,
    generate_all,
    localization_config,
    localize_all,
    open_run,
    read_localizations,
)

LONGEST = 10_000
"""Characters of a prompt."""


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
        return f"Memorized. {len(found.kept)} of {found.seeds} seeds lead to nearly the same image, whatever the initial noise."


@dataclass(frozen=True)
class Found:
    """What was localized for a prompt, and the run folder that it is in."""

    prompt: Prompt
    localization: Localization
    run: Path

    @property
    def neurons(self) -> Mapping[str, tuple[str, int]]:
        """Each neuron by a name for people, with its z-score, the highest first."""
        record = self.localization
        scored = [
            (z, layer, index)
            for layer, indices in record.neurons.layers.items()
            for index, z in zip(indices, record.z_scores.get(layer, (0.0,) * len(indices)), strict=True)
        ]
        return {f"{layer} #{index} (z = {z:.1f})": (layer, index) for z, layer, index in sorted(scored, reverse=True)}


@dataclass(frozen=True)
class Comparison:
    """Images of the same seeds, all neurons on, and some off; with their similarity to the training image where that is known."""

    before: tuple[Image.Image, ...]
    after: tuple[Image.Image, ...]
    copies_before: tuple[float, ...] | None
    copies_after: tuple[float, ...] | None

    @property
    def sentence(self) -> str:
        """In words."""
        if self.copies_before is None or self.copies_after is None:
            return "The training image of this prompt is not known, so there is no copy score: look at the images."
        before, after = np.median(self.copies_before), np.median(self.copies_after)
        return f"Copy score to the training image (about 1 is a copy, about 0 another image): {before:.2f} before, {after:.2f} now."


class Studio:
    """One model with its statistics and threshold.

    Args:
        pipe: a loaded pipeline.
        statistics, threshold: of it.
        settings: how to localize.
        generation: how images are made; ``images`` and ``batch`` are set for each request.
        prompts: examples; those with training images have copy scores.
        descriptor: for these; None for none.
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        statistics: Statistics,
        threshold: Threshold,
        settings: LocalizationSettings,
        generation: GenerationSettings,
        prompts: Sequence[Prompt] = (),
        descriptor: Descriptor | None = None,
    ) -> None:
        self.pipe, self.prompts, self.threshold = pipe, tuple(prompts), threshold
        self._model = Model(pipe)
        self._statistics, self._settings, self._generation, self._descriptor = statistics, settings, generation, descriptor
        self._folder = tempfile.TemporaryDirectory(prefix="unmemorize-ui-")
        self._lock = Lock()

    def prompt(self, text: str) -> Prompt:
        """A prompt as typed, with what is known about it.

        Raises:
            PromptError: it is empty or too long.
        """
        text = text.strip()
        if not text:
            raise PromptError("there is no prompt. Type one, or choose an example.")
        if len(text) > LONGEST:
            raise PromptError(f"the prompt has {len(text)} characters. Use at most {LONGEST}; models read far fewer.")
        return next((known for known in self.prompts if known.text == text), Prompt(text))

    def probe(self, text: str, images: int) -> Probed:
        """Tell whether a prompt is memorized, and make some images of it."""
        prompt = self.prompt(text)
        with self._lock:
            (detection,) = detect_prompts(self._model, [prompt], self.threshold, self.threshold.settings)
            (made,) = generate_each(self.pipe, [prompt.text], [Neurons()], settings=self._images(images))
        return Probed(detection, tuple(made))

    def localize(self, text: str) -> Found:
        """Find the neurons of a prompt."""
        prompt = self.prompt(text)
        folder = Path(tempfile.mkdtemp(dir=self._folder.name)) / "run"
        config = {"command": "ui", **localization_config(self._model, self._settings, self._statistics, self.threshold)}
        with self._lock:
            run = open_run(folder, self.pipe, [prompt], config)
            tally = localize_all(run, self.pipe, statistics=self._statistics, threshold=self.threshold, settings=self._settings)
        for error in tally.failed.values():
            raise PromptError(f"this prompt fails: {error}")
        return Found(prompt, read_localizations(run)[0], folder)

    def compare(self, prompt: Prompt, neurons: Neurons, scale: float, images: int) -> Comparison:
        """Images with all neurons on, and with some multiplied by ``scale``."""
        settings = replace(self._images(2 * images), images=images, scale=scale)
        with self._lock:
            before, after = generate_each(self.pipe, [prompt.text] * 2, [Neurons(), neurons], settings=settings)
        training = read_references(prompt.images).images if prompt.images else ()
        if self._descriptor is None or not training:
            return Comparison(tuple(before), tuple(after), None, None)
        references = self._descriptor(training)
        copies = [tuple(copy_scores(self._descriptor(made), references).tolist()) for made in (before, after)]
        return Comparison(tuple(before), tuple(after), *copies)

    def neuron_file(self, found: Found, neurons: Neurons, scale: float) -> Path:
        """The neurons chosen for a prompt as a neuron file."""
        path = found.run.parent / "neurons.json"
        self._file(found, neurons, scale).save(path)
        return path

    def lora(self, found: Found, neurons: Neurons, scale: float) -> Path:
        """The same as a LoRA."""
        return export_lora(self.pipe, self._file(found, neurons, scale), found.run.parent / "lora")

    def report(self, found: Found, images: int) -> Path:
        """The report of what was localized for a prompt, with images."""
        run = Run.load(found.run)
        with self._lock:
            for name in ("original", "refined", "random-refined"):
                generate_all(run, self.pipe, ImageSet(neurons=NeuronSet.parse(name)), self._images(images))
                if self._descriptor is not None:
                    evaluate_all(run, name, descriptor=self._descriptor, alignment=None)
        return write_report(run)

    def load(self, path: str | Path, text: str) -> Found:
        """A neuron file for a prompt, as if it had been localized.

        Raises:
            NeuronError: the file is malformed, or another model's.
        """
        prompt, file = self.prompt(text), NeuronFile.load(path)
        file.check(self._model)
        if not file.neurons:
            raise NeuronError("there are no neurons in the file.")
        found = self.localize(prompt.text)
        return replace(found, localization=replace(found.localization, neurons=file.neurons, z_scores={}))

    def close(self) -> None:
        """Delete everything that was made for visitors."""
        self._folder.cleanup()

    def _images(self, count: int) -> GenerationSettings:
        return replace(self._generation, images=count, batch=max(1, count))

    def _file(self, found: Found, neurons: Neurons, scale: float) -> NeuronFile:
        if not neurons:
            raise NeuronError("no neuron is chosen. Choose at least one.")
        how = {"prompt": found.prompt.text, "tau": self.threshold.tau, "criterion": self._settings.criterion}
        return NeuronFile.of(self._model, neurons, scale=scale, found=how)
