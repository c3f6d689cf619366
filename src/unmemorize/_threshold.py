"""Step 2: the similarity above which seeds agree too well, calibrated on prompts that are not memorized."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from diffusers import DiffusionPipeline

from unmemorize._errors import ModelError, ThresholdError
from unmemorize._files import atomic_write, hash_texts, read_json
from unmemorize._model import Model
from unmemorize._progress import Progress, silent
from unmemorize._prompts import Prompt, as_prompts
from unmemorize._similarity import (
    NoiseSettings,
    highest_similarity,
    kernel_size,
    make_probe,
    noise_differences,
    pairs_of,
    pairwise_similarity,
)

SCHEMA = "unmemorize.threshold/1"

Reduction = Literal["pairs", "prompts"]


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Calibrated thresholds and the distribution they come from.

    Args:
        tau: the highest similarity of a seed to another above which it counts as memorized.
        tau_seeds: the mean pairwise similarity of a prompt's seeds above which they still agree (criterion "seeds").
        reduction: tau is mean + standard deviations over "pairs" (all pairs of all prompts) or over "prompts" (each one's highest pair).
        deviations: how many standard deviations.
        mean, std: of what was reduced.
        highest: per prompt its highest pair.
        means: per prompt the mean of its pairs.
        settings: of the noise differences; results under other settings refuse this threshold.
        kernel: size of the MS-SSIM kernel.
        fingerprint: of the model.
        prompts: hash of the prompts.
    """

    tau: float
    tau_seeds: float
    reduction: Reduction
    deviations: float
    mean: float
    std: float
    highest: tuple[float, ...] = field(repr=False)
    means: tuple[float, ...] = field(repr=False)
    settings: NoiseSettings
    kernel: int
    fingerprint: str
    prompts: str

    def check(self, model: Model, settings: NoiseSettings) -> None:
        """See that the threshold holds for this model and these settings.

        Raises:
            ThresholdError: it was calibrated on another model or under other settings.
        """
        if self.fingerprint != model.fingerprint:
            raise ThresholdError(
                f"the threshold is that of another model (fingerprint {self.fingerprint[:12]}, {model.name} has {model.fingerprint[:12]}). "
                f"Calibrate one for this model: unmemorize threshold --model {model.name}"
            )
        differing = [name for name, value in asdict(self.settings).items() if value != getattr(settings, name)]
        if differing:
            name = differing[0]
            raise ThresholdError(
                f"the threshold was calibrated with {name}={getattr(self.settings, name)}, "
                f"but this run has {name}={getattr(settings, name)}. "
                f"Use the same settings, or calibrate again."
            )

    def save(self, path: str | Path) -> None:
        """Write a JSON file."""
        atomic_write(Path(path), json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n", ThresholdError)

    @classmethod
    def load(cls, path: str | Path) -> Threshold:
        """Read a threshold file.

        Raises:
            ThresholdError: the file is missing or malformed.
        """
        content = read_json(Path(path), ThresholdError, "threshold file")
        if content.pop("schema", None) != SCHEMA:
            raise ThresholdError(f"{path}: not a threshold file of schema {SCHEMA}. Make it with: unmemorize threshold")
        try:
            threshold = cls(
                **{
                    **content,
                    "settings": NoiseSettings(**content["settings"]),
                    "highest": tuple(map(float, content["highest"])),
                    "means": tuple(map(float, content["means"])),
                }
            )
            numbers = (threshold.tau, threshold.tau_seeds, threshold.mean, threshold.std)
            if not all(isinstance(number, (int, float)) and np.isfinite(number) for number in numbers):
                raise ThresholdError(f"{path}: the thresholds are not numbers. Make it again with: unmemorize threshold")
        except (TypeError, KeyError, ValueError, ModelError) as problem:
            raise ThresholdError(f"{path}: malformed ({problem}). Make it again with: unmemorize threshold") from problem
        return threshold


def calibrate_threshold(
    pipe: DiffusionPipeline,
    prompts: Sequence[str | Prompt],
    *,
    settings: NoiseSettings | None = None,
    reduction: Reduction = "pairs",
    deviations: float = 1.0,
    progress: Progress = silent,
) -> Threshold:
    """Calibrate on unmemorized prompts: tau = mean + ``deviations`` standard deviations of the similarity between seeds.

    Args:
        pipe: a loaded pipeline.
        prompts: unmemorized prompts, at least two, that the statistics need not have seen.
        settings: of the noise differences.
        reduction: see `Threshold`; the paper's text allows both readings, its numbers (0.358 + 0.07) are taken over all pairs here.
        deviations: 1 in the paper.
        progress: called after each prompt.

    Raises:
        ThresholdError: fewer than two prompts, or an unknown reduction.
    """
    model, settings = Model(pipe), settings or NoiseSettings()
    texts = [prompt.text for prompt in as_prompts(prompts)]
    if len(texts) < 2:
        raise ThresholdError(f"{len(texts)} prompt(s): a threshold needs at least 2 unmemorized prompts, better 200.")
    if reduction not in ("pairs", "prompts"):
        raise ThresholdError(f"reduction {reduction!r}: unknown. Use pairs or prompts.")
    pairs = []
    for done, text in enumerate(texts, 1):
        probe = make_probe(model, model.encode([text]), settings)
        pairs.append(pairwise_similarity(noise_differences(model, probe, settings.guidance)))
        progress(done, len(texts))
    highest = torch.stack([highest_similarity(matrix).max() for matrix in pairs]).double()
    means = torch.stack([pairs_of(matrix).mean() for matrix in pairs]).double()
    reduced = torch.stack([pairs_of(matrix) for matrix in pairs]).double().flatten() if reduction == "pairs" else highest
    mean, std = float(reduced.mean()), float(reduced.std())
    return Threshold(
        tau=mean + deviations * std,
        tau_seeds=float(means.mean() + 2 * means.std()),
        reduction=reduction,
        deviations=deviations,
        mean=mean,
        std=std,
        highest=tuple(highest.tolist()),
        means=tuple(means.tolist()),
        settings=settings,
        kernel=kernel_size(min(model.latent_shape[1:])),
        fingerprint=model.fingerprint,
        prompts=hash_texts(texts),
    )
