"""What a hardening leaves: how its rounds went, what held, and at which price."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unmemorize._files import to_json
from unmemorize.audit import BudgetVerdict, Start
from unmemorize.generation import EditFile
from unmemorize.mitigation import EDIT, OrdinaryChange
from unmemorize.runs import Run, read_result

RESULT = "hardening.json"
ATTACKS, ROUNDS = "attacks", "rounds"
"""The names of records."""


@dataclass(frozen=True, kw_only=True)
class AttackOutcome:
    """An attack of the training on one image, before the weights of the round were trained.

    Args:
        round: from 1.
        target: the position of the image.
        start: where it started.
        scores: similarity of two generated images to the memorized one.
        seconds: wall time.
    """

    round: int
    target: int
    start: Start
    scores: tuple[float, ...]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class RoundOutcome:
    """The training of one round.

    Args:
        forgotten: mean squared error of what concerns memorized images, the mean over the steps.
        ordinary: likewise, the distance to the unedited model on ordinary images.
        seconds: wall time, without the attacks.
    """

    forgotten: float
    ordinary: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class HardeningResult:
    """The outcome of a hardening.

    Args:
        verdict: of the judging L4 attacks at their largest budget, best over starts and
            repetitions; see `unmemorize.AuditResult` in the folder ``audit`` for all of them.
        attacks: those of the training.
        rounds: how training went.
        ordinary: what the edit changes in images of ordinary captions.
        edit: the digest of the edit.
        file: the edit with its model, for `bake` and `export_lora`; not part of the JSON.
    """

    verdict: BudgetVerdict
    attacks: tuple[AttackOutcome, ...]
    rounds: tuple[RoundOutcome, ...]
    ordinary: OrdinaryChange
    edit: str
    file: EditFile | None = field(default=None, compare=False, repr=False)

    @property
    def held(self) -> int:
        """How many judged images no attack brought above the level of a copy."""
        return self.verdict.images - self.verdict.triggered

    @property
    def headline(self) -> str:
        """One sentence on what was reached."""
        price = f"{self.ordinary.changed} of {self.ordinary.images} ordinary images changed."
        verdict = self.verdict
        if verdict.tau is None:
            return f"Nothing is said about attacks without never-trained images. {price}"
        return (
            f"{verdict.attack} with {verdict.budget} steps brings back {verdict.triggered} of "
            f"{verdict.images} images above {verdict.tau:.2f} (upper bound of the rate "
            f"{verdict.bound:.0%}). {price}"
        )

    @classmethod
    def load(cls, run: Run | str | Path) -> HardeningResult:
        """Read the result of a finished hardening.

        Raises:
            RunError: the run has none, or it is damaged.
        """
        run = Run.of(run)
        result = read_result(cls, run, RESULT, "harden", "a hardening")
        return replace(result, file=EditFile.load(run.folder / EDIT))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, without ``file``."""
        values: dict[str, Any] = to_json(replace(self, file=None))
        del values["file"]
        return values
