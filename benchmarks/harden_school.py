"""How many images are hardened at once: the choices, and the model in training.

Attacks go on all the time, so a training step is one pass for weights and attacks (`Chains`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harden_chains import Chains, Origins
from harden_stage import Stage
from unmemorize.audit import STARTS, Start
from unmemorize.hardening._training import optimizer_of
from unmemorize.hardening._weights import Trained
from unmemorize.mitigation import derived_seed

_BLOCK = 20
"""Steps whose wanted predictions are made at once."""
_ROWS = 512
"""Samples of one pass of the unedited model."""
_PAST = 32
"""How much of what earlier attacks have found is remembered for each image."""
_AVERAGED = 0.02
"""How much of the averaged weights each step replaces."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How training is done.

    Args:
        rate: the learning rate, which falls to zero over the second half.
        keep: the weight of the error on ordinary images.
        distilled: the weight of the error on memorized images under attacks, where the unedited
            model's prediction without text is wanted.
        substituted: the weight of the error on substitutes, where their noise is wanted.
        starts: of the attacks that go on.
        samples: noisy latents of each attack and step.
        substitutes: samples of substitutes per step; three in four are under attacks.
        replayed: share of these under what earlier attacks have found, not those that go on.
        kept: ordinary samples per step.
        weights: which are trained.
        rank: of a LoRA.
    """

    rate: float = 2e-4
    keep: float = 4.0
    distilled: float = 0.0
    substituted: float = 1.0
    starts: tuple[Start, ...] = STARTS
    samples: int = 1
    substitutes: int = 144
    replayed: float = 0.5
    kept: int = 96
    weights: str = "all"
    rank: int | None = None


CHOICES = {
    "usual": Choice(),
    "loose": Choice(keep=1.0),
    "close": Choice(keep=16.0),
    "both": Choice(distilled=1.0, substitutes=96, keep=2.0),
    "distillation": Choice(distilled=1.0, substituted=0.0, substitutes=24),
    "from captions": Choice(starts=("prompt", "prompt", "prompt")),
    "forgetful": Choice(replayed=0.0),
    "slow": Choice(rate=5e-5),
    "LoRA": Choice(rank=32, rate=2e-3),
}
"""By what they are called in records."""


@dataclass(frozen=True)
class Step:
    """What one step sees: memorized images for each attack, then substitutes, then ordinary images.

    Args:
        latents, timesteps: noisy latents of all of them, and their timesteps.
        noise: that of the memorized images, which attacks predict.
        wanted: what should be predicted.
        texts: places in the table of encoded captions, for all but memorized images.
        keys: for each substitute a chain, or -1 for its caption.
        places: the image of each substitute.
        turns: a number in [0, 1) for each, which chooses among what earlier attacks have found.
        replayed: which substitutes are under one of these.
    """

    latents: Tensor
    timesteps: Tensor
    noise: Tensor
    wanted: Tensor
    texts: Tensor
    keys: Tensor
    places: Tensor
    turns: Tensor
    replayed: Tensor


@dataclass
class School:
    """A model in training: chains, examples, and averaged weights."""

    stage: Stage
    choice: Choice
    weights: Trained
    done: int = 0
    average: dict[str, Tensor] = field(default_factory=dict)
    log: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        stage, device = self.stage, self.stage.model.device
        with self.weights.untrained():
            texts = ["", *stage.examples.captions, *(each.prompt for each in stage.targets)]
            distinct = list(dict.fromkeys(texts))
            encoded = torch.cat(
                [
                    stage.model.encode(distinct[first : first + _ROWS]).text
                    for first in range(0, len(distinct), _ROWS)
                ]
            )
            place = {text: number for number, text in enumerate(distinct)}
            self.table = encoded.float()
            self.own = torch.tensor([place[each.prompt] for each in stage.targets])
            self.ordinary = torch.tensor([place[text] for text in stage.examples.captions])
            self.images = [
                stage.bench.latents(each.key, each.images).cpu() for each in stage.targets
            ]
        self.blank = stage.model.encode([""])
        origins = Origins(self.table[self.own.to(device)], self.table[self.ordinary.to(device)])
        self.chains = Chains(origins, self.choice.starts, generator=self.generator("chains"))
        images, shape = len(self.own), self.table.shape[1:]
        self.past = torch.zeros(images, _PAST, *shape, device=device)
        self.counts = torch.zeros(images, device=device)
        self.found = [0] * images
        self.optimizer = optimizer_of(self.weights, self.choice.rate, 0, {})

    def generator(self, purpose: int | str) -> torch.Generator:
        seed = derived_seed("joint hardening", self.stage.model.fingerprint, str(purpose))
        return torch.Generator().manual_seed(seed)

    def predicted(self, latents: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        conditioning = self.blank.take([0] * len(text)).with_text(text)
        return self.stage.bench.predict(latents, timesteps, conditioning)

    @torch.no_grad()
    def block(self) -> list[Step]:
        """Draw what the next steps see. The unedited model says what is wanted."""
        choice, stage, device = self.choice, self.stage, self.stage.model.device
        places = [place for place in self.chains.places for _ in range(choice.samples)]
        memorized, subs = len(places), choice.substitutes
        distilled = memorized if choice.distilled else 0
        steps, latents, timesteps, texts = [], [], [], []
        for number in range(self.done, self.done + _BLOCK):
            generator = self.generator(number)

            def some(count: int, most: int, source: torch.Generator = generator) -> Tensor:
                return torch.randint(most, (count,), generator=source)

            mine = torch.stack(
                [self.images[place][int(some(1, len(self.images[place])))] for place in places]
            )
            chosen = some(subs, len(self.images)).tolist()
            pools = [stage.examples.substitutes[place] for place in chosen]
            others = torch.stack([pool[int(some(1, len(pool)))] for pool in pools])
            kept = some(choice.kept, len(self.ordinary))
            clean = torch.cat([mine, others, stage.examples.ordinary[kept]])
            levels = torch.rand(len(clean), generator=generator, dtype=torch.float32)
            noise = torch.randn(clean.shape, generator=generator, dtype=torch.float32)
            noisy = stage.bench.noising.noisy(clean, noise, levels)
            empty = torch.rand(choice.kept, generator=generator) < 0.2
            captions = torch.where(empty, 0, self.ordinary[kept])
            each = len(choice.starts)
            keys = torch.tensor(chosen) * each + some(subs, each)
            keys[torch.arange(subs) % 4 == 0] = -1
            text = torch.cat([self.own[chosen], captions]).to(device)
            wanted = noisy.wanted.float()
            steps.append(
                Step(
                    noisy.latents,
                    noisy.timesteps,
                    wanted[:memorized].clone(),
                    wanted.clone(),
                    text,
                    keys.to(device),
                    torch.tensor(chosen, device=device),
                    torch.rand(subs, generator=generator).to(device),
                    (torch.rand(subs, generator=generator) < choice.replayed).to(device),
                )
            )
            asked = torch.arange(len(clean)) < distilled
            asked[memorized + subs :] = True
            asked = asked.to(device)
            without = torch.zeros(distilled, dtype=torch.long, device=device)
            latents.append(noisy.latents[asked])
            timesteps.append(noisy.timesteps[asked])
            texts.append(torch.cat([without, text[subs:]]))
        inputs = [torch.cat(each) for each in (latents, timesteps, texts)]
        with self.weights.untrained():
            found = torch.cat(
                [
                    self.predicted(some_latents, some_steps, self.table[some_texts]).float()
                    for some_latents, some_steps, some_texts in zip(
                        *(each.split(_ROWS) for each in inputs), strict=True
                    )
                ]
            )
        for step, predictions in zip(steps, found.chunk(_BLOCK), strict=True):
            step.wanted[:distilled] = predictions[:distilled]
            step.wanted[memorized + subs :] = predictions[distilled:]
        return steps

    def learn(self, step: Step, progress: float) -> None:
        """Move weights and attacks by one step."""
        choice, chains = self.choice, self.chains
        value = chains.value.requires_grad_()
        count, memorized, subs = len(value), len(step.noise), choice.substitutes
        below = self.table[step.texts]
        held = value.detach()[step.keys.clamp_min(0)]
        known = self.counts[step.places]
        turns = (step.turns * known).long()
        past = step.replayed & (known > 0)
        held = torch.where(past[:, None, None], self.past[step.places, turns], held)
        below[:subs] = torch.where(step.keys[:, None, None] >= 0, held, below[:subs])
        text = torch.cat([value.repeat_interleave(choice.samples, 0), below])
        conditioning = self.blank.take([0] * len(text)).with_text(text)
        predicted = self.stage.bench.predict(
            step.latents, step.timesteps, conditioning, gradient=True
        ).float()
        missed = (predicted[:memorized] - step.noise).square().mean((1, 2, 3))
        attack = missed.view(count, -1).mean(1)
        (slope,) = torch.autograd.grad(attack.sum(), [value], retain_graph=True)
        errors = (predicted - step.wanted).square().mean((1, 2, 3))
        parts = (errors[:memorized].mean(), errors[memorized:][:subs].mean())
        kept = errors[memorized + subs :].mean()
        loss = choice.distilled * parts[0] + choice.substituted * parts[1] + choice.keep * kept
        self.weights.differentiate(loss)
        warm = min(1.0, (self.done + 1) / 20)
        late = max(0.0, 2 * progress - 1)
        for group in self.optimizer.param_groups:
            group["lr"] = choice.rate * warm * (1 + math.cos(math.pi * late)) / 2
        self.optimizer.step()
        self.weights.write()
        for place, found in chains.advance(slope, self.generator(f"chains {self.done}")):
            self.past[place, self.found[place] % _PAST] = found
            self.found[place] += 1
            self.counts[place] = min(self.found[place], _PAST)
        self.done += 1
        self._averaged()
        if self.done % _BLOCK == 0:
            old = chains.ages >= 40
            missed = attack.detach().cpu()[old]
            self.log = {
                "distilled": round(parts[0].item(), 5),
                "substituted": round(parts[1].item(), 5),
                "kept": round(kept.item(), 6),
                "old_attacks": round(missed.mean().item(), 5) if len(missed) else 0.0,
            }

    @torch.no_grad()
    def _averaged(self) -> None:
        now = self.weights.parameters
        if not self.average:
            self.average = {name: value.detach().clone() for name, value in now.items()}
        share = max(_AVERAGED, 1 / self.done)
        torch._foreach_lerp_(list(self.average.values()), list(now.values()), share)

    @contextmanager
    def averages(self) -> Iterator[None]:
        """Put averages over the last steps in the place of the weights."""
        now = {name: value.detach().clone() for name, value in self.weights.parameters.items()}
        self._put(self.average)
        try:
            yield
        finally:
            self._put(now)

    @torch.no_grad()
    def _put(self, values: dict[str, Tensor]) -> None:
        for name, value in self.weights.parameters.items():
            value.copy_(values[name])
        self.weights.write()
