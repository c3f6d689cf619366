"""An audit of the bundled model with its known neurons off: all levels, all arms, and images first.

Call: python benchmarks/audit.py [--only PART ...] [--seconds N]

Each part writes records/audit/PART.json after each of its units, so a call that is stopped leaves
what it has measured, and the next one goes on from there. Several parts may run side by side.
benchmarks/audit_page.py makes the tables of docs/audit.md from the records.

Arms are those of `unmemorize audit`. Never-trained are the same images in the twins, each of which
never saw one half of the plants. Attacks on embeddings run side by side, which a GPU makes cheap.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch

from audit_stage import COLUMNS, HALVES, Rows, Stage, Unit, row
from together import Job, Stand, image_seeds
from unmemorize import testbed
from unmemorize._files import atomic_write
from unmemorize.audit import (
    STARTS,
    AttackSettings,
    Start,
    Target,
    checkpoints,
    drawn,
    make_attacks,
    similarity,
)
from unmemorize.audit._objectives import IMAGELESS
from unmemorize.audit._rephrasing import Rephrasing
from unmemorize.audit._soft_tokens import SoftTokens, free_positions
from unmemorize.audit._targets import targets_of_files
from unmemorize.generation import generate_each
from unmemorize.runs import hash_of_file

RECORDS = Path(__file__).parent / "records" / "audit"
ARMS = ("edited", "never-trained", "unedited", "random")
DECIDING = ("edited", "never-trained")
"""Arms without which there is no verdict."""
ORDINARY: Unit = ("ordinary", "", "0")
"""The unit of images that the unedited model draws, attacked under the edit."""
LADDER = (0, 1, 5, 10, 25, 50)
LONG = (50, 100, 200, 500)
FEW, SOME = 5, 10
"""Plants of each half where an attack is dear. Level and verdict need 19 in all."""
NEUTRAL: tuple[Start, ...] = ("noise", "other")
RADII = (0.25, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Work:
    """A part of the audit: its units in the order of their worth."""

    stage: Stage

    def units(self) -> Iterator[Unit]:
        raise NotImplementedError

    def rows(self, unit: Unit) -> Rows:
        raise NotImplementedError


class ByHalf(Work):
    """A part whose units are an arm, a half and a repetition. Ordinary images are in no half."""

    arms: tuple[str, ...] = ARMS
    seeds = 1

    def units(self) -> Iterator[Unit]:
        for seed in range(self.seeds):
            for arm in self.arms:
                yield from ((arm, half, str(seed)) for half in HALVES)

    def images(self, arm: str, half: str) -> list[tuple[int, Target]]:
        """Return the images of a unit with their places."""
        if arm == ORDINARY[0]:
            return list(enumerate(self.stage.ordinary))
        return [(place, self.stage.targets[place]) for place in self.stage.places(half, self.most)]

    starts: tuple[Start, ...] = STARTS
    ladder: tuple[int, ...] = LADDER
    most: int | None = None

    def attacks(self) -> Sequence[SoftTokens]:
        return (SoftTokens(),)

    def rows(self, unit: Unit) -> Rows:
        arm, half, seed = unit
        jobs = [
            (place, Job(attack, self.stage.trial(target, start, int(seed), attack.name)))
            for attack in self.attacks()
            for place, target in self.images(arm, half)
            for start in self.starts
        ]
        return self.stage.together(arm, self.stage.bench(arm, half), jobs, self.ladder)


class Free(ByHalf):
    """L4 from three starts; images of ordinary captions beside it.

    The arms that decide are repeated three times, the others once.
    """

    def units(self) -> Iterator[Unit]:
        yield from super().units()
        yield ORDINARY
        for seed in ("1", "2"):
            yield from ((arm, half, seed) for arm in DECIDING for half in HALVES)


class Long(ByHalf):
    """L4 with large budgets, from the caption and from noise."""

    arms, starts, ladder, most = DECIDING, ("prompt", "noise"), LONG, SOME


class Bounded(ByHalf):
    """L3 with all numbers of positions and radii, from the caption."""

    arms = (*DECIDING, "unedited")
    starts, ladder, most = ("prompt",), (10, 50), SOME

    def attacks(self) -> Sequence[SoftTokens]:
        return tuple(free_positions(AttackSettings(positions=(1, 4, 16), radii=RADII)))


class Imageless(ByHalf):
    """L4 without an image, from the caption and from noise."""

    arms, starts, ladder = (*DECIDING, "random"), ("prompt", "noise"), (10, 50)

    def attacks(self) -> Sequence[SoftTokens]:
        return (SoftTokens(IMAGELESS),)

    def rows(self, unit: Unit) -> Rows:
        arm, half, _ = unit
        self.stage.draw_unedited(self.stage.bench(arm, half), self.stage.places(half, self.most))
        return super().rows(unit)


class Words(ByHalf):
    """L0 and L1, whose images are drawn for many captions at once."""

    def units(self) -> Iterator[Unit]:
        yield from super().units()
        yield ORDINARY

    def rows(self, unit: Unit) -> Rows:
        arm, half, _ = unit
        stage, attack, rows = self.stage, Rephrasing(), Rows()
        (plain,) = make_attacks(("L0",), AttackSettings())
        bench, attacked = stage.bench(arm, half), self.images(arm, half)
        for budget in (0, *attack.ladder(())):
            texts, seeds, count = [], [], stage.options.images
            for _, target in attacked:
                trial = stage.trial(target, "prompt", 0, attack.name)
                state = replace(attack.begin(bench, trial), step=budget)
                candidate = attack.candidate(bench, trial, state)
                texts += [candidate.text] * count
                seeds += image_seeds(trial.fingerprint, target, count)
            images = generate_each(
                bench.model,
                texts,
                [bench.edit] * len(texts),
                settings=replace(candidate.settings(stage.generation), images=1),
                seeds=seeds,
                scheduler=candidate.scheduler(),
            )
            for number, (place, target) in enumerate(attacked):
                some = [image for (image,) in images[number * count :][:count]]
                scores, _ = similarity(some, target, stage.descriptor)
                used = attack if budget else plain
                trial = stage.trial(target, "prompt", 0, used.name)
                rows.append(row(arm, place, used, trial, budget, scores))
        return rows


class Alone(Work):
    """L5, L2 and L6 on few plants, which run one after the other: the cheapest level first."""

    levels: ClassVar[dict[str, tuple[str, ...]]] = {
        "L5": ARMS,
        "L2": ("edited", "never-trained", "unedited"),
        "L6": ("edited", "never-trained"),
    }

    def units(self) -> Iterator[Unit]:
        places = [self.stage.places(half, FEW) for half in HALVES]
        for level, arms in self.levels.items():
            for pair in zip(*places, strict=True):
                yield from ((level, arm, str(place)) for place in pair for arm in arms)

    def rows(self, unit: Unit) -> Rows:
        level, arm, number = unit
        stage, place = self.stage, int(number)
        bench, target = stage.bench(arm, stage.entries[place].half), stage.targets[place]
        seeds = image_seeds(stage.model.fingerprint, target, stage.options.images)
        rows = Rows()
        for attack in make_attacks((level,), AttackSettings()):
            trial = stage.trial(target, "prompt", 0, attack.name)
            ladder = stage.options.ladder or (0, 10, 50)
            for state, candidate in checkpoints(attack, bench, trial, ladder):
                images = drawn(bench, candidate, seeds, stage.generation)
                scores, _ = similarity(images, target, stage.descriptor)
                rows.append(row(arm, place, attack, trial, state.step, scores))
        return rows


class ImagesFirst(Work):
    """Attacks from neutral starts on single images, in the model and in both twins."""

    size = 32

    @cached_property
    def files(self) -> dict[str, dict[str, Path]]:
        """Images by where they are attacked: a name that tells what each is, and its file."""
        stage, planted, known = self.stage, dict[str, Path](), set[str]()
        for number, entry in enumerate(testbed.planted()):
            path = Path(entry.prompt.images[0])
            if (digest := hash_of_file(path)) not in known:  # some captions share an image
                known.add(digest)
                planted[f"{entry.half} {entry.kind} {entry.mode} {number}"] = path
        full = {name: path for name, path in planted.items() if " rare " not in name}
        unused = {
            f"unused {number}": Path(each.image) for number, each in enumerate(testbed.unused())
        }
        most = stage.options.files
        return {
            "a": dict(list(full.items())[:most]),
            "b": dict(list(full.items())[:most]),
            "main": dict(list({**planted, **unused}.items())[:most]),
        }

    def units(self) -> Iterator[Unit]:
        for seed in range(3):
            for where, files in self.files.items():
                for first in range(0, len(files), self.size):
                    yield where, str(first), str(seed)

    def rows(self, unit: Unit) -> Rows:
        where, first, seed = unit
        stage, model = self.stage, self.stage.model
        some = dict(list(self.files[where].items())[int(first) :][: self.size])
        targets = dict(zip(some, targets_of_files(list(some.values())), strict=True))
        if where in HALVES:
            model = stage.twins["a" if where == "a" else "b"]
        bench = Stand(model, None, testbed.captions("test"))
        attack = SoftTokens()
        jobs = [
            (place, Job(attack, stage.trial(target, start, int(seed), attack.name)))
            for place, target in enumerate(targets.values())
            for start in NEUTRAL
        ]
        rows, names = stage.together(where, bench, jobs, LADDER), list(targets)
        return [(arm, names[place], *rest) for arm, place, *rest in rows]


PARTS: dict[str, type[Work]] = {
    "L4": Free,
    "L4-long": Long,
    "L3": Bounded,
    "L4-imageless": Imageless,
    "L0-L1": Words,
    "L2-L5-L6": Alone,
    "images": ImagesFirst,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--plants", type=int, default=15, help="plants of each half")
    parser.add_argument("--files", type=int, help="images of each model in the part images")
    parser.add_argument("--ordinary", type=int, default=20, help="images of ordinary captions")
    parser.add_argument("--images", type=int, default=4, help="images of each embedding")
    parser.add_argument("--steps", type=int, default=15, help="steps of each image")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--ladder", type=int, nargs="+", help="budgets in place of all others")
    options = parser.parse_args()
    end = time.perf_counter() + options.seconds
    torch.set_float32_matmul_precision("high")
    stage = Stage(options)
    options.records.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        measure(name, PARTS[name](stage), options.records / f"{name}.json", end)


def measure(name: str, part: Work, path: Path, end: float) -> None:
    """Do the units of a part that its record lacks, until the time is over."""
    options, model = part.stage.options, part.stage.model
    plants = [[each.kind, each.mode, each.half, each.prompt.text] for each in part.stage.entries]
    about = {
        "model": model.fingerprint,
        "images": options.images,
        "steps": options.steps,
        "plants": plants,
    }
    known: dict[str, Any] = {**about, "device": "", "columns": COLUMNS, "units": [], "rows": []}
    if path.exists():
        read = json.loads(path.read_text())
        if all(read[key] == value for key, value in about.items()):
            known = read
    known["device"] = str(model.device)
    done = {tuple(each["unit"]) for each in known["units"]}
    for unit in part.units():
        if unit in done:
            continue
        if time.perf_counter() > end:
            return
        began = time.perf_counter()
        rows = part.rows(unit)
        seconds = round(time.perf_counter() - began, 2)
        known["units"].append({"unit": unit, "seconds": seconds, "rows": len(rows)})
        known["rows"] += rows
        atomic_write(path, as_text(known))
        print(f"{name} {' '.join(unit)}: {len(rows)} rows in {seconds} s", flush=True)


def as_text(record: dict[str, Any]) -> str:
    """Return a record as JSON with a unit or row on each line."""
    lines = [
        f'"{key}": [\n' + ",\n".join(json.dumps(each) for each in value) + "\n]"
        if isinstance(value, list)
        else f'"{key}": {json.dumps(value)}'
        for key, value in record.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    main()
