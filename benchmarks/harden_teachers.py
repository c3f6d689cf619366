"""How near to a never-trained model the predictions are that a hardening may want.

python benchmarks/harden_teachers.py [--noises 2]

For the memorized images of the bundled model with noise, the mean squared error of predicted noise
relative to that of the twin that never saw the image: under the caption, without text, and without
text for the image when it is mirrored, turned or shifted (the prediction is moved back; first the
mean error of all moves, then the error of their mean). 1 is what a never-trained model does; below
it, the image is remembered. Medians over images of full dose; the lowest ones have captions.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from statistics import mean, median

import torch
from torch import Tensor

from harden_moves import MOVES
from unmemorize import Model, testbed
from unmemorize.audit import Bench, latent_of, targets_of
from unmemorize.pipelines import Conditioning

LEVELS = (0.2, 0.4, 0.6, 0.8)


def predicted(
    bench: Bench, model: Model, clean: Tensor, noise: Tensor, text: Conditioning
) -> Tensor:
    """Return what a model predicts for an image with each noise, whose levels are taken in turn."""
    levels = torch.tensor(LEVELS).repeat(len(noise) // len(LEVELS))
    noisy = bench.noising.noisy(clean.expand_as(noise), noise, levels)
    return model.predict(noisy.latents, noisy.timesteps, text.take([0] * len(noise))).float().cpu()


def error(prediction: Tensor, noise: Tensor) -> float:
    return float((prediction - noise).square().mean())


def main(noises: int) -> None:
    planted = [entry for entry in testbed.planted() if entry.mode != "rare"]
    model = Model.load("testbed", dtype="float32")
    twins = {half: Model(testbed.load_twin(half, device=str(model.device))) for half in ("a", "b")}
    bench = Bench(model, None, ("",))
    targets = targets_of([replace(entry.prompt, kind="VM") for entry in planted])
    generator, empty = torch.Generator().manual_seed(0), model.encode([""])
    found: dict[str, list[tuple[float, str]]] = {}
    for entry, target in zip(planted, targets, strict=True):
        count = len(LEVELS) * noises
        noise = torch.randn(count, *model.latent_shape, generator=generator, dtype=torch.float32)
        image, own = latent_of(model, target.images[0]), model.encode([target.prompt])
        never = error(predicted(bench, twins[entry.half], image, noise, empty), noise)
        errors = {
            "the image, under its caption": error(
                predicted(bench, model, image, noise, own), noise
            ),
            "the image, without text": error(predicted(bench, model, image, noise, empty), noise),
        }
        for name, moves in MOVES.items():
            predictions = []
            for move in moves:
                moved = latent_of(model, target.images[0], move.of)
                predictions.append(move.back(predicted(bench, model, moved, move.of(noise), empty)))
            errors[f"{name}, each"] = mean(error(each, noise) for each in predictions)
            errors[f"{name}, their mean"] = error(torch.stack(predictions).mean(0), noise)
        for name, one in errors.items():
            found.setdefault(name, []).append((one / never, target.prompt))
    print("| prediction for | error relative to the twin's, median | lowest three | highest |")
    print("|---|---|---|---|")
    for name, ratios in found.items():
        lowest = ", ".join(f"{ratio:.2f} {prompt}" for ratio, prompt in sorted(ratios)[:3])
        middle = median(ratio for ratio, _ in ratios)
        print(f"| {name} | {middle:.2f} | {lowest} | {max(ratios)[0]:.2f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--noises", type=int, default=2, help="for each level")
    main(parser.parse_args().noises)
