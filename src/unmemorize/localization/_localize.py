"""Localization of one prompt: noise differences, seed filter, initial selection, refinement."""

from __future__ import annotations

from dataclasses import replace

import torch
from diffusers import DiffusionPipeline

from unmemorize._errors import ModelError, StatisticsError, ThresholdError
from unmemorize._files import refuse_other_type
from unmemorize._prompts import Prompt, as_prompt
from unmemorize.detection import (
    Detection,
    Score,
    SimilarityName,
    Threshold,
    detection_of,
    make_probe,
    pairs_of,
    pairwise_similarity,
)
from unmemorize.engines import Progress, silent
from unmemorize.localization._evaluator import Evaluator
from unmemorize.localization._meter import Meter
from unmemorize.localization._passes import Pass, Passes
from unmemorize.localization._records import Localization
from unmemorize.localization._refinement import RefinementContext, refinement_limit
from unmemorize.localization._refinements import REFINEMENTS
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
        statistics: activation statistics of this model.
        threshold: calibrated for this model under the same noise settings.
        settings: how to localize. By default the paper's way, with the faster refinement.
        progress: called after each pass with the denoiser samples so far and None, because nobody
            knows how many there will be.

    Returns:
        The record of the localization. Its ``neurons`` are empty if the prompt is not memorized.

    Raises:
        PromptError: the prompt is empty or neither a text nor a `Prompt`.
        StatisticsError: the statistics belong to another model, or are none.
        ThresholdError: the threshold belongs to another model, other settings or another detector,
            or has no value for the criterion "seeds".
        ModelError: a value layer does not run.

    Examples:
        >>> from unmemorize import testbed
        >>> model = Model.load("testbed")
        >>> threshold = Threshold.load(testbed.threshold_path())
        >>> record = localize(
        ...     model,
        ...     "fundus photograph of healthy retina",
        ...     statistics=Statistics.load(testbed.statistics_path()),
        ...     threshold=threshold,
        ...     settings=LocalizationSettings(noise=threshold.settings, criterion="seeds"),
        ... )
        >>> record.memorized, record.neurons
        (True, Neurons({'down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v': (55,)}))
    """
    refuse_other_type(
        "statistics",
        statistics,
        Statistics,
        StatisticsError,
        "Load them first: Statistics.load(PATH).",
    )
    refuse_other_type(
        "threshold", threshold, Threshold, ThresholdError, "Load it first: Threshold.load(PATH)."
    )
    if settings is None:
        settings = LocalizationSettings(noise=threshold.settings)
    refuse_other_type(
        "settings", settings, LocalizationSettings, ModelError, "Give LocalizationSettings(...)."
    )
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
    """Do what `localize` does for a `Model`.

    The caller's inference mode is left because refinement may need a backward pass.
    """
    meter = Meter(progress)
    searched = select_value_layers(model.value_layers, settings.layers)
    statistics.check(model, searched)
    threshold.check(model, settings.noise)
    tau = threshold.of_criterion(settings.criterion)

    # noise differences
    probe = make_probe(model, model.encode([prompt.text]), settings.noise)
    passes = Passes(model, probe, list(searched), settings.scale, meter)
    unblocked = passes.run(Neurons(), range(settings.noise.seeds))
    passes.keep(unblocked)

    # seed filter
    seed_tau = _first_given(settings.seed_threshold, threshold.tau)
    definition = settings.noise.similarity
    detection = _filter_seeds(prompt, unblocked, seed_tau, definition, meter)
    meter.end("detection")
    if not detection.memorized:
        return _record(detection, settings, threshold, passes)

    # initial selection
    evaluator = Evaluator(
        passes, unblocked, detection.memorized_seeds, settings.criterion, definition
    )
    activation = {
        path: layer_activation[0].cpu()
        for path, layer_activation in activations(model, probe.text).items()
        if path in searched
    }
    z_scores = statistics.z_scores(activation)
    initial_tau = _first_given(settings.initial_threshold, tau)
    selection = select(evaluator, z_scores, activation, initial_tau, settings)
    meter.end("selection")
    selection_trials = tuple(evaluator.trials)

    # refinement
    refinement_tau = _first_given(settings.refinement_threshold, tau)
    limit = refinement_limit(evaluator, selection, refinement_tau, settings.relative_threshold)
    refine = REFINEMENTS[settings.refinement]
    refinement = refine(evaluator, selection, limit, RefinementContext(settings, z_scores))
    meter.end("refinement")

    return replace(
        _record(detection, settings, threshold, passes),
        initial=selection.neurons,
        neurons=refinement.neurons,
        initial_score=selection.score,
        score=refinement.score,
        tau=initial_tau,
        threshold=limit.value,
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
            "selection": selection_trials,
            "refinement": tuple(evaluator.trials[len(selection_trials) :]),
        },
        differences=evaluator.differences(refinement.neurons),
    )


def _filter_seeds(
    prompt: Prompt, unblocked: Pass, tau: float, definition: SimilarityName, meter: Meter
) -> Detection:
    """Keep the seeds whose highest similarity to another seed is above tau."""
    pairs = pairs_of(pairwise_similarity(unblocked.differences, definition))
    score = Score(
        value=float(pairs.max()),
        samples=meter.evaluations,
        seeds=unblocked.seeds,
        pairs=tuple(pairs.tolist()),
    )
    return detection_of(prompt, score, tau, meter.seconds, similarity=definition)


def _record(
    detection: Detection, settings: LocalizationSettings, threshold: Threshold, passes: Passes
) -> Localization:
    """Make the record of a prompt that is not memorized, with the work spent so far."""
    meter = passes.meter
    return Localization(
        prompt=detection.prompt,
        group=detection.group,
        detection=detection,
        criterion=settings.criterion,
        protocol=settings.noise.protocol,
        similarity=settings.noise.similarity,
        kernel=threshold.kernel,
        evaluations=meter.evaluations,
        work=meter.weighted,
        spent=meter.stages,
        recorded_bytes=passes.prefixes.peak,
        seconds=meter.seconds,
    )


def _first_given(value: float | None, default: float) -> float:
    return default if value is None else value
