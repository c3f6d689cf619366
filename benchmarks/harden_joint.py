"""Hardening of many planted images at once: training and attacks share the passes of the denoiser.

Call: python benchmarks/harden_joint.py [--plants all] [--choice usual] [--seconds N] ...

Each image has attacks that go on all the time and begin anew when they are 50 steps old. Every
training step moves weights and attacks together (`harden_school.School`). The model is
looked at while it is trained, and judged at the end as `unmemorize harden` does. The record
records/harden-joint/CHOICE.json is written after every part, so a call that is stopped leaves what
it has measured. Attacks that judge have random numbers that training never saw.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import load_file

from harden_school import CHOICES, Choice, School
from harden_stage import Stage
from together import Job, attacked, scored
from unmemorize import HardeningSettings
from unmemorize._files import atomic_write
from unmemorize.audit import STARTS, AuditSettings, Trial
from unmemorize.audit._levels import copy_level
from unmemorize.audit._soft_tokens import SoftTokens
from unmemorize.generation import EditFile
from unmemorize.hardening._weights import trained
from unmemorize.methods import Trained

RECORDS = Path(__file__).parent / "records" / "harden-joint"
_LOST = 0.1
"""A plant that exceeds the level by this is not attacked again, and counts as not holding."""


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


def judged(stage: Stage, name: str, end: float) -> Iterator[dict[str, Any]]:
    """Attack all images from three starts, again and again, and yield the state after each.

    Seeds follow from the name.
    """
    best = {target.key: -1.0 for target in (*stage.targets, *stage.others)}
    trials, lost = list[dict[str, Any]](), set[str]()
    for seed in range(stage.options.seeds):
        for start in STARTS:
            if time.perf_counter() > end:
                return
            some = [target for target in stage.targets if target.key not in lost]
            jobs = stage.trials([*some, *stage.others], start, seed, "L4", name)
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


def begin(weights: Trained, path: str) -> None:
    """Add the differences of an edit's tensors to the weights."""
    with torch.no_grad():
        for name, difference in load_file(path).items():
            weights.parameters[name].add_(difference.to(weights.parameters[name]))


def measured(stage: Stage, choice: Choice) -> Iterator[dict[str, Any]]:
    """Train, look and judge. Yields what is known so far, more and more."""
    options = stage.options
    if not choice.moves:
        _ = stage.substitutes  # drawn before the model is trained
    drawn = len(stage.kept[1]), len(stage.before[2]), len(stage.other)
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
        if options.begin:
            begin(weights, options.begin)
        school, spent, looks = School(stage, choice, weights), 0.0, 0
        while spent < training and school.done < options.most:
            before = time.perf_counter()
            for step in school.block():
                now = spent + time.perf_counter() - before
                school.learn(step, min(1.0, max(now / training, school.done / options.most)))
            spent += time.perf_counter() - before
            found["log"].append({"steps": school.done, "seconds": round(spent, 1), **school.log})
            print(found["log"][-1], flush=True)
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
            edit = weights.edit()
            if options.edits is not None:
                with weights.untrained():
                    file = EditFile.of(stage.model, edit)
                file.save(options.edits / stage.record(options.choice).name)
            name = stage.judging_name(edit)
            for state in judged(stage, name, options.began + options.seconds):
                found |= state
                yield found
        found["seconds"]["all"] = round(time.perf_counter() - options.began, 1)
        found["finished"] = len(found.get("trials", ())) == len(STARTS) * options.seeds
        yield found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plants", nargs="+", default=["all"], help="some, all, or places")
    parser.add_argument("--half", choices=["a", "b"], help="plants that a twin never saw: controls")
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
    parser.add_argument("--begin", default="", help="tensors of an edit to begin with, no LoRA")
    parser.add_argument("--edits", type=Path, help="folder that keeps the trained weights")
    parser.add_argument("--records", type=Path, default=RECORDS)
    options = parser.parse_args()
    options.began = time.perf_counter()
    torch.set_float32_matmul_precision("high")
    stage = Stage.of(options)
    choice = CHOICES[options.choice]
    given = {name: getattr(options, name) for name in ("samples", "substitutes", "kept")}
    choice = replace(choice, **{name: value for name, value in given.items() if value})
    asked = (
        "begin",
        "controls",
        "seeds",
        "images",
        "steps",
        "ordinary",
        "few",
        "attack_steps",
        "share",
    )
    about, path = stage.about(options.choice, asdict(choice), asked), stage.record(options.choice)
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
