"""What the page does, without the page: one model, which one visitor at a time uses."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from unmemorize._errors import NeuronError, PromptError
from unmemorize._prompts import Prompt
from unmemorize.detection import Threshold, detect_prompts
from unmemorize.engines import Progress, silent
from unmemorize.export import export_lora
from unmemorize.generation import (
    GenerationSettings,
    ImageSet,
    NeuronEdit,
    NeuronSet,
    generate_all,
    generate_each,
)
from unmemorize.localization import (
    LocalizationRun,
    LocalizationSettings,
    localize_prompt,
    record_localization,
)
from unmemorize.metrics import Descriptor, copy_scores, evaluate_all, read_references
from unmemorize.neurons import NeuronFile, Neurons
from unmemorize.pipelines import Model
from unmemorize.report import copy_warning, write_report
from unmemorize.runs import open_run
from unmemorize.statistics import Statistics
from unmemorize.ui._answers import Comparison, ProbeAnswer, PromptNeurons

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

_LONGEST = 10_000
"""Characters of a prompt. Tokenizers read far fewer, and slow down with more."""
_REPORTED = ("original", "refined", "random-refined")
"""The sets of images that a report shows."""


class Studio:
    """One model with its statistics and threshold.

    Args:
        model: the model.
        statistics, threshold: those of the model.
        settings: how to localize.
        generation: how to make images. ``images`` and ``batch`` are set for each request.
        prompts: examples. Those with training images get copy scores.
        descriptor: compares images with training images. None for no copy scores.
    """

    def __init__(
        self,
        model: Model,
        statistics: Statistics,
        threshold: Threshold,
        settings: LocalizationSettings,
        generation: GenerationSettings,
        prompts: Sequence[Prompt] = (),
        descriptor: Descriptor | None = None,
    ) -> None:
        self.model = model
        self.threshold = threshold
        self.prompts = tuple(prompts)
        self._statistics = statistics
        self._settings = settings
        self._generation = generation
        self._descriptor = descriptor
        self._folder = tempfile.TemporaryDirectory(prefix="unmemorize-ui-")
        self._lock = Lock()

    def prompt(self, text: str) -> Prompt:
        """Return the prompt of a text, the example where it is one.

        Raises:
            PromptError: the text is empty or too long.
        """
        text = text.strip()
        if not text:
            raise PromptError("there is no prompt. Type one, or choose an example.")
        if len(text) > _LONGEST:
            raise PromptError(
                f"the prompt has {len(text)} characters. Use at most {_LONGEST}; models read far "
                "fewer."
            )
        return next((example for example in self.prompts if example.text == text), Prompt(text))

    def probe(self, text: str, images: int, progress: Progress = silent) -> ProbeAnswer:
        """Detect whether a prompt is memorized, and make some images of it.

        Args:
            text: the prompt.
            images: how many.
            progress: called with image steps.
        """
        prompt = self.prompt(text)
        settings = self._for_images(images)
        with self._lock:
            (detection,) = detect_prompts(
                self.model, [prompt], self.threshold, self.threshold.settings, stop="never"
            )
            (drawn,) = generate_each(
                self.model, [prompt.text], [None], settings=settings, progress=progress
            )
        return ProbeAnswer(detection, tuple(drawn))

    def localize(self, text: str, progress: Progress = silent) -> PromptNeurons:
        """Localize the neurons of a prompt.

        Args:
            text: the prompt.
            progress: called with denoiser samples.
        """
        prompt = self.prompt(text)
        with self._lock:
            localization = localize_prompt(
                self.model,
                prompt,
                self._statistics,
                self.threshold,
                self._settings,
                progress=progress,
            )
        return PromptNeurons(
            prompt, localization.neurons, self._new_folder(), localization=localization
        )

    def compare(
        self,
        neurons: PromptNeurons,
        selected: Neurons,
        scale: float,
        images: int,
        progress: Progress = silent,
    ) -> Comparison:
        """Make images with all neurons on, and of the same seeds with some scaled.

        Args:
            neurons: the prompt and how its neurons were localized.
            selected: the neurons to scale.
            scale: the factor for their outputs. 0 switches them off.
            images: how many of each kind.
            progress: called with image steps.
        """
        prompt = neurons.prompt
        settings = replace(self._for_images(images), batch=max(1, 2 * images))
        with self._lock:
            before, after = generate_each(
                self.model,
                [prompt.text] * 2,
                [None, NeuronEdit(selected, scale)],
                settings=settings,
                progress=progress,
            )
        unknown = partial(
            Comparison,
            before=tuple(before),
            after=tuple(after),
            warning=copy_warning((), neurons.theta_exhausted),
        )
        if self._descriptor is None:
            return unknown(why_unknown="There is no copy descriptor for this model")
        training = read_references(prompt.images).images if prompt.images else ()
        if not training:
            return unknown(why_unknown="The training image of this prompt is not known")
        references = self._descriptor(training)
        copies_after = _copy_scores(self._descriptor, after, references)
        return Comparison(
            before=tuple(before),
            after=tuple(after),
            copies_before=_copy_scores(self._descriptor, before, references),
            copies_after=copies_after,
            warning=copy_warning(copies_after, neurons.theta_exhausted),
        )

    def neuron_file(self, neurons: PromptNeurons, selected: Neurons, scale: float) -> Path:
        """Write the selected neurons as a neuron file and return its path.

        Raises:
            NeuronError: none is selected.
        """
        path = neurons.folder / "neurons.json"
        self._neuron_file(neurons, selected, scale).save(path)
        return path

    def lora(self, neurons: PromptNeurons, selected: Neurons, scale: float) -> Path:
        """Write the selected neurons as a LoRA and return its path.

        Raises:
            NeuronError: none is selected.
        """
        file = self._neuron_file(neurons, selected, scale)
        (lora,) = export_lora(self.model, file, self._new_folder(), layout="diffusers")
        return lora

    def report(self, neurons: PromptNeurons, images: int, progress: Progress = silent) -> Path:
        """Write the report of a localized prompt, with images, and return its path.

        Args:
            neurons: the localized prompt.
            images: how many of each set.
            progress: called with sets of images.

        Raises:
            NeuronError: the neurons are those of a file, so nothing was localized.
        """
        if neurons.localization is None:
            raise NeuronError(
                "these neurons are from a file, but a report shows a localization. "
                "Press Localize first."
            )
        config = LocalizationRun.of(self.model, self._settings, self._statistics, self.threshold)
        settings = self._for_images(images)
        with self._lock:
            run = open_run(self._new_folder(), self.model, [neurons.prompt], config)
            record_localization(run, 0, neurons.localization)
            for done, name in enumerate(_REPORTED):
                progress(done, len(_REPORTED))
                generate_all(run, self.model, ImageSet(neurons=NeuronSet.parse(name)), settings)
                if self._descriptor is not None:
                    evaluate_all(run, name, descriptor=self._descriptor, alignment=None)
        return write_report(run)

    def load(self, path: str | Path, text: str) -> PromptNeurons:
        """Read the neurons of a file, to try them on a prompt.

        Raises:
            PromptError: the text is empty or too long.
            NeuronError: the file is malformed, empty, or another model's.
        """
        prompt = self.prompt(text)
        file = NeuronFile.load(path)
        file.check(self.model)
        if not file.neurons:
            raise NeuronError("there are no neurons in the file.")
        return PromptNeurons(prompt, file.neurons, self._new_folder(), file.scale)

    def close(self) -> None:
        """Delete everything that was made for visitors."""
        self._folder.cleanup()

    def _new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._folder.name))

    def _for_images(self, count: int) -> GenerationSettings:
        return replace(self._generation, images=count, batch=max(1, count))

    def _neuron_file(self, neurons: PromptNeurons, selected: Neurons, scale: float) -> NeuronFile:
        if not selected:
            raise NeuronError("no neuron is chosen. Choose at least one.")
        found = {
            "prompt": neurons.prompt.text,
            "tau": self.threshold.localize.tau,
            "criterion": self._settings.criterion,
        }
        return NeuronFile.of(self.model, selected, scale=scale, found=found)


def _copy_scores(
    descriptor: Descriptor, images: Sequence[Image.Image], references: Tensor
) -> tuple[float, ...]:
    return tuple(copy_scores(descriptor(images), references).tolist())
