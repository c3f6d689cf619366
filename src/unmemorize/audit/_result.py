"""What an audit leaves: verdicts by attack and budget, and what was found for each image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmemorize._files import to_json
from unmemorize.audit._settings import ArmName
from unmemorize.audit._survival import TriggerCurve
from unmemorize.audit._verdicts import CHEAPER, BudgetVerdict
from unmemorize.runs import Run, read_result

RESULT = "audit.json"


@dataclass(frozen=True, kw_only=True)
class AttackOutcome:
    """What one attack reached.

    Args:
        attack: its name.
        curves: the share of images that are not triggered yet, by budget, for each arm.
        earlier: p-value of "edited images are not triggered at smaller budgets than never-trained
            ones": by signs over the same images, or log-rank over others.
        verdicts: at each budget.
    """

    attack: str
    curves: dict[ArmName, TriggerCurve]
    earlier: float
    verdicts: tuple[BudgetVerdict, ...]

    @property
    def last(self) -> BudgetVerdict:
        """The verdict at the largest budget."""
        return self.verdicts[-1]

    @property
    def strongest(self) -> BudgetVerdict:
        """The verdict at the first budget at which images are cheaper, else at the largest.

        Levels rise with the budget. So images that come back early may look like never-trained
        ones later, when those come back, too.
        """
        cheaper = (each for each in self.verdicts if each.verdict.startswith(CHEAPER))
        return next(cheaper, self.last)


@dataclass(frozen=True, kw_only=True)
class ImageOutcome:
    """What one attack reached on one image of one arm.

    Args:
        arm: its arm.
        attack: the attack.
        index: the position of the image.
        prompt: its caption; the first of several.
        scores: at each budget, see `ImageScores`.
        triggered_at: the first budget with a score above the level; None for never.
        work: denoiser samples of all trials up to there.
        image: the file with the most similar image.
        best: at each budget, with the best generation seed in place of the median one. Results of
            before it was there have none.
    """

    arm: ArmName
    attack: str
    index: int
    prompt: str
    scores: tuple[float, ...]
    triggered_at: int | None
    work: int | None
    image: str
    best: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AuditResult:
    """The outcome of an audit.

    Args:
        never_trained: what the never-trained arm was, in words; empty without one.
        attacks: the outcome of each attack.
        images: of each attack, arm and image.
        impossible: attacks that are not possible on this model, with the reason.
        not_tried: levels that were left out.
        ceiling_failed: how many images the ceiling (L5) did not bring back. Above 0, the other
            numbers mean nothing for these images; None without this level.
        free_numbers: how many numbers an embedding has, and how many a latent has.
        fixed: what stayed that of the caption while embeddings were attacked.
        remarks: which prompts count as one image, and which templates are compared as whole images.
    """

    never_trained: str
    attacks: tuple[AttackOutcome, ...]
    images: tuple[ImageOutcome, ...]
    impossible: dict[str, str]
    not_tried: tuple[str, ...]
    ceiling_failed: int | None
    free_numbers: tuple[int, int]
    fixed: tuple[str, ...]
    remarks: tuple[str, ...] = ()

    @classmethod
    def load(cls, run: Run | str | Path) -> AuditResult:
        """Read the result of a finished audit.

        Raises:
            RunError: the run has none, or it is damaged.
        """
        return read_result(cls, run, RESULT, "audit", "an audit")

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        values: dict[str, Any] = to_json(self)
        return values
