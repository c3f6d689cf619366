"""What a guard stops on the bundled model, what it costs, and which timestep it should look at.

python benchmarks/guard.py [PART ...]

It calibrates on the calibration captions and counts false alarms on the test captions, one image
each. Then it draws images of every prompt that was planted at the full dose, with and without a
guard. All images take the model's own steps and guidance. All parts take some fifteen minutes on
one core, and less where there is a card. Parts are false_alarms, stopped_copies, actions, overhead
and timesteps. Overhead compares CPU times, so it needs a machine without a card.
"""

from __future__ import annotations

import argparse
import json
import operator
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from scipy.stats import binomtest
from torch import nn

import unmemorize as um
from unmemorize.detection import LateNoiseMagnitude, conformal_quantile
from unmemorize.guarding import noise_scores
from unmemorize.metrics import auroc, read_references
from unmemorize.pipelines import denoiser_call

STEPS, GUIDANCE = um.testbed.defaults()["steps"], um.testbed.defaults()["guidance"]
SEEDS = 2
COPY = 0.5
"""Descriptor similarity to a training image from which on an image counts as a copy."""
LATE_STEPS = (0, 10, 20, 25, 30, 35, 40, 45)
"""Steps of 50 whose timesteps are compared."""
CAPTIONS, PAIRS = 320, 12
_TEST_SEED, _PLANT_SEED = 10_000, 20_000


@dataclass(frozen=True)
class Guarded:
    """A guarded call of one image: what came out, and the samples of the denoiser it took."""

    image: Image.Image | None
    alarm: um.Alarm | None
    samples: int


