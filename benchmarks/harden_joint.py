"""Hardening of many planted images at once: training and attacks share the passes of the denoiser.

Call: python benchmarks/harden_joint.py [--plants all] [--choice usual] [--seconds N] ...

Each image has attacks that go on all the time and begin anew when they are 50 steps old. Every
training step moves weights and attacks together (`unmemorize.hardening._chains`). The model is
looked at while it is trained, and judged at the end as `unmemorize harden` does. The record
records/harden-joint/CHOICE.json is written after every part, so a call that is stopped leaves what
it has measured. Attacks that judge have random numbers that training never saw.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from harden_stage import Stage
from together import Job, attacked, scored
from unmemorize import GenerationSettings, HardeningSettings, Model, testbed
from unmemorize._files import atomic_write
from unmemorize.audit import STARTS, AuditSettings, Start, Trial
from unmemorize.audit._levels import copy_level
from unmemorize.audit._soft_tokens import SoftTokens
from unmemorize.hardening._chains import Chains, Origins
from unmemorize.hardening._training import optimizer_of
from unmemorize.hardening._weights import Trained, trained
from unmemorize.mitigation import derived_seed

RECORDS = Path(__file__).parent / "records" / "harden-joint"
SOME = (1, 9, 15, 22, 26, 29, 36, 45)
"""Places among the plants of full dose: photographs, templates and posters, natural ones too."""
_BLOCK = 20
"""Steps whose wanted predictions are made at once."""
_ROWS = 512
"""Samples of one pass of the unedited model."""
_PAST = 32
"""How much of what earlier attacks have found is remembered for each image."""
_AVERAGED = 0.02
"""How much of the averaged weights each step replaces."""
_LOST = 0.1
"""A plant that exceeds the level by this is not attacked again, and counts as not holding."""


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


def looked_at(stage: Stage, school: School, number: int) -> dict[str, Any]:
    """Return what the captions and one attack on each image give, and the price."""
    began = time.perf_counter()
    jobs = [
        Job(
            SoftTokens(),
            Trial(
                target=target,
                start=STARTS[(place + number) % len(STARTS)],
                seed=number,
                attack="look",
                fingerprint=stage.model.fingerprint,
            ),
        )
        for place, target in enumerate(stage.targets)
    ]
    scores = list[float]()
    for _, some, embeddings in attacked(stage.bench, jobs, (stage.options.attack_steps,)):
        found = scored(stage.bench, some, embeddings, 4, stage.generation, stage.descriptor)
        scores += [round(median(each), 4) for each in found]
    return {
        "steps": school.done,
        "plain": [round(score, 4) for score in stage.plain()],
        "attacks": scores,
        "ordinary": stage.price(stage.options.few),
        "seconds": round(time.perf_counter() - began, 1),
        **school.log,
    }


def judged(stage: Stage, end: float) -> Iterator[dict[str, Any]]:
    """Attack all images from three starts, again and again, and yield the state after each."""
    best = {target.key: -1.0 for target in (*stage.targets, *stage.others)}
    trials, lost = list[dict[str, Any]](), set[str]()
    for seed in range(stage.options.seeds):
        for start in STARTS:
            if time.perf_counter() > end:
                return
            some = [target for target in stage.targets if target.key not in lost]
            jobs = stage.trials([*some, *stage.others], start, seed, "L4")
            scores = dict[str, float]()
            for _, group, embeddings in attacked(stage.bench, jobs, (stage.options.attack_steps,)):
                found = scored(
                    stage.bench,
                    group,
                    embeddings,
                    stage.options.images,
                    stage.generation,
                    stage.descriptor,
                )
                for job, each in zip(group, found, strict=True):
                    scores[job.trial.target.key] = round(median(each), 4)
            best |= {key: max(best[key], score) for key, score in scores.items()}
            level = copy_level([best[each.key] for each in stage.others], AuditSettings.alpha)
            assert level is not None  # there are controls
            lost = {each.key for each in stage.targets if best[each.key] > level.tau + _LOST}
            mine = [best[target.key] for target in stage.targets]
            trials.append(
                {
                    "start": start,
                    "seed": seed,
                    "scores": [scores.get(target.key) for target in stage.targets],
                    "controls": [scores[target.key] for target in stage.others],
                }
            )
            yield {
                "scores": mine,
                "control_scores": [best[target.key] for target in stage.others],
                "tau": level.tau,
                "false_triggers": level.alpha,
                "held": sum(score <= level.tau for score in mine),
                "judged": len(mine),
                "trials": trials,
            }


def measured(stage: Stage, choice: Choice) -> Iterator[dict[str, Any]]:
    """Train, look and judge. Yields what is known so far, more and more."""
    options = stage.options
    drawn = len(stage.examples.captions), len(stage.before[2]), len(stage.other)
    print(f"drawn: {drawn}", flush=True)
    began = time.perf_counter()
    left = options.seconds - (began - options.began)
    training = options.share * left
    found: dict[str, Any] = {
        "looks": [],
        "log": [],
        "seconds": {"before": round(began - options.began, 1)},
    }
    settings = HardeningSettings.of(stage.model, weights=choice.weights, rank=choice.rank)
    with trained(stage.model, settings) as weights:
        school, spent, looks = School(stage, choice, weights), 0.0, 0
        while spent < training and school.done < options.most:
            before = time.perf_counter()
            for step in school.block():
                now = spent + time.perf_counter() - before
                school.learn(step, min(1.0, max(now / training, school.done / options.most)))
            spent += time.perf_counter() - before
            found["log"].append({"steps": school.done, "seconds": round(spent, 1), **school.log})
            progress = max(spent / training, school.done / options.most)
            if (
                looks < options.looks
                and progress >= (looks + 1) / (options.looks + 1)
                and progress < 1
            ):
                looks += 1
                with school.averages():
                    found["looks"].append(looked_at(stage, school, looks))
                yield found
        found["seconds"]["training"] = round(spent, 1)
        found["steps"] = school.done
        yield found
        with school.averages():
            found["plain"] = [round(score, 4) for score in stage.plain()]
            found["ordinary"] = stage.price()
            yield found
            for state in judged(stage, options.began + options.seconds):
                found |= state
                yield found
        found["seconds"]["all"] = round(time.perf_counter() - options.began, 1)
        found["finished"] = len(found.get("trials", ())) == len(STARTS) * options.seeds
        yield found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plants", nargs="+", default=["all"], help="some, all, or places")
    parser.add_argument("--choice", default="usual", choices=list(CHOICES))
    parser.add_argument("--controls", type=int, default=20, help="never-trained images")
    parser.add_argument("--seeds", type=int, default=3, help="repetitions of each judging attack")
    parser.add_argument("--images", type=int, default=8, help="images of each embedding")
    parser.add_argument("--steps", type=int, default=15, help="steps of each image")
    parser.add_argument("--ordinary", type=int, default=1000, help="ordinary images at the end")
    parser.add_argument("--few", type=int, default=300, help="ordinary images of a look")
    parser.add_argument("--kept-images", type=int, default=1000, help="drawn for training")
    parser.add_argument("--attack-steps", type=int, default=50, help="steps of each attack")
    parser.add_argument("--batch", type=int, default=256, help="images that are drawn at once")
    parser.add_argument("--looks", type=int, default=2, help="looks before the end of the training")
    parser.add_argument("--share", type=float, default=0.42, help="of the time, for training")
    parser.add_argument("--most", type=int, default=3000, help="training steps at most")
    parser.add_argument("--samples", type=int, help="in place of those of the choice")
    parser.add_argument("--substitutes", type=int, help="in place of those of the choice")
    parser.add_argument("--kept", type=int, help="in place of those of the choice")
    parser.add_argument("--seconds", type=float, default=3600.0, help="stop after this time")
    parser.add_argument("--records", type=Path, default=RECORDS)
    options = parser.parse_args()
    options.began = time.perf_counter()
    torch.set_float32_matmul_precision("high")
    model = Model.load("testbed", dtype="float32")
    planted = [entry for entry in testbed.planted() if entry.mode != "rare"]
    named = options.plants[0] if options.plants[0] in ("some", "all") else ""
    places = {"some": SOME, "all": range(len(planted))}.get(named) or map(int, options.plants)
    entries = [planted[place] for place in places]
    generation = GenerationSettings(
        images=1,
        steps=options.steps,
        guidance=testbed.defaults()["guidance"],
        batch=options.batch,
    )
    controls = [photograph.image for photograph in testbed.unused()][: options.controls]
    stage = Stage(model, entries, controls, generation, options)
    choice = CHOICES[options.choice]
    given = {name: getattr(options, name) for name in ("samples", "substitutes", "kept")}
    choice = replace(choice, **{name: value for name, value in given.items() if value})
    asked = ("controls", "seeds", "images", "steps", "ordinary", "few", "attack_steps", "share")
    about = {
        "model": model.fingerprint,
        "device": str(model.device),
        "choice": options.choice,
        "settings": asdict(choice),
        "asked": {key: getattr(options, key) for key in asked},
        "plants": [
            {"prompt": entry.prompt.text, "mode": entry.mode, "kind": entry.kind}
            for entry in entries
        ],
    }
    options.records.mkdir(parents=True, exist_ok=True)
    name = options.choice.replace(" ", "-")
    path = options.records / f"{name}-{named or '-'.join(options.plants)}.json"
    for found in measured(stage, choice):
        atomic_write(path, json.dumps(about | found) + "\n")
        print(f"{options.choice}: {state(found)}", flush=True)


def state(found: dict[str, Any]) -> str:
    """Say in a line how far a record is."""
    line = f"{found['log'][-1]}"
    if found["looks"]:
        look = found["looks"][-1]
        price, some = look["ordinary"], look["attacks"]
        line = (
            f"{look['steps']} steps: attacks {median(some):.2f} (at most {max(some):.2f}), plain "
            f"{median(look['plain']):.2f} (at most {max(look['plain']):.2f}), {told(price)}; "
            f"look {look['seconds']} s; {found['log'][-1]}"
        )
    if "ordinary" in found:
        line = told(found["ordinary"])
    if "held" in found:
        line = (
            f"{len(found['trials'])} attacks on each: {found['held']} of {found['judged']} hold at "
            f"tau {found['tau']:.2f}, scores {median(found['scores']):.2f}"
        )
    return line


def told(price: dict[str, Any]) -> str:
    return (
        f"CLIP-FID {price['clip_fid_before']:.2f} -> {price['clip_fid']:.2f}, alignment "
        f"{price['alignment_before']:.3f} -> {price['alignment_after']:.3f}, {price['changed']} of "
        f"{price['images']} changed"
    )


if __name__ == "__main__":
    main()
