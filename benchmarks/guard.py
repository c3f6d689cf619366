"""What a guard stops on the bundled model, what it costs, and why it decides at the first step.

python benchmarks/guard.py [PART ...]

It calibrates on the calibration captions and counts false alarms on the test captions, one image
each. Then it draws images of every prompt that was planted at the full dose, with and without a
guard. All images take the model's own steps and guidance. All parts take some five minutes on one
core. Parts are false_alarms, stopped_copies, actions, overhead, timesteps and checkpoints.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import binomtest
from torch import nn

import unmemorize as um
from unmemorize.detection import conformal_quantile
from unmemorize.guarding import first_scores
from unmemorize.metrics import read_references
from unmemorize.pipelines import denoiser_call

STEPS, GUIDANCE = um.testbed.defaults()["steps"], um.testbed.defaults()["guidance"]
SEEDS = 2
COPY = 0.5
"""Descriptor similarity to a training image from which on an image counts as a copy."""
OTHER_STEPS = (50,)
CHECKPOINTS = (0, 1, 2, 3)
RULES = ((0,), (1,), (2,), (3,), (0, 1), (0, 2), (0, 1, 2), (0, 1, 3))
SPLITS = 500
PAIRS = 12
_TEST_SEED, _PLANT_SEED = 10_000, 20_000

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Guarded:
    """A guarded call of one image: what came out, and the samples of the denoiser it took."""

    image: Image.Image | None
    alarm: um.Alarm | None
    samples: int


class Bench:
    """The bundled model with what is drawn and judged."""

    def __init__(self) -> None:
        self.model = um.Model.load("testbed", device="cpu")
        self.pipe = self.model.pipe
        self.pipe.set_progress_bar_config(disable=True)
        self.calibration = um.testbed.captions("calibration")
        self.test = um.testbed.captions("test")
        self.plants = [entry for entry in um.testbed.planted() if entry.mode != "rare"]
        self.descriptor = um.BundledDescriptor()
        self.threshold = um.calibrate_guard(self.model, self.calibration, steps=STEPS)

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
    scores = scores_of(bench, bench.test, _TEST_SEED, STEPS)
    alarms = sum(score > bench.threshold.tau for score in scores)
    return {
        "tau": bench.threshold.tau,
        "false alarms": share(alarms, len(scores)),
        "level of the calibration": bench.threshold.max_fpr,
    }


def scores_of(bench: Bench, texts: Sequence[str], seed: int, steps: int) -> list[float]:
    scores: list[float] = []
    for start in range(0, len(texts), 8):
        some = texts[start : start + 8]
        seeds = [seed + start + place for place in range(len(some))]
        scores += [each.score for each in first_scores(bench.model, some, seeds, steps)]
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
    result = {}
    for steps in OTHER_STEPS:
        own = um.calibrate_guard(bench.model, bench.calibration, steps=steps)
        scores = scores_of(bench, bench.test, _TEST_SEED, steps)
        result[f"{steps} steps"] = {
            "timestep": own.timestep,
            "tau": own.tau,
            "false alarms": sum(score > own.tau for score in scores) / len(scores),
            f"false alarms at the level of {STEPS} steps": sum(
                score > bench.threshold.tau for score in scores
            )
            / len(scores),
        }
    return result


def checkpoints(bench: Bench) -> dict[str, Any]:
    """Compare one checkpoint with maxima over several, by random halves of ordinary captions.

    Scores of a checkpoint are divided by their median over the calibration half. The level is the
    conformal 1 % of the maximum. Intervals resample halves and planted prompts.
    """
    ordinary = norms(bench, [*bench.calibration, *bench.test], _TEST_SEED)
    texts = [entry.prompt.text for entry in bench.plants]
    planted = np.stack([norms(bench, texts, _PLANT_SEED + 1000 * seed) for seed in range(SEEDS)])
    natural = np.flatnonzero([entry.mode == "natural" for entry in bench.plants])
    random = np.random.default_rng(0)
    rates: dict[tuple[int, ...], list[tuple[float, float]]] = {rule: [] for rule in RULES}
    for _ in range(SPLITS):
        calibration = ordinary[random.permutation(len(ordinary))[: len(ordinary) // 2]]
        every = random.choice(len(texts), len(texts))
        some = random.choice(natural, len(natural))
        unit = np.median(calibration, 0)
        for rule, measured in rates.items():
            columns = [CHECKPOINTS.index(step) for step in rule]
            level = conformal_quantile((calibration / unit)[:, columns].max(1).tolist(), 0.01)
            above = (planted / unit)[..., columns].max(-1) > level
            measured.append((above[:, every].mean(), above[:, some].mean()))
    result = {}
    first = np.array(rates[0,])
    for rule, measured in rates.items():
        found = np.array(measured)
        gain = found - first
        low, high = np.quantile(gain, [0.025, 0.975], axis=0)
        result[f"steps {', '.join(map(str, rule))}"] = (
            f"alarms {found[:, 0].mean():.3f}, natural {found[:, 1].mean():.3f}; more than step 0 "
            f"alone: {gain[:, 0].mean():+.3f} ({low[0]:+.3f} to {high[0]:+.3f}), natural "
            f"{gain[:, 1].mean():+.3f} ({low[1]:+.3f} to {high[1]:+.3f})"
        )
    return result


def norms(bench: Bench, texts: Sequence[str], seed: int) -> Floats:
    """How much the text changes the prediction at each checkpoint, (prompts, checkpoints)."""
    rows: list[Floats] = []
    for start in range(0, len(texts), 8):
        some = list(texts[start : start + 8])
        changes: list[Floats] = []

        def note(
            _module: object, _inputs: object, output: tuple[torch.Tensor], changes: Any = changes
        ) -> None:
            without, with_text = output[0].chunk(2)
            changes.append((with_text - without).flatten(1).norm(dim=1).double().numpy())
            if len(changes) > CHECKPOINTS[-1]:
                raise StopIteration

        handle = bench.pipe.unet.register_forward_hook(note)
        generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(some))]
        options = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
        try:
            bench.pipe(some, generator=generators, **options)
        except StopIteration:
            rows.append(np.stack(changes, 1)[:, CHECKPOINTS])
        finally:
            handle.remove()
    return np.concatenate(rows)


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
    part.__name__: part
    for part in (false_alarms, stopped_copies, actions, overhead, timesteps, checkpoints)
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
