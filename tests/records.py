"""Records and run folders written by hand. All values differ, so mixed-up ones show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from unmemorize import Detection, Localization, Neurons, Prompt, Run
from unmemorize.generation import ImageSet, ImageSetRun, NeuronSet
from unmemorize.generation._generate import GenerationSettings
from unmemorize.localization import LocalizationRun, LocalizationSettings
from unmemorize.localization._records import Trial
from unmemorize.metrics import EvaluationRun, Instrument, MeasuredMetric
from unmemorize.mitigation import MitigationSettings
from unmemorize.runs import Inputs, start_run

HOSTILE = "<script>alert('x')</script> & \"quotes\" </title><img src=http://x/y onerror=alert(1)>"
LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v"
Scores = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""Set of images -> index of the prompt -> its metrics by name."""
INSTRUMENTS = {
    "descriptor": Instrument("a descriptor", "1" * 64),
    "clip": Instrument("a clip", "2" * 64),
    "layout": Instrument("pixels of the layout"),
}
METRICS = {
    "sscd-orig": ("SSCD_Orig", "descriptor"),
    "masked-copy": ("masked copy score", "layout"),
    "sscd-gen": ("SSCD_Gen", "descriptor"),
    "d-sscd": ("D_SSCD", "descriptor"),
    "a-clip": ("A_CLIP", "clip"),
}
"""The metrics of `add_metrics` by name: label and instrument."""


SMALL_MITIGATION = MitigationSettings(
    alpha=0.5,
    declared=True,
    search_images=3,
    ordinary_images=19,
    false_copies=0.05,
    distances=False,
)
"""A mitigation of few images."""


def localization(
    prompt: str, group: str, score: float, neurons: Neurons | None, **changes: Any
) -> Localization:
    """A localization with trials. Without neurons the prompt is not memorized."""
    detection = Detection(
        prompt=prompt,
        group=group,
        score=score,
        mean=score,
        tau=0.4,
        memorized=neurons is not None,
        memorized_seeds=(0, 1) if neurons is not None else (),
        seeds=10,
        evaluations=10,
        seconds=0.1,
    )
    fields: dict[str, Any] = {
        "prompt": prompt,
        "group": group,
        "detection": detection,
        "criterion": "seeds",
        "protocol": "published",
        "kernel": 3,
        "evaluations": 10,
        "work": 9.5,
        "seconds": 2.0,
    }
    if neurons is not None:
        fields |= {
            "initial": neurons,
            "neurons": neurons,
            "initial_score": 0.2,
            "score": 0.25,
            "threshold": 0.3,
            "theta": 5.0,
            "top_k": 0,
            "theta_exhausted": False,
            "z_scores": {
                path: tuple(7.0 for _ in indices) for path, indices in neurons.layers.items()
            },
            "trials": {
                "selection": (Trial(len(neurons), 0.2, True),),
                "refinement": (Trial(1, 0.5, False), Trial(2, 0.25, True)),
            },
        }
    return Localization(**{**fields, **changes})


def localized_run(
    folder: Path,
    prompts: Sequence[Prompt],
    localizations: Mapping[int, Localization],
    *,
    model: str = "a model",
) -> Run:
    """A run with these localizations by index of the prompt."""
    settings = LocalizationRun(
        localization=LocalizationSettings(criterion="seeds"),
        detector="seed-similarity",
        detection_tau=0.4,
        tau=0.4,
        tau_seeds=0.3,
        threshold_prompts="t" * 64,
        statistics_prompts="s" * 64,
        searched=(LAYER,),
    )
    inputs = Inputs(fingerprint="f" * 64, dtype="torch.float32")
    run = start_run(folder, prompts, settings, inputs, model=model)
    with run.writer("localizations") as writer:
        for index, record in localizations.items():
            writer.append({index: record.to_json()})
    return run


def colour(set_name: str, index: int, seed: int) -> tuple[int, int, int]:
    """The colour of an image: red tells the prompt, green the set, blue the seed."""
    sets = ("original", "refined", "random-refined", "initial")
    return 20 + 40 * index, 30 + 60 * sets.index(set_name), 20 + 60 * seed


def add_images(run: Run, set_name: str, files: Mapping[int, Sequence[str]], on: str = "") -> Run:
    """The set of images of a run with these files by index of the prompt, not yet written."""
    settings = ImageSetRun.of(
        ImageSet(
            neurons=NeuronSet.parse(set_name), prompts=(Prompt("other"),) if on else (), label=on
        ),
        GenerationSettings(images=3),
        None,
    )
    name = f"{set_name}-on-{on}" if on else set_name
    images = Run.open(
        run.folder / "images" / name, settings, inputs=run.manifest.inputs, model="", items=9
    )
    with images.writer("images") as writer:
        for index, names in files.items():
            writer.append({index: {"prompt": "", "files": list(names), "neurons": {}}})
    return images


def add_metrics(
    run: Run,
    images: Run,
    scores: Mapping[int, Mapping[str, Any]],
    references: Mapping[str, Any] | None = None,
) -> Run:
    """The metrics of a set of images."""
    settings = EvaluationRun(
        images=images.settings(ImageSetRun),
        original=None,
        metrics=tuple(
            MeasuredMetric(name, label, INSTRUMENTS[instrument])
            for name, (label, instrument) in METRICS.items()
        ),
        references="r",
    )
    folder = run.folder / "metrics" / images.folder.name
    metrics = Run.open(folder, settings, inputs=run.manifest.inputs, model="", items=9)
    with metrics.writer("metrics") as writer:
        for index, values in scores.items():
            writer.append({index: {"values": values, "references": references}})
    return metrics


def add_scored_images(run: Run, scores: Scores, seeds: int = 3, on: str = "") -> None:
    """Sets of images in the colours of `colour`, with metrics."""
    for set_name, by_index in scores.items():
        files = {
            index: [f"{index:05d}_{seed:02d}.png" for seed in range(seeds)] for index in by_index
        }
        images = add_images(run, set_name, files, on)
        for index, names in files.items():
            for seed, name in enumerate(names):
                image = Image.new("RGB", (32, 32), colour(set_name, index, seed))
                image.save(images.folder / name)
        add_metrics(run, images, by_index)
