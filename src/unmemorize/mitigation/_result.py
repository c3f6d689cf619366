"""What a mitigation leaves: a verdict for each prompt, the edit, and what it changes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unmemorize._files import to_json
from unmemorize._words import counted
from unmemorize.generation import EditFile
from unmemorize.mitigation._certificate import Copies, Status, pooled
from unmemorize.mitigation._copy_test import Measure
from unmemorize.mitigation._ordinary import OrdinaryChange
from unmemorize.mitigation._paraphrases import Paraphrase, read_paraphrases
from unmemorize.mitigation._settings import MitigationSettings
from unmemorize.runs import Run, read_result

RESULT = "mitigation.json"
EDIT = "edit.json"
_SCALES_NEURONS = re.compile("(complete|initial|all) neurons at ")
"""How the name of a `Rung` begins that scales neurons."""


@dataclass(frozen=True, kw_only=True)
class PromptOutcome:
    """The outcome of one suspect.

    Args:
        index: its position in the run.
        prompt: its text.
        group: its group.
        status: "removed", "reduced", "not removed", "not confirmed" or "not tested".
        verdict: the same with its numbers.
        score: of the screen.
        measure: what was compared to tell copies; None for a suspect that was not generated.
        level: the score above which an image counts as a copy.
        before, after: copies among the unedited images, and among the fresh ones under the edit by
            which the verdict is given.
        bound: upper bound of the copy rate under the edit.
        confidence: of the bound: that of the last attempt to certify the prompt. None without a
            bound, and in results of earlier versions. There a prompt that is not removed has a
            bound at the confidence of the whole search, which is too low if the best of several
            edits was chosen.
        first: copies among the first fresh images under the edit. Other than those of ``after``,
            they are not looked at because of what came before, so they may be added up.
        worst_before: the highest score of the unedited images.
        files_before, files_after: unedited images in the run folder, and images from the same noise
            under the edit.
        scores_after: of the latter.
        files_left, scores_left: the fresh images that are still copies, the worst first.
        files_control, scores_control: images with as many random neurons edited; empty where no
            neurons were scaled for this prompt.
        rung: how the prompt is edited; empty if it is not.
        alignment_before, alignment_after: median cosines of the images with the prompt.
        paraphrases: each of its paraphrases.
        paraphrases_before, paraphrases_after: copies among the images of all of them.
    """

    index: int
    prompt: str
    group: str
    status: Status
    verdict: str
    score: float
    measure: Measure | None = None
    level: float | None = None
    before: Copies | None = None
    after: Copies | None = None
    bound: float | None = None
    confidence: float | None = None
    first: Copies | None = None
    worst_before: float | None = None
    files_before: tuple[str, ...] = ()
    files_after: tuple[str, ...] = ()
    scores_after: tuple[float, ...] = ()
    files_left: tuple[str, ...] = ()
    scores_left: tuple[float, ...] = ()
    files_control: tuple[str, ...] = ()
    scores_control: tuple[float, ...] = ()
    rung: str = ""
    alignment_before: float | None = None
    alignment_after: float | None = None
    paraphrases: tuple[Paraphrase, ...] = ()
    paraphrases_before: Copies | None = None
    paraphrases_after: Copies | None = None

    @property
    def worst_after(self) -> float | None:
        """The highest score of the images under the edit."""
        return max(self.scores_after, default=None)

    @property
    def confirmed(self) -> bool:
        """Whether the unedited images show that the prompt is memorized."""
        return self.status not in ("not confirmed", "not tested")

    @property
    def fresh_share(self) -> float:
        """The share of copies among its fresh images under the edit, in the worse attempt."""
        counts = [counted for counted in (self.first, self.after) if counted]
        return max((counted.copies / counted.seeds for counted in counts), default=0.0)

    @property
    def copying_paraphrases(self) -> tuple[Paraphrase, ...]:
        """The paraphrases that bring copies back under the edit, the worst first."""
        copying = [each for each in self.paraphrases if each.after.copies]
        return tuple(sorted(copying, key=lambda each: -each.share))

    def with_paraphrases(self, paraphrases: tuple[Paraphrase, ...]) -> PromptOutcome:
        """Return the outcome with what its paraphrases bring back."""
        if not paraphrases:
            return self
        return replace(
            self,
            paraphrases=paraphrases,
            paraphrases_before=pooled([each.before for each in paraphrases]),
            paraphrases_after=pooled([each.after for each in paraphrases]),
        )


@dataclass(frozen=True, kw_only=True)
class CandidateSummary:
    """One end of the search, for the trade-off between copies and side effects.

    Args:
        ladder: its name.
        digest: of the edit.
        copying: prompts that still copied on search seeds.
        change: of a sample of ordinary images.
    """

    ladder: str
    digest: str
    copying: int
    change: OrdinaryChange


@dataclass(frozen=True, kw_only=True)
class MitigationResult:
    """The verdicts of a mitigation.

    Args:
        outcomes: of each suspect, in the order of the run.
        ladder: the ladder of the edit; empty if there is no edit.
        edit: the digest of the edit in `EDIT`; empty if no suspect was confirmed, or no edit found.
        ordinary: what the edit changes in images of ordinary captions; None without an edit.
        ordinary_control: what as many random neurons change; None for an edit without neurons.
        budget: the largest share of them that may change.
        together: how many prompts are certified all together; None if that was not asked for.
        candidates: the edits that the search compared.
        file: the edit with its model, for `bake` and `export_lora`; not part of the JSON.
    """

    outcomes: tuple[PromptOutcome, ...]
    ladder: str = ""
    edit: str = ""
    ordinary: OrdinaryChange | None = None
    ordinary_control: OrdinaryChange | None = None
    budget: float
    together: int | None = None
    candidates: tuple[CandidateSummary, ...] = ()
    file: EditFile | None = field(default=None, compare=False, repr=False)

    def count(self, status: Status) -> int:
        """Return how many suspects have this status."""
        return sum(outcome.status == status for outcome in self.outcomes)

    @property
    def confirmed(self) -> int:
        """How many suspects are memorized."""
        return sum(outcome.confirmed for outcome in self.outcomes)

    @property
    def headline(self) -> str:
        """One sentence on what was reached."""
        if not self.confirmed:
            if len(self.outcomes) == 1:
                return "The suspect is not shown to be memorized."
            return f"None of {len(self.outcomes)} suspects is shown to be memorized."
        prompts = counted(self.confirmed, "memorized prompt")
        if not self.edit:
            return f"No edit was found that could end the copies of {prompts}."
        return (
            f"Copies removed for {self.count('removed')} of {prompts}: "
            f"{self.after.copies} of {self.after.seeds} fresh images are copies."
        )

    @property
    def after(self) -> Copies:
        """Copies among the first fresh images under the edit, all prompts together."""
        return pooled([outcome.first for outcome in self.outcomes if outcome.first])

    def in_words(self, settings: MitigationSettings) -> dict[str, Any]:
        """Say what was looked at and found, for people who are given the edit alone."""
        before = pooled([each.before for each in self.outcomes if each.confirmed and each.before])
        said = {
            "suspects": len(self.outcomes),
            "memorized": self.confirmed,
            "removed": self.count("removed"),
            "copy rate that is excluded": f"{settings.alpha:g}",
            "confidence": settings.confidence,
            "copies before": f"{before.copies} of {before.seeds} images",
            "copies after": f"{self.after.copies} of {self.after.seeds} fresh images",
        }
        if self.ordinary:
            changed = f"{self.ordinary.changed} of {self.ordinary.images} images"
            said["ordinary prompts, changed"] = changed
        paraphrases = self.paraphrases
        if paraphrases:
            after = pooled([each.after for each in paraphrases])
            copying = sum(each.after.copies > 0 for each in paraphrases)
            said["copies after, other wordings"] = (
                f"{after.copies} of {after.seeds} images, "
                f"under {copying} of {len(paraphrases)} wordings"
            )
        return said

    @property
    def paraphrases(self) -> tuple[Paraphrase, ...]:
        """The paraphrases of all memorized prompts."""
        return tuple(each for outcome in self.outcomes for each in outcome.paraphrases)

    @property
    def copying_paraphrases(self) -> tuple[tuple[PromptOutcome, Paraphrase], ...]:
        """Those that bring copies back under the edit with their prompts, the worst first."""
        copying = [(each, found) for each in self.outcomes for found in each.copying_paraphrases]
        return tuple(sorted(copying, key=lambda pair: -pair[1].share))

    @property
    def controls(self) -> Copies:
        """Copies among the images with random neurons edited, all prompts together."""
        scores = [
            score > outcome.level
            for outcome in self.outcomes
            if outcome.level is not None
            for score in outcome.scores_control
        ]
        return Copies(sum(scores), len(scores))

    @property
    def within_budget(self) -> bool:
        """Whether the edit changes no more ordinary images than allowed."""
        return self.ordinary is None or self.ordinary.share <= self.budget

    @classmethod
    def load(cls, run: Run | str | Path) -> MitigationResult:
        """Read the result of a finished mitigation.

        Raises:
            RunError: the run has none, or it is damaged.
        """
        run = Run.of(run)
        result = _as_made_now(read_result(cls, run, RESULT, "mitigate", "a mitigation"), run)
        file = EditFile.load(run.folder / EDIT) if result.edit else None
        return replace(result, file=file)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, without ``file``."""
        values: dict[str, Any] = to_json(replace(self, file=None))
        del values["file"]
        return values


def _as_made_now(result: MitigationResult, run: Run) -> MitigationResult:
    """Add what runs of before have in their records alone, and leave out what controls nothing.

    Such a run counted the copies of all paraphrases of a prompt together. It also drew images with
    random neurons edited for prompts of which no neurons were.
    """
    levels = {each.index: each.level for each in result.outcomes if each.paraphrases_after}
    known = {index: level for index, level in levels.items() if level is not None}
    if known and not result.paraphrases:
        found = read_paraphrases(run, result.edit, known)
        outcomes = [each.with_paraphrases(found.get(each.index, ())) for each in result.outcomes]
        result = replace(result, outcomes=tuple(outcomes))
    return replace(
        result,
        outcomes=tuple(
            outcome
            if _SCALES_NEURONS.match(outcome.rung)
            else replace(outcome, files_control=(), scores_control=())
            for outcome in result.outcomes
        ),
    )
