"""The command ``evaluate``."""

import json
from collections.abc import Mapping
from pathlib import Path

from unmemorize._errors import MetricError, RunError
from unmemorize.cli._common import is_run_of_bundled
from unmemorize.cli._console import print_answer, print_hint, print_line, show_progress
from unmemorize.cli._execution_options import RunArgument
from unmemorize.cli._instruments import InstrumentOptions
from unmemorize.cli._model_options import Flag
from unmemorize.cli._summary import evaluate_and_print
from unmemorize.generation import image_sets, way_to_images
from unmemorize.metrics import (
    ClipAlignment,
    FeatureExtractor,
    InceptionFeatures,
    match_references,
    quality_all,
)
from unmemorize.runs import Run, run_prompts


def command(
    run: RunArgument,
    /,
    *,
    references: Path | None = None,
    real: Path | None = None,
    inception: Path | None = None,
    inception_sha256: str | None = None,
    published: Flag = False,
    instruments: InstrumentOptions = InstrumentOptions(),
) -> None:
    """Measure how much the generated images still copy (step 5).

    The metrics are the copy score (SSCD_Orig, for TM prompts also over the layout alone), the
    similarity to the images before (SSCD_Gen), the similarity between seeds (D_SSCD), the
    alignment with the prompt (A_CLIP), and with --real also FID, CLIP-FID and KID. Each is a
    median ± MAD with a 95 % interval, overall and for each group of prompts. The table is also
    written to RUN/metrics.json and RUN/metrics.csv, with the name and hash of what measured it.

    Args:
        references: Folder of training images, which replace those that the prompt file names. They
            are matched by the names or addresses in the prompt file, as unmemorize fetch images
            writes them, else by number (0003_NAME.jpg, dl_003.jpg or a folder 3) where these can
            only be counted in one way.
        real: Folder of real images. Each set of generated images is compared with them by FID,
            CLIP-FID and KID.
        inception: Inception network of clean-fid as TorchScript, for FID and KID. It needs --real.
        inception_sha256: Expected hash of the file of --inception.
        published: Take the lower of two middle values as the median, as the published code does.
    """
    _refuse_unused(real, inception, inception_sha256)
    folder = Run.load(run)
    sets = image_sets(folder)
    if not sets:
        raise RunError(f"{run}: there are no images to evaluate. {way_to_images(folder)}")
    bundled = is_run_of_bundled(folder)
    alignment = instruments.load_clip(bundled=bundled)
    copies = instruments.load_descriptor(bundled=bundled)
    if real is not None:
        for extractor in _extractors(inception, inception_sha256, alignment):
            with show_progress(f"quality by {extractor.name}") as progress:
                quality_all(folder, sets, real, extractor, progress=progress)
    images = None if references is None else _matched(references, folder)
    table = evaluate_and_print(
        folder,
        descriptor=copies,
        alignment=alignment,
        references=images,
        medians="lower" if published else "middle",
    )
    print_line(f"{run}/metrics.json, metrics.csv")
    print_answer(json.loads(table.to_json()), run=run)
    print_hint("unmemorize report", run)


def _refuse_unused(real: Path | None, inception: Path | None, sha256: str | None) -> None:
    """Refuse options that say nothing without another one."""
    if inception is not None and real is None:
        raise MetricError(
            "--inception measures the distance to real images. Add --real FOLDER, or leave it out."
        )
    if sha256 is not None and inception is None:
        raise MetricError(
            "--inception-sha256 is for the file of --inception. Add it, or leave the hash out."
        )


def _matched(references: Path, run: Run) -> Mapping[int, tuple[Path, ...]]:
    """Match training images to the prompts of a run, and say how."""
    prompts = run_prompts(run)
    matched = match_references(references, prompts)
    for index in list(matched.images)[:1]:
        print_line(
            f"training images of {len(matched.images)} of {len(prompts)} prompts, by "
            f"{matched.by}: {matched.images[index][0].name} belongs to prompt {index}, "
            f"{prompts[index].text[:40]!r}"
        )
    return matched.images


def _extractors(
    inception: Path | None, sha256: str | None, alignment: ClipAlignment | None
) -> list[FeatureExtractor]:
    extractors: list[FeatureExtractor] = []
    if inception is not None:
        extractors.append(InceptionFeatures(inception, sha256))
    if alignment is not None:
        extractors.append(alignment)
    if not extractors:
        raise MetricError("--real needs a network that sees. Give --inception, --clip, or both.")
    return extractors
