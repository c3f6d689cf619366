"""Clean latents that a hardening trains on: substitutes for memorized images, ordinary images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from unmemorize._errors import MitigationError, RunError
from unmemorize._files import read_tensors, safetensors_bytes
from unmemorize.audit import COPY, Bench, Target, similarity
from unmemorize.generation import Edit, GenerationSettings, generate_each
from unmemorize.hardening._settings import HardeningSettings
from unmemorize.metrics import Descriptor
from unmemorize.mitigation import derived_seed
from unmemorize.runs import Run

FILE = "examples.safetensors"
SUBSTITUTES = 8
"""Images that are drawn in place of each memorized one (ours)."""


@dataclass(frozen=True)
class Examples:
    """Clean latents, float32, on the CPU.

    Args:
        substitutes: for each memorized image what takes its place, (N, C, H, W); none where all
            samples are distilled.
        ordinary: one for each ordinary caption, (captions, C, H, W).
        captions: these captions.
    """

    substitutes: tuple[Tensor, ...]
    ordinary: Tensor
    captions: tuple[str, ...]


def examples_of(
    run: Run,
    bench: Bench,
    edit: Edit | None,
    targets: Sequence[Target],
    captions: Sequence[str],
    descriptor: Descriptor,
    settings: HardeningSettings,
) -> Examples:
    """Draw examples, or read those that the run has drawn before.

    Args:
        run: keeps them.
        bench: the unedited model.
        edit: takes the copies out. Only substitutes need one.
        targets: the memorized images.
        captions: ordinary captions. The first ones are taken.
        descriptor: tells which substitutes are copies.
        settings: how many ordinary images there are, and how images are generated.

    Raises:
        MitigationError: all substitutes of an image copy it.
    """
    some, generation = tuple(captions[: settings.kept_images]), settings.audit.generation
    replaced = targets if settings.substitutes else ()
    if not (run.folder / FILE).exists():
        tensors = {
            f"substitutes.{number}": _substitutes(bench, edit, target, descriptor, generation)
            for number, target in enumerate(replaced)
        }
        tensors["ordinary"] = _ordinary(bench, some, generation)
        run.write(FILE, safetensors_bytes(tensors))
    kept = read_tensors(run.folder / FILE, RunError, "file of examples")
    substitutes = tuple(kept[f"substitutes.{number}"] for number in range(len(replaced)))
    return Examples(substitutes, kept["ordinary"], some)


def _substitutes(
    bench: Bench,
    edit: Edit | None,
    target: Target,
    descriptor: Descriptor,
    settings: GenerationSettings,
) -> Tensor:
    """Draw the caption under the edit, and leave out what still copies."""
    model, count = bench.model, SUBSTITUTES
    seeds = [
        derived_seed("substitute", model.fingerprint, target.key, number) for number in range(count)
    ]
    drawn = generate_each(
        model,
        [target.prompt] * count,
        [edit] * count,
        settings=replace(settings, images=1),
        seeds=seeds,
    )
    images = [image for (image,) in drawn]
    scores, _ = similarity(images, target, descriptor)
    others = [image for image, score in zip(images, scores, strict=True) if score <= COPY]
    if not others:
        raise MitigationError(
            f"{target.prompt[:60]!r}: all {count} images under the edit still copy, so none can "
            "take the place of the memorized image. Give an edit that removes the copy, such as "
            "that of unmemorize mitigate."
        )
    return bench.latents(f"substitutes of {target.key}", others).cpu()


def _ordinary(bench: Bench, captions: Sequence[str], settings: GenerationSettings) -> Tensor:
    """Draw ordinary captions by the unedited model, without guidance, as it was trained."""
    seeds = [derived_seed("kept", bench.model.fingerprint, caption) for caption in captions]
    drawn = generate_each(
        bench.model,
        captions,
        [None] * len(captions),
        settings=replace(settings, images=1, guidance=1.0),
        seeds=seeds,
    )
    return bench.latents("ordinary", [image for (image,) in drawn]).cpu()
