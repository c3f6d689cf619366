"""The training of one round: what is drawn, what is wanted, and the steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from unmemorize.audit import Bench, Target
from unmemorize.hardening._examples import Examples
from unmemorize.hardening._settings import HardeningSettings
from unmemorize.hardening._weights import Trained
from unmemorize.mitigation import derived_seed
from unmemorize.pipelines import Conditioning

_DISTILLED = 0.5
"""Share of the samples under embeddings of attacks that are distilled, if both are taught."""
_EMPTY = 0.1
"""Share of ordinary images under the empty caption, with which guidance compares."""
_DECAY = 1e-2
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Batch:
    """What one step sees: samples that concern memorized images, then ordinary ones.

    Args:
        latents: noisy ones, (B, C, H, W).
        timesteps: one for each, (B,).
        text: B encoded captions, with embeddings of attacks in place of some.
        wanted: what should be predicted, (B, C, H, W): the noise of substitutes, or what the
            unedited model predicts.
        forgotten: how many of them concern memorized images.
    """

    latents: Tensor
    timesteps: Tensor
    text: Conditioning
    wanted: Tensor
    forgotten: int

    def losses(self, predicted: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean squared error of the former and of the latter."""
        errors = (predicted - self.wanted).square().mean((1, 2, 3))
        return errors[: self.forgotten].mean(), errors[self.forgotten :].mean()


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
        with trained.untrained():
            batches = list(self.batches(number, found))
        totals = [0.0, 0.0]
        for left, batch in zip(range(len(batches), 0, -1), batches, strict=True):
            if self.settings.settle and number == self.settings.rounds:
                for group in optimizer.param_groups:
                    group["lr"] = self.settings.rate * left / len(batches)
            predicted = self.bench.predict(
                batch.latents, batch.timesteps, batch.text, gradient=True
            )
            losses = batch.losses(predicted)
            trained.differentiate(losses[0] + self.settings.kept_weight * losses[1])
            optimizer.step()
            trained.write()
            totals = [total + loss.item() for total, loss in zip(totals, losses, strict=True)]
        return totals[0] / len(batches), totals[1] / len(batches)

    def batches(self, number: int, found: Sequence[Sequence[Tensor]]) -> Iterator[Batch]:
        """Yield what the steps of a round see. The model must be the unedited one meanwhile."""
        for step in range(self.settings.steps * len(self.targets)):
            purpose = ("hardening", self.bench.model.fingerprint, number, step)
            yield self._batch(torch.Generator().manual_seed(derived_seed(*purpose)), found)

    def _batch(self, generator: torch.Generator, found: Sequence[Sequence[Tensor]]) -> Batch:
        clean, texts, embeddings = [], [], dict[int, Tensor]()
        taught: dict[int, str] = {}  # rows that want a prediction of the unedited model: its text
        forgotten = self.settings.forgotten
        for row in range(forgotten):
            place = _chosen(len(self.targets), generator)
            target, images = self.targets[place], self.examples.substitutes[place]
            texts.append(target.prompt)
            if _chance(generator) < self.settings.attacked:
                embeddings[row] = found[place][_chosen(len(found[place]), generator)]
                if self._distils(generator):
                    images = self.bench.latents(target.key, target.images).cpu()
                    taught[row] = ""
            clean.append(images[_chosen(len(images), generator)])
        for row in range(forgotten, forgotten + self.settings.kept):
            number = _chosen(len(self.examples.captions), generator)
            clean.append(self.examples.ordinary[number])
            empty = _chance(generator) < _EMPTY
            texts.append("" if empty else self.examples.captions[number])
            taught[row] = texts[-1]
        latents = torch.stack(clean)
        levels = torch.rand(len(latents), generator=generator, dtype=torch.float32)
        noise = torch.randn(latents.shape, generator=generator, dtype=torch.float32)
        noisy = self.bench.noising.noisy(latents, noise, levels)
        wanted, rows = noisy.wanted.clone(), list(taught)
        wanted[rows] = self.bench.predict(
            noisy.latents[rows], noisy.timesteps[rows], self._encoded(list(taught.values()), {})
        )
        text = self._encoded(texts, embeddings)
        return Batch(noisy.latents, noisy.timesteps, text, wanted, forgotten)

    def _distils(self, generator: torch.Generator) -> bool:
        if self.settings.objective == "both":
            return bool(_chance(generator) < _DISTILLED)
        return self.settings.objective == "distillation"

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


def optimizer_of(
    trained: Trained, rate: float, steps: int, state: Mapping[str, Tensor]
) -> torch.optim.AdamW:
    """Make the optimizer, and put parameters and moments of an interrupted run in place.

    Args:
        trained: what is trained. Its weights are written, too.
        rate: the learning rate.
        steps: how many steps were done.
        state: what `saved` returned; empty at the beginning.
    """
    parameters = trained.parameters
    optimizer = torch.optim.AdamW(parameters.values(), lr=rate, weight_decay=_DECAY)
    if state:
        for name, parameter in parameters.items():
            with torch.no_grad():
                parameter.copy_(state[name])
            moments = {
                moment: state[f"{name}.{moment}"].to(parameter, copy=True) for moment in _MOMENTS
            }
            optimizer.state[parameter] = {
                "step": torch.tensor(steps, dtype=torch.float32),
                **moments,
            }
        trained.write()
    return optimizer


def saved(trained: Trained, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """Return parameters and moments as tensors on the CPU."""
    tensors = {}
    for name, parameter in trained.parameters.items():
        tensors[name] = parameter.detach().cpu().contiguous()
        for moment in _MOMENTS:
            tensors[f"{name}.{moment}"] = optimizer.state[parameter][moment].cpu().contiguous()
    return tensors


def _chosen(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))


def _chance(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator, dtype=torch.float32))
