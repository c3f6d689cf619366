"""The command ``detect``."""

import json
from array import array
from collections.abc import Iterable
from dataclasses import asdict, replace
from heapq import heappush, heappushpop
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from unmemorize import testbed
from unmemorize._prompts import UNMEMORIZED, Prompt, iter_prompts
from unmemorize.cli._common import is_bundled, stream_or_default, tell_of_the_rest, threshold_of
from unmemorize.cli._console import console, progress_bar
from unmemorize.cli._model_options import PromptsOption, ThresholdOption, takes_model
from unmemorize.cli._options import (
    GuidanceOption,
    NewRunOption,
    ProtocolOption,
    RunOption,
    SeedOption,
    SeedsOption,
    ShardOption,
    TauOption,
    takes_engine,
)
from unmemorize.cli._profile import ProfileOption, profile_detections
from unmemorize.detection import (
    Detection,
    DetectionRun,
    Threshold,
    detect_all,
    read_detections,
    write_detections_csv,
)
from unmemorize.engines import Engine, Execution
from unmemorize.metrics import Separation, auroc, tpr_at_fpr
from unmemorize.pipelines import Model
from unmemorize.runs import Run, open_run

_SHOWN = 40


@takes_engine
@takes_model
def command(
    pipe: Model,
    engine: Engine,
    run: RunOption,
    prompts: PromptsOption = None,
    unmemorized: Annotated[
        Path | None,
        typer.Option(
            help="Prompts known not to be memorized, to tell how well the others are told apart. With --model testbed by default its own.",
            show_default=False,
        ),
    ] = None,
    threshold: ThresholdOption = None,
    tau: TauOption = None,
    cascade: Annotated[
        bool,
        typer.Option(
            "--cascade",
            help="Stop after two seeds or some more where these tell: faster, scores of fewer seeds.",
        ),
    ] = False,
    batch: Annotated[
        int, typer.Option(min=1, help="Seeds per denoiser pass, across prompts.")
    ] = 16,
    seeds: SeedsOption = None,
    seed: SeedOption = None,
    protocol: ProtocolOption = None,
    guidance: GuidanceOption = None,
    shard: ShardOption = None,
    new_run: NewRunOption = False,
    profile: ProfileOption = False,
) -> None:
    """Tell which prompts are memorized, without localizing neurons: one denoiser pass per seed.

    The score of a prompt is the highest similarity between the noise differences of two seeds; it is memorized when that exceeds tau.
    All scores go to RUN/detections.jsonl and .csv. Where prompts are labelled (VM or TM; --unmemorized), RUN/separation.json holds AUROC
    and the share found at 1 % false positives.
    """
    given: Iterable[Prompt] = stream_or_default(
        pipe, prompts, lambda: [entry.prompt for entry in testbed.planted()]
    )
    if unmemorized:
        given = chain(
            given, (replace(prompt, group=UNMEMORIZED) for prompt in iter_prompts(unmemorized))
        )
    elif prompts is None and is_bundled(pipe):
        given = chain(given, (Prompt(text, group=UNMEMORIZED) for text in testbed.captions("test")))
    limit = threshold_of(
        pipe, threshold, tau, seeds=seeds, seed=seed, protocol=protocol, guidance=guidance
    )
    config = DetectionRun.of(limit, cascade=cascade)
    folder = open_run(run, pipe, given, config, new=new_run)
    with progress_bar("detect") as progress:
        tally = detect_all(
            folder,
            pipe,
            limit,
            cascade=cascade,
            batch=batch,
            execution=Execution(engine=engine, shard=shard, progress=progress),
        )
    if tally.complete or shard is None:
        _show(folder, limit, cascade)
    if profile:
        profile_detections(found for _, _, found in read_detections(folder))
    tell_of_the_rest(tally)


class _Seen:
    """What the summary tells of the detections, gathered one by one."""

    def __init__(self) -> None:
        self.count = self.hits = 0
        self.top: list[tuple[float, int, Detection]] = []
        self.scores: dict[str, array[float]] = {}

    def add(self, prompt: Prompt, found: Detection) -> None:
        self.count += 1
        self.hits += found.memorized
        entry = (found.score, -self.count, found)
        heappush(self.top, entry) if len(self.top) < _SHOWN else heappushpop(self.top, entry)
        if prompt.memorized is not None:
            self.scores.setdefault(prompt.group, array("d")).append(found.score)

    def separations(self) -> dict[str, dict[str, Any]]:
        """By group of memorized prompts, how well its scores stand out from those of the unmemorized ones."""
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


def _show(run: Run, limit: Threshold, cascade: bool) -> None:
    seen = _Seen()
    path = write_detections_csv(run, seen.add)
    table = Table("score", "memorized", "group", "prompt", pad_edge=False)
    for _, _, found in sorted(seen.top, key=lambda entry: entry[:2], reverse=True):
        table.add_row(
            f"{found.score:.3f}", "yes" if found.memorized else "no", found.group, found.prompt
        )
    console.print(table)
    separations = seen.separations()
    if separations:
        run.write(
            "separation.json",
            json.dumps({"cascade": cascade, **separations}, indent=1, default=asdict) + "\n",
        )
        if cascade:
            console.print(
                "with --cascade, scores of prompts that stopped early are of fewer seeds and so lower:"
            )
        for group, numbers in separations.items():
            console.print(
                f"{group} ({numbers['memorized']}) against unmemorized ({numbers['unmemorized']}):",
                end=" ",
            )
            console.print(
                f"AUROC {numbers['auroc']}, TPR at 1 % FPR {numbers['tpr_at_fpr_1_percent']}"
            )
    console.print(
        f"{seen.hits} of {seen.count} memorized (tau = {limit.tau:.4f}): {run.folder}/detections.jsonl, {path.name}"
    )
