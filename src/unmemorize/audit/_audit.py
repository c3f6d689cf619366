"""An audit: does an edited model give an image back more cheaply than one that never saw it?

RUN/ARM-ATTACK.jsonl, RUN/ARM-ATTACK/   the attack cache, see `AttackRecord`
RUN/audit.json                          the verdicts, see `AuditResult`
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain

from diffusers import DiffusionPipeline

from unmemorize._errors import AuditError
from unmemorize.audit._arms import (
    Arm,
    AuditInputs,
    arms_for,
    arms_of,
    ordinary_targets,
    takes_whole,
)
from unmemorize.audit._attack import ATTACKS, Attack, make_attacks
from unmemorize.audit._bench import Bench
from unmemorize.audit._measures import ImageScores
from unmemorize.audit._result import RESULT, AttackOutcome, AuditResult, ImageOutcome
from unmemorize.audit._settings import COPY, ArmName, AuditRun
from unmemorize.audit._stages import AttackStages, why_impossible
from unmemorize.audit._survival import TriggerCurve, earlier_p, trigger_curve, unpaired_earlier_p
from unmemorize.audit._targets import companions_of, remarks_on, targets_of
from unmemorize.audit._triggers import first_triggers
from unmemorize.audit._verdicts import BudgetVerdict, compared, worded
from unmemorize.engines import Execution
from unmemorize.generation import weight_edits
from unmemorize.mitigation import Announce, announced_by
from unmemorize.pipelines import Model, split_path, text_encoders_of
from unmemorize.runs import Run, refuse_other_model, run_prompts

CEILING = "L5"
"""The level that succeeds on any image."""
CEILING_WORDS = "ceiling: succeeds on any image"
ByArm = dict[ArmName, tuple[ImageScores, ...]]


def audit_all(
    run: Run,
    pipe: DiffusionPipeline | Model,
    inputs: AuditInputs,
    *,
    execution: Execution | None = None,
    announce: Announce | None = None,
) -> AuditResult:
    """Attack all images of a run in all arms, and compare the arms; or resume.

    All attacks on one model follow each other, so workers load each model once.

    Args:
        run: a run with prompts and their images, opened with an `AuditRun` of these inputs.
        pipe: the unedited model. It is left as it is.
        inputs: the edit, and what to compare with.
        execution: who does the work.
        announce: opens the progress of each stage by its title. By default all stages report to the
            callback of ``execution``, one after the other.

    Returns:
        The verdicts, which are in the run folder, too.

    Raises:
        AuditError: a prompt has no image, or the edit changes the text encoder.
        UnfinishedError: other shards have not done their part yet.
        RunError: an attack fails, or the run is of another kind or model.
    """
    settings, model = run.settings(AuditRun).settings, Model.of(pipe)
    refuse_other_model(run, model)
    _refuse_edited_text(model, inputs)
    prompts = run_prompts(run)
    targets = targets_of(prompts, whole=takes_whole(inputs, settings))
    companions = companions_of(targets)
    execution = execution or Execution()
    announce = announce or announced_by(execution)
    stages = AttackStages(run, model, settings, inputs, companions, execution, announce)
    ordinary = ordinary_targets(model, inputs.captions, prompts, settings)
    arms = tuple(arms_of(model, inputs, targets, settings, ordinary))
    attacks = make_attacks(settings.levels, settings.attacks)
    reasons = {attack.name: why_impossible(attack, model, inputs, companions) for attack in attacks}
    possible = [attack for attack in attacks if not reasons[attack.name]]
    for attacked in dict.fromkeys(arm.model for arm in arms):
        for attack in possible:
            for arm in arms_for(attack, arms, model):
                if arm.model is attacked:
                    stages.attacked(attack, arm)
    found = {
        attack.name: _by_arm(stages, attack, arms_for(attack, arms, model)) for attack in possible
    }
    result = replace(_result(stages, found, reasons), remarks=remarks_on(targets))
    run.write(RESULT, json.dumps(result.to_json(), indent=1) + "\n")
    return result


def _refuse_edited_text(model: Model, inputs: AuditInputs) -> None:
    """Refuse an edit after which the denoiser still answers to the embeddings of before.

    Raises:
        AuditError: the edit changes a text encoder.
    """
    encoders = text_encoders_of(model.pipe)
    edits = weight_edits(inputs.edit) if inputs.edit is not None else ()
    changed = {split_path(model.pipe, name)[0] for edit in edits for name in edit.differences}
    if changed & encoders.keys():
        raise AuditError(
            "the edit changes the text encoder. Whoever gives the denoiser the embeddings of the "
            "original one draws the copies again, so there is nothing to find out by attacks. "
            "Audit an edit of the denoiser (unmemorize mitigate --part denoiser)."
        )


def _by_arm(stages: AttackStages, attack: Attack, arms: Sequence[Arm]) -> ByArm:
    found: ByArm = {}
    for arm in arms:
        found[arm.name] = found.get(arm.name, ()) + stages.scores(attack, arm)
    return found


def _result(stages: AttackStages, found: dict[str, ByArm], reasons: dict[str, str]) -> AuditResult:
    settings, inputs = stages.settings, stages.inputs
    paired = bool(inputs.twins)
    verdicts = {
        attack: [
            compared(
                attack,
                place,
                by_arm,
                paired=paired,
                alpha=settings.alpha,
                delta=settings.delta,
            )
            for place in range(len(by_arm["edited"][0].budgets))
        ]
        for attack, by_arm in found.items()
    }
    compared_attacks = [attack for attack in found if attack != CEILING]
    family = worded(
        list(chain.from_iterable(verdicts[attack] for attack in compared_attacks)),
        settings.alpha,
        settings.delta,
    )
    outcomes, images = [], []
    for attack, by_arm in found.items():
        words = tuple(verdict for verdict in family if verdict.attack == attack)
        if attack == CEILING:
            words = tuple(replace(verdict, verdict=CEILING_WORDS) for verdict in verdicts[attack])
        outcome, some = _outcome(attack, by_arm, words, paired, settings.alpha)
        outcomes.append(outcome)
        images += some
    bench = Bench(stages.model, None, inputs.captions)
    return AuditResult(
        never_trained=inputs.never_trained,
        attacks=tuple(outcomes),
        images=tuple(images),
        impossible={attack: reason for attack, reason in reasons.items() if reason},
        not_tried=tuple(name for name in ATTACKS.names() if name not in settings.levels),
        ceiling_failed=_ceiling_failed(found.get(CEILING)),
        free_numbers=(
            bench.model.encode([inputs.captions[0]]).take([0]).text.numel(),
            math.prod(stages.model.latent_shape),
        ),
        fixed=bench.fixed,
    )


def _outcome(
    attack: str,
    by_arm: ByArm,
    verdicts: tuple[BudgetVerdict, ...],
    paired: bool,
    alpha: float,
) -> tuple[AttackOutcome, list[ImageOutcome]]:
    """Return curves and the first trigger of each image, by the levels of each budget."""
    budgets = by_arm["edited"][0].budgets
    controls = by_arm.get("never-trained", ())
    images, first = [], dict[ArmName, dict[int, int | None]]()
    for arm, some in by_arm.items():
        places = first_triggers(some, controls, alpha, apart=arm == "never-trained")
        first[arm] = _budgets(places, budgets)
        for image in some:
            place = places[image.index]
            images.append(
                ImageOutcome(
                    arm=arm,
                    attack=attack,
                    index=image.index,
                    prompt=image.prompt,
                    scores=image.scores,
                    best=image.best,
                    triggered_at=first[arm][image.index],
                    work=None if place is None else image.samples[place],
                    image=image.image,
                )
            )
    curves = {
        arm: trigger_curve(list(some.values()), budgets[-1]) if controls else TriggerCurve((), ())
        for arm, some in first.items()
    }
    edited, never = first["edited"], first.get("never-trained", {})
    if paired:
        apart = first_triggers(by_arm["edited"], controls, alpha, apart=True)
        edited = _budgets(apart, budgets)
        both = [index for index in edited if index in never]
        earlier = earlier_p([edited[index] for index in both], [never[index] for index in both])
    else:
        earlier = unpaired_earlier_p(list(edited.values()), list(never.values()))
    return (
        AttackOutcome(attack=attack, curves=curves, earlier=earlier, verdicts=verdicts),
        images,
    )


def _budgets(places: Mapping[int, int | None], budgets: Sequence[int]) -> dict[int, int | None]:
    return {index: None if place is None else budgets[place] for index, place in places.items()}


def _ceiling_failed(by_arm: ByArm | None) -> int | None:
    if by_arm is None:
        return None
    return sum(image.scores[-1] <= COPY for image in chain.from_iterable(by_arm.values()))
