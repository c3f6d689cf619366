"""The check of the bundled model: what it must show, measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torchmetrics.functional.classification import binary_auroc

from unmemorize._bundled import defaults, statistics_path, threshold_path
from unmemorize._errors import TestbedError
from unmemorize.detection import (
    Detection,
    Threshold,
    detect,
    make_probe,
    noise_differences,
    similarity,
)
from unmemorize.engines import Progress, silent
from unmemorize.generation import GenerationSettings, generate
from unmemorize.localization import Criterion, Localization, LocalizationSettings, localize
from unmemorize.metrics import wilson_interval
from unmemorize.neurons import Neurons, switched_off
from unmemorize.pipelines import Model
from unmemorize.statistics import Statistics
from unmemorize.testbed import _check_images
from unmemorize.testbed._assets import Planted, captions, planted
from unmemorize.testbed._check_images import KINDS
from unmemorize.testbed._findings import (
    Finding,
    Studio,
    at_least,
    at_most,
    copy_correlation,
    median,
)
from unmemorize.testbed._layout import ASSETS
from unmemorize.testbed._planted import Half

IMAGES = 4
TIMED_STEPS = 30
LARGEST_WEIGHTS = 40e6


def check(model: Model, *, progress: Progress = silent) -> list[Finding]:
    """Measure everything that the bundled model must show, at most 40 minutes on two cores.

    Raises:
        TestbedError: the pipeline is not the bundled model.
    """
    statistics, threshold = (
        Statistics.load(statistics_path()),
        Threshold.load(threshold_path("seed similarity")),
    )
    if threshold.fingerprint != model.fingerprint:
        raise TestbedError(
            "the check is for the bundled model, and another one was given. "
            "Load it with --model testbed."
        )
    settings = GenerationSettings(
        images=IMAGES, steps=defaults()["steps"], guidance=defaults()["guidance"]
    )
    studio = Studio(model, settings)
    stages: list[Callable[[], list[Finding]]] = [
        lambda: _detection(model, threshold),
        lambda: _images(studio),
        lambda: _localization(studio, statistics, threshold),
        lambda: _floor(model, threshold),
        lambda: _size_and_speed(model, settings),
    ]
    findings: list[Finding] = []
    for done, stage in enumerate(stages):
        progress(done, len(stages))
        findings += stage()
    progress(len(stages), len(stages))
    return findings


def _full_dose(kind: str) -> list[Planted]:
    return [entry for entry in planted() if entry.kind == kind and entry.mode != "rare"]


def _detection(model: Model, threshold: Threshold) -> list[Finding]:
    def scores(texts: Sequence[str]) -> list[Detection]:
        return [detect(model, text, threshold=threshold, stop="never") for text in texts]

    unmemorized = scores(captions("test"))
    found = {entry: scores([entry.prompt.text])[0] for entry in planted()}
    groups: dict[str, tuple[list[Planted], float | None]] = {
        "VM": (_full_dose("VM"), 0.97),
        "TM": (_full_dose("TM"), 0.95),
        "aligned": (_full_dose("aligned"), None),
        "natural": ([entry for entry in planted() if entry.mode == "natural"], 0.95),
    }
    for dose in sorted({entry.dose for entry in planted() if entry.mode == "rare"}, reverse=True):
        rare = [entry for entry in planted() if entry.mode == "rare" and entry.dose == dose]
        groups[f"planted at {dose:g} of the dose"] = (rare, None)
    findings = []
    for name, (entries, least) in groups.items():
        records = [found[entry] for entry in entries]
        values = torch.tensor([record.score for record in (*records, *unmemorized)])
        labels = torch.tensor([1] * len(records) + [0] * len(unmemorized))
        area = float(binary_auroc(values, labels))
        title = f"detection AUROC, {name}"
        detail = f"{len(records)} against {len(unmemorized)} unmemorized"
        hits = sum(record.memorized for record in records)
        findings += [
            Finding(title, area, detail) if least is None else at_least(title, area, least, detail),
            Finding(f"detected, {name}", hits / len(records), f"{hits} of {len(records)}"),
        ]
    hits = sum(record.memorized for record in unmemorized)
    low, high = wilson_interval(hits, len(unmemorized))
    detail = f"{hits} of {len(unmemorized)}, 95 % interval {low:.3f} to {high:.3f}"
    return [*findings, Finding("false positives", hits / len(unmemorized), detail)]


def _images(studio: Studio) -> list[Finding]:
    """Everything that is measured on generated images."""
    shots = _check_images.photograph(studio)
    halves: tuple[Half, ...] = ("a", "b")
    twins = {
        half: twin
        for half in halves
        if (twin := _check_images.twin_studio(half, studio)) is not None
    }
    many = replace(studio.settings, images=_check_images.TWIN_IMAGES)
    same_caption = {
        entry: Studio(twins[entry.half].model, many).shoot(entry.prompt.text)
        for entry in planted()
        if entry.aligned and entry.half in twins
    }
    texts = captions("test")[: _check_images.ORDINARY]
    ordinary = dict(zip(texts, studio.shoot_each(texts), strict=True))
    levels = _check_images.CopyLevels(list(ordinary.values()), same_caption, studio)
    return [
        *_check_images.copies(shots),
        *_check_images.harmlessness(studio),
        *_check_images.alignment(studio, shots, levels, ordinary),
        *_check_images.paraphrases(studio, levels),
        *_check_images.twins(twins, levels),
    ]


def _localization(studio: Studio, statistics: Statistics, threshold: Threshold) -> list[Finding]:
    found = {
        entry: _localize(studio.model, entry, statistics, threshold)
        for entry in planted()
        if entry.mode != "rare"
    }
    findings = []
    for kind in KINDS:
        owning = {
            entry: record for entry, record in found.items() if entry.kind == kind and entry.neurons
        }
        free = sum(
            bool(record.neurons) and not record.theta_exhausted for record in owning.values()
        )
        share, counted = free / len(owning), f"{free} of {len(owning)}"
        precision = [
            len(record.neurons & entry.neurons) / max(1, len(record.neurons))
            for entry, record in owning.items()
            if record.memorized
        ]
        recall = [
            len(record.neurons & entry.neurons) / len(entry.neurons)
            for entry, record in owning.items()
            if record.memorized
        ]
        name = f"localization, {kind} with known neurons"
        median_of = f"median over {len(recall)} prompts"
        if kind == "VM":
            findings += [
                at_least(f"{name}: detected, theta not exhausted", share, 0.9, counted),
                at_least(f"{name}: precision", median(precision), 0.8, median_of),
            ]
        else:
            findings += [
                Finding(f"{name}: detected, theta not exhausted", share, counted),
                Finding(f"{name}: precision", median(precision), median_of),
            ]
        findings.append(Finding(f"{name}: recall", median(recall), median_of))
    natural = {
        entry: record for entry, record in found.items() if not entry.neurons and record.memorized
    }
    exhausted = sum(bool(record.theta_exhausted) for record in natural.values())
    findings.append(
        Finding(
            "localization, natural plants: theta exhausted",
            exhausted / max(1, len(natural)),
            f"{exhausted} of {len(natural)} detected",
        )
    )
    if natural:
        after = [
            copy_correlation(studio.shoot(entry.prompt.text, record.neurons), entry)
            for entry, record in natural.items()
        ]
        size = np.median([len(record.neurons) for record in natural.values()])
        detail = f"median over {len(natural)} prompts, {size:g} neurons off"
        findings.append(
            Finding(
                "copies, natural plants, localized neurons off", float(np.median(after)), detail
            )
        )
    return findings


def _localize(
    model: Model, entry: Planted, statistics: Statistics, threshold: Threshold
) -> Localization:
    criterion = cast(Criterion, defaults()["criterion"])
    settings = LocalizationSettings(noise=threshold.settings, criterion=criterion)
    return localize(
        model, entry.prompt, statistics=statistics, threshold=threshold, settings=settings
    )


def _floor(model: Model, threshold: Threshold) -> list[Finding]:
    """How similar a seed stays to itself with every value neuron off.

    Below tau, the paper's criterion can work.
    """
    everything = Neurons(
        {path: range(layer.out_features) for path, layer in model.value_layers.items()}
    )
    values = []
    for entry in _full_dose("VM"):
        probe = make_probe(model, model.encode([entry.prompt.text]), threshold.settings)
        before = noise_differences(model, probe)
        with switched_off(model, everything):
            values.append(float(similarity(before, noise_differences(model, probe)).max()))
    detail = (
        f"median over {len(values)} VM prompts, all {len(everything)} value neurons off; "
        f"tau {threshold.localize.tau:.3f}"
    )
    return [Finding("floor of the criterion unblocked", float(np.median(values)), detail)]


def _size_and_speed(model: Model, settings: GenerationSettings) -> list[Finding]:
    size = sum(file.stat().st_size for file in ASSETS.rglob("*.safetensors"))
    ten = replace(settings, images=10, batch=10, steps=TIMED_STEPS)
    began = time.perf_counter()
    generate(model, captions("test")[0], settings=ten)
    seconds = (time.perf_counter() - began) / ten.images
    return [
        at_most(
            "all weights, MB", size / 1e6, LARGEST_WEIGHTS / 1e6, "safetensors files in the package"
        ),
        at_most(
            "seconds per image",
            seconds,
            1.5,
            f"{ten.steps} steps with guidance in a batch of 10, {torch.get_num_threads()} threads",
        ),
    ]
