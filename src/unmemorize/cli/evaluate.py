"""The command ``evaluate``."""

from pathlib import Path
from typing import Annotated

import typer

from unmemorize._errors import MetricError, RunError
from unmemorize.cli._common import is_run_of_bundled
from unmemorize.cli._console import console, progress_bar
from unmemorize.cli._options import RunArgument
from unmemorize.cli._summary import evaluate_and_print
from unmemorize.generation import image_sets
from unmemorize.metrics import (
    BundledDescriptor,
    ClipAlignment,
    Descriptor,
    FeatureExtractor,
    FileDescriptor,
    InceptionFeatures,
    numbered_images,
    quality_all,
)
from unmemorize.runs import Run


def command(
    run: RunArgument,
    sscd: Annotated[
        Path | None,
        typer.Option(
            help="SSCD, the paper's copy descriptor: a file from unmemorize fetch sscd, checked by its hash.",
            show_default=False,
        ),
    ] = None,
    descriptor: Annotated[
        Path | None,
        typer.Option(
            help="Another descriptor: ONNX (.onnx) or TorchScript. [default: the bundled one]",
            show_default=False,
        ),
    ] = None,
    descriptor_sha256: Annotated[
        str | None,
        typer.Option(
            help="Expected hash of that file; needed for TorchScript, which is code.",
            show_default=False,
        ),
    ] = None,
    descriptor_side: Annotated[
        int, typer.Option(min=8, help="Images are squashed to this size for it.")
    ] = 320,
    clip: Annotated[
        str | None,
        typer.Option(
            help="Folder or Hub id of a CLIP for alignment. [default: the bundled model's, for its runs only]"
        ),
    ] = None,
    references: Annotated[
        Path | None,
        typer.Option(
            help="Folder of training images named by the number of their prompt, 0001_name.jpg being the first; "
            "instead of those that the prompt file names.",
            show_default=False,
        ),
    ] = None,
    real: Annotated[
        Path | None,
        typer.Option(
            help="Folder of real images: adds FID, CLIP-FID and KID of each set of images to it.",
            show_default=False,
        ),
    ] = None,
    inception: Annotated[
        Path | None,
        typer.Option(
            help="Inception TorchScript of clean-fid, for FID and KID.", show_default=False
        ),
    ] = None,
    inception_sha256: Annotated[
        str | None, typer.Option(help="Expected hash of that file.", show_default=False)
    ] = None,
) -> None:
    """How much is still copied: metrics of the images that generate made, as medians ± MAD with 95 % intervals.

    Copy score to the training images (SSCD_Orig; for TM also over the layout alone), similarity to the images before (SSCD_Gen), similarity
    between seeds (D_SSCD), alignment with the prompt (A_CLIP), and with --real FID, CLIP-FID and KID; overall and for each group. The table
    goes to RUN/metrics.json and RUN/metrics.csv too, with the name and hash of what measured each number.
    """
    folder = Run.load(run)
    sets = image_sets(folder)
    if not sets:
        raise RunError(f"{run}: there are no images to evaluate. First: unmemorize generate {run}")
    bundled = is_run_of_bundled(folder)
    alignment = ClipAlignment(clip) if clip or bundled else None
    copies = _descriptor(sscd, descriptor, descriptor_sha256, descriptor_side)
    if real is not None:
        for extractor in _extractors(inception, inception_sha256, alignment):
            with progress_bar(f"quality by {extractor.name}") as progress:
                quality_all(folder, sets, real, extractor, progress=progress)
    numbered = numbered_images(references) if references is not None else None
    if numbered:
        first = min(numbered)
        console.print(
            f"training images: {numbered[first][0].name} belongs to prompt {first + 1} of the run"
        )
    evaluate_and_print(folder, descriptor=copies, alignment=alignment, references=numbered)
    if isinstance(copies, BundledDescriptor) and not bundled:
        console.print(
            "The bundled copy descriptor is made for the 64 x 64 images of the bundled model; take its numbers on other images as a hint "
            "only, or give --sscd."
        )
    console.print(f"{run}/metrics.json, metrics.csv")


def _descriptor(sscd: Path | None, path: Path | None, sha256: str | None, side: int) -> Descriptor:
    if sscd is not None and path is not None:
        raise MetricError("both --sscd and --descriptor are given. Use one of them.")
    if sscd is not None:
        return FileDescriptor.sscd(sscd)
    return BundledDescriptor() if path is None else FileDescriptor(path, side=side, sha256=sha256)


def _extractors(
    inception: Path | None, sha256: str | None, alignment: ClipAlignment | None
) -> list[FeatureExtractor]:
    found: list[FeatureExtractor] = []
    if inception is not None:
        found.append(InceptionFeatures(inception, sha256))
    if alignment is not None:
        found.append(alignment)
    if not found:
        raise MetricError(
            "--real needs something that looks at images. Give --inception, --clip, or both."
        )
    return found
