"""Settings of a hardening, and what it works with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

from diffusers import DiffusionPipeline

from unmemorize._bundled import is_bundled
from unmemorize._checked import check_fields
from unmemorize._errors import MitigationError
from unmemorize._prompts import Prompt, no_wordings
from unmemorize.audit import STARTS, AuditInputs, AuditSettings, Start
from unmemorize.generation import Edit, usual_generation
from unmemorize.metrics import ClipAlignment
from unmemorize.mitigation import digest
from unmemorize.pipelines import Model

Objective = Literal["substitutes", "distillation", "both"]
ATTACK = "L4"
"""The attack that a hardening trains against, and that judges it."""
_BUNDLED_RATE = 2e-4
TAUGHT = "shifted images"
"""What distillation wants."""
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
        objective: what is taught about memorized images. "distillation" is ours: on the images with
            noise, what the unedited model predicts without text for the image when it is shifted by
            about half its side. "substitutes" is published: the noise of images that the edit
            draws. "both" takes one of them for each sample, by chance.
        rate: the learning rate (AdamW). The default is meant for Stable Diffusion.
        settle: let the learning rate fall to zero during the last round.
        attacked: the share of these samples under embeddings of attacks, in [0, 1]. The others are
            under the caption, and about half of the distilled ones among them without text. 0 is
            the control that fine-tunes without attacks: they still run in each round, and only show
            how far they get.
        forgotten: samples of a training step that concern memorized images.
        kept: samples of a training step that preserve ordinary images. By default there are 16 in
            all, as in SISS.
        kept_images: how many ordinary images training preserves.
        kept_weight: the weight of the error on ordinary images beside that on memorized ones. It
            is 1 as published. 0 trains on memorized images alone.
        starts: where attacks of the training start, in turn from round to round. Only the others
            are held out for the judging attacks.
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
    rounds: int = 16
    steps: int = 12
    objective: Objective = "distillation"
    rate: float = 1e-5
    settle: bool = False
    attacked: float = 0.75
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
        if not 0 <= self.kept_weight < math.inf:
            raise MitigationError(
                f"kept_weight={self.kept_weight}: a weight is 0 or a number above 0, such as 4."
            )
        if not 0 <= self.attacked <= 1:
            raise MitigationError(f"attacked={self.attacked}: a share lies between 0 and 1.")
        if not self.starts:
            raise MitigationError(f"starts={self.starts}: name some of {', '.join(STARTS)}.")
        if ATTACK not in self.audit.levels or self.audit.steps[-1] < 1:
            raise MitigationError(
                f"audit: levels {', '.join(self.audit.levels)} to {self.audit.steps[-1]} steps do "
                f"not judge a hardening. Name {ATTACK}, with at least 1 step."
            )

    @property
    def distils(self) -> bool:
        """Whether the unedited model teaches about memorized images."""
        return self.objective != "substitutes"

    @property
    def substitutes(self) -> bool:
        """Whether images are drawn that take the place of memorized ones."""
        return self.objective != "distillation"

    @property
    def hold_out(self) -> str:
        """One sentence on which of the judging attacks training has seen, and which not.

        Examples:
            >>> HardeningSettings(attacked=0.0).hold_out
            'Training saw the captions (L0); it did not see L4 from prompt, noise, other.'
        """
        used = self.starts[: self.rounds] if self.attacked else ()
        trained = [start for start in STARTS if start in used]
        others = [start for start in self.audit.starts if start not in used]
        seen = "Training saw the captions (L0)"
        if trained:
            seen += f" and {ATTACK} from {', '.join(trained)}"
        if not others:
            return f"{seen}; judging attacks differ from these by their random numbers alone."
        return f"{seen}; it did not see {ATTACK} from {', '.join(others)}."

    @classmethod
    def of(cls, model: DiffusionPipeline | Model, **options: Any) -> Self:
        """Make settings for a model.

        The bundled one needs a higher learning rate, and is drawn with its own steps and guidance.

        Args:
            model: a loaded pipeline, or a `Model` of it.
            options: settings that are given. A rate that is not depends on the rank, too.
        """
        model = Model.of(model)
        audit = replace(_judging(), generation=usual_generation(model))
        rate = _BUNDLED_RATE if is_bundled(model.pipe) else cls.rate
        factor = _LOW_RANK_FACTOR if options.get("rank") else 1
        return cls(**{"rate": rate * factor, "audit": audit, **options})


@dataclass(frozen=True, kw_only=True)
class HardeningInputs:
    """What a hardening works with, besides the model and the prompts.

    Args:
        audit: what judges. Its edit takes the copies out, and draws substitutes where the objective
            needs some; distillation needs no edit. Its captions show the price. Its controls give
            the level of a copy, and its twins are left out (see `judging`).
        keep: other ordinary captions, whose images training preserves.
        clip: measures alignment and CLIP-FID of ordinary images.

    Raises:
        MitigationError: there are no captions to preserve.
    """

    audit: AuditInputs
    keep: tuple[str, ...]
    clip: ClipAlignment | None = None

    def __post_init__(self) -> None:
        if not self.keep:
            raise MitigationError(
                "keep=(): without ordinary captions to preserve, training would change all images. "
                "Give some with OrdinaryCaptions(ordinary, keep), none of which is among ordinary."
            )

    def preserved(self, prompts: Sequence[Prompt]) -> tuple[str, ...]:
        """Return the captions to preserve, none of which is a memorized prompt.

        Raises:
            MitigationError: all of them are.
        """
        others = no_wordings(self.keep, prompts)
        if not others:
            raise MitigationError(
                f"{self.keep[0][:60]!r}: all captions to preserve are memorized prompts, too. Give "
                "others with OrdinaryCaptions(ordinary, keep)."
            )
        return others

    def judging(self, edit: Edit) -> AuditInputs:
        """Return what judges a trained edit.

        Never-trained images are attacked in the trained model. In a twin, which is not trained
        against attacks, they would give a level that any damage to the model falls below. Random
        numbers depend on the edit, so that nobody trains until these attacks happen to fail.
        """
        return replace(self.audit, edit=edit, twins=(), seeded_by=digest(edit))

    @property
    def control(self) -> str:
        """What the level of a copy rests on, in words; empty without controls."""
        count = len(self.audit.controls)
        if not count:
            return ""
        which = "images that are said to be never trained on"
        if self.audit.shipped:
            which = "photographs of this package"
        return f"{count} {which}, under the same attacks in the trained model"


@dataclass(frozen=True, kw_only=True)
class HardeningRun:
    """What determines a hardening, besides the model and the prompts.

    Args:
        settings: see `HardeningSettings`.
        edit: the edit that was given, as JSON text.
        taught: what distillation wants. Earlier runs wanted something else, and cannot be resumed.
        references: a hash of the training images. Runs of before it was on record cannot be
            resumed.
        controls: hashes of the never-trained images.
        twins: never-trained models that judged earlier runs.
        captions: a hash of the ordinary captions.
        descriptor, clip: hashes of the networks that measure; empty without a CLIP.
    """

    kind: ClassVar[str] = "hardening"

    settings: HardeningSettings
    edit: str
    taught: str = ""
    references: str = ""
    controls: tuple[str, ...]
    twins: tuple[str, ...] = ()
    captions: str
    descriptor: str
    clip: str
