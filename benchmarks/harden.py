"""The frontier of hardening on the bundled model: what attacks bring back, and what it costs.

Call: python benchmarks/harden.py [--plants some] [--choices best distillation] [--seconds N] ...

Each choice hardens the named planted images together (8 of all kinds by default), judges them by
attacks with random numbers that training never saw, and measures ordinary images. Choices that
train from all three starts have no other hold-out. Attacks run side by side, so this is
meant for a GPU. One record for each choice and set of plants goes to records/harden/. It is written
after every part, so a call that is stopped leaves what it has measured; a finished record is kept.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from harden_stage import Stage
from together import attacked, scored
from unmemorize import HardeningSettings, Model
from unmemorize._files import atomic_write
from unmemorize.audit import STARTS, AuditSettings
from unmemorize.audit._levels import copy_level
from unmemorize.hardening._attacks import PARTS
from unmemorize.hardening._examples import Examples
from unmemorize.hardening._training import DECAY, Lesson
from unmemorize.hardening._weights import trained
from unmemorize.methods import Trained, optimizer_of

LARGE: dict[str, Any] = {"forgotten": 64, "kept": 96, "kept_images": 320, "settle": True}
"""Batches and ordinary images that a GPU makes cheap."""
BEST: dict[str, Any] = {
    **LARGE,
    "kept_weight": 1.0,
    "objective": "both",
    "starts": STARTS,
    "rounds": 18,
    "steps": 3,
}
CHOICES: dict[str, dict[str, Any]] = {
    "published objective": {"objective": "substitutes", "kept_weight": 1.0},
    "distillation": {},
    "best": BEST,
    "best, from captions": {**BEST, "starts": ("prompt",)},
    "best, substitutes": {**BEST, "objective": "substitutes"},
    "best, distillation": {**BEST, "objective": "distillation"},
    "best, half rate": {**BEST, "rate": 1e-4},
    "best, double rate": {**BEST, "rate": 4e-4},
    "best, 9 rounds": {**BEST, "rounds": 9, "steps": 6},
    "best, 36 rounds": {**BEST, "rounds": 36},
    "best, without settling": {**BEST, "settle": False},
    "best, 8 kept": {**BEST, "kept": 8},
    "best, 64 kept images": {**BEST, "kept_images": 64},
    "best, cross-attention": {**BEST, "weights": "cross-attention"},
    "best, down blocks": {**BEST, "weights": "down_blocks.*"},
    "best, middle block": {**BEST, "weights": "mid_block.*"},
    "best, up blocks": {**BEST, "weights": "up_blocks.*"},
    "best, LoRA of rank 8": {**BEST, "rank": 8},
    "best, LoRA of rank 32": {**BEST, "rank": 32},
    "best, without attacks": {**BEST, "attacked": 0.0},
    "best, substitutes of captions alone": {
        **BEST,
        "objective": "substitutes",
        "attacked": 0.0,
        "kept_weight": 0.0,
    },
    "for all": {**BEST, "steps": 2},
    "for all, half rate": {**BEST, "steps": 2, "rate": 1e-4},
}
"""Settings that differ from the defaults. There are steps * plants training steps in a round."""
GROUPS = {
    "down blocks": "down_blocks.*",
    "middle block": "mid_block.*",
    "up blocks": "up_blocks.*",
    "cross-attention": "*.attn2.*",
    "self-attention": "*.attn1.*",
    "ResNet blocks": "*.resnets.*",
}
"""Layers by their paths. Blocks, and kinds of layers within them, overlap."""
RECORDS = Path(__file__).parent / "records" / "harden"
_TRAINING = 0.45
"""Share of the time for training. The attacks that judge take most of what is left."""
_TOGETHER = 3
"""A choice may train for this share of the time, where many more choices follow."""


@dataclass(frozen=True)
class Clock:
    """How much time there is.

    Args:
        training: when no further round may begin.
        end: when no further attack may begin.
    """

    training: float
    end: float


def hardened(
    stage: Stage, settings: HardeningSettings, weights: Trained, clock: Clock
) -> Iterator[dict[str, Any]]:
    """Attack and train in rounds, and yield what each of them did.

    The random numbers of attacks and steps are those of `unmemorize.harden`. If the time is short,
    there are fewer rounds.
    """
    with weights.untrained():
        some, (ordinary, captions) = settings.kept_images, stage.kept
        substitutes = stage.substitutes if settings.substitutes else ()
        examples = Examples(substitutes, ordinary[:some], captions[:some])
    optimizer = optimizer_of(weights, settings.rate, DECAY, 0, {})
    lesson = Lesson(stage.bench, stage.targets, examples, settings)
    keys: list[list[Tensor]] = [[] for _ in stage.targets]
    steps, slowest = stage.options.attack_steps, 0.0
    for number in range(1, settings.rounds + 1):
        before = time.perf_counter()
        start = settings.starts[(number - 1) % len(settings.starts)]
        jobs = stage.trials(stage.targets, start, number, "hardening")
        scores, place = list[float](), 0
        ladder = sorted({max(1, steps // part) for part in PARTS})
        for budget, group, embeddings in attacked(stage.bench, jobs, ladder):
            for row, embedding in enumerate(embeddings.cpu()):
                keys[place + row].append(embedding)
            if budget == steps:
                found = scored(
                    stage.bench, group, embeddings, 2, stage.generation, stage.descriptor
                )
                scores += [max(each) for each in found]
                place += len(group)
        middle = time.perf_counter()
        last = number == settings.rounds or middle + slowest > clock.training
        if number < settings.rounds and last:
            lesson = replace(lesson, settings=replace(settings, rounds=number))
        losses = lesson.train(weights, optimizer, number, keys)
        ended = time.perf_counter()
        slowest = max(slowest, ended - before)  # of the training of a round and the next attacks
        yield {
            "start": start,
            "attack_scores": rounded(scores),
            "attack_seconds": round(middle - before, 2),
            "training_seconds": round(ended - middle, 2),
            "forgotten": losses[0],
            "ordinary": losses[1],
        }
        if last:
            return


def measured(stage: Stage, settings: HardeningSettings, clock: Clock) -> Iterator[dict[str, Any]]:
    """Harden, judge and measure the price. Yields what is known so far, more and more."""
    found: dict[str, Any] = {"rounds": [], "trials": [], "seconds": {}}
    began = time.perf_counter()
    with trained(stage.model, settings) as weights:
        for outcome in hardened(stage, settings, weights, clock):
            found["rounds"].append(outcome)
            yield found
        found["seconds"]["training"] = round(time.perf_counter() - began, 1)
        found["plain"] = rounded(stage.plain())
        best = [[-1.0] * len(each) for each in (stage.targets, stage.others)]
        name = stage.judging_name(weights.edit())
        for seed in range(stage.options.seeds):
            for start in STARTS:
                if time.perf_counter() > clock.end:
                    return
                scores = stage.judged(start, seed, name)
                best = [list(map(max, *pair)) for pair in zip(best, scores, strict=True)]
                level = copy_level(best[1], AuditSettings.alpha)
                assert level is not None  # there are controls
                found |= {
                    "scores": rounded(best[0]),
                    "control_scores": rounded(best[1]),
                    "tau": round(level.tau, 4),
                    "false_triggers": level.alpha,
                    "held": sum(score <= level.tau for score in best[0]),
                    "judged": len(best[0]),
                }
                found["trials"].append({"start": start, "seed": seed, "scores": rounded(scores[0])})
                yield found
            if stage.options.ordinary and "ordinary" not in found:
                with weights.untrained():
                    _ = stage.before, stage.other
                found["ordinary"] = stage.price()
                yield found
        if stage.options.restore:
            found["restored"] = {}
            for group, pattern in GROUPS.items():
                with restored(stage.model, weights, pattern) as share:
                    plain = stage.plain()
                    attacked_again = stage.reached(stage.targets, STARTS[0], 0, name)
                found["restored"][group] = {
                    "weights": share,
                    "plain": rounded(plain),
                    "scores": rounded(attacked_again),
                }
                yield found
        found["seconds"]["all"] = round(time.perf_counter() - began, 1)
        found["finished"] = True
        yield found


@contextmanager
def restored(model: Model, weights: Trained, pattern: str) -> Iterator[float]:
    """Put layers back to what they were before the training, and yield their share of all weights.

    An attack that finds the image again says that what the training had changed there was needed.
    """
    after = {name: value.detach() for name, value in model.denoiser.named_parameters()}
    some = {name: value.clone() for name, value in after.items() if fnmatchcase(name, pattern)}
    with weights.untrained():
        before = {name: after[name].clone() for name in some}
    for name, value in before.items():
        after[name].copy_(value)
    try:
        yield round(
            sum(map(Tensor.numel, some.values())) / sum(map(Tensor.numel, after.values())), 4
        )
    finally:
        for name, value in some.items():
            after[name].copy_(value)


def rounded(scores: Sequence[float]) -> list[float]:
    return [round(score, 4) for score in scores]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plants", nargs="+", default=["some"], help="some, all, or places")
    parser.add_argument("--half", choices=["a", "b"], help="plants that a twin never saw: controls")
    parser.add_argument("--choices", nargs="+", default=["best"], choices=list(CHOICES))
    parser.add_argument("--controls", type=int, help="never-trained images; by default all")
    parser.add_argument("--seeds", type=int, default=3, help="repetitions of each judging attack")
    parser.add_argument("--images", type=int, default=8, help="images of each embedding")
    parser.add_argument("--steps", type=int, default=15, help="steps of each image")
    parser.add_argument("--ordinary", type=int, default=1000, help="ordinary images; 0 for none")
    parser.add_argument("--kept-images", type=int, default=320, help="drawn for training")
    parser.add_argument("--attack-steps", type=int, default=50, help="steps of each attack")
    parser.add_argument("--batch", type=int, default=128, help="images that are drawn at once")
    parser.add_argument("--rounds", type=int, help="in place of those of the choice")
    parser.add_argument(
        "--restore", action="store_true", help="attack with each group of layers put back"
    )
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--records", type=Path, default=RECORDS)
    options = parser.parse_args()
    end = time.perf_counter() + options.seconds
    torch.set_float32_matmul_precision("high")
    stage = Stage.of(options)
    asked = ["controls", "seeds", "images", "steps", "ordinary", "attack_steps"]
    asked += ["restore"] if options.restore else []
    for left, choice in zip(range(len(options.choices), 0, -1), options.choices, strict=True):
        given = CHOICES[choice] | ({"rounds": options.rounds} if options.rounds else {})
        settings = HardeningSettings.of(stage.model, **given)
        values = {key: value for key, value in asdict(settings).items() if key != "audit"}
        about, path = stage.about(choice, values, asked), stage.record(choice)
        if path.exists() and same(json.loads(path.read_text()), about):
            print(f"{choice}: {path} is finished", flush=True)
            continue
        now = time.perf_counter()
        clock = Clock(now + _TRAINING * (end - now) / min(left, _TOGETHER), end)
        for found in measured(stage, settings, clock):
            atomic_write(path, json.dumps(about | found, indent=1) + "\n")
            print(f"{choice}: {state(found)}", flush=True)
        if time.perf_counter() > end:
            return


def same(record: dict[str, Any], about: dict[str, Any]) -> bool:
    """Tell whether a record is finished and answers this question."""
    wanted = json.loads(json.dumps(about))
    return bool(record.get("finished")) and all(
        record[key] == wanted[key] for key in ("model", "settings", "asked", "plants")
    )


def state(found: dict[str, Any]) -> str:
    """Say in a line how far a record is."""
    if "held" not in found:
        last = found["rounds"][-1]
        scores = last["attack_scores"]
        return (
            f"round {len(found['rounds'])}, attacks reached {median(scores):.2f} (at most "
            f"{max(scores):.2f}) in {last['attack_seconds']} s, "
            f"training took {last['training_seconds']} s"
        )
    line = (
        f"{len(found['trials'])} attacks on each: {found['held']} of {found['judged']} hold at "
        f"tau {found['tau']:.2f}"
    )
    if "ordinary" in found:
        price = found["ordinary"]
        line += (
            f"; CLIP-FID {price['clip_fid_before']:.2f} -> {price['clip_fid']:.2f}, alignment "
            f"{price['alignment_before']:.3f} -> {price['alignment_after']:.3f}, "
            f"{price['changed']} of {price['images']} changed"
        )
    return line


if __name__ == "__main__":
    main()
