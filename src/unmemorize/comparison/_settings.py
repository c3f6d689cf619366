"""What determines a comparison."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from diffusers import DiffusionPipeline

from unmemorize._bundled import bundled_captions, is_bundled
from unmemorize._checked import check_fields, make_tuple
from unmemorize._errors import MitigationError, ModelError
from unmemorize._files import hash_texts
from unmemorize.detection import NoiseSettings, Threshold
from unmemorize.generation import GenerationSettings
from unmemorize.localization import LocalizationSettings
from unmemorize.metrics import ClipAlignment, Descriptor
from unmemorize.mitigation import MitigationSettings
from unmemorize.pipelines import Model
from unmemorize.statistics import Statistics, side_effect_captions, threshold_captions

_KEPT = 320
"""Ordinary captions that methods are given to leave alone."""
_QUICK_CAPTIONS = 99
"""The fewest calibration captions that bound false alarms at 1 %."""
_FEWEST_CAPTIONS = 8
"""The fewest calibration captions: some detectors take a fifth of them, and at least 2, for the
units of their parts."""


@dataclass(frozen=True)
class ComparisonCaptions:
    """Ordinary captions, none of them memorized, in two parts.

    Args:
        calibration: detectors are calibrated on these, and methods are given the first 320 of them
            to leave alone.
        test: false alarms are counted on these, and side effects of methods are measured on them.
            Their unedited images tell the level of a copy. A warning says if they are too few for
            the share of false copies.

    Raises:
        MitigationError: there are too few, one is there twice, or some are no texts.

    Examples:
        >>> halves = ComparisonCaptions.halves([f"a dog of {number} years" for number in range(16)])
        >>> len(halves.calibration), len(halves.test)
        (8, 8)
    """

    calibration: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self) -> None:
        make_tuple(self, "calibration", MitigationError, "captions")
        make_tuple(self, "test", MitigationError, "captions")
        check_fields(self, MitigationError)
        if len(self.calibration) < _FEWEST_CAPTIONS or not self.test:
            raise MitigationError(
                f"{len(self.calibration) + len(self.test)} ordinary captions: at least "
                f"{2 * _FEWEST_CAPTIONS} are needed, better 640. Half of them calibrates, the "
                "other half counts false alarms."
            )

        both = (*self.calibration, *self.test)
        if len(set(both)) < len(both):
            twice = next(text for text in both if both.count(text) > 1)
            raise MitigationError(
                f"{twice[:60]!r} is among the ordinary captions twice. Name each once, since false "
                "alarms are counted on captions that did not calibrate."
            )

    @classmethod
    def halves(cls, captions: Sequence[str]) -> ComparisonCaptions:
        """Split captions in two halves, in the order of their hashes.

        Lists are often sorted or periodic, so their own order could make the halves differ.
        """
        order = sorted(captions, key=lambda text: hashlib.sha256(text.encode()).digest())
        return cls(tuple(order[::2]), tuple(order[1::2]))

    @classmethod
    def of(cls, model: DiffusionPipeline | Model) -> ComparisonCaptions:
        """Return the captions of this package, or those that the bundled model brings."""
        model = Model.of(model)
        if is_bundled(model.pipe):
            return cls(bundled_captions("calibration"), bundled_captions("test"))
        return cls(threshold_captions(model), side_effect_captions(model))

    def limited(self, captions: int | None) -> ComparisonCaptions:
        """Return the first captions of each part; None takes all."""
        return ComparisonCaptions(self.calibration[:captions], self.test[:captions])

    @property
    def kept(self) -> tuple[str, ...]:
        """The captions that methods are given to leave alone."""
        return self.calibration[:_KEPT]


@dataclass(frozen=True, kw_only=True)
class ComparisonSettings:
    """How much a comparison looks at.

    Args:
        seeds: images of each suspect, under each method. At least 3: two copies confirm a suspect.
        images: images of ordinary captions, under each method.
        null_images: unedited images of ordinary captions. The level of a copy comes from them.
        false_copies: the share of ordinary images that may pass for a copy, in (0, 1).
        captions: ordinary captions of each part, see `ComparisonCaptions.limited`; None for all.
        noise: initial noise of the detectors, and how noise differences are made.
        localization: how neurons are localized, for methods that need it. Refinement and noise are
            not from here.
        generation: steps, guidance and batch. Its seed and its number of images do not apply.

    Raises:
        ModelError: a value is of another type or out of range.
        MitigationError: there are fewer null images than images.

    Examples:
        >>> ComparisonSettings.quick().images
        40
    """

    seeds: int = 10
    images: int = 200
    null_images: int = 999
    false_copies: float = 0.001
    captions: int | None = None
    noise: NoiseSettings = field(default_factory=NoiseSettings)
    localization: LocalizationSettings = field(default_factory=LocalizationSettings)
    generation: GenerationSettings = field(default_factory=GenerationSettings)

    def __post_init__(self) -> None:
        check_fields(self, ModelError)
        _ = self.confirmation  # refuses numbers of images and rates that make no sense
        if not 2 <= self.images <= self.null_images:
            raise MitigationError(
                f"images={self.images}: at least 2 ordinary images are needed, and at most "
                f"{self.null_images}, the number of unedited ones. Choose a number between."
            )

    @property
    def confirmation(self) -> MitigationSettings:
        """How suspects are confirmed by generation."""
        return MitigationSettings(
            search_images=self.seeds,
            ordinary_images=self.null_images,
            false_copies=self.false_copies,
            generation=self.generation,
        )

    @classmethod
    def quick(cls) -> ComparisonSettings:
        """Make settings for a first look.

        The level of a copy rests on two images of each caption then, so its share of false copies
        is no strict bound.
        """
        return cls(
            seeds=4,
            images=40,
            null_images=199,
            false_copies=0.005,
            captions=_QUICK_CAPTIONS,
        )


@dataclass(frozen=True, kw_only=True)
class ComparisonInputs:
    """What a comparison works with, besides the model and the suspects.

    Args:
        captions: ordinary captions.
        descriptor: tells copies.
        clip: measures alignment and CLIP-FID; None to leave them out.
        statistics, threshold: of the model, for methods that need localized neurons; None where no
            method does.
        planted: whether the suspects were planted in the bundled model, see `Comparison`.
    """

    captions: ComparisonCaptions
    descriptor: Descriptor
    clip: ClipAlignment | None = None
    statistics: Statistics | None = None
    threshold: Threshold | None = None
    planted: bool = False


@dataclass(frozen=True, kw_only=True)
class ComparisonRun:
    """What determines a comparison, besides the model and the suspects.

    Detectors and methods are not part of it, so the same folder takes more of them later.

    Args:
        settings: see `ComparisonSettings`.
        captions: a hash of the ordinary captions.
        descriptor, clip: hashes of the networks that measure; empty without a CLIP.
    """

    kind: ClassVar[str] = "comparison"
    compares_images: ClassVar[bool] = True

    settings: ComparisonSettings
    captions: str
    descriptor: str
    clip: str

    @classmethod
    def of(cls, settings: ComparisonSettings, inputs: ComparisonInputs) -> ComparisonRun:
        """Make the settings of a run."""
        captions = inputs.captions
        return cls(
            settings=settings,
            captions=hash_texts([*captions.calibration, "", *captions.test]),
            descriptor=inputs.descriptor.digest,
            clip=inputs.clip.digest if inputs.clip else "",
        )


def kind_of(part: str, name: str, determining: Any) -> str:
    """Return the name of the records of one detector, or of one method at one strength.

    Args:
        part: "detector", "method" or "localizations".
        name: of the detector, method or refinement.
        determining: JSON values that determine its results. Others get other records.

    Examples:
        >>> kind_of("detector", "dsm", {"seeds": 4})
        'detector-dsm-e3d21f26'
    """
    text = json.dumps(determining, sort_keys=True)
    return f"{part}-{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
