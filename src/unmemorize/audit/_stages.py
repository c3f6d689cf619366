"""Attacks as stages of a run: each budget of each arm does only what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from unmemorize._errors import AuditError
from unmemorize.audit._arms import Arm, AuditInputs
from unmemorize.audit._attack import Attack, Start, is_imageless
from unmemorize.audit._bench import Bench, Companion
from unmemorize.audit._measures import ImageScores, image_scores
from unmemorize.audit._records import due_items, kind_of, read_attacks
from unmemorize.audit._settings import AuditSettings
from unmemorize.audit._task import AttackTask
from unmemorize.engines import Execution
from unmemorize.mitigation import Announce
from unmemorize.pipelines import Model
from unmemorize.runs import Run, drive_to_end


@dataclass(frozen=True)
class AttackStages:
    """What all attacks of an audit share.

    Args:
        run: holds the records.
        model: the audited model.
        settings: of the audit.
        inputs: captions and descriptor.
        companions: the memorized images, for relearning.
        execution: who does the work.
        announce: opens the progress of each stage.
    """

    run: Run
    model: Model
    settings: AuditSettings
    inputs: AuditInputs
    companions: tuple[Companion, ...]
    execution: Execution
    announce: Announce

    def trials(self, attack: Attack) -> Sequence[tuple[Start, int]]:
        """Return the trials of an attack on each image."""
        return attack.trials(self.settings.starts, self.settings.seeds)

    def attacked(self, attack: Attack, arm: Arm) -> None:
        """Bring an attack on all images of an arm to each budget of its ladder.

        Raises:
            RunError: an image fails.
            UnfinishedError: other shards have not done their part yet.
        """
        for place in range(len(attack.ladder(self.settings.steps))):
            self._reached(attack, arm, place)

    def _reached(self, attack: Attack, arm: Arm, place: int) -> None:
        """Do what is missing at one budget of a ladder."""
        kind, ladder = kind_of(arm.records, attack.name), attack.ladder(self.settings.steps)
        trials = self.trials(attack)
        needs_teacher = is_imageless(attack) and arm.model is not self.model
        task = AttackTask(
            kind=kind,
            attack=attack,
            edit=arm.edit,
            settings=self.settings,
            captions=self.inputs.captions,
            companions=self.companions,
            descriptor=self.inputs.descriptor,
            fingerprint=self.inputs.seed_name(self.model),
            teacher=self.model.loading if needs_teacher else None,
        )
        title = f"{attack.name}, {arm.records}, {ladder[place]} steps"
        total = len(arm.targets) * len(trials) * len(ladder)
        with self.announce(title) as progress:
            drive_to_end(
                self.run,
                arm.model,
                task,
                due_items(self.run, kind, arm.targets, trials, ladder, place, task.size),
                range(place, total, len(ladder)),
                total,
                replace(self.execution, progress=progress),
                title,
            )

    def scores(self, attack: Attack, arm: Arm) -> tuple[ImageScores, ...]:
        """Return what an attack reached on each image of an arm, if all of it is done."""
        return image_scores(read_attacks(self.run, kind_of(arm.records, attack.name)), arm.indices)


def why_impossible(
    attack: Attack, model: Model, inputs: AuditInputs, companions: tuple[Companion, ...]
) -> str:
    """Return why an attack is not possible on a model; empty if it is."""
    try:
        attack.check(Bench(model, inputs.edit, inputs.captions, companions=companions))
    except AuditError as problem:
        return str(problem)
    return ""
