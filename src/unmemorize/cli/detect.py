"""The command ``detect``."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from diffusers import DiffusionPipeline
from rich.table import Table

from unmemorize import testbed
from unmemorize._prompts import UNMEMORIZED, Prompt, read_prompts
from unmemorize.cli._common import (
    GuidanceOption,
    PromptsOption,
    ProtocolOption,
    RunOption,
    SeedOption,
    SeedsOption,
    TauOption,
    ThresholdOption,
    console,
    is_bundled,
    progress_bar,
    prompts_or_default,
    takes_model,
    threshold_of,
)
from unmemorize.cli._profile import ProfileOption, profile_detections
from unmemorize.localization import Detection
from unmemorize.metrics import Separation, auroc, tpr_at_fpr
from unmemorize.runs import detect_all, detections_csv, open_run


@takes_model
def command(
    pipe: DiffusionPipeline,
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
    profile: ProfileOption = False,
) -> None:
    """Tell which prompts are memorized, without localizing neurons: one denoiser pass per seed.

    The score of a prompt is the highest similarity between the noise differences of two seeds; it is memorized when that exceeds tau.
    All scores go to RUN/detections.jsonl and .csv. Where prompts are labelled (VM or TM; --unmemorized), RUN/separation.json holds AUROC
    and the share found at 1 % false positives.
    """
    given = prompts_or_default(pipe, prompts, lambda: [entry.prompt for entry in testbed.planted()])
    if unmemorized:
        given += [replace(prompt, group=UNMEMORIZED) for prompt in read_prompts(unmemorized)]
    elif prompts is None and is_bundled(pipe):
        given += [Prompt(text, group=UNMEMORIZED) for text in testbed.captions("test")]
    limit = threshold_of(pipe, threshold, tau, seeds=seeds, seed=seed, protocol=protocol, guidance=guidance)
    config = {
        "command": "detect",
        "tau": limit.tau,
        "threshold_prompts": limit.prompts,
        "noise": asdict(limit.settings),
        "cascade": asdict(limit.cascade) if cascade and limit.cascade else None,
    }
    folder = open_run(run, pipe, given, config)
    with progress_bar("detect") as progress:
        detections = detect_all(folder, pipe, given, limit, cascade=cascade, batch=batch, progress=progress)
    folder.write("detections.csv", detections_csv(given, detections))
    table = Table("score", "memorized", "group", "prompt", pad_edge=False)
    for detection in sorted(detections, key=lambda found: -found.score)[:40]:
        table.add_row(f"{detection.score:.3f}", "yes" if detection.memorized else "no", detection.group, detection.prompt)
    console.print(table)
    separations = _separations(given, detections)
    if separations:
        folder.write("separation.json", json.dumps({"cascade": cascade, **separations}, indent=1, default=asdict) + "\n")
        if cascade:
            console.print("with --cascade, scores of prompts that stopped early are of fewer seeds and so lower:")
        for group, found in separations.items():
            console.print(f"{group} ({found['memorized']}) against unmemorized ({found['unmemorized']}):", end=" ")
            console.print(f"AUROC {found['auroc']}, TPR at 1 % FPR {found['tpr_at_fpr_1_percent']}")
    hits = sum(found.memorized for found in detections)
    console.print(f"{hits} of {len(detections)} memorized (tau = {limit.tau:.4f}): {run}/detections.jsonl, detections.csv")
    if profile:
        profile_detections(detections)


def _separations(prompts: Sequence[Prompt], detections: Sequence[Detection]) -> dict[str, dict[str, Any]]:
    """By group of memorized prompts, how well its scores stand out from those of the unmemorized ones."""
    pairs = [(prompt, found.score) for prompt, found in zip(prompts, detections, strict=True)]
    others = [score for prompt, score in pairs if prompt.memorized is False]
    groups = dict.fromkeys(prompt.group for prompt, _ in pairs if prompt.memorized) if others else {}
    found = {}
    for group in groups:
        scores = [score for prompt, score in pairs if prompt.group == group]
        separation: dict[str, Separation] = {"auroc": auroc(scores, others), "tpr_at_fpr_1_percent": tpr_at_fpr(scores, others)}
        found[group] = {"memorized": len(scores), "unmemorized": len(others), **separation}
    return found
