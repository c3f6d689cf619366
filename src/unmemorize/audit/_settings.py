"""Settings of an audit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self

from unmemorize._checked import check_fields
from unmemorize._errors import AuditError
from unmemorize.audit._attack import ATTACKS, STARTS, AttackSettings, Start
from unmemorize.generation import GenerationSettings

ArmName = Literal["edited", "unedited", "never-trained", "random", "ordinary"]
ARMS: tuple[ArmName, ...] = ("edited", "unedited", "never-trained", "random", "ordinary")
NEUTRAL: tuple[Start, ...] = ("noise", "other")
"""Starts that need no caption."""
_FOR, _BETWEEN = " for ", ", "
"""What stands before and between positions in a manifest."""
COPY = 0.5
"""Similarity above which images are called copies where no level is calibrated."""


@dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """What an audit tries, and how it judges.

    Args:
        levels: names of `ATTACKS`, from "L0" (the caption) to "L6" (relearning).
        steps: the ladder of budgets in optimization steps, rising from 0. All are reported.
        starts: where attacks on text start.
        seeds: repetitions of each attack with other random numbers.
        images: images of each candidate.
        batch: noisy latents per optimization step.
        together: attacks on embeddings that share the passes of the denoiser. A GPU that few
            samples leave idle does 64 in little more time than one. What each of them finds
            changes by rounding alone.
        attacks: what the attacks of this package take.
        arms: which arms are attacked. The edited one always is, and verdicts need the never-trained
            one.
        ordinary_images: images of the arm of ordinary captions.
        alpha: false triggers of a never-trained image at each budget, and level of all tests.
        delta: the largest difference of scores that counts as none.
        generation: steps, guidance and batch of images. Its seed and its number of images do not
            apply.

    Raises:
        AuditError: a value is of another type or out of range, or a level is unknown.

    Source: docs/audit.md.

    Examples:
        >>> AuditSettings.quick().steps
        (0, 5, 10, 25)
    """

    levels: tuple[str, ...] = ("L0", "L1", "L2", "L3", "L4", "L4-imageless", "L5", "L6")
    steps: tuple[int, ...] = (0, 5, 10, 25, 50, 100, 200, 500)
    starts: tuple[Start, ...] = STARTS
    seeds: int = 3
    images: int = 8
    batch: int = 8
    together: int = 1
    attacks: AttackSettings = field(default_factory=AttackSettings)
    arms: tuple[ArmName, ...] = ARMS
    ordinary_images: int = 8
    alpha: float = 0.05
    delta: float = 0.1
    generation: GenerationSettings = field(default_factory=GenerationSettings)

    def __post_init__(self) -> None:
        check_fields(self, AuditError)
        known = ATTACKS.names()
        for level in self.levels:
            if level not in known:
                raise AuditError(f"{level}: no such level. Known are {', '.join(known)}.")
        if not self.levels:
            raise AuditError(f"no level is named. Name some of {', '.join(known)}.")
        if list(self.steps[:1]) != [0] or list(self.steps) != sorted(set(self.steps)):
            raise AuditError(f"steps={self.steps}: budgets rise from 0, such as (0, 5, 10, 25).")
        if not self.starts:
            raise AuditError(f"starts={self.starts}: name some of {', '.join(STARTS)}.")
        for name in ("seeds", "images", "batch", "together"):
            if getattr(self, name) < 1:
                raise AuditError(f"{name}={getattr(self, name)}: at least 1 is needed.")
        for name in ("alpha", "delta"):
            if not 0 < getattr(self, name) < 1:
                raise AuditError(f"{name}={getattr(self, name)}: give a number in (0, 1).")

    @classmethod
    def quick(cls) -> Self:
        """Make settings for a first look: the caption, free embeddings to 25 steps, the ceiling."""
        return cls(
            levels=("L0", "L4", "L5"),
            steps=(0, 5, 10, 25),
            starts=("prompt",),
            seeds=1,
            images=4,
            ordinary_images=4,
        )

    def image_first(self) -> Self:
        """Return the same for images whose captions are not known: L4 from neutral starts.

        Without a neutral start among its own, these are all of them. From another caption alone,
        most images of the bundled model come back too late to be told from controls.
        """
        starts = tuple(start for start in NEUTRAL if start in self.starts) or NEUTRAL
        return replace(self, levels=("L4",), starts=starts)


@dataclass(frozen=True, kw_only=True)
class AuditRun:
    """What determines an audit, besides the model and the prompts.

    Args:
        settings: see `AuditSettings`.
        edit: the edit as JSON text; empty for none.
        references: a hash of the training images. Runs of before it was on record cannot be
            resumed.
        controls: hashes of the never-trained images.
        twins: the never-trained models, see `twin_text`.
        captions: a hash of the ordinary captions.
        descriptor: a hash of the network that compares images.
        seeded_by: see `AuditInputs`.
        joined: prompts that show one image, see `positions_text`; None where each shows another.
        whole: positions of templates that are compared as whole images; None for none.
    """

    kind: ClassVar[str] = "audit"

    settings: AuditSettings
    edit: str
    references: str = ""
    controls: tuple[str, ...]
    twins: tuple[str, ...]
    captions: str
    descriptor: str
    seeded_by: str | None = None
    joined: tuple[str, ...] | None = None
    whole: tuple[int, ...] | None = None

    @property
    def twin_prompts(self) -> tuple[tuple[int, ...], ...]:
        """The positions of the prompts of each twin."""
        return tuple(_positions(text.rpartition(_FOR)[2]) for text in self.twins)

    @property
    def same_images(self) -> tuple[tuple[int, ...], ...]:
        """The positions of prompts that show one image, for each such image."""
        return tuple(map(_positions, self.joined or ()))


def twin_text(fingerprint: str, prompts: Sequence[int]) -> str:
    """Describe a twin for a manifest: its fingerprint, and the positions of its prompts.

    Examples:
        >>> twin_text("3f2a", (0, 2))
        '3f2a for 0, 2'
    """
    return f"{fingerprint}{_FOR}{positions_text(prompts)}"


def positions_text(positions: Sequence[int]) -> str:
    """Describe positions of prompts for a manifest.

    Examples:
        >>> positions_text((5, 6))
        '5, 6'
    """
    return _BETWEEN.join(map(str, positions))


def _positions(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(_BETWEEN))


@dataclass(frozen=True, kw_only=True)
class ImageAuditRun:
    """What determines an audit of images, besides the model.

    Args:
        settings: see `AuditSettings`.
        rate: the false discovery rate.
        images: hashes of the images.
        edit, controls, captions, descriptor: as in `AuditRun`.
    """

    kind: ClassVar[str] = "image-audit"

    settings: AuditSettings
    rate: float
    images: tuple[str, ...]
    edit: str
    controls: tuple[str, ...]
    captions: str
    descriptor: str
