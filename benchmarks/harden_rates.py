"""How the learning rate of a hardening trades what is forgotten against ordinary predictions.

Call: python benchmarks/harden_rates.py

AdamW's steps have the size of the learning rate, whatever the gradients are. One memorized caption
of the bundled model is taught away for a few steps, as `unmemorize harden` does, with all weights:
on substitutes, where the prediction under the edit is wanted. Errors are mean squares of predicted
noise on samples that training did not see: "left" under that caption, "ordinary" on ordinary
images under their captions. With a weight, ordinary images are taught, too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unmemorize import GenerationSettings, HardeningSettings, Model, NeuronEdit, testbed
from unmemorize.audit import Bench, targets_of
from unmemorize.generation import Edit, generate_each
from unmemorize.hardening._training import DECAY
from unmemorize.hardening._weights import trained
from unmemorize.methods import optimizer_of
from unmemorize.mitigation import OrdinaryCaptions
from unmemorize.pipelines import Conditioning, Noisy

PLANT = 1
RATES = ((2e-4, 0.0), (5e-5, 0.0), (2e-5, 0.0), (1e-5, 0.0), (2e-4, 4.0), (2e-5, 4.0))
"""Learning rates, each with the weight of the error on ordinary images."""
STEPS, EVERY = 20, 5
SUBSTITUTES, ORDINARY, BATCH = 6, 24, 8


def drawn(model: Model, prompts: list[str], edit: Edit | None, bench: Bench, key: str) -> Tensor:
    settings = GenerationSettings(images=1, steps=8, guidance=3.0, batch=BATCH)
    seeds = list(range(len(prompts)))
    images = generate_each(model, prompts, [edit] * len(prompts), settings=settings, seeds=seeds)
    return bench.latents(key, [image for (image,) in images])


def noised(bench: Bench, clean: Tensor, seed: int) -> Noisy:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(clean.shape, generator=generator, dtype=torch.float32)
    levels = torch.rand(len(clean), generator=generator, dtype=torch.float32)
    return bench.noising.noisy(clean, noise, levels)


def main() -> None:
    model = Model.load("testbed", dtype="float32")
    captions = OrdinaryCaptions.of(model)
    planted = [entry for entry in testbed.planted() if entry.mode != "rare"][PLANT]
    off, prompt = NeuronEdit(planted.neurons), targets_of([planted.prompt])[0].prompt
    bench, edited = Bench(model, None, captions.ordinary), Bench(model, off, captions.ordinary)
    some = list(captions.keep[:ORDINARY])
    substitutes = drawn(model, [prompt] * SUBSTITUTES, off, bench, "substitutes")
    ordinary = drawn(model, some, None, bench, "ordinary")
    text, texts = model.encode([prompt]), model.encode(some)

    def wanted(where: Bench, noisy: Noisy, said: Conditioning) -> Tensor:
        return where.predict(noisy.latents, noisy.timesteps, said)

    def error(noisy: Noisy, said: Conditioning, right: Tensor, *, gradient: bool = False) -> Tensor:
        found = bench.predict(noisy.latents, noisy.timesteps, said, gradient=gradient)
        return (found - right).square().mean()

    held = noised(bench, substitutes.repeat(2, 1, 1, 1), 8), noised(bench, ordinary, 7)
    said = text.take([0] * len(held[0].latents)), texts
    right = wanted(edited, held[0], said[0]), wanted(bench, held[1], said[1])
    lessons = []
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        chosen = torch.randint(SUBSTITUTES, (BATCH,), generator=generator)
        first, second = (
            noised(bench, substitutes[chosen], 100 + step),
            noised(bench, ordinary, step),
        )
        many = text.take([0] * BATCH)
        lessons.append(
            (
                (first, many, wanted(edited, first, many)),
                (second, texts, wanted(bench, second, texts)),
            )
        )
    print("| rate | weight | steps | left | ordinary |\n|---|---|---|---|---|")
    print(f"| | | 0 | {error(held[0], said[0], right[0]):.4f} | 0 |")
    for rate, weight in RATES:
        with trained(model, HardeningSettings.of(model, rate=rate)) as weights:
            optimizer = optimizer_of(weights, rate, DECAY, 0, {})
            for step, (forgotten, kept) in enumerate(lessons, 1):
                loss = error(*forgotten, gradient=True)
                if weight:
                    loss = loss + weight * error(*kept, gradient=True)
                weights.differentiate(loss)
                optimizer.step()
                weights.write()
                if step % EVERY == 0:
                    errors = [error(*each).item() for each in zip(held, said, right, strict=True)]
                    print(
                        f"| {rate:g} | {weight:g} | {step} | {errors[0]:.4f} | {errors[1]:.5f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
