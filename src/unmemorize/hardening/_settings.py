"""Settings of a hardening, and what it works with."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

from unmemorize._bundled import is_bundled
from unmemorize._checked import check_fields
from unmemorize._errors import MitigationError
from unmemorize.audit import STARTS, AuditInputs, AuditSettings, Start
from unmemorize.metrics import ClipAlignment
from unmemorize.pipelines import Model

Objective = Literal["substitutes", "distillation", "both"]
ATTACK = "L4"
"""The attack that a hardening trains against, and that judges it."""
_BUNDLED_RATE = 2e-4
_LOW_RANK_FACTOR = 10
"""Factors of a LoRA begin at zero, so they take larger steps than weights."""


def _judging() -> AuditSettings:
    return AuditSettings(levels=("L0", ATTACK), steps=(0, 50), arms=("edited", "never-trained"))


@dataclass(frozen=True, kw_only=True)
class HardeningSettings:
    """How a model is hardened, and how that is judged.

    Args:
        weights: which weights are trained: "all", "cross-attention" (all layers of the attentions
            that read the text), or a pattern with ``*`` over paths of layers of the denoiser, such
            as "mid_block.*".
        rank: train a LoRA of this rank on the linear layers and convolutions among them. None
            trains weights and biases themselves.
        rounds: how often the current weights are attacked and then trained.
        steps: training steps of a round for each memorized image.
        objective: what is taught under embeddings of attacks. "substitutes" is published: the noise
            of images that the edit draws. "distillation" is ours: on the memorized images with
            noise, what the unedited model predicts without text. "both" takes one of them for each
            sample, by chance.
        rate: the learning rate (AdamW). The default is meant for Stable Diffusion.
        settle: let the learning rate fall to zero during the last round.
        forgotten: samples of a training step that concern memorized images.
        kept: samples of a training step that preserve ordinary images. By default there are 16 in
            all, as in SISS.
        kept_images: how many ordinary images training preserves.
        kept_weight: the weight of the error on ordinary images beside that on memorized ones. It
            is 1 as published.
        starts: where attacks of the training start, in turn from round to round. The others are
            left for the judging attacks.
        ordinary_images: images of ordinary captions before and after, which show the price.
        audit: the attacks that judge, their budgets, and how images are generated. The largest
            budget and the batch hold for the attacks of the training, too.

    Raises:
        MitigationError: a value is of another type or out of range, or L4 is not among the attacks
            that judge.

    Source: Kowalczuk et al., "Finding DoRI", arXiv 2507.16880; docs/hardening.md says what is ours.

    Examples:
        >>> HardeningSettings().audit.starts
        ('prompt', 'noise', 'other')
    """

    weights: str = "all"
    rank: int | None = None
    rounds: int = 4
    steps: int = 12
    objective: Objective = "substitutes"
    rate: float = 1e-5
    settle: bool = False
    forgotten: int = 8
    kept: int = 8
    kept_images: int = 64
    kept_weight: float = 4.0
    starts: tuple[Start, ...] = ("prompt",)
    ordinary_images: int = 100
    audit: AuditSettings = field(default_factory=_judging)

    def __post_init__(self) -> None:
        check_fields(self, MitigationError)
        for name in ("rank", "rounds", "steps", "forgotten", "kept", "kept_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise MitigationError(f"{name}={value}: at least 1 is needed.")
        if self.ordinary_images < 2:
            raise MitigationError(f"ordinary_images={self.ordinary_images}: at least 2 are needed.")
        if not 0 < self.rate < math.inf:
            raise MitigationError(f"rate={self.rate}: a learning rate is a number such as 1e-5.")
        if not 0 < self.kept_weight < math.inf:
            raise MitigationError(
                f"kept_weight={self.kept_weight}: a weight is a number above 0, such as 4."
            )
        if not self.starts:
            raise MitigationError(f"starts={self.starts}: name some of {', '.join(STARTS)}.")
        if ATTACK not in self.audit.levels or self.audit.steps[-1] < 1:
            raise MitigationError(
                f"audit: levels {', '.join(self.audit.levels)} to {self.audit.steps[-1]} steps do "
                f"not judge a hardening. Name {ATTACK}, with at least 1 step."
            )

    @classmethod
    def of(cls, model: Model, **options: Any) -> Self:
        """Make settings for a model; the bundled one needs a higher learning rate.

        Args:
            model: the model.
            options: settings that are given. A rate that is not depends on the rank, too.
        """
        rate = _BUNDLED_RATE if is_bundled(model.pipe) else cls.rate
        factor = _LOW_RANK_FACTOR if options.get("rank") else 1
        return cls(**{"rate": rate * factor, **options})


@dataclass(frozen=True, kw_only=True)
class HardeningInputs:
    """What a hardening works with, besides the model and the prompts.

    Args:
        audit: what judges. Its edit takes the copies out, and draws the images that take the place
            of the memorized ones. Its captions show the price.
        keep: other ordinary captions, whose images training preserves.
        clip: measures alignment and CLIP-FID of ordinary images.
    """

    audit: AuditInputs
    keep: tuple[str, ...]
    clip: ClipAlignment | None = None


@dataclass(frozen=True, kw_only=True)
class HardeningRun:
    """What determines a hardening, besides the model and the prompts.

    Args:
        settings: see `HardeningSettings`.
        edit: the edit that draws substitutes, as JSON text.
        references: a hash of the training images. Runs of before it was on record cannot be
            resumed.
        controls: hashes of the never-trained images.
        twins: fingerprints of the never-trained models, each with the prompts it is for.
        captions: a hash of the ordinary captions.
        descriptor, clip: hashes of the networks that measure; empty without a CLIP.
    """

    kind: ClassVar[str] = "hardening"

    settings: HardeningSettings
    edit: str
    references: str = ""
    controls: tuple[str, ...]
    twins: tuple[str, ...]
    captions: str
    descriptor: str
    clip: str
