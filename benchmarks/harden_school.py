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
from harden_moves import MOVES, Memorized, Move, moved
from harden_stage import Stage
from unmemorize.audit import STARTS, Start
from unmemorize.hardening._training import DECAY
from unmemorize.methods import Trained, optimizer_of
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
        moves: by which memorized images are moved, see `Memorized`. They take the place of
            substitutes, and what is wanted of all of them is what the unedited model predicts
            without text when they are moved. If empty, there are substitutes.
        weighted: whether errors at high noise, which are small, count more.
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
    moves: str = ""
    weighted: bool = False
    kept: int = 96
    weights: str = "all"
    rank: int | None = None


CHOICES = {
    "usual": Choice(),
    "loose": Choice(keep=1.0),
    "close": Choice(keep=16.0),
    "both": Choice(distilled=1.0, substitutes=96, keep=2.0),
    "mirrored, weighted": Choice(
        distilled=1.0, moves="turns", substitutes=96, kept=192, weighted=True
    ),
    "mirrored, close": Choice(
        distilled=1.0, moves="turns", substitutes=96, keep=16.0, kept=192, weighted=True
    ),
    "shifted": Choice(
        distilled=1.0,
        moves="shifts",
        starts=("prompt", "prompt", "noise"),  # another caption is held out
        substitutes=96,
        keep=16.0,
        kept=192,
        weighted=True,
    ),
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
        weights: how much the error of each counts.
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
    weights: Tensor


@dataclass(frozen=True)
class Asked:
    """What the unedited model is asked.

    Args:
        step: whose wanted predictions these are.
        rows: of the step.
        latents, timesteps: noisy latents and their timesteps.
        texts: places in the table of encoded captions.
        kinds, moves: for each of the latents the place of its move, which is undone.
    """

    step: Step
    rows: slice
    latents: Tensor
    timesteps: Tensor
    texts: Tensor
    kinds: Tensor | None = None
    moves: tuple[Move, ...] = ()

    def answer(self, predicted: Tensor) -> None:
        if self.kinds is not None:
            predicted = moved(predicted, self.kinds, [move.back for move in self.moves])
        self.step.wanted[self.rows] = predicted


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
            texts = ["", *stage.kept[1], *(each.prompt for each in stage.targets)]
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
            self.ordinary = torch.tensor([place[text] for text in stage.kept[1]])
            self.memorized = Memorized.of(stage, MOVES.get(self.choice.moves, ()))
        self.blank = stage.model.encode([""])
        origins = Origins(self.table[self.own.to(device)], self.table[self.ordinary.to(device)])
        self.chains = Chains(origins, self.choice.starts, generator=self.generator("chains"))
        images, shape = len(self.own), self.table.shape[1:]
        self.past = torch.zeros(images, _PAST, *shape, device=device)
        self.counts = torch.zeros(images, device=device)
        self.found = [0] * images
        self.optimizer = optimizer_of(self.weights, self.choice.rate, DECAY, 0, {})

    def generator(self, purpose: int | str) -> torch.Generator:
        seed = derived_seed("joint hardening", self.stage.model.fingerprint, str(purpose))
        return torch.Generator().manual_seed(seed)

    def predicted(self, latents: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        conditioning = self.blank.take([0] * len(text)).with_text(text)
        return self.stage.bench.predict(latents, timesteps, conditioning)

    @torch.no_grad()
    def block(self) -> list[Step]:
        """Draw what the next steps see. The unedited model says what is wanted."""
        steps, asked = [], list[Asked]()
        for number in range(self.done, self.done + _BLOCK):
            step, some = self._drawn(self.generator(number))
            steps.append(step)
            asked += some
        inputs = [
            torch.cat([getattr(each, name) for each in asked])
            for name in ("latents", "timesteps", "texts")
        ]
        with self.weights.untrained():
            found = torch.cat(
                [
                    self.predicted(latents, timesteps, self.table[texts]).float()
                    for latents, timesteps, texts in zip(
                        *(each.split(_ROWS) for each in inputs), strict=True
                    )
                ]
            )
        sizes = [len(each.latents) for each in asked]
        for each, predicted in zip(asked, found.split(sizes), strict=True):
            each.answer(predicted)
        return steps

    def _drawn(self, generator: torch.Generator) -> tuple[Step, list[Asked]]:
        """Draw what a step sees, and what the unedited model is asked about it."""
        choice, stage, device = self.choice, self.stage, self.stage.model.device

        def some(count: int, most: int) -> Tensor:
            return torch.randint(most, (count,), generator=generator)

        places = torch.tensor(self.chains.places).repeat_interleave(choice.samples)
        chosen = some(choice.substitutes, len(self.own))
        first, last = len(places), len(places) + len(chosen)
        rows = torch.cat([places, chosen]) if choice.moves else places
        which = self.memorized.chosen(rows, generator)
        clean = [self.memorized.latents[which]]
        if not choice.moves:
            pools = [stage.substitutes[place] for place in chosen.tolist()]
            clean.append(torch.stack([pool[int(some(1, len(pool)))] for pool in pools]))
        kept = some(choice.kept, len(self.ordinary))
        latents = torch.cat([*clean, stage.kept[0][kept]])
        levels = torch.rand(len(latents), generator=generator, dtype=torch.float32)
        noise = torch.randn(latents.shape, generator=generator, dtype=torch.float32)
        noisy = stage.bench.noising.noisy(latents, noise, levels)
        without = torch.rand(choice.kept, generator=generator) < 0.2
        captions = torch.where(without, 0, self.ordinary[kept])
        each = len(choice.starts)
        keys = chosen * each + some(len(chosen), each)
        keys[::4] = -1
        own = self.own[chosen]
        if choice.moves:
            keys[1::8] = -1
            own[1::8] = 0  # and as many without text as half of those under the caption
        wanted = noisy.wanted.float()
        step = Step(
            noisy.latents,
            noisy.timesteps,
            wanted[:first].clone(),
            wanted.clone(),
            torch.cat([own, captions]).to(device),
            keys.to(device),
            chosen.to(device),
            torch.rand(len(chosen), generator=generator).to(device),
            (torch.rand(len(chosen), generator=generator) < choice.replayed).to(device),
            self._weights(levels).to(device),
        )
        asked = [self._asked(step, slice(last, None), captions)]
        if choice.moves:
            moves, kinds = self.memorized.moves, some(len(rows), len(self.memorized.moves))
            away = stage.bench.noising.noisy(
                self.memorized.moved[kinds, which],
                moved(noise[:last], kinds, [move.of for move in moves]),
                levels[:last],
            )
            blank = torch.zeros(last, dtype=torch.long)
            asked.append(
                Asked(
                    step,
                    slice(last),
                    away.latents,
                    away.timesteps,
                    blank.to(device),
                    kinds.to(device),
                    moves,
                )
            )
        elif choice.distilled:
            asked.append(self._asked(step, slice(first), torch.zeros(first, dtype=torch.long)))
        return step, asked

    def _asked(self, step: Step, rows: slice, texts: Tensor) -> Asked:
        return Asked(step, rows, step.latents[rows], step.timesteps[rows], texts.to(step.texts))

    def _weights(self, levels: Tensor) -> Tensor:
        """Return how much errors count: more at high noise, where they are small."""
        if not self.choice.weighted:
            return torch.ones_like(levels)
        return self.stage.bench.noising.error_weights(levels)

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
        attack = missed.view(count, -1).mean(1)  # what an attacker minimizes, without weights
        (slope,) = torch.autograd.grad(attack.sum(), [value], retain_graph=True)
        errors = step.weights * (predicted - step.wanted).square().mean((1, 2, 3))
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
