"""Localization of one prompt: noise differences, seed filter, initial selection, refinement."""

from __future__ import annotations

import time
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from unmemorize._progress import Progress, silent
from unmemorize._prompts import Prompt, as_prompt
from unmemorize.detection import (
    Detection,
    NoiseSettings,
    Probe,
    Score,
    Threshold,
    detection_of,
    make_probe,
    pairs_of,
    pairwise_similarity,
)
from unmemorize.localization._bisection import refine_by_bisection
from unmemorize.localization._evaluator import Evaluator
from unmemorize.localization._prefixes import Prefixes, Work
from unmemorize.localization._records import Localization
from unmemorize.localization._refinement import refine_greedily, refinement_limit
from unmemorize.localization._selection import select
from unmemorize.localization._settings import LocalizationSettings
from unmemorize.neurons import Neurons
from unmemorize.pipelines import Model, select_value_layers
from unmemorize.statistics import Statistics, activations


def localize(
    pipe: DiffusionPipeline | Model,
    prompt: str | Prompt,
    *,
    statistics: Statistics,
    threshold: Threshold,
    settings: LocalizationSettings | None = None,
    progress: Progress = silent,
) -> Localization:
    """Find the neurons that carry the image a prompt has memorized (paper, section 3).

    Args:
        pipe: a loaded pipeline.
        prompt: the prompt.
        statistics: of this model.
        threshold: calibrated for this model under the same noise settings.
        settings: how to localize; by default the paper's way.
        progress: called with the denoiser samples so far, after each pass; nobody knows how many there will be.

    Returns:
        The record of the localization; its ``neurons`` are empty when the prompt is not memorized.

    Raises:
        StatisticsError: the statistics belong to another model.
        ThresholdError: the threshold belongs to another model or other settings, or has none for the criterion "seeds".
    """
    settings = settings or LocalizationSettings(noise=threshold.settings)
    return localize_prompt(
        Model.of(pipe), as_prompt(prompt), statistics, threshold, settings, progress=progress
    )


@torch.inference_mode(False)
def localize_prompt(
    model: Model,
    prompt: Prompt,
    statistics: Statistics,
    threshold: Threshold,
    settings: LocalizationSettings,
    *,
    progress: Progress = silent,
) -> Localization:
    """`localize` for a `Model`, whose weights are looked at once for many prompts; no inference mode, since it differentiates."""
    work = Work(progress)
    searched = select_value_layers(model.value_layers, settings.layers)
    statistics.check(model, searched)
    threshold.check(model, settings.noise)
    tau = threshold.of_criterion(settings.criterion)
    filtering = threshold.tau if settings.seed_threshold is None else settings.seed_threshold
    prefixes = Prefixes(model, list(searched), work)
    detection, probe, differences = _detect(model, prompt, filtering, settings.noise, prefixes)
    common: dict[str, Any] = {
        "prompt": detection.prompt,
        "group": detection.group,
        "detection": detection,
        "criterion": settings.criterion,
        "protocol": settings.noise.protocol,
        "kernel": threshold.kernel,
    }
    work.end("detection")
    if not detection.memorized:
        return Localization(**common, **_spent(work, prefixes))
    evaluator = Evaluator(
        model, probe, differences, detection.memorized_seeds, settings, prefixes, work
    )
    activation = {
        path: value[0].cpu()
        for path, value in activations(model, probe.text).items()
        if path in searched
    }
    z_scores = statistics.z_scores(activation)
    initial_tau = tau if settings.initial_threshold is None else settings.initial_threshold
    refinement_tau = tau if settings.refinement_threshold is None else settings.refinement_threshold
    selection = select(evaluator, z_scores, activation, initial_tau, settings)
    work.end("selection")
    selected = len(evaluator.trials)
    limit = refinement_limit(evaluator, selection, refinement_tau, settings.relative_threshold)
    if settings.refinement == "greedy":
        refinement = refine_greedily(evaluator, selection, limit, settings)
    else:
        ranking = {(path, index): float(z_scores[path][index]) for path, index in selection.neurons}
        refinement = refine_by_bisection(evaluator, selection, limit, ranking)
    work.end("refinement")
    return Localization(
        **common,
        initial=selection.neurons,
        neurons=refinement.neurons,
        initial_score=selection.score,
        score=refinement.score,
        tau=initial_tau,
        threshold=refinement.threshold,
        theta=selection.theta,
        top_k=selection.top_k,
        theta_exhausted=selection.theta_exhausted,
        z_scores={
            path: tuple(z_scores[path][list(indices)].tolist())
            for path, indices in refinement.neurons.layers.items()
        },
        refinement=settings.refinement,
        minimal=refinement.minimal,
        trials={
            "selection": tuple(evaluator.trials[:selected]),
            "refinement": tuple(evaluator.trials[selected:]),
        },
        differences=evaluator.differences(refinement.neurons),
        **_spent(work, prefixes),
    )


def _spent(work: Work, prefixes: Prefixes) -> dict[str, Any]:
    counted = {"evaluations": work.evaluations, "work": work.weighted, "spent": work.stages}
    return {**counted, "recorded_bytes": prefixes.peak, "seconds": work.seconds}


def _detect(
    model: Model, prompt: Prompt, tau: float, settings: NoiseSettings, prefixes: Prefixes
) -> tuple[Detection, Probe, Tensor]:
    began = time.perf_counter()
    probe = make_probe(model, model.encode([prompt.text]), settings)
    seeds = list(range(settings.seeds))
    differences, recorded = prefixes.differences(probe, seeds, Neurons())
    prefixes.keep("unblocked", [recorded])
    pairs = pairs_of(pairwise_similarity(differences))
    score = Score(
        value=float(pairs.max()),
        samples=settings.seeds * settings.samples,
        seeds=tuple(seeds),
        pairs=tuple(pairs.tolist()),
    )
    detection = detection_of(prompt, score, tau, time.perf_counter() - began)
    if detection.memorized:
        prefixes.verify(probe, seeds, differences)
    return detection, probe, differences
