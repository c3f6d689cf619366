"""Settings of a verified mitigation."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field, replace
from typing import Literal

from unmemorize._checked import check_fields
from unmemorize._errors import MitigationError, ModelError
from unmemorize.generation import GenerationSettings
from unmemorize.localization import LocalizationSettings
from unmemorize.mitigation._certificate import Certification
from unmemorize.mitigation._copy_test import FALSE_COPIES

_logger = logging.getLogger("unmemorize")

Part = Literal["denoiser", "text-encoder"]
"""What part of a model is edited."""
_FEW = 0.1
"""The share of the budget up to which no further ladder can be worth its images."""


@dataclass(frozen=True, kw_only=True)
class MitigationSettings:
    """How an edit is searched, and what it must show.

    Args:
        alpha: the copy rate that a certificate excludes, in (0, 1).
        confidence: of each prompt's certificate over the whole search, in (0, 1).
        budget: the largest share of ordinary images that may change, in (0, 1].
        declared: whether exactly one attempt of a certificate is made, which then takes fewer
            images.
        together: whether all prompts are also certified together, which takes more images.
        part: what is edited, the denoiser or the text encoder.
        compare: whether the search compares the ends of ladders by what they change in ordinary
            images, until one changes few and leaves no copy, or climbs the first ladder alone.
        search_images: unedited images that confirm a prompt, and edited ones that a rung of the
            search must pass.
        guides: how many ordinary captions are looked at for each prompt, and how many guides are
            drawn at most, see docs/mitigation.md.
        fresh_images: fresh images of each prompt in an attempt of a certificate, where more are
            wanted than the fewest, see `Certification`; 0 for the fewest.
        ordinary_images: images of ordinary captions. The level of a copy comes from them.
        distances: whether the edited images of ordinary captions are also compared with unedited
            ones as distributions (CLIP-FID, KID), which takes as many images again. Without a CLIP
            they never are.
        false_copies: the share of ordinary images that may pass for a copy, in (0, 1).
        localization: how neurons are localized. Its noise settings and its seed threshold do not
            apply, see `MitigationRun.of`.
        generation: steps, guidance and batch. Its seed and its number of images do not apply.

    Raises:
        ModelError: a value is of another type or out of range.

    Source: METHOD of this project, see docs/mitigation.md.

    Examples:
        >>> MitigationSettings.quick().alpha
        0.26
    """

    alpha: float = 0.05
    confidence: float = 0.95
    budget: float = 0.1
    declared: bool = False
    together: bool = False
    part: Part = "denoiser"
    compare: bool = True
    search_images: int = 10
    guides: int = 10
    fresh_images: int = 0
    ordinary_images: int = 1000
    distances: bool = True
    false_copies: float = FALSE_COPIES
    localization: LocalizationSettings = field(default_factory=LocalizationSettings)
    generation: GenerationSettings = field(default_factory=GenerationSettings)

    def __post_init__(self) -> None:
        check_fields(self, ModelError)
        for name in ("alpha", "confidence", "budget", "false_copies"):
            value = getattr(self, name)
            if not 0 < value < 1 and not (name == "budget" and value == 1):
                also = ", or is 1" if name == "budget" else ""
                raise ModelError(
                    f"{name}={value}: a share lies between 0 and 1, such as 0.05{also}."
                )
        if self.search_images < 3:
            raise ModelError(
                f"search_images={self.search_images}: a prompt is confirmed by 2 copies, so at "
                "least 3 images are needed."
            )
        if self.guides < 1:
            raise ModelError(f"guides={self.guides}: at least 1 is drawn. 10 is usual.")
        if self.fresh_images < 0:
            raise ModelError(
                f"fresh_images={self.fresh_images}: 0 takes the fewest that a certificate needs."
            )
        fewest = 1 / self.false_copies - 1
        if self.ordinary_images < fewest:
            raise ModelError(
                f"ordinary_images={self.ordinary_images}: too few to bound false copies at "
                f"{self.false_copies:g}. Take at least {math.ceil(fewest)}."
            )

    def refuse_few_images(self) -> None:
        """Refuse fewer fresh images than the first attempt of a certificate needs.

        Runs of earlier versions may hold such a number, which they did not use.

        Raises:
            MitigationError: there are fewer.
        """
        fewest = Certification(self.alpha, 1 - self.confidence, self.declared).fewest
        if 0 < self.fresh_images < fewest:
            raise MitigationError(
                f"fresh_images={self.fresh_images}: a certificate needs at least {fewest} fresh "
                f"images of a prompt at alpha={self.alpha:g} and confidence={self.confidence:g}. "
                "Take so many or more, leave it out for the fewest, or exclude a higher rate "
                "(alpha)."
            )

    def certification(self, prompts: int) -> Certification:
        """Return the rules for the certificates of so many prompts."""
        together = prompts if self.together else 1
        rules = Certification(self.alpha, 1 - self.confidence, self.declared, together)
        if self.fresh_images >= rules.fewest:
            return replace(rules, seeds=self.fresh_images)
        if self.fresh_images:
            _logger.warning(
                "%d fresh images of a prompt are too few for a certificate of %d prompts. At least "
                "%d are drawn of each.",
                self.fresh_images,
                prompts,
                rules.fewest,
            )
        return rules

    @property
    def sample(self) -> int:
        """How many ordinary images the candidates of the search are compared by."""
        return max(1, self.ordinary_images // 5)

    @property
    def few_changed(self) -> float:
        """The share of ordinary images up to which an edit without copies ends the search."""
        return _FEW * self.budget

    @classmethod
    def quick(cls) -> MitigationSettings:
        """Make settings for a first look: ten fresh images a prompt, and fewer ordinary ones.

        Ten images without a copy exclude a copy rate of 26 %, if one attempt is made.
        """
        return cls(
            alpha=0.26,
            declared=True,
            compare=False,
            guides=3,
            ordinary_images=199,
            distances=False,
            false_copies=0.005,
        )
