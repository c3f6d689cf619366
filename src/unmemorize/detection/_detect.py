"""Detection: is a prompt memorized? A few denoiser passes tell."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from itertools import combinations

import torch
from diffusers import DiffusionPipeline

from unmemorize._errors import ThresholdError
from unmemorize._files import refuse_other_type
from unmemorize._prompts import Prompt, as_prompt
from unmemorize.detection._cascade import Stop
from unmemorize.detection._detector import Detector, Score, watched_by
from unmemorize.detection._detectors import as_detector
from unmemorize.detection._kept import default_threshold
from unmemorize.detection._noise import NoiseSettings
from unmemorize.detection._records import Detection
from unmemorize.detection._seed_similarity import SeedSimilarity
from unmemorize.detection._similarity import SimilarityName
from unmemorize.detection._threshold import SEED_SIMILARITY, Threshold
from unmemorize.detection._trace import Trace
from unmemorize.pipelines import Conditioning, Model


def detect(
    pipe: DiffusionPipeline | Model,
    prompt: str | Prompt,
    *,
    detector: str | Detector | None = None,
    threshold: Threshold | None = None,
    settings: NoiseSettings | None = None,
    stop: Stop = "decided",
) -> Detection:
    """Tell whether a prompt is memorized: its score is above the threshold.

    With seed similarity (paper, section 3.1) that is when the noise differences of at least two
    seeds are more alike than tau.

    Args:
        pipe: a loaded pipeline.
        prompt: the prompt.
        detector: the name of a detector, or one with settings of its own; by default that of the
            threshold, or `default_detector`.
        threshold: calibrated for this model under the same settings; by default the one kept for
            it, see `default_threshold`.
        settings: how noise differences are made; by default as for the threshold.
        stop: when to stop looking at seeds, see `DetectionLevel.cascade`. "decided" stops once the
            verdict is known. "cleared" also looks at all seeds of memorized prompts. "never" looks
            at all seeds of every prompt, which gives every score and every memorized seed. All
            seeds are looked at where the threshold has no cascade.

    Raises:
        PromptError: the prompt is empty or neither a text nor a `Prompt`.
        ThresholdError: the threshold belongs to another model, detector or other settings, is
            none, or cannot be kept.
        ModelError: the model has nothing that the detector looks at.

    Examples:
        >>> from unmemorize import load_pipeline
        >>> pipe = load_pipeline("testbed")
        >>> detect(pipe, "chelsea the ginger tabby stares").memorized
        True
    """
    model = Model.of(pipe)
    prompts = [as_prompt(prompt)]
    if threshold is None:
        threshold = default_threshold(model, detector=detector, settings=settings)
    refuse_other_type(
        "threshold", threshold, Threshold, ThresholdError, "Load it first: Threshold.load(PATH)."
    )
    if detector is not None:
        threshold.detect.check(as_detector(detector))
    if settings is None:
        settings = threshold.settings
    refuse_other_type(
        "settings", settings, NoiseSettings, ThresholdError, "Give those of the threshold."
    )
    return detect_prompts(model, prompts, threshold, settings, stop=stop)[0]


@torch.inference_mode(False)
def detect_prompts(
    model: Model,
    prompts: Sequence[Prompt],
    threshold: Threshold,
    settings: NoiseSettings,
    *,
    stop: Stop = "decided",
    batch: int = 16,
    text: Conditioning | None = None,
) -> list[Detection]:
    """Do the same as `detect` for several prompts, ``batch`` denoiser samples at a time.

    Prompts that are encoded already can be given as ``text``, too. The caller's inference mode is
    left because some detectors take derivatives.
    """
    threshold.check(model, settings)
    detector = _detector(threshold, stop)
    began = time.perf_counter()
    texts = [prompt.text for prompt in prompts]
    watched = watched_by(detector)
    trace = Trace(model, texts, settings, batch=batch, watched=watched, text=text)
    scores = detector.score(trace)
    seconds = (time.perf_counter() - began) / len(prompts)
    return [
        detection_of(
            prompt,
            score,
            threshold.detect.tau,
            seconds,
            detector=threshold.detect.detector,
            similarity=settings.similarity,
        )
        for prompt, score in zip(prompts, scores, strict=True)
    ]


def detection_of(
    prompt: Prompt,
    score: Score,
    tau: float,
    seconds: float,
    *,
    detector: str = SEED_SIMILARITY,
    similarity: SimilarityName = "fixed",
) -> Detection:
    """Make the record of a prompt from its score."""
    return Detection(
        prompt=prompt.text,
        group=prompt.group,
        detector=detector,
        similarity=similarity,
        score=score.value,
        tau=tau,
        memorized=score.value > tau,
        seeds=len(score.seeds),
        memorized_seeds=memorized_seeds(score, tau),
        mean=sum(score.pairs) / len(score.pairs) if score.pairs else None,
        evaluations=score.samples,
        shared_evaluations=score.shared,
        seconds=seconds,
    )


def memorized_seeds(score: Score, tau: float) -> tuple[int, ...]:
    """Return the seeds whose similarity to some other seed is above tau."""
    if not score.pairs:
        return ()
    pairs = zip(combinations(score.seeds, 2), score.pairs, strict=True)
    return tuple(sorted({seed for pair, value in pairs if value > tau for seed in pair}))


def _detector(threshold: Threshold, stop: Stop) -> Detector:
    level = threshold.detect
    if level.cascade is None or stop == "never":
        return level.made()
    return SeedSimilarity(level.cascade, level.tau if stop == "decided" else math.inf)
