"""Detection and localization of one prompt: noise differences, seed filter, initial selection, refinement."""

from __future__ import annotations

import time
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from unmemorize._model import Model
from unmemorize._prompts import Prompt, as_prompts
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
    return _detect(model, as_prompts(prompt)[0], threshold, settings)[0]


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
        ThresholdError: the threshold belongs to another model or other settings.
    """
    began = time.perf_counter()
    model, settings = Model(pipe), settings or LocalizationSettings(noise=threshold.settings)
    statistics.check(model)
    threshold.check(model, settings.noise)
    searched = select_value_layers(model.value_layers, settings.layers)
    detection, probe, differences = _detect(model, as_prompts(prompt)[0], threshold, settings.noise)
    common: dict[str, Any] = {
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
    tau = threshold.tau_seeds if settings.criterion == "seeds" else threshold.tau
    selection = select(evaluator, z_scores, activation, tau, settings)
    refinement = refine(evaluator, selection, tau, settings.noise.protocol)
    return Localization(
        **common,
        initial=selection.neurons,
        neurons=refinement.neurons,
        initial_score=selection.score,
        score=refinement.score,
        tau=tau,
        threshold=selection.score if selection.floor else tau,
        theta=selection.theta,
        top_k=selection.top_k,
        floor=selection.floor,
        z_scores={path: tuple(z_scores[path][list(indices)].tolist()) for path, indices in refinement.neurons.layers.items()},
        evaluations=detection.evaluations + evaluator.evaluations,
        seconds=time.perf_counter() - began,
    )


def _detect(model: Model, prompt: Prompt, threshold: Threshold, settings: NoiseSettings) -> tuple[Detection, Probe, Tensor]:
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
        tau=threshold.tau,
        kept=tuple(torch.nonzero(highest > threshold.tau).flatten().tolist()),
        evaluations=settings.seeds * settings.samples,
        seconds=time.perf_counter() - began,
    )
    return detection, probe, differences
