"""What determines a mitigation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from diffusers import DiffusionPipeline

from unmemorize._bundled import bundled_captions, is_bundled
from unmemorize._errors import MitigationError
from unmemorize._files import hash_texts
from unmemorize._prompts import Prompt, no_wordings
from unmemorize.detection import SEED_SIMILARITY, Threshold
from unmemorize.metrics import ClipAlignment, Descriptor
from unmemorize.mitigation._confirmation import screen_level
from unmemorize.mitigation._ladders import LADDERS_DIGEST
from unmemorize.mitigation._settings import MitigationSettings
from unmemorize.pipelines import Model
from unmemorize.statistics import Statistics, side_effect_captions, threshold_captions

_KEPT = 320
"""Ordinary captions that closed-form edits leave alone."""


@dataclass(frozen=True)
class OrdinaryCaptions:
    """Ordinary captions, none of them memorized.

    Args:
        ordinary: for the level of copies, and for what an edit changes.
        keep: others, which closed-form edits leave alone.
        further: more of these, which trainings leave alone, too.

    Raises:
        MitigationError: a caption is both judged by and left alone.
    """

    ordinary: tuple[str, ...]
    keep: tuple[str, ...]
    further: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if both := set(self.ordinary).intersection(self.all_kept):
            raise MitigationError(
                f"{min(both)[:60]!r}: it is among the ordinary captions by which an edit is judged "
                "and among those that it leaves alone, so it would be judged by what it was made "
                "for. Leave it out of one of them."
            )

    @property
    def all_kept(self) -> tuple[str, ...]:
        """All captions that an edit should leave alone, and by which it is not judged."""
        return (*self.keep, *self.further)

    def kept_but(self, memorized: Sequence[Prompt]) -> OrdinaryCaptions:
        """Return the same without captions that an edit takes out, so it cannot leave them alone.

        Those of which images are drawn stay, since these have their places.
        """
        keep, further = (no_wordings(each, memorized) for each in (self.keep, self.further))
        return replace(self, keep=keep, further=further)

    @classmethod
    def of(cls, model: DiffusionPipeline | Model) -> OrdinaryCaptions:
        """Return the captions of this package, or those that the bundled model brings."""
        model = Model.of(model)
        if is_bundled(model.pipe):
            ordinary, others = bundled_captions("test"), bundled_captions("calibration")
        else:
            ordinary, others = side_effect_captions(model), threshold_captions(model)
        return cls(ordinary, others[:_KEPT], others[_KEPT:])


@dataclass(frozen=True, kw_only=True)
class MitigationInputs:
    """What a mitigation works with, besides the model and the prompts.

    Args:
        statistics: of all value layers of the model.
        threshold: of the model. Every suspect whose score is above `screen_level` is generated. A
            low level costs nothing but images, since these clear a suspect.
        captions: ordinary captions.
        descriptor: tells copies.
        clip: measures the alignment of images with their prompts.
    """

    statistics: Statistics
    threshold: Threshold
    captions: OrdinaryCaptions
    descriptor: Descriptor
    clip: ClipAlignment | None = None


@dataclass(frozen=True, kw_only=True)
class MitigationRun:
    """What determines a mitigation, besides the model and the prompts.

    Args:
        settings: see `MitigationSettings`.
        detector: the name of the detector that screens the suspects.
        tau: its score above which a suspect is looked at.
        threshold_prompts, statistics_prompts: hashes of the captions of threshold and statistics.
        captions: a hash of the ordinary captions.
        descriptor, clip: hashes of the networks that measure; empty without a CLIP.
        ladders: a hash of the ladders. Runs of before they were on record cannot be resumed.
    """

    kind: ClassVar[str] = "mitigation"
    compares_images: ClassVar[bool] = True

    settings: MitigationSettings
    detector: str = SEED_SIMILARITY
    tau: float
    threshold_prompts: str
    statistics_prompts: str
    captions: str
    descriptor: str
    clip: str
    ladders: str = ""

    @classmethod
    def of(cls, settings: MitigationSettings, inputs: MitigationInputs) -> MitigationRun:
        """Make the settings of a run.

        Its noise settings are those of the threshold.

        Raises:
            MitigationError: there are too few fresh images for a certificate.
        """
        settings.refuse_few_images()
        captions = inputs.captions
        localization = replace(settings.localization, noise=inputs.threshold.settings)
        return cls(
            settings=replace(settings, localization=localization),
            detector=inputs.threshold.detect.detector,
            tau=screen_level(inputs.threshold),
            threshold_prompts=inputs.threshold.prompts,
            statistics_prompts=inputs.statistics.prompts,
            captions=hash_texts([*captions.ordinary, "", *captions.keep, "", *captions.further]),
            descriptor=inputs.descriptor.digest,
            clip=inputs.clip.digest if inputs.clip else "",
            ladders=LADDERS_DIGEST,
        )
