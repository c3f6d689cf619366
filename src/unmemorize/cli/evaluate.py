"""The command ``evaluate``."""

from typing import Annotated

import typer

from unmemorize._errors import RunError
from unmemorize.cli._common import RunArgument, console, evaluate_and_print, is_run_of_bundled
from unmemorize.metrics import BundledDescriptor, ClipAlignment
from unmemorize.runs import Run, Variant


def command(
    run: RunArgument,
    clip: Annotated[
        str | None, typer.Option(help="Folder or Hub id of a CLIP for alignment. [default: the bundled model's, for its runs only]")
    ] = None,
) -> None:
    """How much is still copied: metrics of the images that generate made, as medians ± MAD with 95 % intervals.

    Copy score to the training images, similarity to the images before, similarity between seeds, alignment with the prompt. The table
    goes to RUN/metrics.json too.
    """
    folder = Run.load(run)
    variants = [variant for variant in Variant if (folder.folder / "images" / variant).exists()]
    if Variant.ORIGINAL not in variants:
        raise RunError(f"{run}: there are no original images to compare with. First: unmemorize generate {run}")
    bundled = is_run_of_bundled(folder)
    alignment = ClipAlignment(clip) if clip or bundled else None
    descriptor = BundledDescriptor()
    evaluate_and_print(folder, variants, descriptor, alignment)
    if not bundled:
        console.print(
            "The copy descriptor is made for the 64 x 64 images of the bundled model; take its numbers on other images as a hint only."
        )
    console.print(
        f"copy descriptor {descriptor.name} (sha256 {descriptor.digest[:12]}), "
        f"CLIP {alignment.name if alignment else 'none'}; all in {run}/metrics.json"
    )
