"""The command ``compare``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import PositiveInt
from rich.table import Table

from unmemorize import testbed
from unmemorize._bundled import is_bundled, usual_for
from unmemorize._prompt_files import read_prompts
from unmemorize._prompts import Prompt, as_ordinary, as_suspects
from unmemorize.cli._common import (
    NO_SUSPECTS,
    choose_statistics,
    choose_threshold,
    generation_settings,
    print_counts,
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
from unmemorize.cli._execution_options import EngineOptions, NewRunOption, RunOption, ShardOption
from unmemorize.cli._instruments import InstrumentOptions
from unmemorize.cli._model_options import Flag, ModelOptions, StatisticsOption, ThresholdOption
from unmemorize.cli._settings_options import OptionsOf
from unmemorize.comparison import (
    ALL_GROUPS,
    UNEDITED,
    Comparison,
    ComparisonCaptions,
    ComparisonForecast,
    ComparisonInputs,
    ComparisonRun,
    ComparisonSettings,
    Published,
    chosen_detectors,
    chosen_methods,
    compare_all,
    forecast_comparison,
    needs_localization,
)
from unmemorize.detection import NoiseSettings
from unmemorize.engines import silent
from unmemorize.localization import LocalizationSettings
from unmemorize.mitigation import percent_up, with_references
from unmemorize.report import write_comparison
from unmemorize.runs import open_run, refuse_other_run

_PLANTED_GROUPS = {"natural": "natural", "memory": "through neurons", "both": "both ways"}
"""Groups of planted captions by mode. Those at a fraction of the dose do not count."""


def command(
    suspects: Annotated[Path | None, Parameter(show_default=False)] = None,
    /,
    *,
    run: RunOption,
    detectors: str = "all",
    mitigations: str = "all",
    ordinary: Path | None = None,
    references: Path | None = None,
    seeds: PositiveInt | None = None,
    images: PositiveInt | None = None,
    quick: Flag = False,
    dry_run: Flag = False,
    statistics: StatisticsOption = None,
    threshold: ThresholdOption = None,
    instruments: InstrumentOptions = InstrumentOptions(),
    batch: PositiveInt = 10,
    shard: ShardOption = None,
    new_run: NewRunOption = False,
    model: ModelOptions = ModelOptions(),
    workers: EngineOptions = EngineOptions(),
) -> None:
    """Compare detectors and methods of the field on one model, side by side.

    Detectors are calibrated on ordinary captions by one rule, and score the suspects. Methods work
    on suspects whose unedited images copy, each over its grid of strengths, and their side effects
    are measured on ordinary captions. What does not work on the model is listed with its reason.
    RUN gets comparison.csv, comparison.json and compare.html. The same command resumes. The same
    folder takes more detectors and methods later; its tables hold those that the last command
    names.

    Args:
        suspects: Prompts that are memorized: a .txt, .csv, .jsonl or .parquet file, or a folder of
            such files. The bundled model brings its own.
        detectors: Detectors to compare: all, none, or names with commas between.
        mitigations: Methods to compare: all, none, or names with commas between. NAME=STRENGTH is
            one strength; a name alone is its whole grid.
        ordinary: Captions that are not memorized, in a file as above. Half of them calibrates, the
            other half counts false alarms and side effects, and its images tell what is a copy, so
            1,998 or more are best. By default those of this package; the bundled model brings its
            own.
        references: Folder of training images, see unmemorize evaluate --help.
        seeds: Images of each suspect under each method. The default is 10, with --quick 4.
        images: Images of ordinary captions under each method. The default is 200, with --quick 40.
        quick: Take a first look: few images and captions, and each method at its own default
            strength.
        dry_run: Say what the run will take, and stop.
        batch: Images per pass. It changes no image beyond rounding.
    """
    loaded = model.load()
    prompts = list(prompts_or_bundled(loaded, suspects, planted_suspects, NO_SUSPECTS))
    if references is not None:
        prompts = with_references(prompts, references)
    prompts = as_suspects(prompts)
    usual = ComparisonSettings.quick() if quick else ComparisonSettings()
    settings = replace(
        usual,
        seeds=seeds or usual.seeds,
        images=images or usual.images,
        localization=LocalizationSettings(**usual_for(loaded.pipe, "criterion")),
        generation=generation_settings(loaded, batch),
    )
    captions = ComparisonCaptions.of(loaded)
    if ordinary is not None:
        captions = ComparisonCaptions.halves(
            [each.text for each in as_ordinary(read_prompts(ordinary))]
        )
    captions = captions.limited(settings.captions)
    compared = chosen_detectors(detectors), chosen_methods(mitigations, grid=not quick)
    inputs = ComparisonInputs(
        captions=captions,
        descriptor=instruments.load_descriptor(bundled=is_bundled(loaded.pipe)),
        clip=instruments.load_clip(bundled=is_bundled(loaded.pipe)),
        planted=suspects is None,
    )
    if dry_run:
        _print_forecast(
            forecast_comparison(loaded, settings, captions, prompts, *compared, inputs.clip),
            len(prompts),
        )
        return
    made_of = ComparisonRun.of(settings, inputs)
    if not new_run:
        refuse_other_run(run, loaded, made_of.kind, vars(made_of))
    if needs_localization(compared[1]):
        as_usual = OptionsOf[NoiseSettings]()
        inputs = replace(
            inputs,
            statistics=choose_statistics(loaded, statistics, workers),
            threshold=choose_threshold(loaded, threshold, None, as_usual, workers),
        )
    folder = open_run(run, loaded, prompts, made_of, new=new_run)
    comparison = compare_all(
        folder,
        loaded,
        inputs,
        detectors=compared[0],
        methods=compared[1],
        execution=workers.execution(silent, shard),
        announce=show_progress,
    )
    _print_comparison(comparison)
    report = write_comparison(folder)
    print_line(f"report: {report}")
    print_answer(comparison.to_json(), run=folder.folder, report=report)
    print_hint("unmemorize mitigate SUSPECTS", model.option, "-o RUN")


def planted_suspects() -> list[Prompt]:
    """Return the captions that were planted at the full dose, in groups by how."""
    return [
        replace(entry.prompt, group=_PLANTED_GROUPS[entry.mode])
        for entry in testbed.planted()
        if entry.mode in _PLANTED_GROUPS
    ]


def _print_comparison(comparison: Comparison) -> None:
    """Print which came out best, then the main columns; the files hold all of them."""
    for line in _best(comparison):
        print_line(line, style="bold")
    if comparison.detectors:
        console.print(_detector_table(comparison))
    if comparison.confirmed is not None:
        print_line(
            f"{comparison.confirmed} of {comparison.suspects} suspects are confirmed: at least 2 "
            "of their unedited images are copies."
        )
    if comparison.methods:
        for group in (ALL_GROUPS, *comparison.groups):
            console.print(_method_table(comparison, group))
        print_line("Copy score and A_CLIP are medians. RUN/comparison.csv holds all columns.")
    if comparison.planted:
        print_line(
            "These suspects were planted. Methods that look for neurons or edit text projections "
            "know how, except for the natural ones."
        )
    for name, reason in _not_working(comparison):
        print_line(f"{name}: {reason}")
    if comparison.published:
        console.print(_published_table(comparison.published), style="bright_black")


def _best(comparison: Comparison) -> Iterator[str]:
    """Yield one sentence about detectors and one about methods, from the rows of all suspects."""
    ranked = [row for row in comparison.detectors if not row.refused]
    if ranked:
        best = max(ranked, key=lambda row: row.groups[ALL_GROUPS].auroc.value)
        found = best.groups[ALL_GROUPS]
        yield (
            f"Highest AUROC of {len(ranked)} detectors: {best.name}, {found.auroc}. At a level "
            f"that bounds false alarms at {percent_up(best.rate)} it finds {found.found} of "
            f"{found.suspects} suspects, with {best.false_alarms} false alarms among {best.test} "
            "captions."
        )
    worked = [
        (row.copy_rate, row.changed_rate or 0.0, row)
        for row in comparison.of_group(ALL_GROUPS)
        if row.method != UNEDITED and not row.refused and row.copy_rate is not None
    ]
    if worked:
        *_, row = min(worked, key=lambda each: each[:2])
        yield (
            f"Fewest copies of {len(worked)} methods and strengths that work for all suspects: "
            f"{row.method} {row.strength:g}, {row.copies.copies} of {row.copies.seeds} images. It "
            f"changes {row.changed} of {row.ordinary} ordinary images."
        )


def _detector_table(comparison: Comparison) -> Table:
    table = make_table("detector", "AUROC", "found", "alarms", text="group", title="Detectors")
    for row in comparison.detectors:
        for group, found in row.groups.items():
            is_first = group == ALL_GROUPS
            table.add_row(
                row.name if is_first else "",
                str(found.auroc),
                f"{found.found}/{found.suspects}",
                f"{row.false_alarms}/{row.test}" if is_first else "",
                group,
            )
    return table


def _method_table(comparison: Comparison, group: str) -> Table:
    table = make_table(
        "method", "strength", "copies", "at most", "score", "A_CLIP", "changed",
        title=f"Methods, {group}",
    )  # fmt: skip
    for row in comparison.of_group(group):
        if row.refused == row.suspects:
            continue
        table.add_row(
            row.method,
            f"{row.strength:g}",
            f"{row.copies.copies}/{row.copies.seeds}",
            "" if row.bound is None else percent_up(row.bound),
            *map(_number, (row.copy, row.alignment)),
            f"{row.changed}/{row.ordinary}",
        )
    return table


def _published_table(values: Sequence[Published]) -> Table:
    table = make_table(
        "name", "AUROC", "TPR", "SSCD", "A_CLIP", text="setting",
        title="Published values, of other models",
    )  # fmt: skip
    for value in values:
        table.add_row(
            value.name,
            *map(_number, (value.auroc, value.tpr, value.copy, value.alignment)),
            f"{value.setting} ({value.source}{', by others' if value.by_others else ''})",
        )
    return table


def _not_working(comparison: Comparison) -> list[tuple[str, str]]:
    """Return the names and reasons of what does not work on the model or for some suspects."""
    detectors = [(row.name, row.refused) for row in comparison.detectors if row.refused]
    methods = [
        (
            f"{row.method} {row.strength:g}",
            row.reason
            if row.refused == row.suspects
            else f"not for {row.refused} of {row.suspects} suspects ({row.reason})",
        )
        for row in comparison.of_group(ALL_GROUPS)
        if row.refused
    ]
    failed = [(name, f"failed ({error})") for name, error in comparison.failed.items()]
    return detectors + methods + failed


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _print_forecast(cost: ComparisonForecast, suspects: int) -> None:
    print_answer(cost)
    print_line(
        f"Detectors: {cost.detectors}, each of which scores {cost.scored} prompts. Strengths of "
        f"methods: {cost.points}. Suspects: {suspects}. If all are memorized, drawing takes about "
        f"{timedelta(seconds=round(cost.seconds))} here. Scoring and fitting come on top."
    )
    if cost.images:
        print_counts("stage", "images", cost.images)
    print_hint("the same command without --dry-run")
