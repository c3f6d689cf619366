"""The training of one round: what is drawn, what is wanted, and the steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import torch
from torch import Tensor

from unmemorize.audit import Bench, Target
from unmemorize.hardening._examples import Examples
from unmemorize.hardening._settings import HardeningSettings
from unmemorize.hardening._shifts import Shift, shifted_latents, shifts
from unmemorize.methods import Trained
from unmemorize.mitigation import derived_seed
from unmemorize.pipelines import Conditioning

_DISTILLED = 0.5
"""Share of the samples to forget that are distilled, if both objectives are taught."""
_WITHOUT_TEXT = 0.5
"""Share of the distilled samples not under embeddings of attacks that have no text either."""
_EMPTY = 0.1
"""Share of ordinary images under the empty caption, with which guidance compares."""
_IN_ADVANCE = 32
"""Steps for which the old weights are put in place at once: their batches are kept meanwhile."""
DECAY = 1e-2


@dataclass(frozen=True)
class Batch:
    """What one step sees: samples that concern memorized images, then ordinary ones.

    Args:
        latents: noisy ones, (B, C, H, W).
        timesteps: one for each, (B,).
        text: B encoded captions, with embeddings of attacks in place of some.
        wanted: what should be predicted, (B, C, H, W): the noise of substitutes, or what the
            unedited model predicts.
        weights: how much the error of each counts, (B,).
        forgotten: how many of them concern memorized images.
    """

    latents: Tensor
    timesteps: Tensor
    text: Conditioning
    wanted: Tensor
    weights: Tensor
    forgotten: int

    def losses(self, predicted: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weighted mean squared error of the former and of the latter."""
        errors = self.weights * (predicted - self.wanted).square().mean((1, 2, 3))
        return errors[: self.forgotten].mean(), errors[self.forgotten :].mean()


@dataclass(frozen=True)
class _Sample:
    """What one sample of a step is made of.

    Args:
        clean: latents, (C, H, W).
        text: its caption.
        key: the embedding of an attack in place of that of the caption.
        taught: the text under which the unedited model says what is wanted; None for the noise.
        shifted: the latents that it is asked about, if these are others, and how they are shifted.
    """

    clean: Tensor
    text: str
    key: Tensor | None = None
    taught: str | None = None
    shifted: tuple[Tensor, Shift] | None = None


