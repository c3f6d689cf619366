"""A memorized image of the bundled model, its neurons off, and a photograph that was never used.

Call: python benchmarks/audit.py

Both are attacked from the memorized caption. Images take 15 steps. The model is on a card where
there is one; processor seconds then say little of what the card does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from PIL import Image

from unmemorize import BundledDescriptor, GenerationSettings, Model, NeuronEdit, testbed
from unmemorize.audit import (
    AttackSettings,
    Bench,
    Target,
    Trial,
    checkpoints,
    drawn,
    make_attacks,
)
from unmemorize.metrics import copy_scores

STEPS = (0, 10, 25)
SEEDS = (11, 12)


def rows() -> Iterator[tuple[str, str, int, int, list[float], float]]:
    """Yield image, attack, steps, denoiser samples, similarities and processor seconds."""
    entry = next(
        entry for entry in testbed.planted() if entry.mode == "memory" and entry.prompt.kind == "VM"
    )
    model, descriptor = Model.load("testbed", dtype="float32"), BundledDescriptor()
    bench = Bench(model, NeuronEdit(entry.neurons), testbed.captions("test"))
    settings = GenerationSettings(steps=15, guidance=testbed.defaults()["guidance"], batch=2)
    files = {"planted": entry.prompt.images[0], "never": testbed.unused()[0].image}
    for name, file in files.items():
        target = Target(key=name, prompt=entry.prompt.text, images=(Image.open(file),))
        for attack in make_attacks(("L0", "L4", "L5"), AttackSettings()):
            trial = Trial(
                target=target, start="prompt", seed=0, attack=attack.name, fingerprint="measure"
            )
            began = time.process_time()
            for state, candidate in checkpoints(attack, bench, trial, STEPS):
                images = drawn(bench, candidate, SEEDS, settings)
                scores = copy_scores(descriptor(images), descriptor(target.images)).tolist()
                seconds = time.process_time() - began
                samples = attack.samples(state.step, bench.batch)
                yield name, attack.name, state.step, samples, scores, seconds


def main() -> None:
    print("| image | attack | steps | samples | similarity | processor seconds |")
    print("|---|---|---|---|---|---|")
    for name, attack, step, samples, scores, seconds in rows():
        shown = ", ".join(f"{score:.2f}" for score in scores)
        print(f"| {name} | {attack} | {step} | {samples} | {shown} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
