"""The command ``detect``."""

import json
import math
from array import array
from collections.abc import Iterable
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

from cyclopts.types import PositiveInt

from unmemorize import testbed
from unmemorize._bundled import is_bundled
from unmemorize._errors import ThresholdError
from unmemorize._prompt_files import iter_prompts
from unmemorize._prompts import UNMEMORIZED, Prompt
from unmemorize.cli._common import (
    bounded_rate,
    choose_threshold,
    expected_threshold,
    kept_threshold,
    planted_prompts,
    prompts_or_bundled,
    report_missing,
    threshold_words,
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
from unmemorize.cli._model_options import (
    ModelOptions,
    PromptsOption,
    PublishedOption,
    TauOption,
    ThresholdOption,
)
from unmemorize.cli._profile import ProfileOption, profile_detections
from unmemorize.cli._settings_options import CalibratedOptionsOf
from unmemorize.detection import (
    Detection,
    DetectionLevel,
    DetectionRun,
    NoiseSettings,
    Stop,
    Threshold,
    calibration_prompts,
    detect_all,
    discoveries,
    discoveries_of,
    fewest_discoveries,
    read_detections,
    write_detections_csv,
)
from unmemorize.metrics import Separation, auroc, tpr_at_fpr
from unmemorize.pipelines import Model
from unmemorize.runs import Run, keep_largest, open_run, prompt_count, refuse_other_run

_SHOWN = 40
"""Prompts in the table on the screen; the files hold all of them."""


def command(
    *,
    run: RunOption,
    prompts: PromptsOption = None,
    unmemorized: Path | None = None,
    detector: str | None = None,
    threshold: ThresholdOption = None,
    tau: TauOption = None,
    published: PublishedOption = False,
    stop: Stop | None = None,
    fdr: float | None = None,
    batch: PositiveInt = 16,
    noise: CalibratedOptionsOf[NoiseSettings] = CalibratedOptionsOf[NoiseSettings](),
    shard: ShardOption = None,
    new_run: NewRunOption = False,
    profile: ProfileOption = False,
    model: ModelOptions = ModelOptions(),
    workers: EngineOptions = EngineOptions(),
) -> None:
    """Tell which prompts are memorized, without localizing neurons.

    A prompt is memorized if the score of a detector exceeds tau, which bounds the rate of false
    positives for prompts like those of the calibration. By default the score is
    late-noise-magnitude, which takes two denoiser samples for each prompt; models without
    classifier-free guidance take seed-similarity, one sample for each seed.
    All scores go to RUN/detections.jsonl and RUN/detections.csv. If some prompts are labelled (VM,
    TM, or by --unmemorized), RUN/separation.json holds the AUROC and the share of memorized prompts
    found at 1 % false positives.

    Args:
        unmemorized: Prompts known not to be memorized, for measuring how well memorized prompts
            stand out. The bundled model brings its own.
        detector: Name of the detector, such as seed-similarity or late-noise-magnitude; by default
            that of the threshold file. docs/detectors.md says what each one does and costs.
        stop: When to stop looking at the seeds of a prompt, for thresholds that know a cascade:
            once its verdict is "decided" (the default), once it is "cleared" as not memorized (the
            default with --fdr), or "never". Scores of prompts that stop early come from few seeds.
        fdr: Find the memorized prompts such that at most this share of them is expected to be
            wrong, such as 0.05. RUN/discoveries.json and two more columns of RUN/detections.csv
            hold the result.
        batch: Seeds per denoiser pass, across prompts.
    """
    loaded = model.load()
    given = _all_prompts(loaded, prompts, unmemorized)
    chosen = stop or ("decided" if fdr is None else "cleared")
    if fdr is not None:
        _refuse_unranked(fdr, chosen)
    if not new_run:
        settings, name = expected_threshold(
            loaded, threshold, tau, noise, published=published, detector=detector
        )
        known = {"noise": settings, "detector": name}
        refuse_other_run(run, loaded, DetectionRun.kind, known)
    limit = choose_threshold(
        loaded, threshold, tau, noise, workers, published=published, detector=detector
    )
    if fdr is not None:
        discoveries((), limit.detect.scores, fdr)  # refuses a threshold without scores
    folder = open_run(run, loaded, given, DetectionRun.of(limit, stop=chosen), new=new_run)
    if fdr is not None:
        _print_fewest(prompt_count(folder), limit.detect, fdr)
    with show_progress("detect") as progress:
        tally = detect_all(
            folder,
            loaded,
            limit,
            stop=chosen,
            batch=batch,
            execution=workers.execution(progress, shard),
        )
    if tally.complete or shard is None:
        _print_summary(folder, limit, fdr)
    else:
        print_answer(run=folder.folder, done=tally.done, prompts=tally.total)
    if profile:
        profile_detections(detection for _, _, detection in read_detections(folder))
    report_missing(tally)
    if tally.complete:
        file = threshold
        if file is None and tau is None and detector is not None:  # which localize cannot name
            file = kept_threshold(loaded, detector, noise, published=published)
        print_hint(
            "unmemorize localize",
            *(("--prompts", prompts) if prompts else ()),
            *threshold_words(file, tau, noise, published=published),
            model.option,
            "-o",
            Path(f"{folder.folder}-localized"),
        )


def _all_prompts(model: Model, prompts: Path | None, unmemorized: Path | None) -> Iterable[Prompt]:
    """Stream the prompts to be detected, then those known not to be memorized."""
    given = prompts_or_bundled(model, prompts, planted_prompts)
    if unmemorized:
        others = (replace(prompt, group=UNMEMORIZED) for prompt in iter_prompts(unmemorized))
        return chain(given, others)
    if prompts is None and is_bundled(model.pipe):
        captions = testbed.captions("test")
        return chain(given, (Prompt(text, group=UNMEMORIZED) for text in captions))
    return given


class _Summary:
    """A summary of detections, gathered one by one.

    Args:
        seeds: how many seeds a prompt has if it does not stop early.
    """

    def __init__(self, seeds: int) -> None:
        self.count = self.hits = self.stopped = 0
        self._seeds = seeds
        self.top: list[tuple[float, int, Detection]] = []
        self.scores: dict[str, array[float]] = {}

    def add(self, prompt: Prompt, detection: Detection) -> None:
        self.count += 1
        self.hits += detection.memorized
        self.stopped += detection.seeds < self._seeds
        entry = (detection.score, -self.count, detection)
        keep_largest(self.top, _SHOWN, entry)
        if prompt.memorized is not None:
            self.scores.setdefault(prompt.group, array("d")).append(detection.score)

    def separations(self) -> dict[str, dict[str, Any]]:
        """Measure how well each group of memorized prompts stands out from the unmemorized ones."""
        others = self.scores.get(UNMEMORIZED, array("d"))
        separations = {}
        for group, ours in self.scores.items():
            if others and group != UNMEMORIZED:
                separation: dict[str, Separation] = {
                    "auroc": auroc(ours, others),
                    "tpr_at_fpr_1_percent": tpr_at_fpr(ours, others),
                }
                separations[group] = {
                    "memorized": len(ours),
                    "unmemorized": len(others),
                    **separation,
                }
        return separations


def _refuse_unranked(rate: float, stop: Stop) -> None:
    """Refuse a false discovery rate where scores do not rank prompts.

    Raises:
        ThresholdError: the rate is not in (0, 1), or scores would come from few seeds.
    """
    fewest_discoveries(1, 1, rate)
    if stop == "decided":
        raise ThresholdError(
            "--fdr ranks memorized prompts by their scores from all seeds, which --stop decided "
            "does not look at. Use --stop cleared, the default, or --stop never."
        )


def _print_fewest(prompts: int, level: DetectionLevel, rate: float) -> None:
    """Say before the work what a false discovery rate cannot find."""
    calibration = len(level.scores)
    fewest = fewest_discoveries(prompts, calibration, rate)
    found = f"at least {fewest} prompts are" if fewest > 1 else "1 prompt is"
    print_line(
        f"False discovery rate {rate:g}: with {calibration} calibration captions, nothing is found "
        f"among {prompts} prompts unless {found} discovered."
    )
    if fewest > 1:
        needed = calibration_prompts(level.made(), math.ceil(prompts / rate) - 1)
        print_line(
            f"Warning: rarer memorization is missed. To find a single prompt, calibrate on at "
            f"least {needed} captions (unmemorize threshold --prompts).",
            style="yellow",
        )


def _print_summary(run: Run, limit: Threshold, fdr: float | None) -> None:
    level = limit.detect
    summary = _Summary(limit.settings.seeds if level.cascade else 0)
    discovered = None if fdr is None else discoveries_of(run, limit, fdr)
    path = write_detections_csv(run, summary.add, discovered, level.scores)
    print_line(
        f"{summary.hits} of {summary.count} memorized (tau = {level.tau:.4f}; "
        f"{bounded_rate(level)}): {run.folder}/detections.jsonl, {path.name}"
    )
    if discovered is not None:
        run.write("discoveries.json", json.dumps(asdict(discovered), indent=1) + "\n")
        print_line(
            f"{discovered.count} of {discovered.prompts} prompts are discovered at a false "
            f"discovery rate of {discovered.rate:g} (p-values up to {discovered.p_value:.2g} "
            f"against {discovered.calibration} calibration captions): {path.name}, "
            "discoveries.json"
        )
    highest = [entry[2] for entry in sorted(summary.top, key=lambda e: e[:2], reverse=True)]
    table = make_table("score", "memorized", "group", text="prompt")
    for detection in highest:
        table.add_row(
            f"{detection.score:.3f}",
            "yes" if detection.memorized else "no",
            detection.group,
            detection.prompt,
        )
    console.print(table)
    separations = summary.separations()
    if separations:
        content = {"stopped": summary.stopped, **separations}
        run.write("separation.json", json.dumps(content, indent=1, default=asdict) + "\n")
        if summary.stopped:
            print_line(
                f"{summary.stopped} of these scores come from few seeds (--stop never looks at all "
                "of them):"
            )
        for group, numbers in separations.items():
            print_line(
                f"{group} ({numbers['memorized']}) against unmemorized ({numbers['unmemorized']}): "
                f"AUROC {numbers['auroc']}, TPR at 1 % FPR {numbers['tpr_at_fpr_1_percent']}"
            )
    print_answer(
        run=run.folder,
        prompts=summary.count,
        memorized=summary.hits,
        tau=level.tau,
        detector=level.detector,
        max_fpr=level.max_fpr,
        separation=separations,
        discoveries=discovered,
        highest=highest,
    )
