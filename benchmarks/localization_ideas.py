"""What the ideas behind localization rest on, measured on the bundled model.

They are the share of a forward that runs behind each layer, the tests of one prompt, its scores by
two rankings, and the time of a sample by batch, type and memory layout.
"""

from __future__ import annotations

import statistics as stats
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

import unmemorize as um
from unmemorize.detection import detect_prompts, make_probe
from unmemorize.localization import Evaluator, Limit
from unmemorize.statistics import activations


def ideas(model: um.Model, prompt: str, settings: um.LocalizationSettings) -> dict[str, Any]:
    """Measure replay, the tests of a prompt, and its scores by two rankings."""
    statistics = um.Statistics.load(um.testbed.statistics_path())
    threshold = um.Threshold.load(um.testbed.threshold_path("seed similarity"))
    with traced() as (tests, evaluators):
        found = um.localize(
            model, prompt, statistics=statistics, threshold=threshold, settings=settings
        )
    evaluator = evaluators[-1]
    probe = make_probe(model, model.encode([prompt]), settings.noise)
    z_scores = statistics.z_scores(
        {path: value[0] for path, value in activations(model, probe.text).items()}
    )
    effects = evaluator.effects(found.initial)
    by_z = {(path, index): float(z_scores[path][index]) for path, index in found.initial}
    sizes = [size for size in (0, 1, 2, 4, 8, 16, 32, 64, 128) if size < len(found.initial)] + [
        len(found.initial)
    ]
    curves = {
        name: [
            evaluator.score(
                um.Neurons.of(sorted(found.initial, key=ranking.__getitem__, reverse=True)[:size])
            )
            for size in sizes
        ]
        for name, ranking in {"z-score": by_z, "backward pass": effects}.items()
    }
    searched = list(model.value_layers)
    plan = model.replay_plan(searched, threshold.settings.seeds)
    return {
        "prompt": prompt,
        "threshold": found.threshold,
        "tests": tests,
        "sizes": sizes,
        "curves": curves,
        "share": {path: plan.cost(path) for path in searched},
    }


@contextmanager
def traced() -> Iterator[tuple[list[dict[str, Any]], list[Evaluator]]]:
    """Record every test that evaluators make in the context.

    A test has the number of neurons that were off, the weighted samples it took, and whether it
    passed.
    """
    tests: list[dict[str, Any]] = []
    evaluators: list[Evaluator] = []
    original = Evaluator.below

    def below(self: Evaluator, neurons: um.Neurons, limit: Limit) -> float | None:
        before = self._passes.meter.weighted
        found = original(self, neurons, limit)
        evaluators.append(self)
        tests.append(
            {
                "off": len(neurons),
                "samples": self._passes.meter.weighted - before,
                "passed": found is not None,
            }
        )
        return found

    with patch.object(Evaluator, "below", below):
        yield tests, evaluators


def precision(captions: int) -> dict[str, Any]:
    """Measure the time of a sample by batch, type and memory layout, in milliseconds.

    Counts also how many verdicts of so many captions bfloat16 changes.
    """
    prompts = [um.Prompt(text) for text in um.testbed.captions("test")[:captions]]
    threshold = um.Threshold.load(um.testbed.threshold_path("seed similarity"))
    times: dict[str, dict[int, float]] = {}
    verdicts: dict[str, list[bool]] = {}
    batches = (1, 2, 4, 8, 16, 32)
    for dtype in ("float32", "bfloat16"):
        model = um.Model.load("testbed", dtype=dtype)
        own = um.Threshold.given(model, threshold.detect.tau, threshold.settings)
        verdicts[dtype] = [
            found.memorized
            for found in detect_prompts(model, prompts, own, own.settings, stop="never")
        ]
        times[dtype] = {batch: milliseconds(model, batch) for batch in batches}
        model.pipe.unet.to(memory_format=torch.channels_last)
        times[f"{dtype}, channels last"] = {batch: milliseconds(model, batch) for batch in batches}
    differing = sum(
        one != other for one, other in zip(verdicts["float32"], verdicts["bfloat16"], strict=True)
    )
    for name, by_batch in times.items():
        print(
            f"{name}: "
            + ", ".join(
                f"{value:.1f} ms per sample of {batch}" for batch, value in by_batch.items()
            )
        )
    print(f"bfloat16 changes {differing} of {len(prompts)} verdicts")
    return {"milliseconds": times, "differing": differing, "prompts": len(prompts)}


def milliseconds(model: um.Model, batch: int) -> float:
    latents, timestep = model.draw_latents(batch, 1), model.timesteps(50)[1]
    text = model.encode(["a photo"] * batch)
    taken = []
    for _ in range(7):
        began = time.perf_counter()
        model.predict(latents, timestep, text)  # waits for a card, as it looks for NaN
        taken.append(time.perf_counter() - began)
    return stats.median(taken) * 1000 / batch
