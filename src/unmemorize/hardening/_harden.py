"""Hardening as a run: rounds of attack and training, then attacks with other random numbers.

RUN/examples.safetensors       clean latents that training sees
RUN/attacks.jsonl, attacks/    attacks of the training, by round and image, with what they found
RUN/rounds.jsonl               how the training of each round went
RUN/weights/                   what is trained, as the last round left it
RUN/ordinary-*.jsonl           images of ordinary captions before and after
RUN/audit/                     the judging attacks, see `audit_all`
RUN/edit.json                  the edit, whose tensors lie beside it
RUN/hardening.json             the outcome, see `HardeningResult`
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from unmemorize._errors import DivergedError, MitigationError, RunError
from unmemorize._files import hash_texts, read_tensors, to_json, write_tensors
from unmemorize._locks import made_once
from unmemorize._prompts import Prompt
from unmemorize.audit import (
    AuditResult,
    Bench,
    audit_all,
    edit_text,
    hash_of_images,
    open_audit,
    refuse_unfit,
    targets_of,
)
from unmemorize.engines import Execution
from unmemorize.generation import Edit, EditFile
from unmemorize.hardening._attacks import attack_of, attacked
from unmemorize.hardening._examples import examples_of
from unmemorize.hardening._result import (
    ATTACKS,
    RESULT,
    ROUNDS,
    AttackOutcome,
    HardeningResult,
    RoundOutcome,
)
from unmemorize.hardening._settings import (
    ATTACK,
    TAUGHT,
    HardeningInputs,
    HardeningRun,
    HardeningSettings,
)
from unmemorize.hardening._training import DECAY, Lesson
from unmemorize.hardening._weights import trained
from unmemorize.methods import optimizer_of, refusing_divergence, saved
from unmemorize.mitigation import (
    EDIT,
    SAME,
    Announce,
    OrdinaryChange,
    OrdinaryImages,
    OrdinaryTask,
    announced_by,
    digest,
    ordinary_change,
    ordinary_items,
    read_ordinary,
)
from unmemorize.pipelines import Model
from unmemorize.runs import (
    Run,
    drive_to_end,
    hash_of_file,
    open_run,
    refuse_other_model,
    run_prompts,
)

AUDIT = "audit"
"""The folder of the judging attacks."""
_WAY_OUT = "Start a new run."


def open_hardening(
    folder: str | Path,
    model: Model,
    prompts: Sequence[Prompt],
    inputs: HardeningInputs,
    settings: HardeningSettings,
    *,
    new: bool = False,
) -> Run:
    """Start a hardening, or resume it.

    Args:
        folder: the run folder.
        model: the unedited model.
        prompts: memorized prompts with their images.
        inputs: what to work with.
        settings: of the hardening.
        new: take FOLDER-2, FOLDER-3, ... where the folder holds another run.

    Raises:
        AuditError: the attacks that judge have nothing to compare with, see `refuse_unfit`.
        MitigationError: there are no captions to preserve.
        RunError: the folder holds another run.
    """
    judged = inputs.audit
    refuse_unfit(model, prompts, judged)
    inputs.preserved(prompts)
    made_of = HardeningRun(
        settings=settings,
        edit=edit_text(judged.edit),
        taught=TAUGHT if settings.distils else "",
        references=hash_of_images(prompts),
        controls=tuple(map(hash_of_file, judged.controls)),
        captions=hash_texts([*judged.captions, "", *inputs.keep]),
        descriptor=judged.descriptor.digest,
        clip=inputs.clip.digest if inputs.clip else "",
    )
    return open_run(folder, model, prompts, made_of, new=new)


@torch.inference_mode(False)  # the caller may have switched gradients off
def harden_all(
    run: Run,
    pipe: DiffusionPipeline | Model,
    inputs: HardeningInputs,
    *,
    execution: Execution | None = None,
    announce: Announce | None = None,
) -> HardeningResult:
    """Train a model against attacks, and judge it by attacks on the trained model; or resume.

    Args:
        run: a run with prompts and their images, opened by `open_hardening` with these inputs.
        pipe: the unedited model. Its weights are trained in place and put back at the end.
        inputs: what to work with.
        execution: who draws and judges. Attack and training of the rounds are done here: of several
            shards, by the first that comes to it, and the others wait.
        announce: opens the progress of each stage by its title. By default all stages report to the
            callback of ``execution``, one after the other.

    Returns:
        The outcome and the edit, which are in the run folder, too.

    Raises:
        MitigationError: there is no edit, it leaves the copies, or the model cannot be trained.
        DivergedError: the training does, since its learning rate is too high.
        AuditError: a prompt has no image, or the model has no single text embedding.
        UnfinishedError: other shards have not done their part yet.
        RunError: a stage fails, or the run is of another kind or model.
    """
    settings, model = run.settings(HardeningRun).settings, Model.of(pipe)
    refuse_other_model(run, model)  # and know its fingerprint before its weights are trained
    execution, prompts = execution or Execution(), run_prompts(run)
    announce = announce or announced_by(execution)
    with made_once(run.folder / EDIT):  # shards must go on with the same weights
        if not (run.folder / EDIT).exists():
            hardened = _trained(run, model, prompts, inputs, settings, announce)
            EditFile.of(model, hardened, found={"run": run.manifest.kind}).save(run.folder / EDIT)
    file = EditFile.load(run.folder / EDIT)
    ordinary = _price(run, model, file.edit, prompts, inputs, settings, execution, announce)
    judged = inputs.judging(file.edit)
    audit = open_audit(run.folder / AUDIT, model, prompts, judged, settings.audit)
    found = audit_all(audit, model, judged, execution=execution, announce=announce)
    result = _result(run, found, ordinary, file, settings.hold_out, inputs.control)
    run.write(RESULT, json.dumps(result.to_json(), indent=1) + "\n")
    return result


def hardening_totals(run: Run) -> dict[str, int]:
    """Return how many records a hardening will have of each kind, for `status_of`."""
    settings = run.settings(HardeningRun).settings
    ordinary = ("ordinary-before", "ordinary-other", "ordinary-after")
    return {
        ROUNDS: settings.rounds,
        ATTACKS: settings.rounds * run.manifest.items,
        **dict.fromkeys(ordinary, settings.ordinary_images),
    }


def _trained(
    run: Run,
    model: Model,
    prompts: Sequence[Prompt],
    inputs: HardeningInputs,
    settings: HardeningSettings,
    announce: Announce,
) -> Edit:
    """Attack and train, round after round."""
    judged, targets = inputs.audit, targets_of(prompts)
    if judged.edit is None and settings.substitutes:
        raise MitigationError(
            f"{model.name}: the objective {settings.objective} needs an edit that takes the copies "
            "out, under which images are drawn in place of the memorized ones. Run unmemorize "
            "mitigate first."
        )
    bench = Bench(model, None, judged.captions, batch=settings.audit.batch)
    attack_of(settings).check(bench)
    total = settings.rounds * (len(targets) + 1)
    with trained(model, settings) as weights, announce("attack and train") as progress:
        with weights.untrained():
            examples = examples_of(
                run,
                bench,
                judged.edit,
                targets,
                inputs.preserved(prompts),
                judged.descriptor,
                settings,
            )
        lesson = Lesson(bench, targets, examples, settings)
        done = sum(run.done(ROUNDS, settings.rounds))
        state = {}
        if done:
            kept = run.folder / _weights_file(done)
            state = read_tensors(kept, RunError, "file of weights")
        steps = done * settings.steps * len(targets)
        optimizer = optimizer_of(weights, settings.rate, DECAY, steps, state)
        keys: list[list[Tensor]] = [[] for _ in targets]
        for number in range(1, settings.rounds + 1):
            # errors of the first round are those of the model itself
            earlier = refusing_divergence(weights, _diverged(number - 1))
            with earlier if number > 1 else nullcontext():
                some = attacked(run, bench, targets, number, settings, judged.descriptor)
            keys = [[*known, *new] for known, new in zip(keys, some, strict=True)]
            progress(number * (len(targets) + 1) - 1, total)
            if number > done:
                began = time.perf_counter()
                with refusing_divergence(weights, _diverged(number)):
                    losses = lesson.train(weights, optimizer, number, keys)
                kept = run.folder / _weights_file(number)
                write_tensors(kept, saved(weights, optimizer), RunError)
                outcome = RoundOutcome(
                    forgotten=losses[0],
                    ordinary=losses[1],
                    seconds=round(time.perf_counter() - began, 3),
                )
                run.append(ROUNDS, number - 1, to_json(outcome))
                (run.folder / _weights_file(number - 1)).unlink(missing_ok=True)
            progress(number * (len(targets) + 1), total)
        return weights.edit()


def _diverged(number: int) -> DivergedError:
    return DivergedError(
        f"the training diverges in round {number}: its numbers are not finite any more. Start a "
        "new run with a lower learning rate (--learning-rate)."
    )


def _weights_file(number: int) -> str:
    return f"weights/{number:03d}.safetensors"


def _price(
    run: Run,
    model: Model,
    edit: Edit,
    prompts: Sequence[Prompt],
    inputs: HardeningInputs,
    settings: HardeningSettings,
    execution: Execution,
    announce: Announce,
) -> OrdinaryChange:
    """Measure what the edit changes in images of ordinary captions."""
    count, judged = settings.ordinary_images, inputs.audit

    def images(kind: str, under: Edit | None, arm: str) -> OrdinaryImages:
        task = OrdinaryTask(kind, under, settings.audit.generation, judged.descriptor, inputs.clip)
        title = kind.replace("-", " ")
        with announce(title) as progress:
            drive_to_end(
                run,
                model,
                task,
                ordinary_items(judged.captions, count, arm),
                range(count),
                count,
                replace(execution, progress=progress),
                title,
            )
        return read_ordinary(run, kind, count)

    before = images("ordinary-before", None, SAME)
    # what is compared with them are features of a CLIP
    other = images("ordinary-other", None, "other") if inputs.clip else None
    after, memorized = images("ordinary-after", edit, SAME), {each.text for each in prompts}
    return ordinary_change(run, before, after, other, memorized=memorized)


def _result(
    run: Run,
    audit: AuditResult,
    ordinary: OrdinaryChange,
    file: EditFile,
    hold_out: str,
    control: str,
) -> HardeningResult:
    verdict = next(outcome.last for outcome in audit.attacks if outcome.attack == ATTACK)
    return HardeningResult(
        verdict=verdict,
        attacks=tuple(each for _, each in run.typed(ATTACKS, AttackOutcome, _WAY_OUT)),
        rounds=tuple(each for _, each in run.typed(ROUNDS, RoundOutcome, _WAY_OUT)),
        ordinary=ordinary,
        edit=digest(file.edit),
        hold_out=hold_out,
        control=control,
        remarks=audit.remarks,
        file=file,
    )
