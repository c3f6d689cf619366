"""What the page works with: one model, what belongs to it, and a folder for its visitors."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from unmemorize._bundled import is_bundled
from unmemorize._errors import ModelError, PromptError
from unmemorize._prompts import Prompt
from unmemorize.detection import Threshold
from unmemorize.generation import GenerationSettings
from unmemorize.localization import LocalizationSettings
from unmemorize.metrics import ClipAlignment, Descriptor, caveat_of
from unmemorize.mitigation import MitigationInputs, MitigationSettings, OrdinaryCaptions
from unmemorize.pipelines import Model, guided_calls
from unmemorize.statistics import Statistics

PACK = "evidence.zip"
"""The name of a pack of evidence in the folder of its run."""
_LONGEST = 10_000
"""Characters of a prompt. Tokenizers read far fewer, and slow down with more."""


def why_no_guard(model: Model, generation: GenerationSettings) -> str:
    """Return why images of a model cannot be guarded; nothing if they can."""
    if generation.guidance <= 1:
        return "images are drawn without guidance, so there is no prediction without text."
    try:
        guided_calls(model)
    except ModelError as problem:
        return str(problem)
    return ""


@dataclass(frozen=True, kw_only=True)
class Studio:
    """One model with everything that the paths of the page need.

    Args:
        model: the model.
        statistics, threshold: those of the model.
        localization: how to localize.
        generation: how to make images. The number of images is set for each request.
        captions: ordinary captions.
        descriptor: compares images.
        clip: measures the alignment of images with their prompts; None to leave it out.
        prompts: examples to check.
        suspects: examples to mend.
        arguments: how the option --model of a command names the model.
        why_no_guard: see `why_no_guard`.
        quick, full: the two ways to mend. ``quick`` also says how many images check a picture, and
            at which rate of false copies.
    """

    model: Model
    statistics: Statistics
    threshold: Threshold
    localization: LocalizationSettings
    generation: GenerationSettings
    captions: OrdinaryCaptions
    descriptor: Descriptor
    clip: ClipAlignment | None = None
    prompts: Sequence[Prompt] = ()
    suspects: Sequence[Prompt] = ()
    arguments: str = ""
    why_no_guard: str = ""
    quick: MitigationSettings = field(default_factory=MitigationSettings.quick)
    full: MitigationSettings = field(default_factory=MitigationSettings)
    _folder: tempfile.TemporaryDirectory[str] = field(
        default_factory=lambda: tempfile.TemporaryDirectory(prefix="unmemorize-ui-"), init=False
    )

    def prompt(self, text: str) -> Prompt:
        """Return the prompt of a text, the example where it is one.

        Raises:
            PromptError: the text is empty or too long.
        """
        text = text.strip()
        if not text:
            raise PromptError("there is no prompt. Type one.")
        if len(text) > _LONGEST:
            raise PromptError(
                f"the prompt has {len(text)} characters. Use at most {_LONGEST}; models read far "
                "fewer."
            )
        return next((example for example in self.prompts if example.text == text), Prompt(text))

    @property
    def about(self) -> str:
        """Which model this is, and what tells copies."""
        drawing = self.generation
        caveat = caveat_of(self.descriptor, bundled=is_bundled(self.model.pipe))
        about = (
            f"{self.model.name}: images are drawn in {drawing.steps} steps at guidance "
            f"{drawing.guidance:g}."
        )
        return f"{about} {caveat}" if caveat else about

    def drawing(self, images: int) -> GenerationSettings:
        """Return how to make so many images in one call."""
        return replace(self.generation, images=images, batch=images)

    def mitigation(self, *, quick: bool) -> MitigationSettings:
        """Return the settings of a mitigation of this model."""
        return replace(
            self.quick if quick else self.full,
            localization=self.localization,
            generation=self.generation,
        )

    @property
    def inputs(self) -> MitigationInputs:
        """What a mitigation of this model works with."""
        return MitigationInputs(
            statistics=self.statistics,
            threshold=self.threshold,
            captions=self.captions,
            descriptor=self.descriptor,
            clip=self.clip,
        )

    @property
    def folder(self) -> Path:
        """The folder of everything that is made for visitors."""
        return Path(self._folder.name)

    def new_folder(self) -> Path:
        """Make a folder for one visitor."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    def close(self) -> None:
        """Delete everything that was made for visitors."""
        self._folder.cleanup()