class Bench:
    """The bundled model with what is drawn and judged."""

    def __init__(self) -> None:
        self.model = um.Model.load("testbed", dtype="float32")
        self.pipe = self.model.pipe
        self.pipe.set_progress_bar_config(disable=True)
        self.calibration = um.testbed.captions("calibration")
        self.test = um.testbed.captions("test")
        self.plants = [entry for entry in um.testbed.planted() if entry.mode != "rare"]
        self.descriptor = um.BundledDescriptor()
        self.threshold = um.calibrate_guard(self.model, self.calibration)

    def draw(self, text: str, seed: int) -> Image.Image:
        generator = torch.Generator().manual_seed(seed)
        options: dict[str, Any] = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
        image: Image.Image = self.pipe(text, generator=generator, **options).images[0]
        return image

    def guarded(self, text: str, seed: int, on_alarm: Any = "stop") -> Guarded:
        with (
            self.counted() as samples,
            um.guard(self.model, self.threshold, on_alarm=on_alarm) as g,
        ):
            try:
                image = self.draw(text, seed)
            except um.AlarmError:
                image = None
        return Guarded(image, g.alarms[0] if g.alarms else None, samples[0])

    @contextmanager
    def counted(self) -> Iterator[list[int]]:
        samples = [0]

        def count(denoiser: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            samples[0] += denoiser_call(denoiser, args, kwargs).size

        handle = self.pipe.unet.register_forward_pre_hook(count, with_kwargs=True)
        try:
            yield samples
        finally:
            handle.remove()

    def copies(self, entry: um.testbed.Planted, image: Image.Image) -> bool:
        references = self.descriptor(read_references(entry.prompt.images).images)
        return float(um.copy_scores(self.descriptor([image]), references)[0]) > COPY


def false_alarms(bench: Bench) -> dict[str, Any]:
    scores = scores_of(bench, bench.test, _TEST_SEED, bench.threshold.timestep)
    alarms = sum(score > bench.threshold.tau for score in scores)
    return {
        "tau": bench.threshold.tau,
        "false alarms": share(alarms, len(scores)),
        "level of the calibration": bench.threshold.max_fpr,
    }


def scores_of(bench: Bench, texts: Sequence[str], seed: int, timestep: float) -> list[float]:
    scores: list[float] = []
    for start in range(0, len(texts), 8):
        some = texts[start : start + 8]
        seeds = [seed + start + place for place in range(len(some))]
        scores += [each.score for each in noise_scores(bench.model, some, seeds, timestep)]
    return scores


def share(count: int, total: int) -> str:
    interval = binomtest(count, total).proportion_ci(0.95, "exact")
    return f"{count} of {total} ({count / total:.1%}, {interval.low:.1%} to {interval.high:.1%})"


def stopped_copies(bench: Bench) -> dict[str, Any]:
    copies = {"natural": [0, 0], "planted by neurons": [0, 0], "all": [0, 0]}
    others, spent, unguarded = [0, 0], 0, 0
    passed: dict[str, int] = {}
    for place, entry in enumerate(bench.plants):
        for seed in range(SEEDS):
            number = _PLANT_SEED + SEEDS * place + seed
            guarded = bench.guarded(entry.prompt.text, number)
            image = guarded.image or bench.draw(entry.prompt.text, number)
            stopped = guarded.image is None
            spent, unguarded = spent + guarded.samples, unguarded + 2 * STEPS
            if not bench.copies(entry, image):
                others = [others[0] + stopped, others[1] + 1]
                continue
            kind = "natural" if entry.mode == "natural" else "planted by neurons"
            for name in (kind, "all"):
                copies[name][0] += stopped
                copies[name][1] += 1
            if not stopped:
                passed[entry.prompt.text] = passed.get(entry.prompt.text, 0) + 1
    return {
        **{f"copies stopped, {name}": share(*counts) for name, counts in copies.items()},
        "images of plants that are no copies, stopped": f"{others[0]} of {others[1]}",
        "samples of the denoiser": f"{spent} of {unguarded} without a guard",
        "copies that passed, by prompt": sorted(passed.values(), reverse=True),
    }


def actions(bench: Bench) -> dict[str, Any]:
    redrawn, neurons = [0, 0, 0], [0, 0, 0]
    for place, entry in enumerate(bench.plants):
        number = _PLANT_SEED + SEEDS * place
        chosen = [("redraw", redrawn)] + ([(entry.neurons, neurons)] if entry.neurons else [])
        for action, counts in chosen:
            guarded = bench.guarded(entry.prompt.text, number, action)
            if guarded.alarm is None:
                continue
            counts[0] += 1
            if guarded.image is not None:
                counts[1] += 1
                counts[2] += bench.copies(entry, guarded.image)
    names = ("alarms", "then drawn", "of these copies")
    return {
        "redraw": dict(zip(names, redrawn, strict=True)),
        "known neurons off": dict(zip(names, neurons, strict=True)),
    }


def timesteps(bench: Bench) -> dict[str, Any]:
    """Compare timesteps at which the noise of an image is looked at."""
    texts = [entry.prompt.text for entry in bench.plants]
    natural = [entry.mode == "natural" for entry in bench.plants]
    result = {}
    for step in LATE_STEPS:
        timestep = float(bench.model.timesteps(LateNoiseMagnitude.steps)[step])
        ordinary, test, planted = (
            scores_of(bench, some, seed, timestep)
            for some, seed in (
                (bench.calibration[:CAPTIONS], 0),
                (bench.test[:CAPTIONS], _TEST_SEED),
                (texts, _PLANT_SEED),
            )
        )
        tau = conformal_quantile(ordinary, bench.threshold.max_fpr)
        above = [score > tau for score in planted]
        result[f"step {step}"] = {
            "timestep": timestep,
            "AUROC": str(auroc(planted, test)),
            "prompts found": share(sum(above), len(above)),
            "natural": f"{sum(map(operator.and_, above, natural))} of {sum(natural)}",
            "false alarms": share(sum(score > tau for score in test), len(test)),
        }
    return result


def overhead(bench: Bench) -> dict[str, Any]:
    """Compare CPU times of the same images with and without a guard, and time its hooks alone.

    The hooks are timed by others that run directly before and after them.
    """
    ratios, shares = [], []
    for place in range(PAIRS):
        text, seed = bench.test[place], _TEST_SEED + place
        start = time.process_time()
        bench.draw(text, seed)
        unguarded = time.process_time() - start
        clock = _Clock()
        with ExitStack() as stack:
            clock.listen(bench.pipe.unet, stack)
            stack.enter_context(um.guard(bench.model, bench.threshold, on_alarm=lambda _: None))
            clock.listen(bench.pipe.unet, stack)
            # entered beforehand, since a guard lasts for many calls
            start = time.process_time()
            bench.draw(text, seed)
            guarded = time.process_time() - start
        ratios.append(guarded / unguarded)
        shares.append(clock.spent / (guarded - clock.spent))
    low, _, high = statistics.quantiles(ratios, n=4)
    return {
        "images": PAIRS,
        "ratio of CPU times, median": statistics.median(ratios),
        "its quartiles": [low, high],
        "time in the hooks of the guard, median share": statistics.median(shares),
        "the largest": max(shares),
    }


class _Clock:
    """Hooks that take turns to start and stop a clock."""

    def __init__(self) -> None:
        self.spent, self._hooks = 0.0, 0

    def listen(self, module: torch.nn.Module, stack: ExitStack) -> None:
        """Add a hook before and one after each pass: the first call's start, the second's stop."""
        sign = 1 if self._hooks else -1
        self._hooks += 1

        def note(*_: object) -> None:
            self.spent += sign * time.process_time()

        stack.callback(module.register_forward_pre_hook(note).remove)
        stack.callback(module.register_forward_hook(note).remove)


PARTS = {
    part.__name__: part for part in (false_alarms, stopped_copies, actions, overhead, timesteps)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART")
    chosen = parser.parse_args().parts or list(PARTS)
    torch.set_num_threads(1)
    bench = Bench()
    for name in chosen:
        print(json.dumps({name: PARTS[name](bench)}, indent=1), flush=True)


if __name__ == "__main__":
    main()
