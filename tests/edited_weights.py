"""An evaluator beside the same answers by whole forwards of a model with edited weights."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from diffusers import DiffusionPipeline
from torch import Tensor

from conftest import PLANTED_PROMPT
from unmemorize import Model, Neurons, NoiseSettings
from unmemorize.detection import make_probe, similarity
from unmemorize.localization import Criterion, Evaluator
from unmemorize.localization._meter import Meter
from unmemorize.localization._passes import Passes

SEEDS = 6


def double(pipe: DiffusionPipeline) -> DiffusionPipeline:
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        module.double()
    return pipe


class Case:
    """An evaluator, and the same answers by whole forwards of a model with edited weights."""

    def __init__(
        self,
        model: Model,
        criterion: Criterion = "unblocked",
        guidance: float = 0.0,
        scale: float = 0.0,
        seeds: tuple[int, ...] = (0, 2, 3, 5),
    ) -> None:
        self.model, self.criterion, self.seeds = model, criterion, list(seeds)
        self.guidance, self.scale = guidance, scale
        self.layers = [path for path in model.value_layers if not path.startswith("up")]
        noise = NoiseSettings(seeds=SEEDS, guidance=guidance)
        self.probe = make_probe(model, model.encode([PLANTED_PROMPT]), noise)
        self.meter = Meter()
        self.passes = Passes(model, self.probe, self.layers, scale, self.meter)
        self.unblocked = self.passes.run(Neurons(), range(SEEDS))
        self.passes.keep(self.unblocked)
        self.evaluator = Evaluator(self.passes, self.unblocked, seeds, criterion)

    def differences(
        self, off: Neurons, gates: dict[tuple[str, int], float] | None = None
    ) -> Tensor:
        """Noise differences of the memorized seeds with rows of weights multiplied."""
        model, latents = self.model, self.probe.latents[self.seeds]
        weights = {
            path: layer.weight.detach().clone() for path, layer in model.value_layers.items()
        }
        for path, index in off:
            factor = (gates or {}).get((path, index), self.scale)
            model.value_layers[path].weight.data[index] *= factor
        texts = [PLANTED_PROMPT] * len(latents)
        noise = model.predict(latents, self.probe.timestep, model.encode(texts))
        if self.guidance:
            nothing = model.encode([""] * len(latents))
            unconditional = model.predict(latents, self.probe.timestep, nothing)
            noise = self.guidance * noise + (1 - self.guidance) * unconditional
        for path, weight in weights.items():
            model.value_layers[path].weight.data.copy_(weight)
        flat = (noise - latents.float()).flatten(2)
        low, high = flat.min(2, keepdim=True).values, flat.max(2, keepdim=True).values
        return ((flat - low) / (high - low)).view_as(noise)

    def scores(self, blocked: Tensor) -> list[float]:
        """One pair after the other."""
        if self.criterion == "unblocked":
            pairs = list(zip(self.differences(Neurons()), blocked, strict=True))
        else:
            count = len(blocked)
            pairs = [(blocked[i], blocked[j]) for i in range(count) for j in range(i + 1, count)]
        return [float(similarity(one[None], other[None])) for one, other in pairs]

    def score(self, off: Neurons) -> float:
        scores = self.scores(self.differences(off))
        return max(scores) if self.criterion == "unblocked" else sum(scores) / len(scores)

    def random_sets(self, count: int) -> Iterator[Neurons]:
        rng = np.random.default_rng(0)
        for _ in range(count):
            layers = rng.choice(self.layers, rng.integers(1, 4), replace=False)
            yield Neurons(
                {
                    path: rng.choice(self.model.widths[path], 3, replace=False).tolist()
                    for path in layers
                }
            )
