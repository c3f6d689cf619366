"""Detection and localization of one prompt: noise differences, seed filter, initial selection, refinement."""

from __future__ import annotations

import time
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from unmemorize._model import Model
from unmemorize._prompts import Prompt, as_prompt
from unmemorize._similarity import NoiseSettings, Probe, highest_similarity, make_probe, noise_differences, pairs_of, pairwise_similarity
from unmemorize._statistics import Statistics, activations
from unmemorize._threshold import Threshold
from unmemorize._value_layers import select_value_layers
from unmemorize.localization._evaluator import Evaluator
from unmemorize.localization._records import Detection, Localization
from unmemorize.localization._refinement import refine
from unmemorize.localization._selection import select
from unmemorize.localization._settings import LocalizationSettings


def detect(pipe: DiffusionPipeline, prompt: str | Prompt, *, threshold: Threshold, settings: NoiseSettings | None = None) -> Detection:
    """Tell whether a prompt is memorized: at least one seed resembles another more than tau.

    Args:
        pipe: a loaded pipeline.
        prompt: the prompt.
        threshold: calibrated for this model under the same settings.
        settings: of the noise differences; by default the threshold's own.

    Raises:
        ThresholdError: the threshold belongs to another model or other settings.
    """
    model, settings = Model(pipe), settings or threshold.settings
    threshold.check(model, settings)
    return _detect(model, as_prompt(prompt), threshold.tau, settings)[0]


def localize(
    pipe: DiffusionPipeline,
    prompt: str | Prompt,
    *,
    statistics: Statistics,
    threshold: Threshold,
    settings: LocalizationSettings | None = None,
) -> Localization:
    """Find the neurons that carry the image a prompt has memorized (paper, section 3).

    Args:
        pipe: a loaded pipeline.
        prompt: the prompt.
        statistics: of this model.
        threshold: calibrated for this model under the same noise settings.
        settings: how to localize; by default the paper's way.

    Returns:
        The record of the localization; its ``neurons`` are empty when the prompt is not memorized.

    Raises:
        StatisticsError: the statistics belong to another model.
        ThresholdError: the threshold belongs to another model or other settings, or has none for the criterion "seeds".
    """
    began = time.perf_counter()
    model, settings = Model(pipe), settings or LocalizationSettings(noise=threshold.settings)
    searched = select_value_layers(model.value_layers, settings.layers)
    statistics.check(model, searched)
    threshold.check(model, settings.noise)
    tau = threshold.of_criterion(settings.criterion)
    filtering = threshold.tau if settings.seed_threshold is None else settings.seed_threshold
    detection, probe, differences = _detect(model, as_prompt(prompt), filtering, settings.noise)
    common: dict[str, Any] = {
        "prompt": detection.prompt,
        "group": detection.group,
        "detection": detection,
        "criterion": settings.criterion,
        "protocol": settings.noise.protocol,
        "kernel": threshold.kernel,
    }
    if not detection.memorized:
        return Localization(**common, evaluations=detection.evaluations, seconds=time.perf_counter() - began)
    kept = list(detection.kept)
    evaluator = Evaluator(model, probe.keep(kept), differences[kept], settings)
    activation = {path: value[0].cpu() for path, value in activations(model, probe.text).items() if path in searched}
    z_scores = statistics.z_scores(activation)
    initial_tau = tau if settings.initial_threshold is None else settings.initial_threshold
    refinement_tau = tau if settings.refinement_threshold is None else settings.refinement_threshold
    selection = select(evaluator, z_scores, activation, initial_tau, settings)
    refinement = refine(evaluator, selection, refinement_tau, settings)
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
        floor=selection.floor,
        z_scores={path: tuple(z_scores[path][list(indices)].tolist()) for path, indices in refinement.neurons.layers.items()},
        evaluations=detection.evaluations + evaluator.evaluations,
        seconds=time.perf_counter() - began,
    )


def _detect(model: Model, prompt: Prompt, tau: float, settings: NoiseSettings) -> tuple[Detection, Probe, Tensor]:
    began = time.perf_counter()
    probe = make_probe(model, model.encode([prompt.text]), settings)
    differences = noise_differences(model, probe, settings.guidance)
    matrix = pairwise_similarity(differences)
    highest = highest_similarity(matrix)
    detection = Detection(
        prompt=prompt.text,
        group=prompt.group,
        score=float(highest.max()),
        mean=float(pairs_of(matrix).mean()),
        tau=tau,
        kept=tuple(torch.nonzero(highest > tau).flatten().tolist()),
        evaluations=settings.seeds * settings.samples,
        seconds=time.perf_counter() - began,
    )
    return detection, probe, differences
