"""The command ``detect``."""

import json
from array import array
from collections.abc import Iterable
from dataclasses import asdict, replace
from heapq import nlargest
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer
from diffusers import DiffusionPipeline
from rich.table import Table

from unmemorize import testbed
from unmemorize._prompts import UNMEMORIZED, Prompt, iter_prompts
from unmemorize.cli._common import console, is_bundled, progress_bar, stream_or_default, tell_of_the_rest, threshold_of
from unmemorize.cli._options import (
    GuidanceOption,
    NewRunOption,
    PromptsOption,
    ProtocolOption,
    RunOption,
    SeedOption,
    SeedsOption,
    ShardOption,
    TauOption,
    ThresholdOption,
    takes_engine,
    takes_model,
)
from unmemorize.cli._profile import ProfileOption, profile_detections
from unmemorize.drivers import Engine
from unmemorize.metrics import Separation, auroc, tpr_at_fpr
from unmemorize.runs import Run, detect_all, open_run, read_detections, write_detections_csv

_SHOWN = 40


@takes_engine
@takes_model
def command(
    pipe: DiffusionPipeline,
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
        typer.Option("--cascade", help="Stop after two seeds or some more where these tell: faster, scores of fewer seeds."),
    ] = False,
    batch: Annotated[int, typer.Option(min=1, help="Seeds per denoiser pass, across prompts.")] = 16,
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
    given: Iterable[Prompt] = stream_or_default(pipe, prompts, lambda: [entry.prompt for entry in testbed.planted()])
    if unmemorized:
        given = chain(given, (replace(prompt, group=UNMEMORIZED) for prompt in iter_prompts(unmemorized)))
    elif prompts is None and is_bundled(pipe):
        given = chain(given, (Prompt(text, group=UNMEMORIZED) for text in testbed.captions("test")))
    limit = threshold_of(pipe, threshold, tau, seeds=seeds, seed=seed, protocol=protocol, guidance=guidance)
    config = {
        "command": "detect",
        "tau": limit.tau,
        "threshold_prompts": limit.prompts,
        "noise": asdict(limit.settings),
        "cascade": asdict(limit.cascade) if cascade and limit.cascade else None,
    }
    folder = open_run(run, pipe, given, config, new=new_run)
    with progress_bar("detect") as progress:
        tally = detect_all(folder, pipe, limit, cascade=cascade, batch=batch, engine=engine, shard=shard, progress=progress)
    path = write_detections_csv(folder)
    table = Table("score", "memorized", "group", "prompt", pad_edge=False)
    for found in nlargest(_SHOWN, (found for _, _, found in read_detections(folder)), key=lambda found: found.score):
        table.add_row(f"{found.score:.3f}", "yes" if found.memorized else "no", found.group, found.prompt)
    console.print(table)
    separations = _separations(folder)
    if separations:
        folder.write("separation.json", json.dumps({"cascade": cascade, **separations}, indent=1, default=asdict) + "\n")
        if cascade:
            console.print("with --cascade, scores of prompts that stopped early are of fewer seeds and so lower:")
        for group, numbers in separations.items():
            console.print(f"{group} ({numbers['memorized']}) against unmemorized ({numbers['unmemorized']}):", end=" ")
            console.print(f"AUROC {numbers['auroc']}, TPR at 1 % FPR {numbers['tpr_at_fpr_1_percent']}")
    hits = sum(found.memorized for _, _, found in read_detections(folder))
    console.print(f"{hits} of {tally.done} memorized (tau = {limit.tau:.4f}): {folder.folder}/detections.jsonl, {path.name}")
    if profile:
        profile_detections([found for _, _, found in read_detections(folder)])
    tell_of_the_rest(tally)


def _separations(run: Run) -> dict[str, dict[str, Any]]:
    """By group of memorized prompts, how well its scores stand out from those of the unmemorized ones."""
    scores: dict[str, array[float]] = {}
    for _, prompt, found in read_detections(run):
        if prompt.memorized is not None:
            scores.setdefault(prompt.group, array("d")).append(found.score)
    others = scores.pop(UNMEMORIZED, array("d"))
    separations = {}
    for group, ours in scores.items() if others else ():
        separation: dict[str, Separation] = {"auroc": auroc(ours, others), "tpr_at_fpr_1_percent": tpr_at_fpr(ours, others)}
        separations[group] = {"memorized": len(ours), "unmemorized": len(others), **separation}
    return separations
