"""What detectors look at: predictions of the denoiser for some prompts, each computed once.

Several detectors that share a trace cost as much as the one that needs most.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unmemorize.detection._noise import NoiseSettings, evaluated_timestep, rescaled
from unmemorize.pipelines import Guidance, Model


class Trace:
    """Predictions for a batch of prompts and the seeds of `NoiseSettings`, computed when needed.

    Args:
        model: the model.
        texts: the prompts.
        settings: seeds, timestep and guidance.
        batch: denoiser samples per pass, across prompts and seeds.
    """

    def __init__(
        self, model: Model, texts: Sequence[str], settings: NoiseSettings, *, batch: int = 16
    ) -> None:
        self.settings = settings
        self._model, self._batch = model, batch
        self._text = model.encode(texts)
        self._guidance = model.guidance(settings.guidance)
        self._latents = model.draw_latents(settings.seeds, settings.seed)
        self._timestep = evaluated_timestep(model, settings)
        self._conditional: dict[tuple[int, int], Tensor] = {}
        self._guided = self._conditional if self._guidance is None else {}
        self._unconditional: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._text)

    def noise_differences(self, pairs: Sequence[tuple[int, int]]) -> Tensor:
        """Return noise differences in [0, 1], see `unmemorize.detection.noise_differences`.

        Args:
            pairs: (prompt, seed) for each one.

        Returns:
            float32 of shape (pairs, C, H, W), under the settings' guidance.
        """
        self._predict(pairs, self._guidance, self._guided)
        prediction = torch.stack([self._guided[pair] for pair in pairs])
        latents = self._latents[[seed for _, seed in pairs]]
        return rescaled(self._model.difference(prediction, latents, self._timestep))

    def text_differences(self, pairs: Sequence[tuple[int, int]]) -> Tensor:
        """Return what the text changes: the difference with the prompt minus without.

        For a model that predicts noise this is eps(x, y) - eps(x, ""). For others it is the same in
        the space of the clean image, see `Model.difference`.

        Args:
            pairs: (prompt, seed) for each one.

        Returns:
            float32 of shape (pairs, C, H, W).
        """
        self._predict(pairs, None, self._conditional)
        seeds = [seed for _, seed in pairs]
        self._predict_unconditional(sorted({*seeds} - self._unconditional.keys()))
        latents = self._latents[seeds]
        conditional = torch.stack([self._conditional[pair] for pair in pairs])
        unconditional = torch.stack([self._unconditional[seed] for seed in seeds])
        difference = self._model.difference
        return difference(conditional, latents, self._timestep) - difference(
            unconditional, latents, self._timestep
        )

    def _predict(
        self,
        pairs: Sequence[tuple[int, int]],
        guidance: Guidance | None,
        known: dict[tuple[int, int], Tensor],
    ) -> None:
        """Add the predictions of those pairs that are not known yet."""
        missing = [pair for pair in pairs if pair not in known]
        for start in range(0, len(missing), self._batch):
            some = missing[start : start + self._batch]
            prompts, seeds = (list(indices) for indices in zip(*some, strict=True))
            latents, text = self._latents[seeds], self._text.take(prompts)
            prediction = self._model.predict(latents, self._timestep, text, guidance=guidance)
            known |= zip(some, prediction, strict=True)

    def _predict_unconditional(self, seeds: Sequence[int]) -> None:
        """Predict without text once for each seed: it is the same for every prompt."""
        if not seeds:
            return
        empty = self._model.encode([""])
        for start in range(0, len(seeds), self._batch):
            some = list(seeds[start : start + self._batch])
            prediction = self._model.predict(
                self._latents[some], self._timestep, empty.take([0] * len(some))
            )
            self._unconditional |= zip(some, prediction, strict=True)
