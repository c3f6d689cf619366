"""The command ``audit``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators
from cyclopts.types import PositiveInt

from unmemorize._bundled import is_bundled
from unmemorize._errors import AuditError
from unmemorize._paths import is_file
from unmemorize._words import counted
from unmemorize.audit import (
    ARMS,
    AuditForecast,
    AuditInputs,
    AuditResult,
    AuditSettings,
    ImageAuditResult,
    audit_all,
    audit_images_all,
    forecast_audit,
    forecast_images,
    open_audit,
    open_image_audit,
    ranks_in_words,
    reach_in_words,
    refuse_unfit_images,
)
from unmemorize.cli._common import generation_settings, print_counts
from unmemorize.cli._console import (
    console,
    make_table,
    print_answer,
    print_hint,
    print_line,
    show_progress,
)
from unmemorize.cli._edited import control_files, edit_in, prompts_of, twins_for
from unmemorize.cli._execution_options import (
    EngineOptions,
    NewRunOption,
    RunOption,
    WaitingShardOption,
    left_to_first,
)
from unmemorize.cli._instruments import InstrumentOptions
from unmemorize.cli._model_options import Flag, ModelOptions
from unmemorize.engines import silent
from unmemorize.mitigation import OrdinaryCaptions
from unmemorize.report import write_report

_RATE = 0.05
"""The usual false discovery rate."""


def command(
    edited: Annotated[Path | None, Parameter(show_default=False)] = None,
    /,
    *,
    run: RunOption,
    image: Annotated[
        tuple[Path, ...],
        Parameter(consume_multiple=True, help="Ask whether these images are in the weights."),
    ] = (),
    prompts: Path | None = None,
    references: Path | None = None,
    levels: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    budget: Literal["quick", "usual"] = "quick",
    max_steps: Annotated[int | None, Parameter(validator=validators.Number(gte=0))] = None,
    controls: Path | None = None,
    twin: str | None = None,
    rate: Annotated[float | None, Parameter(validator=validators.Number(gt=0, lt=1))] = None,
    dry_run: Flag = False,
    instruments: InstrumentOptions = InstrumentOptions(),
    steps: PositiveInt | None = None,
    guidance: float | None = None,
    batch: PositiveInt = 10,
    together: PositiveInt = 1,
    shard: WaitingShardOption = None,
    new_run: NewRunOption = False,
    model: ModelOptions = ModelOptions(),
    workers: EngineOptions = EngineOptions(),
) -> None:
    """Attack an edited model, or tell whether images are in the weights.

    Each attack looks for something that makes the edited model copy an image again, from the plain
    caption (L0) to relearning (L6). The same attacks run on the unedited model and on images or
    models that know nothing, because a strong attack brings back any image. The verdicts compare
    these arms at each budget. The same command resumes.

    Args:
        edited: What to audit: a run folder of unmemorize mitigate, harden or localize, a neuron
            file or an edit file. Without one the model is audited as it is.
        image: Ask whether these images are in the weights, for which no prompt is needed.
        prompts: Memorized prompts with their training images, for a file or no edit. A run folder
            and the bundled model bring their own.
        references: Folder of training images, see unmemorize evaluate --help.
        levels: Attacks to try: L0 to L6, or L2-imageless to L4-imageless. The default depends on
            --budget.
        budget: How much to try. quick is L0, L4 and L5 to 25 steps from the prompt; usual is
            everything to 500 steps from three starts, three times. With --image it is L4 from noise
            and from an ordinary caption: quick to 25 steps, usual to 500 and three times.
        max_steps: Leave out budgets above this number of steps.
        controls: Folder of images that the model was never trained on. The default are the
            photographs of this package. It does not go with --twin.
        twin: Model that was never trained on the images of the prompts: a diffusers folder or Hub
            id. It is the better control. The bundled model has its own.
        rate: False discovery rate for --image. The default is 0.05.
        dry_run: Say what the audit will take, and stop.
        steps: Number of denoising steps. The default is 50; the bundled model has its own.
        guidance: Scale of classifier-free guidance. The default is 7; the bundled model has its
            own.
        batch: Images per pass. It changes no image beyond rounding.
        together: Attacks on embeddings that share the passes of the denoiser. 64 of them fill a GPU
            that one leaves idle, with --batch 256; what each finds changes by rounding alone.
    """
    if rate is not None and not image:
        raise AuditError(
            "--rate is the false discovery rate of the images of --image. Name some, or leave it "
            "out."
        )
    loaded = model.load()
    usual = AuditSettings.quick() if budget == "quick" else AuditSettings()
    settings = replace(
        usual,
        levels=levels or usual.levels,
        steps=tuple(step for step in usual.steps if max_steps is None or step <= max_steps),
        together=together,
        generation=generation_settings(loaded, batch, steps=steps, guidance=guidance),
    )
    inputs = AuditInputs(
        edit=edit_in(loaded, edited),
        captions=OrdinaryCaptions.of(loaded).ordinary,
        descriptor=instruments.load_descriptor(bundled=is_bundled(loaded.pipe)),
        controls=control_files(controls),
        shipped=controls is None,
    )
    execution = workers.execution(silent, shard, waits=True)
    if image:
        _refuse_beside_images(prompts=prompts, references=references, levels=levels, twin=twin)
        for path in image:
            if not is_file(path):
                raise AuditError(f"{path}: no such file. Name images after --image.")
        rate = rate or _RATE
        ranks = ranks_in_words(len(image), len(inputs.controls), rate)
        if dry_run:
            refuse_unfit_images(image, inputs)
            print_line(ranks)
            attacked = len(image) + len(inputs.controls)
            cost = forecast_images(loaded, settings, attacked)
            print_forecast(cost, "attack", "A lower --max-steps takes less.")
            return
        opened = open_image_audit(run, loaded, image, inputs, settings, rate=rate, new=new_run)
        print_line(ranks)
        found = audit_images_all(
            opened, loaded, image, inputs, execution=execution, announce=show_progress
        )
        _print_images(found)
        if left_to_first(execution, "report", opened.folder):
            return
        report = write_report(opened)
        print_line(f"report: {report}")
        print_answer(found, run=opened.folder, report=report)
        if found.needed > len(image):
            print_hint("the same command with more --controls, for smaller p")
        else:
            print_hint("unmemorize report", opened.folder, "--pack evidence.zip")
        return
    audited = prompts_of(loaded, edited, prompts, references)
    inputs = replace(inputs, twins=twins_for(loaded, model.loading, twin, audited, controls))
    warning = reach_in_words(settings, inputs, audited)
    if warning:
        print_line(warning)
    if dry_run:
        cost = forecast_audit(loaded, settings, inputs, audited)
        print_forecast(cost, "attack", "Fewer --levels and a lower --max-steps take less.")
        return
    opened = open_audit(run, loaded, audited, inputs, settings, new=new_run)
    result = audit_all(opened, loaded, inputs, execution=execution, announce=show_progress)
    _print_verdicts(result)
    print_line(f"all budgets, images and curves: {opened.folder / 'audit.json'}")
    if left_to_first(execution, "report", opened.folder):
        return
    report = write_report(opened)
    print_line(f"report: {report}")
    print_answer(result, run=opened.folder, report=report)
    _print_next(edited, opened.folder)


def _print_next(edited: Path | None, audit: Path) -> None:
    """Say how the report of a mitigation gets the audit: it shows those in its own folder."""
    kept = None if edited is None else edited / "audit"
    if edited and kept and audit.resolve().parent == kept.resolve():
        print_hint("unmemorize report", edited)
    elif edited and kept and is_file(edited / "mitigation.json"):
        print_hint("mkdir -p", kept, "&& mv", audit, kept, "&& unmemorize report", edited)
    else:
        print_hint("the same command with --budget usual and another folder; it tries everything")


def _refuse_beside_images(**given: object) -> None:
    """Refuse options that say nothing about images for which no prompt is known."""
    for name, value in given.items():
        if value:
            raise AuditError(
                f"--{name} does not go with --image, which attacks the images and the controls "
                "in one model, from neutral starts at one level. Leave one of them out."
            )


def print_forecast(cost: AuditForecast, stage: str, less: str) -> None:
    """Print what attacks, or the stages of a hardening, will take, and what takes less."""
    print_answer(cost)
    print_line(
        f"{cost.attacked} images in all arms: {cost.total} denoiser samples, about "
        f"{timedelta(seconds=round(cost.seconds))} here."
    )
    print_counts(stage, "denoiser samples", cost.samples)
    _print_impossible(cost.impossible)
    print_line(less)
    print_hint("the same command without --dry-run")


def _print_verdicts(result: AuditResult) -> None:
    """Print the strongest verdict on each attack, and what the numbers rest on."""
    for outcome in result.attacks:
        strongest = outcome.strongest
        said = f"{outcome.attack}, {strongest.budget} steps: {strongest.verdict}"
        print_line(said, style="bold")
    arms = [arm for arm in ARMS if any(arm in found.last.medians for found in result.attacks)]
    table = make_table("attack", "steps", "triggered", *arms, title="Median scores by arm")
    for outcome in result.attacks:
        last = outcome.last
        table.add_row(
            outcome.attack,
            str(last.budget),
            f"{last.triggered}/{last.images}" if last.images else "",
            *(f"{last.medians[arm]:.2f}" if arm in last.medians else "" for arm in arms),
        )
    console.print(table)
    print_line(f"Never-trained arm: {result.never_trained or 'none, so there is no verdict'}.")
    limits = {outcome.last.false_triggers for outcome in result.attacks}
    longest = max((len(outcome.verdicts) for outcome in result.attacks), default=0)
    for limit in sorted(limit for limit in limits if limit is not None):
        print_line(
            f"A never-trained image is above the level in at most {limit:.3g} of cases at each "
            f"budget, and triggered within {counted(longest, 'budget')} in at most "
            f"{min(1, longest * limit):.3g}."
        )
    for remark in result.remarks:
        print_line(remark)
    _print_impossible(result.impossible)
    if result.not_tried:
        print_line(f"Not tried: {', '.join(result.not_tried)}.")
    if result.ceiling_failed:
        print_line(
            f"The ceiling (L5) failed on {result.ceiling_failed} images: there the audit itself "
            "does not work, and low scores mean nothing."
        )


def _print_impossible(reasons: Mapping[str, str]) -> None:
    for attack, reason in reasons.items():
        print_line(f"{attack} is not possible: {reason}")


def _print_images(result: ImageAuditResult) -> None:
    few = "" if result.needed <= len(result.findings) else " With so few controls none could be."
    print_line(f"{result.found} of {len(result.findings)} images are found.{few}")
    print_line(
        "p is the probability that an image which is no better known than the controls comes back "
        "as easily. It is not the probability that the image was trained on, and it says nothing "
        "about who may use it."
    )
    table = make_table("found", "copied at", "score", "p", "p, all images", text="image")
    for finding in result.findings:
        table.add_row(
            "yes" if finding.found else "",
            "never" if finding.copied_at is None else f"{finding.copied_at} steps",
            f"{finding.score:.2f}",
            f"{finding.p:.3g}",
            f"{finding.adjusted:.3g}",
            finding.file,
        )
    console.print(table)
