"""What a hardening leaves: how its rounds went, what held, and at which price."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unmemorize._files import to_json
from unmemorize.audit import BudgetVerdict, Start
from unmemorize.generation import EditFile
from unmemorize.mitigation import EDIT, OrdinaryChange, percent_up
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
        forgotten: mean squared error of what concerns memorized images, weighted by noise level
            where the objective is (see docs/hardening.md), the mean over the steps.
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
        hold_out: which judging attacks training has seen, and which not.
        control: what the level of a copy rests on; empty without never-trained images.
        remarks: see `unmemorize.AuditResult`.
        file: the edit with its model, for `bake` and `export_lora`; not part of the JSON.
    """

    verdict: BudgetVerdict
    attacks: tuple[AttackOutcome, ...]
    rounds: tuple[RoundOutcome, ...]
    ordinary: OrdinaryChange
    edit: str
    hold_out: str = ""
    control: str = ""
    remarks: tuple[str, ...] = ()
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
            f"{verdict.images} images above the level of a copy, {verdict.tau:.2f} at the last "
            f"step (upper bound of the rate {percent_up(verdict.bound)}). {price}"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What the headline rests on, in sentences."""
        notes = [self.hold_out] if self.hold_out else []
        if self.control:
            note = f"The level of a copy comes from {self.control}."
            if (limit := self.verdict.false_triggers) is not None:
                note += f" A never-trained image is above it in at most {limit:.3g} of cases."
            notes.append(note)
        notes += self.remarks
        if self.control and (left := self.verdict.unjudged):
            notes.append(
                f"Not judged: {left} of {left + self.verdict.images} images, since no "
                "never-trained image is compared in their way."
            )
        if self.verdict.tau is not None:
            notes.append(
                "The bound holds for one declared attempt. Whoever trains until an edit holds must "
                "report all attempts."
            )
        return tuple(notes)

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
