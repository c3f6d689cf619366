"""The command ``mitigate``."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from unmemorize._bundled import is_bundled, usual_for
from unmemorize._prompts import as_suspects
from unmemorize._words import counted
from unmemorize.cli._common import (
    NO_SUSPECTS,
    choose_statistics,
    choose_threshold,
    expected_threshold,
    generation_settings,
    planted_prompts,
    print_counts,
    print_exported,
    prompts_or_bundled,
)
from unmemorize.cli._console import (
    console,
    make_table,
    print_answer,
    print_hint,
    print_line,
    show_progress,
)
from unmemorize.cli._execution_options import (
    EngineOptions,
    NewRunOption,
    RunOption,
    WaitingShardOption,
    left_to_first,
)
from unmemorize.cli._instruments import InstrumentOptions
from unmemorize.cli._model_options import (
    Flag,
    ModelOptions,
    StatisticsOption,
    ThresholdOption,
    print_what_is_edited,
)
from unmemorize.cli._settings_options import OptionsOf
from unmemorize.detection import NoiseSettings
from unmemorize.engines import Execution, silent
from unmemorize.export import CHECKPOINT, check_single_file
from unmemorize.localization import LocalizationSettings
from unmemorize.methods import text_encoder_layers
from unmemorize.mitigation import (
    Copies,
    Forecast,
    MitigationInputs,
    MitigationResult,
    MitigationRun,
    MitigationSettings,
    OrdinaryCaptions,
    Part,
    PromptOutcome,
    forecast,
    mitigate_all,
    percent_up,
    pooled,
    refuse_other_part,
    with_references,
)
from unmemorize.pipelines import Model
from unmemorize.report import deliver
from unmemorize.runs import Run, open_run, refuse_other_run

_WORDINGS = 5
"""Wordings that are printed."""


def command(
    suspects: Annotated[Path | None, Parameter(show_default=False)] = None,
    /,
    *,
    run: RunOption,
    references: Path | None = None,
    single_file: Path | None = None,
    alpha: float | None = None,
    confidence: float | None = None,
    budget: float | None = None,
    fresh_images: PositiveInt | None = None,
    together: Flag = False,
    part: Part = "denoiser",
    quick: Flag = False,
    dry_run: Flag = False,
    statistics: StatisticsOption = None,
    threshold: ThresholdOption = None,
    instruments: InstrumentOptions = InstrumentOptions(),
    steps: PositiveInt | None = None,
    guidance: float | None = None,
    batch: PositiveInt = 10,
    shard: WaitingShardOption = None,
    new_run: NewRunOption = False,
    model: ModelOptions = ModelOptions(),
    workers: EngineOptions = EngineOptions(),
) -> None:
    """Stop a model from copying training images, and bound how often it still does.

    Suspects are confirmed by generation: a prompt counts as memorized if its images copy. Then one
    edit is searched under which no confirmed prompt copies, and fresh seeds certify each of them on
    that edit. The run folder gets the edited model as a checkpoint and as LoRA files, the verdicts
    (mitigation.json) and a report. The same command resumes. Of several shards, the first one
    writes the model and the report.

    With --lora, the model with these LoRAs is edited. Then the checkpoint holds base, LoRAs and
    edit, and the LoRA files belong beside the LoRAs. Without it, the base is edited.

    Args:
        suspects: Prompts that may be memorized: a .txt, .csv, .jsonl or .parquet file, or a folder
            of such files. The bundled model brings its own.
        references: Folder of training images, see unmemorize evaluate --help. Without any, copies
            are told by how much the images of one prompt agree.
        single_file: The model as one .safetensors file, of which an edited copy is written, too.
        alpha: Copy rate that a certificate excludes. The default is 0.05, with --quick 0.26.
        confidence: Confidence of each certificate. The default is 0.95.
        budget: Largest share of ordinary images that may change; 1 allows any. The default is 0.1.
        fresh_images: Fresh images of each prompt in an attempt of a certificate. The default is the
            fewest (72 in the first one, 10 with --quick), none of which may copy. Of more images
            a few may copy, so an edit that rarely copies is more likely to pass. Fewer than one
            prompt needs are refused.
        together: Also state that all prompts are removed together, at the same confidence (Holm).
            This takes more images of each prompt.
        part: What is edited. The denoiser holds the images, so that is the default. An edit of the
            text encoder (Stable Diffusion 1, 2, XL) hardly changes ordinary images, but whoever
            takes the original text encoder draws the copies again.
        quick: Look at ten fresh images of each prompt and at 199 ordinary images. This excludes
            only copy rates above 26 %.
        steps: Number of denoising steps. The default is 50; the bundled model has its own.
        guidance: Scale of classifier-free guidance. The default is 7; the bundled model has its
            own.
        batch: Images per pass. It changes no image beyond rounding.
        dry_run: Say what the run will take, and stop.
    """
    loaded = model.load()
    print_what_is_edited(loaded)
    if single_file is not None:
        trained = text_encoder_layers(loaded.pipe) if part == "text-encoder" else None
        check_single_file(loaded, single_file, trained)
    prompts = list(prompts_or_bundled(loaded, suspects, planted_prompts, NO_SUSPECTS))
    if references is not None:
        prompts = with_references(prompts, references)
    prompts = as_suspects(prompts)
    usual = MitigationSettings.quick() if quick else MitigationSettings()
    shares = {"alpha": alpha, "confidence": confidence, "budget": budget}
    given: dict[str, Any] = {name: share for name, share in shares.items() if share is not None}
    settings = replace(
        usual,
        **given,
        together=together,
        part=part,
        fresh_images=fresh_images or 0,
        localization=LocalizationSettings(**usual_for(loaded.pipe, "criterion")),
        generation=generation_settings(loaded, batch, steps=steps, guidance=guidance),
    )
    settings.refuse_few_images()
    refuse_other_part(loaded, settings)
    descriptor = instruments.load_descriptor(bundled=is_bundled(loaded.pipe))
    clip = instruments.load_clip(bundled=is_bundled(loaded.pipe))
    if dry_run:
        cost = forecast(loaded, settings, prompts, clip)
        copied = single_file.stat().st_size if single_file else 0
        _print_forecast(replace(cost, disk=cost.disk + copied), len(prompts))
        return
    as_usual = OptionsOf[NoiseSettings]()
    if not new_run:
        noise, detector = expected_threshold(loaded, threshold, None, as_usual)
        localization = replace(settings.localization, noise=noise)
        known = {"settings": replace(settings, localization=localization), "detector": detector}
        refuse_other_run(run, loaded, MitigationRun.kind, known)
    inputs = MitigationInputs(
        statistics=choose_statistics(loaded, statistics, workers),
        threshold=choose_threshold(loaded, threshold, None, as_usual, workers),
        captions=OrdinaryCaptions.of(loaded),
        descriptor=descriptor,
        clip=clip,
    )
    opened = open_run(run, loaded, prompts, MitigationRun.of(settings, inputs), new=new_run)
    execution = workers.execution(silent, shard, waits=True)
    run_and_print(loaded, opened, inputs, execution, model.arguments, single_file=single_file)


def run_and_print(
    model: Model,
    run: Run,
    inputs: MitigationInputs,
    execution: Execution,
    arguments: str,
    *,
    single_file: Path | None = None,
) -> None:
    """Mitigate, export the edited model, write the report, and print the verdicts.

    Args:
        model: the model.
        run: the mitigation.
        inputs, execution: see `mitigate_all`.
        arguments: how a next command names the model.
        single_file: the model as one file, of which an edited copy is written, too.
    """
    result = mitigate_all(run, model, inputs, execution=execution, announce=show_progress)
    if left_to_first(execution, "model and the report", run.folder):
        return
    made = deliver(run, model, single_file=single_file, announce=show_progress)
    _print_verdicts(result, run.settings(MitigationRun).settings.confidence)
    files = print_exported(made.exported)
    if made.without_maps:
        print_line(made.without_maps)
    if made.spot_check:
        print_line(str(made.spot_check))
    print_line(f"report: {made.report}")
    print_answer(
        result.to_json(),
        headline=result.headline,
        run=run.folder,
        exported=files,
        report=made.report,
    )
    if result.file:
        print_hint("unmemorize verify", run.folder / CHECKPOINT, arguments)
    elif not result.confirmed:
        print_hint(f"unmemorize detect --prompts MORE-SUSPECTS --model {arguments} -o RUN")


def _print_verdicts(result: MitigationResult, confidence: float) -> None:
    """Print what was reached, then the verdict of each suspect."""
    print_line(result.headline, style="bold")
    if result.ordinary:
        change = result.ordinary
        over = "" if result.within_budget else ", which is more than the budget allows"
        print_line(f"{change.changed} of {change.images} ordinary images changed{over}.")
    _print_paraphrases(result)
    rephrased = ["other wordings"] if result.paraphrases else []
    table = make_table("verdict", "before", "after", "at most", *rephrased, text="prompt")
    for outcome in result.outcomes:
        cells = [_counts(outcome.before), _counts(outcome.after), _bound(outcome)]
        if rephrased:
            cells.append(_counts(outcome.paraphrases_after))
        table.add_row(outcome.status, *cells, outcome.prompt)
    console.print(table)
    if any(outcome.bound is not None for outcome in result.outcomes):
        print_line(
            f"At most: upper bound of the copy rate, at {100 * confidence:g} % confidence over the "
            "whole search."
        )


def _counts(copies: Copies | None) -> str:
    return f"{copies.copies}/{copies.seeds}" if copies else ""


def _bound(outcome: PromptOutcome) -> str:
    return "" if outcome.bound is None else percent_up(outcome.bound)


def _print_paraphrases(result: MitigationResult) -> None:
    """Print which other wordings still copy, of which no verdict tells anything."""
    if not result.paraphrases:
        return
    copying = result.copying_paraphrases
    after = pooled([each.after for each in result.paraphrases])
    print_line(
        f"Other wordings (no verdict): {after.copies} of {after.seeds} images are copies, "
        f"under {len(copying)} of {len(result.paraphrases)}."
    )
    for _, paraphrase in copying[:_WORDINGS]:
        print_line(
            f"  “{paraphrase.text}”: {paraphrase.after.copies} of {paraphrase.after.seeds} images"
        )
    if len(copying) > _WORDINGS:
        print_line(f"  and {len(copying) - _WORDINGS} more, see the report")


def _print_forecast(cost: Forecast, suspects: int) -> None:
    print_answer(cost, suspects=suspects)
    print_line(
        f"{counted(suspects, 'suspect')}, if all are memorized: {cost.samples} denoiser samples, "
        f"about {timedelta(seconds=round(cost.seconds))} here; {_gigabytes(cost.weights)} of "
        f"weights in memory, {_gigabytes(cost.disk)} on disk. A prompt that is hard to mend takes "
        "more, one that is not memorized takes little."
    )
    print_counts("stage", "images", cost.images)
    print_hint("the same command without --dry-run")


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
