"""The verdicts of an audit: a report of their own, and a part of that of a mitigation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from unmemorize.audit import (
    ARMS,
    IMAGELESS_SUFFIX,
    RESULT,
    AuditResult,
    AuditRun,
    BudgetVerdict,
    edit_text,
)
from unmemorize.generation import Edit
from unmemorize.report._page import REPORT, render
from unmemorize.report._provenance import steps_of
from unmemorize.runs import Run

AUDITS = "audit"
"""The folder of a mitigation with audits of its edit."""
LEVELS = {
    "L0": "the caption itself, with other seeds",
    "L1": "other wordings of the caption, guidance, steps and schedulers",
    "L2": "words in front of the caption, searched with the weights and the image",
    "L3": "some positions of the text embedding, searched near the caption",
    "L4": "the whole text embedding, searched without bound",
    "L5": "the initial noise, searched with the empty text: the ceiling, which reaches any image",
    "L6": "further training on other memorized images",
}
"""What attacks vary at each level of access."""


@dataclass(frozen=True)
class AuditTable:
    """The verdicts of a finished audit.

    Args:
        name: the folder, as the report names it.
        run: the audit.
        result: its result.
        edit: what the report is about; None for the unedited model.
        fingerprint: of the model that the report is about.
    """

    name: str
    run: Run
    result: AuditResult
    edit: Edit | None = None
    fingerprint: str = ""

    @property
    def images(self) -> int:
        """How many different images were audited."""
        same = self.run.settings(AuditRun).same_images
        return self.run.manifest.items - sum(len(positions) - 1 for positions in same)

    @property
    def arms(self) -> list[str]:
        """The arms with scores, in their usual order."""
        return [arm for arm in ARMS if any(arm in each.medians for each in self._verdicts)]

    def best(self, attack: str, place: int, arm: str) -> float | None:
        """Return the median over images of the score of each one's best generation seed.

        Args:
            attack: the attack.
            place: of the budget in its ladder.
            arm: the arm.

        Returns:
            The median; None where an audit of before did not keep these scores.
        """
        scores = [
            image.best[place]
            for image in self.result.images
            if (image.attack, image.arm) == (attack, arm) and image.best
        ]
        return median(scores) if scores else None

    @property
    def rates(self) -> list[float]:
        """How often a never-trained image is above the level of a budget, at most."""
        return sorted({each.false_triggers for each in self._verdicts if each.false_triggers})

    @property
    def levels(self) -> dict[str, str]:
        """What each attack varies that was tried, was impossible, or was left out."""
        tried = [outcome.attack for outcome in self.result.attacks]
        names = sorted({*tried, *self.result.impossible, *self.result.not_tried})
        meanings = {}
        for name in names:
            meaning = LEVELS.get(name.removesuffix(IMAGELESS_SUFFIX))
            if meaning:
                without = ", without the image" if name.endswith(IMAGELESS_SUFFIX) else ""
                meanings[name] = meaning + without
        return meanings

    @property
    def is_of_edit(self) -> bool:
        """Whether the edit that the report is about was attacked, on the same model."""
        return self.attacked == "this edit"

    @property
    def attacked(self) -> str:
        """What was attacked, as seen from the report."""
        if self.run.manifest.inputs.fingerprint != self.fingerprint:
            return "another model than this one"
        if self.run.settings(AuditRun).edit != edit_text(self.edit):
            return "another edit than this one"
        return "this edit" if self.edit else "this model without an edit"

    @property
    def _verdicts(self) -> list[BudgetVerdict]:
        return [verdict for outcome in self.result.attacks for verdict in outcome.verdicts]


def write_audit_report(run: Run) -> Path:
    """Write ``report.html`` into the folder of a finished audit.

    Raises:
        RunError: the audit is not finished, or its result is damaged.
    """
    audit = AuditTable(run.folder.name, run, AuditResult.load(run))
    page = render("audit.html.j2", manifest=run.manifest, audit=audit, steps=list(steps_of(run)))
    return run.write(REPORT, page)


def audits_of(run: Run, edit: Edit | None) -> Iterator[AuditTable]:
    """Yield the finished audits in RUN/audit.

    Args:
        run: a mitigation.
        edit: its edit.

    Raises:
        RunError: a result is damaged.
    """
    fingerprint = run.manifest.inputs.fingerprint
    for name, audit in run.nested(AUDITS).items():
        if audit.manifest.kind == AuditRun.kind and (audit.folder / RESULT).exists():
            yield AuditTable(f"{AUDITS}/{name}", audit, AuditResult.load(audit), edit, fingerprint)
