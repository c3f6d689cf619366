"""Localization of one prompt: noise differences, seed filter, initial selection, refinement."""

from __future__ import annotations

from dataclasses import replace

import torch
from diffusers import DiffusionPipeline

from unmemorize._bundled import usual_for
from unmemorize._errors import ModelError, StatisticsError, ThresholdError
from unmemorize._files import refuse_other_type
from unmemorize._prompts import Prompt, as_prompt
from unmemorize.detection import (
    SEED_SIMILARITY,
    Calibration,
    Detection,
    Score,
    Threshold,
    default_threshold,
    detect_prompts,
    detection_of,
    make_probe,
    memorized_seeds,
    pairs_of,
    pairwise_similarity,
)
from unmemorize.engines import Execution, Progress, silent
from unmemorize.localization._evaluator import Evaluator
from unmemorize.localization._floor import fixed_criterion, has_floor
from unmemorize.localization._meter import Meter
from unmemorize.localization._passes import Passes
from unmemorize.localization._records import Localization
from unmemorize.localization._refinement import RefinementContext, refinement_limit
from unmemorize.localization._refinements import REFINEMENTS
from unmemorize.localization._selection import select
from unmemorize.localization._settings import Criterion, LocalizationSettings
from unmemorize.localization._why_empty import why_empty
from unmemorize.neurons import Neurons
from unmemorize.pipelines import Model, select_value_layers
from unmemorize.statistics import Statistics, activations, default_statistics


def localize(
    pipe: DiffusionPipeline | Model,
    prompt: str | Prompt,
    *,
    statistics: Statistics | None = None,
    threshold: Threshold | None = None,
    settings: LocalizationSettings | None = None,
    progress: Progress = silent,
) -> Localization:
    """Find the neurons that carry the image a prompt has memorized (paper, section 3).

    Args:
        pipe: a loaded pipeline.
        prompt: the prompt.
        statistics: activation statistics of this model; by default those kept for it, see
            `default_statistics`.
        threshold: calibrated for this model under the same noise settings; by default the one kept
            for it, see `default_threshold`, which is the published one for published settings.
        settings: how to localize. By default the paper's way, except for the refinement, and on the
            bundled model by its own criterion (`testbed.defaults`).
        progress: called after each pass with the denoiser samples so far and None, because nobody
            knows how many there will be. Before that it counts the captions of statistics and
            threshold if these have to be made.

    Returns:
        The record of the localization. Its ``neurons`` are empty if the prompt is not memorized.

    Raises:
        PromptError: the prompt is empty or neither a text nor a `Prompt`.
        StatisticsError: the statistics belong to another model, or are none.
        ThresholdError: the threshold belongs to another model, other settings or another detector,
            or has no value for the criterion "seeds".
        ModelError: a value layer does not run, or theta would take too many steps.

    Examples:
        >>> from unmemorize import load_pipeline
        >>> record = localize(load_pipeline("testbed"), "fundus photograph of healthy retina")
        >>> record.memorized, len(record.initial), [index for _, index in record.neurons]
        (True, 5, [27, 44, 59, 81])
    """
    model, prompt = Model.of(pipe), as_prompt(prompt)
    execution = Execution(progress=progress)
    if settings is not None:
        refuse_other_type(
            "settings",
            settings,
            LocalizationSettings,
            ModelError,
            "Give LocalizationSettings(...).",
        )
        settings.refuse_many_steps()
    if statistics is None:
        statistics = default_statistics(model, execution=execution)
    if threshold is None:
        threshold = default_threshold(
            model,
            settings=settings.noise if settings else None,
            calibration=Calibration.published() if settings and settings.is_published else None,
            execution=execution,
        )
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
    if settings is None:  # a published number has no value for the criterion "seeds"
        known = threshold.localize.tau_seeds is not None
        usual = usual_for(model.pipe, "criterion") if known else {}
        settings = LocalizationSettings(noise=threshold.settings, **usual)
    return localize_prompt(model, prompt, statistics, threshold, settings, progress=progress)


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
    criterion = fixed_criterion(settings, threshold.localize)

    # detection by anything but the noise differences that follow
    probe = make_probe(model, model.encode([prompt.text]), settings.noise)
    passes = Passes(model, probe, list(searched), settings.scale, meter)
    detection = None
    if threshold.detect.detector != SEED_SIMILARITY:
        (detection,) = detect_prompts(model, [prompt], threshold, settings.noise, text=probe.text)
        meter.add_forward(detection.evaluations, share=1.0)
        if not detection.memorized:
            meter.end("detection")
            return _record(detection, criterion or "unblocked", settings, threshold, passes)

    # noise differences
    unblocked = passes.run(Neurons(), range(settings.noise.seeds))
    passes.keep(unblocked)

    # detection by their similarity, and the seeds that localization may look at
    pairs = pairs_of(pairwise_similarity(unblocked.differences, settings.noise.similarity))
    similarity = Score(
        value=float(pairs.max()),
        samples=meter.evaluations,
        seeds=unblocked.seeds,
        pairs=tuple(pairs.tolist()),
    )
    above = memorized_seeds(
        similarity, _first_given(settings.seed_threshold, threshold.localize.tau)
    )
    seeds = above or unblocked.seeds
    if detection is None:
        detection = detection_of(
            prompt,
            similarity,
            settings.detection_level(threshold.detect).tau,
            meter.seconds,
            similarity=settings.noise.similarity,
        )
    meter.end("detection")
    if not detection.memorized:
        return _record(detection, criterion or "unblocked", settings, threshold, passes)

    # criterion
    definition = settings.noise.similarity
    floor = None
    if criterion is None:
        floor = has_floor(passes, unblocked, seeds, searched, threshold.localize.tau, definition)
        criterion = "seeds" if floor else "unblocked"
        meter.end("criterion")
    settings = replace(settings, criterion=criterion)
    tau = threshold.localize.of_criterion(criterion)

    # initial selection
    evaluator = Evaluator(passes, unblocked, seeds, criterion, definition)
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
        _record(detection, criterion, settings, threshold, passes),
        floor=floor,
        seeds=seeds,
        seeds_unfiltered=not above,
        initial=selection.neurons,
        neurons=refinement.neurons,
        why_empty="" if refinement.neurons else why_empty(selection, refinement, limit),
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
        effects=refinement.effects,
        trials={
            "selection": selection_trials,
            "refinement": tuple(evaluator.trials[len(selection_trials) :]),
        },
        differences=evaluator.differences(refinement.neurons),
    )


def _record(
    detection: Detection,
    criterion: Criterion,
    settings: LocalizationSettings,
    threshold: Threshold,
    passes: Passes,
) -> Localization:
    """Make the record of a prompt that is not memorized, with the work spent so far."""
    meter = passes.meter
    return Localization(
        prompt=detection.prompt,
        group=detection.group,
        detection=detection,
        criterion=criterion,
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
