"""Detection: is a prompt memorized? One denoiser pass per seed, and fewer where some seeds already tell."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from unmemorize._errors import ThresholdError
from unmemorize._prompts import Prompt, as_prompt
from unmemorize.detection._noise import NoiseSettings, Probe, make_probe, noise_differences
from unmemorize.detection._records import Detection
from unmemorize.detection._similarity import highest_similarity, pairs_of, pairwise_similarity
from unmemorize.detection._threshold import Threshold
from unmemorize.pipelines import Model


def detect(
    pipe: DiffusionPipeline | Model,
    prompt: str | Prompt,
    *,
    threshold: Threshold,
    settings: NoiseSettings | None = None,
    cascade: bool = False,
) -> Detection:
    """Tell whether a prompt is memorized: at least one seed resembles another more than tau.

    Args:
        pipe: a loaded pipeline.
        prompt: the prompt.
        threshold: calibrated for this model under the same settings.
        settings: of the noise differences; by default the threshold's own.
        cascade: stop after few seeds where these tell, see `Threshold.cascade`.

    Raises:
        ThresholdError: the threshold belongs to another model or other settings, or has none for a cascade.
    """
    settings = settings or threshold.settings
    return detect_prompts(
        Model.of(pipe), [as_prompt(prompt)], threshold, settings, cascade=cascade
    )[0]


def detect_prompts(
    model: Model,
    prompts: Sequence[Prompt],
    threshold: Threshold,
    settings: NoiseSettings,
    *,
    cascade: bool = False,
    batch: int = 16,
) -> list[Detection]:
    """`detect` for many prompts, with batches of ``batch`` seeds across prompts."""
    threshold.check(model, settings)
    if cascade and threshold.cascade is None:
        raise ThresholdError(
            "this threshold says nothing about when a cascade may stop. Calibrate one, or leave the cascade out."
        )
    began = time.perf_counter()
    probe = make_probe(model, model.encode([prompt.text for prompt in prompts]), settings)
    order: Sequence[int] = range(settings.seeds)
    stages: list[tuple[int, float]] = [(settings.seeds, math.inf)]
    if cascade and threshold.cascade:
        order, stages = threshold.cascade.order, [*threshold.cascade.stops, *stages]
    found: list[list[Tensor]] = [[] for _ in prompts]
    matrices: list[Tensor] = [torch.empty(0)] * len(prompts)
    is_open, done = list(range(len(prompts))), 0
    for seeds, level in stages:
        jobs = [(place, seed) for place in is_open for seed in order[done:seeds]]
        for start in range(0, len(jobs), batch):
            places, chosen = (list(part) for part in zip(*jobs[start : start + batch], strict=True))
            part = Probe(
                probe.latents[chosen], probe.timestep, probe.text.take(places), probe.guidance
            )
            for place, difference in zip(places, noise_differences(model, part), strict=True):
                found[place].append(difference)
        for place in is_open:
            matrices[place] = pairwise_similarity(torch.stack(found[place]))
        is_open = [
            place
            for place in is_open
            if level <= float(highest_similarity(matrices[place]).max()) <= threshold.tau
        ]
        done = seeds
    seconds = (time.perf_counter() - began) / len(prompts)
    return [
        detection_of(prompt, matrix, threshold.tau, len(matrix) * settings.samples, seconds, order)
        for prompt, matrix in zip(prompts, matrices, strict=True)
    ]


def detection_of(
    prompt: Prompt,
    matrix: Tensor,
    tau: float,
    evaluations: int,
    seconds: float,
    order: Sequence[int],
) -> Detection:
    """The record from the pairwise similarities (seeds, seeds) of a prompt; ``order`` says which seeds these are."""
    highest = highest_similarity(matrix)
    places = torch.nonzero(highest > tau).flatten().tolist()
    return Detection(
        prompt=prompt.text,
        group=prompt.group,
        score=float(highest.max()),
        mean=float(pairs_of(matrix).mean()),
        tau=tau,
        memorized_seeds=tuple(sorted(order[place] for place in places)),
        seeds=len(matrix),
        evaluations=evaluations,
        seconds=seconds,
    )
