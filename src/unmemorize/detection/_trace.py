"""What detectors look at: what the denoiser makes of some prompts, each thing computed once.

Several detectors that share a trace cost as much as the one that needs most.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from unmemorize._prompts import Prompt, as_prompts
from unmemorize.detection._end_tokens import end_tokens
from unmemorize.detection._moment import Moment
from unmemorize.detection._noise import NoiseSettings, evaluated_step, rescaled
from unmemorize.detection._watched import AttentionRecord, Watched, watchable_attentions
from unmemorize.detection._without_text import known_without_text, refuse_distilled
from unmemorize.pipelines import (
    Conditioning,
    Model,
    NoiseLevel,
    stepper,
    without_text,
)

Sample = tuple[int | None, int]
"""A prompt and a seed; None for the prediction without text that all prompts share."""


class Trace:
    """What the denoiser makes of a batch of prompts, computed when a detector asks for it.

    Predictions without text on untouched noise depend on the seed alone. They are computed once for
    a model. All others are computed once for the trace, and kept as long as it.

    Args:
        model: a loaded pipeline, or a `Model` of it.
        texts: the prompts, as texts or `Prompt`.
        settings: the seed of all initial noises, and how noise differences are made.
        batch: denoiser samples per pass, across prompts and seeds.
        watched: the moments at which attention will be asked for. Where they are known beforehand,
            attention is recorded in the passes that predictions take anyway.
        text: the prompts as the model encodes them, where that is done.
    """

    def __init__(
        self,
        model: DiffusionPipeline | Model,
        texts: Sequence[str | Prompt],
        settings: NoiseSettings | None = None,
        *,
        batch: int = 16,
        watched: Iterable[Moment] = (),
        text: Conditioning | None = None,
    ) -> None:
        self.model = model = Model.of(model)
        self.settings = settings or NoiseSettings()
        self._texts, self._batch = [prompt.text for prompt in as_prompts(texts)], batch
        self._text = model.encode(self._texts) if text is None else text
        self._attention = Watched(model, set(watched))
        self._noise = model.draw_latents(self.settings.seeds, self.settings.seed)
        self._with: dict[Moment, dict[Sample, Tensor]] = {}
        self._without: dict[Moment, dict[Sample, Tensor]] = {}
        self._samples: dict[Moment, dict[Sample, Tensor]] = {}

    def __len__(self) -> int:
        return len(self._text)

    def noise_differences(self, pairs: Sequence[tuple[int, int]]) -> Tensor:
        """Return noise differences in [0, 1], see `unmemorize.detection.noise_differences`.

        Args:
            pairs: (prompt, seed) for each one.

        Returns:
            float32 of shape (pairs, C, H, W), under the guidance of the settings.
        """
        moment = Moment(evaluated_step(self.settings), self.settings.steps)
        prediction = self._predict(pairs, moment)
        if self.settings.guidance:
            without = self._predict_without(pairs, moment)
            prediction = without + self.settings.guidance * (prediction - without)
        difference = self.level(moment).difference(prediction, self._at(pairs, moment).float())
        return rescaled(difference)

    def predictions(self, seeds: int, moment: Moment) -> Tensor:
        """Return the raw predictions with text, (prompts, seeds, C, H, W), float32."""
        return self._grid(self._predict(self._pairs(seeds), moment))

    def unconditional(self, seeds: int, moment: Moment) -> Tensor:
        """Return the raw predictions without text, (prompts, seeds, C, H, W), float32.

        Raises:
            ModelError: the model has none.
        """
        return self._grid(self._predict_without(self._pairs(seeds), moment))

    def samples(self, seeds: int, moment: Moment) -> Tensor:
        """Return what the denoiser receives, (prompts, seeds, C, H, W), float32.

        On a guided run they are those of an ordinary run of the pipeline with this initial noise.
        """
        pairs = self._pairs(seeds)
        self._reach(pairs, moment)
        return self._grid(self._at(pairs, moment).float())

    def text_differences(self, seeds: int, moment: Moment) -> Tensor:
        """Return what the text changes: the estimate with the prompt minus the one without.

        For a model that predicts noise this is eps(x, y) - eps(x, ""). For others it is the same in
        the space of the clean image, see `NoiseLevel.estimate`.

        Args:
            seeds: how many initial noises.
            moment: where to look.

        Returns:
            float32 of shape (prompts, seeds, C, H, W).

        Raises:
            ModelError: the model has no prediction without text.
        """
        without = self.unconditional(seeds, moment)
        predictions, samples = self.predictions(seeds, moment), self.samples(seeds, moment)
        level = self.level(moment)
        return level.estimate(predictions, samples) - level.estimate(without, samples)

    def attention(self, seeds: int, moment: Moment) -> AttentionRecord:
        """Return the cross-attention of the prompts, see `AttentionRecord`.

        Raises:
            ModelError: the model has no cross-attention probabilities.
        """
        pairs = self._pairs(seeds)
        self._reach(pairs, moment)
        self._attention.moments.add(moment)
        unseen = [pair for pair in pairs if not self._attention.has(moment, pair)]
        if unseen:  # predicted before anybody asked for attention
            for pair in unseen:
                self._with.get(moment, {}).pop(pair, None)
            self._predict(unseen, moment)
        return self._attention.of(moment, pairs, (len(self), seeds))

    def end_tokens(self) -> list[int]:
        """Return the position of the first end token of each prompt.

        Raises:
            ModelError: no attention reads that token, or the text encoder marks no end.
        """
        watchable_attentions(self.model)
        return end_tokens(self.model, self._texts)

    def level(self, moment: Moment) -> NoiseLevel:
        """Return the noise level of a moment."""
        return self.model.noise_level(self.timestep(moment))

    def timestep(self, moment: Moment) -> Tensor:
        """Return the timestep of a moment, ()."""
        return self.model.timesteps(moment.steps)[moment.step]

    def batches(self, seeds: int) -> Iterator[tuple[slice, list[int]]]:
        """Yield rows of the flattened (prompts, seeds) and the prompts of these, in batches."""
        count = len(self) * seeds
        for start in range(0, count, self._batch):
            rows = range(start, min(start + self._batch, count))
            yield slice(rows.start, rows.stop), [row // seeds for row in rows]

    def conditioning(self, prompts: Sequence[int | None]) -> Conditioning:
        """Return encoded prompts, each as often as it is named. None is no text.

        Raises:
            ModelError: the model has no prediction without text.
        """
        if None not in prompts:
            return self._text.take([prompt for prompt in prompts if prompt is not None])
        return self._rows.take([len(self) if prompt is None else prompt for prompt in prompts])

    @cached_property
    def _rows(self) -> Conditioning:
        """The prompts and, as the last one, no text."""
        refuse_distilled(self.model)
        return self._text.join(without_text(self.model))

    def _pairs(self, seeds: int) -> list[tuple[int, int]]:
        return [(prompt, seed) for prompt in range(len(self)) for seed in range(seeds)]

    def _grid(self, rows: Tensor) -> Tensor:
        grid: Tensor = rows.unflatten(0, (len(self), -1))
        return grid

    def _predict(self, pairs: Sequence[Sample], moment: Moment) -> Tensor:
        self._reach(pairs, moment)
        known = self._with.setdefault(moment, {})
        self._run([(pair, True) for pair in pairs if pair not in known], moment)
        return torch.stack([known[pair] for pair in pairs])

    def _predict_without(self, pairs: Sequence[Sample], moment: Moment) -> Tensor:
        self._reach(pairs, moment)
        known = self._store_without(moment)
        samples = [self._key_without(pair, moment) for pair in pairs]
        missing = dict.fromkeys(sample for sample in samples if sample not in known)
        self._run([(sample, False) for sample in missing], moment)
        return torch.stack([known[sample] for sample in samples])

    def _reach(self, pairs: Sequence[Sample], moment: Moment) -> None:
        """Take the steps of the run that lead to a moment."""
        if moment.guidance is None:
            return
        missing = [pair for pair in pairs if pair not in self._samples.get(moment, {})]
        if not missing:
            return
        step = self.model.remembered(
            ("stepper", moment.steps), lambda: stepper(self.model, moment.steps)
        )
        for index in range(moment.step):
            now = moment.at(index, moment.guidance)
            following = self._samples.setdefault(moment.at(index + 1, moment.guidance), {})
            pairs = [pair for pair in missing if pair not in following]
            if not pairs:
                continue
            self._run_both(pairs, now)
            without = self._predict_without(pairs, now)
            guided = without + moment.guidance * (self._predict(pairs, now) - without)
            following |= zip(pairs, step(guided, index, self._at(pairs, now)), strict=True)

    def _run_both(self, pairs: Sequence[Sample], moment: Moment) -> None:
        """Predict with and without text in the same passes."""
        known, without = self._with.setdefault(moment, {}), self._store_without(moment)
        keys = dict.fromkeys(self._key_without(pair, moment) for pair in pairs)
        jobs = [(key, False) for key in keys if key not in without]
        self._run(jobs + [(pair, True) for pair in pairs if pair not in known], moment)

    def _run(self, jobs: Sequence[tuple[Sample, bool]], moment: Moment) -> None:
        """Run the denoiser on samples, each with its text or without, and keep what it predicts."""
        for start in range(0, len(jobs), self._batch):
            some = jobs[start : start + self._batch]
            latents = self._at([sample for sample, _ in some], moment)
            prompts = [prompt if text else None for (prompt, _), text in some]
            with self._attention.watching(moment, some):
                predictions = self.model.predict(
                    latents, self.timestep(moment), self.conditioning(prompts)
                )
            for (sample, text), prediction in zip(some, predictions, strict=True):
                store = self._with[moment] if text else self._store_without(moment)
                store[sample] = prediction

    def _at(self, pairs: Sequence[Sample], moment: Moment) -> Tensor:
        """Return the samples of a moment that was reached, (pairs, C, H, W)."""
        if moment.guidance is not None:
            return torch.stack([self._samples[moment][pair] for pair in pairs])
        seeds = [seed for _, seed in pairs]
        if max(seeds) >= len(self._noise):
            self._noise = self.model.draw_latents(max(seeds) + 1, self.settings.seed)
        return self._noise[seeds]

    def _store_without(self, moment: Moment) -> dict[Sample, Tensor]:
        if moment.guidance is None:
            return known_without_text(self.model, self.settings.seed, moment)
        return self._without.setdefault(moment, {})

    @staticmethod
    def _key_without(pair: Sample, moment: Moment) -> Sample:
        return (None, pair[1]) if moment.guidance is None else pair
