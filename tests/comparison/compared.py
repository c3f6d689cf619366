"""A small comparison on a tiny random pipeline, whose own images serve as training images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import DiffusionPipeline

from colours import Pixels, noise
from unmemorize import (
    GenerationSettings,
    LocalizationSettings,
    MitigationError,
    Model,
    ModelError,
    NoiseSettings,
    Prompt,
    Run,
    calibrate_threshold,
    compute_statistics,
    open_run,
)
from unmemorize.comparison import (
    Comparison,
    ComparisonCaptions,
    ComparisonInputs,
    ComparisonRun,
    ComparisonSettings,
    chosen_methods,
    compare_all,
)
from unmemorize.detection import Anisotropy, Detector, NoiseMagnitude, Score, Trace
from unmemorize.generation import generate_each
from unmemorize.methods import Mitigation, Suspect
from unmemorize.mitigation import derived_seed

SETTINGS = ComparisonSettings(
    seeds=3,
    images=5,
    null_images=19,
    false_copies=0.05,
    noise=NoiseSettings(seeds=2),
    localization=LocalizationSettings(criterion="unblocked"),
    generation=GenerationSettings(steps=2, guidance=3.0, batch=8),
)
CAPTIONS = ComparisonCaptions.halves([f"{a}{b} cat" for a in "abcde" for b in "vwxy"])
TEXTS = ("a red cat", "a blue cat", "a green cat")
GROUPS = ("natural", "planted", "planted")


class Colours:
    """A CLIP: the mean colour of an image, and for a text its length."""

    name, digest = "colours", "c" * 64

    def features(self, images: Any) -> torch.Tensor:
        return torch.stack(
            [torch.tensor(np.asarray(image, np.float32).mean((0, 1))) for image in images]
        )

    def alignment(self, features: torch.Tensor, texts: Sequence[str]) -> torch.Tensor:
        lengths = torch.tensor([float(len(text)) for text in texts])
        return features[:, 0] / 255 - lengths / 100

    def __call__(self, images: Any, text: str) -> torch.Tensor:
        return self.alignment(self.features(images), [text])


class Refusing:
    """A detector that does not work on this model."""

    name = "refusing"

    def score(self, trace: Trace) -> Sequence[Score]:
        raise ModelError(f"{trace.model.name}: has no such thing. Use another model.")


@dataclass(frozen=True)
class Unable:
    """A method that works on one prompt alone."""

    name: ClassVar[str] = "unable"
    grid: ClassVar[tuple[float, ...]] = (1.0,)

    strength: float = 1.0
    works_on: str = ""

    def fit(self, model: Model, suspect: Suspect) -> Any:
        if suspect.prompt.text == self.works_on:
            return chosen_methods("random-tokens=1")[0]
        raise MitigationError("unable: this model has no such thing. Use another one.")


DETECTORS: tuple[Detector, ...] = (NoiseMagnitude(seeds=1), Anisotropy(seeds=1), Refusing())
METHODS: tuple[Mitigation, ...] = (
    *chosen_methods("random-tokens=1,random-tokens=4,neurons=1"),
    Unable(works_on=TEXTS[0]),
)


def make_inputs(model: Model) -> ComparisonInputs:
    """Inputs with statistics and a threshold that lets every prompt pass."""
    statistics = compute_statistics(model, [f"word {number}" for number in range(12)])
    threshold = calibrate_threshold(
        model, ["one", "two", "three"], detector="seed-similarity", settings=NoiseSettings(seeds=2)
    )
    low = replace(threshold, localize=replace(threshold.localize, tau=0.01))
    return ComparisonInputs(
        captions=CAPTIONS,
        descriptor=Pixels(),
        clip=Colours(),  # type: ignore[arg-type]
        statistics=statistics,
        threshold=low,
    )


def make_suspects(model: Model, folder: Path) -> list[Prompt]:
    """Three suspects. The first two copy images that the model itself draws of them."""
    suspects = []
    for index, text in enumerate(TEXTS):
        files = []
        for number in range(3):
            files.append(folder / f"{index}-{number}.png")
            if text == TEXTS[2]:
                noise(5 + number, (16, 16)).save(files[-1])
                continue
            ((image,),) = generate_each(
                model,
                [text],
                [None],
                settings=replace(SETTINGS.generation, images=1),
                seeds=[derived_seed("search", model.fingerprint, text, number)],
            )
            image.save(files[-1])
        kind: Any = "TM" if index == 1 else "VM"
        used = files[:1] if index == 1 else files
        suspects.append(Prompt(text, kind, images=tuple(used), group=GROUPS[index]))
    return suspects


def compare(
    pipe: DiffusionPipeline,
    folder: Path,
    suspects: Sequence[Prompt],
    inputs: ComparisonInputs,
    *,
    detectors: Sequence[Detector] = DETECTORS,
    methods: Sequence[Mitigation] = METHODS,
    **more: Any,
) -> tuple[Comparison, Run]:
    """Compare on a tiny pipeline."""
    model = Model(pipe)
    run = open_run(folder, model, suspects, ComparisonRun.of(SETTINGS, inputs))
    return (
        compare_all(run, model, inputs, detectors=detectors, methods=methods, **more),
        run,
    )
