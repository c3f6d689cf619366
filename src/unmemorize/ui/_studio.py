"""What the page does, without the page: one model, used by one visitor at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock

from unmemorize._errors import NeuronError, PromptError
from unmemorize._progress import Progress, silent
from unmemorize._prompts import Prompt
from unmemorize.detection import Threshold, detect_prompts
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
from unmemorize.report import write_report
from unmemorize.runs import open_run
from unmemorize.statistics import Statistics
from unmemorize.ui._answers import Comparison, Found, Probed

LONGEST = 10_000
"""Characters of a prompt."""


class Studio:
    """One model with its statistics and threshold.

    Args:
        model: the model.
        statistics, threshold: of it.
        settings: how to localize.
        generation: how images are made; ``images`` and ``batch`` are set for each request.
        prompts: examples; those with training images have copy scores.
        descriptor: for these; None for none.
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
        self.model, self.prompts, self.threshold = model, tuple(prompts), threshold
        self._statistics, self._settings, self._generation, self._descriptor = (
            statistics,
            settings,
            generation,
            descriptor,
        )
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
            raise PromptError(
                f"the prompt has {len(text)} characters. Use at most {LONGEST}; models read far fewer."
            )
        return next((known for known in self.prompts if known.text == text), Prompt(text))

    def probe(self, text: str, images: int, progress: Progress = silent) -> Probed:
        """Tell whether a prompt is memorized, and make some images of it."""
        prompt = self.prompt(text)
        with self._lock:
            (detection,) = detect_prompts(
                self.model, [prompt], self.threshold, self.threshold.settings
            )
            (made,) = generate_each(
                self.model,
                [prompt.text],
                [None],
                settings=self._images(images),
                progress=progress,
            )
        return Probed(detection, tuple(made))

    def localize(self, text: str, progress: Progress = silent) -> Found:
        """Find the neurons of a prompt."""
        prompt = self.prompt(text)
        with self._lock:
            found = localize_prompt(
                self.model,
                prompt,
                self._statistics,
                self.threshold,
                self._settings,
                progress=progress,
            )
        return Found(prompt, found.neurons, self._new_folder(), localization=found)

    def compare(
        self,
        prompt: Prompt,
        neurons: Neurons,
        scale: float,
        images: int,
        progress: Progress = silent,
    ) -> Comparison:
        """Images with all neurons on, and with some multiplied by ``scale``."""
        settings = replace(self._images(2 * images), images=images, scale=scale)
        with self._lock:
            before, after = generate_each(
                self.model,
                [prompt.text] * 2,
                [None, NeuronEdit(neurons, scale)],
                settings=settings,
                progress=progress,
            )
        if self._descriptor is None:
            return Comparison(
                tuple(before), tuple(after), unknown="There is no copy descriptor for this model"
            )
        training = read_references(prompt.images).images if prompt.images else ()
        if not training:
            return Comparison(
                tuple(before),
                tuple(after),
                unknown="The training image of this prompt is not known",
            )
        references = self._descriptor(training)
        copies_before, copies_after = (
            tuple(copy_scores(self._descriptor(made), references).tolist())
            for made in (before, after)
        )
        return Comparison(tuple(before), tuple(after), copies_before, copies_after)

    def neuron_file(self, found: Found, neurons: Neurons, scale: float) -> Path:
        """The neurons chosen for a prompt as a neuron file."""
        path = found.folder / "neurons.json"
        self._file(found, neurons, scale).save(path)
        return path

    def lora(self, found: Found, neurons: Neurons, scale: float) -> Path:
        """The same as a LoRA."""
        return export_lora(self.model, self._file(found, neurons, scale), self._new_folder())

    def report(self, found: Found, images: int, progress: Progress = silent) -> Path:
        """The report of what was localized for a prompt, with images.

        Raises:
            NeuronError: nothing was localized, the neurons are those of a file.
        """
        if found.localization is None:
            raise NeuronError(
                "these neurons are from a file, and a report is of what was localized. Press Localize first."
            )
        names = ("original", "refined", "random-refined")
        config = LocalizationRun.of(self.model, self._settings, self._statistics, self.threshold)
        with self._lock:
            run = open_run(self._new_folder(), self.model, [found.prompt], config)
            record_localization(run, 0, found.localization)
            for done, name in enumerate(names):
                progress(done, len(names))
                generate_all(
                    run, self.model, ImageSet(neurons=NeuronSet.parse(name)), self._images(images)
                )
                if self._descriptor is not None:
                    evaluate_all(run, name, descriptor=self._descriptor, alignment=None)
        return write_report(run)

    def load(self, path: str | Path, text: str) -> Found:
        """The neurons of a file, for a prompt.

        Raises:
            NeuronError: the file is malformed, or another model's.
        """
        prompt, file = self.prompt(text), NeuronFile.load(path)
        file.check(self.model)
        if not file.neurons:
            raise NeuronError("there are no neurons in the file.")
        return Found(prompt, file.neurons, self._new_folder(), file.scale)

    def close(self) -> None:
        """Delete everything that was made for visitors."""
        self._folder.cleanup()

    def _new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._folder.name))

    def _images(self, count: int) -> GenerationSettings:
        return replace(self._generation, images=count, batch=max(1, count))

    def _file(self, found: Found, neurons: Neurons, scale: float) -> NeuronFile:
        if not neurons:
            raise NeuronError("no neuron is chosen. Choose at least one.")
        how = {
            "prompt": found.prompt.text,
            "tau": self.threshold.tau,
            "criterion": self._settings.criterion,
        }
        return NeuronFile.of(self.model, neurons, scale=scale, found=how)
