"""The check of the bundled model: what it must show, measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torchmetrics.functional.classification import binary_auroc

from unmemorize._bundled import statistics_path, threshold_path
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
from unmemorize.metrics import pixel_correlation, read_image, wilson_interval
from unmemorize.neurons import Neurons, random_control, switched_off
from unmemorize.pipelines import Model
from unmemorize.statistics import Statistics
from unmemorize.testbed._assets import Planted, captions, defaults, planted
from unmemorize.testbed._layout import ASSETS

IMAGES = 4
QUALITY_PROMPTS = 20
LARGEST_WEIGHTS = 40e6


@dataclass(frozen=True)
class Finding:
    """One line of the check.

    Args:
        name: what was measured.
        measured: the value.
        detail: what it was measured on.
        required: the bound, such as ">= 0.9". None where nothing is required.
        passed: whether the value keeps to the bound.
    """

    name: str
    measured: float
    detail: str
    required: str | None = None
    passed: bool = True


def check(model: Model, *, progress: Progress = silent) -> list[Finding]:
    """Measure everything that the bundled model must show, in a few minutes on two cores.

    Raises:
        TestbedError: the pipeline is not the bundled model.
    """
    statistics, threshold = Statistics.load(statistics_path()), Threshold.load(threshold_path())
    if threshold.fingerprint != model.fingerprint:
        raise TestbedError(
            "the check is for the bundled model, and this is another one. "
            "Load it with --model testbed."
        )
    settings = GenerationSettings(
        images=IMAGES, steps=defaults()["steps"], guidance=defaults()["guidance"]
    )
    stages: list[Callable[[], list[Finding]]] = [
        lambda: _detection(model, threshold),
        lambda: _copies(model, settings),
        lambda: _harmlessness(model, settings),
        lambda: _localization(model, statistics, threshold, settings),
        lambda: _floor(model, threshold),
        lambda: _size_and_speed(model, settings),
    ]
    findings: list[Finding] = []
    for done, stage in enumerate(stages):
        progress(done, len(stages))
        findings += stage()
    progress(len(stages), len(stages))
    return findings


def _at_least(name: str, measured: float, least: float, detail: str) -> Finding:
    return Finding(name, measured, detail, f">= {least:g}", measured >= least)


def _at_most(name: str, measured: float, most: float, detail: str) -> Finding:
    return Finding(name, measured, detail, f"<= {most:g}", measured <= most)


def _full_dose(kind: str) -> list[Planted]:
    return [entry for entry in planted() if entry.prompt.kind == kind and entry.mode != "rare"]


def _detection(model: Model, threshold: Threshold) -> list[Finding]:
    def scores(texts: Sequence[str]) -> list[Detection]:
        return [detect(model, text, threshold=threshold) for text in texts]

    unmemorized = scores(captions("test"))
    findings = []
    for kind, least in (("VM", 0.97), ("TM", 0.95)):
        found = scores([entry.prompt.text for entry in _full_dose(kind)])
        values = torch.tensor([record.score for record in (*found, *unmemorized)])
        labels = torch.tensor([1] * len(found) + [0] * len(unmemorized))
        auroc = float(binary_auroc(values, labels))
        findings.append(
            _at_least(
                f"detection AUROC, {kind}",
                auroc,
                least,
                f"{len(found)} against {len(unmemorized)} unmemorized",
            )
        )
        hits = sum(record.memorized for record in found)
        findings.append(
            Finding(f"detected at tau, {kind}", hits / len(found), f"{hits} of {len(found)}")
        )
    rare = [entry for entry in planted() if entry.mode == "rare"]
    for dose in sorted({entry.dose for entry in rare}, reverse=True):
        found = scores([entry.prompt.text for entry in rare if entry.dose == dose])
        hits = sum(record.memorized for record in found)
        findings.append(
            Finding(
                f"detected at tau, planted at {dose:g} of the dose",
                hits / len(found),
                f"{hits} of {len(found)}",
            )
        )
    hits = sum(record.memorized for record in unmemorized)
    low, high = wilson_interval(hits, len(unmemorized))
    findings.append(
        Finding(
            "false positives at tau",
            hits / len(unmemorized),
            f"{hits} of {len(unmemorized)}, 95 % interval {low:.3f} to {high:.3f}",
        )
    )
    return findings


def copy_correlation(
    model: Model, entry: Planted, neurons: Neurons, settings: GenerationSettings
) -> float:
    """Take the median over seeds of the pixel correlation with the closest training image."""
    generated = generate(model, entry.prompt.text, neurons, settings=settings)
    references = [read_image(path) for path in entry.prompt.images]
    return float(
        np.median(
            [max(pixel_correlation([image] * len(references), references)) for image in generated]
        )
    )


def _copies(model: Model, settings: GenerationSettings) -> list[Finding]:
    widths = model.widths
    before = {
        entry.prompt.text: copy_correlation(model, entry, Neurons(), settings)
        for entry in planted()
    }
    findings = []
    for kind in ("VM", "TM"):
        entries = _full_dose(kind)
        owning = [entry for entry in entries if entry.neurons]
        natural = [entry for entry in entries if not entry.neurons]
        copies = float(np.median([before[entry.prompt.text] for entry in entries]))
        own = float(np.median([before[entry.prompt.text] for entry in owning]))
        off = float(
            np.median([copy_correlation(model, entry, entry.neurons, settings) for entry in owning])
        )
        controls = [
            copy_correlation(model, entry, random_control(entry.neurons, widths, seed), settings)
            - before[entry.prompt.text]
            for seed, entry in enumerate(owning)
        ]
        control = float(np.median(np.abs(controls)))
        unowned = np.median([before[entry.prompt.text] for entry in natural])
        detail = (
            f"median over {len(entries)} prompts (of the {len(natural)} natural ones {unowned:.3f})"
        )
        if kind == "VM":
            findings.append(
                _at_least("copies, VM: correlation with the training image", copies, 0.85, detail)
            )
            findings.append(
                _at_most(
                    "copies, VM, known neurons off",
                    off,
                    0.35,
                    f"median over {len(owning)} prompts, before {own:.3f}",
                )
            )
            findings.append(
                _at_most(
                    "copies, VM, as many random neurons off: change",
                    control,
                    0.03,
                    f"median over {len(owning)} prompts",
                )
            )
        else:
            findings.append(
                Finding("copies, TM: correlation with the training images", copies, detail)
            )
            findings.append(
                Finding(
                    "copies, TM, known neurons off",
                    off,
                    f"median over {len(owning)} prompts, before {own:.3f}",
                )
            )
    rare = [entry for entry in planted() if entry.mode == "rare"]
    for dose in sorted({entry.dose for entry in rare}, reverse=True):
        values = [before[entry.prompt.text] for entry in rare if entry.dose == dose]
        findings.append(
            Finding(
                f"copies, planted at {dose:g} of the dose",
                float(np.median(values)),
                f"median over {len(values)} prompts",
            )
        )
    return findings


def _harmlessness(model: Model, settings: GenerationSettings) -> list[Finding]:
    everything = Neurons.of(pair for entry in planted() for pair in entry.neurons)
    texts = captions("test")[:: len(captions("test")) // QUALITY_PROMPTS][:QUALITY_PROMPTS]
    values = []
    for text in texts:
        before, after = (
            generate(model, text, settings=settings),
            generate(model, text, everything, settings=settings),
        )
        values.append(float(np.median(pixel_correlation(before, after))))
    detail = f"median over {len(texts)} prompts, all {len(everything)} memory neurons off"
    return [
        _at_least(
            "unmemorized prompts: correlation with the image before",
            float(np.median(values)),
            0.9,
            detail,
        )
    ]


def _localization(
    model: Model,
    statistics: Statistics,
    threshold: Threshold,
    settings: GenerationSettings,
) -> list[Finding]:
    found = {
        entry: _localize(model, entry, statistics, threshold)
        for entry in planted()
        if entry.mode != "rare"
    }
    findings = []
    for kind in ("VM", "TM"):
        owning = {
            entry: record
            for entry, record in found.items()
            if entry.prompt.kind == kind and entry.neurons
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
        median = float(np.median(precision)) if precision else 0.0
        if kind == "VM":
            findings.append(
                _at_least(
                    "localization, VM with known neurons: detected, floor not reached",
                    share,
                    0.9,
                    counted,
                )
            )
            findings.append(
                _at_least(
                    "localization, VM with known neurons: precision",
                    median,
                    0.8,
                    f"median over {len(precision)} prompts",
                )
            )
        else:
            findings.append(
                Finding(
                    "localization, TM with known neurons: detected, floor not reached",
                    share,
                    counted,
                )
            )
            findings.append(
                Finding(
                    "localization, TM with known neurons: precision",
                    median,
                    f"median over {len(precision)} prompts",
                )
            )
        findings.append(
            Finding(
                f"localization, {kind} with known neurons: recall",
                float(np.median(recall)) if recall else 0.0,
                f"median over {len(recall)} prompts",
            )
        )
    natural = {
        entry: record for entry, record in found.items() if not entry.neurons and record.memorized
    }
    floor = sum(bool(record.theta_exhausted) for record in natural.values())
    findings.append(
        Finding(
            "localization, natural plants: floor reached",
            floor / max(1, len(natural)),
            f"{floor} of {len(natural)} detected",
        )
    )
    if natural:
        after = [
            copy_correlation(model, entry, record.neurons, settings)
            for entry, record in natural.items()
        ]
        count = np.median([len(record.neurons) for record in natural.values()])
        detail = f"median over {len(natural)} prompts, {count:g} neurons off"
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
    """Measure how similar a seed stays to itself with every value neuron off.

    The paper's criterion can work where this is below tau.
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
        f"tau {threshold.tau:.3f}"
    )
    return [Finding("floor of the criterion unblocked", float(np.median(values)), detail)]


def _size_and_speed(model: Model, settings: GenerationSettings) -> list[Finding]:
    size = sum(file.stat().st_size for file in ASSETS.rglob("*.safetensors"))
    ten = replace(settings, images=10, batch=10, steps=30)
    began = time.perf_counter()
    generate(model, captions("test")[0], settings=ten)
    seconds = (time.perf_counter() - began) / ten.images
    return [
        _at_most(
            "all weights, MB", size / 1e6, LARGEST_WEIGHTS / 1e6, "safetensors files in the package"
        ),
        _at_most(
            "seconds per image",
            seconds,
            1.5,
            f"{ten.steps} steps with guidance in a batch of 10, {torch.get_num_threads()} threads",
        ),
    ]