@dataclass(frozen=True)
class Lesson:
    """What the model is taught in a hardening.

    Args:
        bench: the model.
        targets: the memorized images.
        examples: clean latents.
        settings: of the hardening.
    """

    bench: Bench
    targets: Sequence[Target]
    examples: Examples
    settings: HardeningSettings

    def train(
        self,
        trained: Trained,
        optimizer: torch.optim.AdamW,
        number: int,
        found: Sequence[Sequence[Tensor]],
    ) -> tuple[float, float]:
        """Train the steps of one round.

        Args:
            trained: what is trained.
            optimizer: of its parameters.
            number: of the round, from 1.
            found: embeddings of attacks for each image, of this and all earlier rounds.

        Returns:
            The means of both losses over the steps.
        """
        steps, totals = self._steps, [0.0, 0.0]
        batches = self._taught(trained, number, found)
        for left, batch in zip(range(steps, 0, -1), batches, strict=True):
            if self.settings.settle and number == self.settings.rounds:
                for group in optimizer.param_groups:
                    group["lr"] = self.settings.rate * left / steps
            predicted = self.bench.predict(
                batch.latents, batch.timesteps, batch.text, gradient=True
            )
            losses = batch.losses(predicted)
            trained.differentiate(losses[0] + self.settings.kept_weight * losses[1])
            optimizer.step()
            trained.write()
            totals = [total + loss.item() for total, loss in zip(totals, losses, strict=True)]
        return totals[0] / steps, totals[1] / steps

    def _taught(
        self, trained: Trained, number: int, found: Sequence[Sequence[Tensor]]
    ) -> Iterator[Batch]:
        """Yield what the steps of a round see, for which the unedited model is asked in advance."""
        batches = self.batches(number, found)
        for _ in range(0, self._steps, _IN_ADVANCE):
            with trained.untrained():
                some = list(islice(batches, _IN_ADVANCE))
            yield from some

    def batches(self, number: int, found: Sequence[Sequence[Tensor]]) -> Iterator[Batch]:
        """Yield what the steps of a round see. The model must be the unedited one meanwhile."""
        for step in range(self._steps):
            purpose = ("hardening", self.bench.model.fingerprint, number, step)
            yield self._batch(torch.Generator().manual_seed(derived_seed(*purpose)), found)

    def _batch(self, generator: torch.Generator, found: Sequence[Sequence[Tensor]]) -> Batch:
        forgotten = self.settings.forgotten
        samples = [self._to_forget(generator, found) for _ in range(forgotten)]
        samples += [self._to_keep(generator) for _ in range(self.settings.kept)]
        clean = torch.stack([sample.clean for sample in samples])
        levels = torch.rand(len(clean), generator=generator, dtype=torch.float32)
        noise = torch.randn(clean.shape, generator=generator, dtype=torch.float32)
        noisy = self.bench.noising.noisy(clean, noise, levels)
        wanted = noisy.wanted.clone()
        rows = [row for row, sample in enumerate(samples) if sample.taught is not None]
        for row, sample in enumerate(samples):
            if sample.shifted is not None:
                clean[row], shift = sample.shifted
                noise[row] = shift.of(noise[row])
        asked = self.bench.noising.noisy(clean, noise, levels)
        taught = self._encoded([samples[row].taught or "" for row in rows], {})
        wanted[rows] = self.bench.predict(asked.latents[rows], asked.timesteps[rows], taught)
        for row, sample in enumerate(samples):
            if sample.shifted is not None:
                wanted[row] = sample.shifted[1].back(wanted[row])
        keys = {row: one.key for row, one in enumerate(samples) if one.key is not None}
        text = self._encoded([sample.text for sample in samples], keys)
        weights = self._weights(levels).to(wanted)
        return Batch(noisy.latents, noisy.timesteps, text, wanted, weights, forgotten)

    def _to_forget(self, generator: torch.Generator, found: Sequence[Sequence[Tensor]]) -> _Sample:
        place = _chosen(len(self.targets), generator)
        text, key = self.targets[place].prompt, None
        if _chance(generator) < self.settings.attacked:
            key = found[place][_chosen(len(found[place]), generator)]
        if not self._distils(generator):
            images = self.examples.substitutes[place]
            return _Sample(images[_chosen(len(images), generator)], text, key)
        if key is None and _chance(generator) < _WITHOUT_TEXT:
            text = ""
        latents, shifted = self._memorized[place]
        number, shift = _chosen(len(latents), generator), _chosen(len(self._shifts), generator)
        moved = shifted[number, shift], self._shifts[shift]
        return _Sample(latents[number], text, key, "", moved)

    def _to_keep(self, generator: torch.Generator) -> _Sample:
        number = _chosen(len(self.examples.captions), generator)
        text = "" if _chance(generator) < _EMPTY else self.examples.captions[number]
        return _Sample(self.examples.ordinary[number], text, taught=text)

    def _weights(self, levels: Tensor) -> Tensor:
        if not self.settings.distils:
            return torch.ones_like(levels)
        return self.bench.noising.error_weights(levels)

    @property
    def _steps(self) -> int:
        """The steps of a round."""
        return self.settings.steps * len(self.targets)

    @cached_property
    def _shifts(self) -> tuple[Shift, ...]:
        return shifts(*self.bench.model.latent_shape[1:])

    @cached_property
    def _memorized(self) -> Sequence[tuple[Tensor, Tensor]]:
        """For each memorized image the latents of its files, and of these under all shifts."""
        return [
            (
                self.bench.latents(target.key, target.images).cpu(),
                shifted_latents(self.bench.model, target.images),
            )
            for target in self.targets
        ]

    def _distils(self, generator: torch.Generator) -> bool:
        if self.settings.substitutes and self.settings.distils:
            return _chance(generator) < _DISTILLED
        return self.settings.distils

    def _encoded(self, texts: Sequence[str], embeddings: Mapping[int, Tensor]) -> Conditioning:
        known, encoded = self._texts
        batch = encoded.take([known[text] for text in texts])
        rows = batch.text.clone()
        for row, embedding in embeddings.items():
            rows[row] = embedding.to(rows)
        return batch.with_text(rows)

    @cached_property
    def _texts(self) -> tuple[Mapping[str, int], Conditioning]:
        """Encode all texts once: the place of each, and all of them."""
        prompts = (target.prompt for target in self.targets)
        texts = ["", *self.examples.captions, *prompts]
        distinct = list(dict.fromkeys(texts))
        places = {text: place for place, text in enumerate(distinct)}
        return places, self.bench.model.encode(distinct)


def _chosen(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))


def _chance(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator, dtype=torch.float32))
