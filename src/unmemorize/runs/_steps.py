"""The steps of an audit over many prompts, each in a run folder: what is done already is not done again.

RUN/manifest.json, prompts.jsonl      what was asked
RUN/detections.jsonl                  step `detect_all`
RUN/localizations.jsonl               step `localize_all`
RUN/images/VARIANT/                   step `generate_all`: a run of its own, PNGs beside its records
RUN/metrics/VARIANT/                  step `evaluate_all`: a run of its own
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from PIL import Image

from unmemorize._errors import MetricError, RunError
from unmemorize._files import hash_texts, parse_json, read_bytes
from unmemorize._generation import GenerationSettings, generate
from unmemorize._model import Model
from unmemorize._neurons import Neurons, random_control
from unmemorize._progress import Progress, silent
from unmemorize._prompts import Prompt
from unmemorize._statistics import Statistics
from unmemorize._threshold import Threshold
from unmemorize.localization import Detection, Localization, LocalizationSettings, detect, localize
from unmemorize.metrics import ClipAlignment, Descriptor, copy_scores, diversity, seedwise_similarity
from unmemorize.runs._run import Run


class Variant(StrEnum):
    """What is off when images are generated: nothing, the initial selection, the refined neurons, or as many random others."""

    ORIGINAL = "original"
    INITIAL = "initial"
    REFINED = "refined"
    RANDOM = "random"


def open_run(folder: str | Path, pipe: DiffusionPipeline, prompts: Sequence[Prompt], settings: Mapping[str, Any]) -> Run:
    """Start or go on with a run over these prompts; ``settings`` is all else that determines the results.

    Raises:
        RunError: the folder holds another run.
    """
    model = Model(pipe)
    texts = [json.dumps(_prompt_json(prompt), ensure_ascii=False) for prompt in prompts]
    run = Run.open(
        folder, {"model": model.name, "fingerprint": model.fingerprint, "dtype": str(model.dtype), "prompts": hash_texts(texts), **settings}
    )
    run.write("prompts.jsonl", "\n".join(texts) + "\n")
    return run


def run_prompts(run: Run) -> list[Prompt]:
    """The prompts of a run.

    Raises:
        RunError: their file is missing or damaged.
    """
    path = run.folder / "prompts.jsonl"
    text = read_bytes(path, RunError, "prompt list of the run").decode(errors="replace")
    rows = [parse_json(line, RunError, f"{path}, line {number}: damaged") for number, line in enumerate(text.split("\n")[:-1], 1)]
    try:
        return [Prompt(row["text"], row["kind"], row["url"], tuple(map(Path, row["images"])), row["group"]) for row in rows]
    except (KeyError, TypeError) as problem:
        raise RunError(f"{path}: damaged ({problem}). Repeat the command that made the run.") from problem


def localization_config(settings: LocalizationSettings, statistics: Statistics, threshold: Threshold) -> dict[str, Any]:
    """What determines localizations beside the model and the prompts, for `open_run`."""
    made_on = {"tau": threshold.tau, "threshold_prompts": threshold.prompts, "statistics_prompts": statistics.prompts}
    return {**asdict(settings), **made_on}


def detect_all(
    run: Run, pipe: DiffusionPipeline, prompts: Sequence[Prompt], threshold: Threshold, *, progress: Progress = silent
) -> list[Detection]:
    """A `Detection` for each prompt."""
    records = _each(
        run, "detections", range(len(prompts)), lambda index: detect(pipe, prompts[index], threshold=threshold).to_json(), progress
    )
    return [Detection.from_json(record) for record in records]


def localize_all(
    run: Run,
    pipe: DiffusionPipeline,
    prompts: Sequence[Prompt],
    *,
    statistics: Statistics,
    threshold: Threshold,
    settings: LocalizationSettings,
    progress: Progress = silent,
) -> list[Localization]:
    """A `Localization` for each prompt."""

    def one(index: int) -> dict[str, Any]:
        return localize(pipe, prompts[index], statistics=statistics, threshold=threshold, settings=settings).to_json()

    return [Localization.from_json(record) for record in _each(run, "localizations", range(len(prompts)), one, progress)]


def read_localizations(run: Run) -> dict[int, Localization]:
    """The finished localizations of a run, by index of the prompt.

    Raises:
        RunError: there are none.
    """
    found = {index: Localization.from_json(record) for index, record in sorted(run.records("localizations").items())}
    if not found:
        raise RunError(f"{run.folder}: nothing is localized there. Localize into a folder of its own: unmemorize localize -o FOLDER")
    return found


def generate_all(run: Run, pipe: DiffusionPipeline, variant: Variant, settings: GenerationSettings, *, progress: Progress = silent) -> Run:
    """Images of every memorized prompt of a localization run, with the neurons of ``variant`` off, each prompt its own.

    Returns:
        The run of the images; record i holds the file names and the neurons of prompt i.

    Raises:
        RunError: nothing is localized, the run is another model's, or the folder has images of other settings.
    """
    model = Model(pipe)
    if run.config["fingerprint"] != model.fingerprint:
        raise RunError(
            f"{run.folder}: the run is one of {run.config['model']}, which is not the model given. Generate with the same model."
        )
    if settings.seed == run.config.get("noise", {}).get("seed"):
        raise RunError(f"{run.folder}: seed {settings.seed} is that of its localization. Generate with another one, to see other noise.")
    memorized = {index: record for index, record in read_localizations(run).items() if record.memorized}
    config = asdict(settings)
    config.pop("batch")
    images = Run.open(run.folder / "images" / variant, {"variant": variant, "fingerprint": model.fingerprint, **config})

    def one(index: int) -> dict[str, Any]:
        off = _neurons_of(memorized[index], variant, model.widths, index)
        names = []
        for number, image in enumerate(generate(pipe, memorized[index].prompt, off, settings=settings)):
            names.append(f"{index:05d}_{number:02d}.png")
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            images.write(names[-1], buffer.getvalue())
        return {"files": names, "neurons": off.to_json()}

    _each(images, "images", list(memorized), one, progress)
    return images


def evaluate_all(
    run: Run, variant: Variant, *, descriptor: Descriptor, alignment: ClipAlignment | None, progress: Progress = silent
) -> dict[int, dict[str, Any]]:
    """Metrics of every prompt that has images of this variant, by index of the prompt.

    Each record holds per-seed lists ``sscd_gen`` (to the original images), ``sscd_orig`` (to the training images; absent without any)
    and ``alignment``, and the number ``diversity``.

    Raises:
        RunError: images of the variant or the original ones are missing.
        MetricError: an image is missing or damaged.
    """
    prompts = run_prompts(run)
    ours, original = (Run.load(run.folder / "images" / name) for name in (variant, Variant.ORIGINAL))
    for name in ours.config.keys() - {"variant", "scale"}:
        if ours.config[name] != original.config.get(name):
            raise RunError(
                f"{ours.folder}: made with {name} = {ours.config[name]}, the original images with {original.config.get(name)}: they cannot "
                "be compared. Delete one of the two folders and generate it again."
            )
    files = {name: images.records("images") for name, images in (("ours", ours), ("original", original))}
    config = {
        "variant": variant,
        "descriptor": descriptor.name,
        "descriptor_sha256": descriptor.digest,
        "clip": alignment.name if alignment else None,
    }
    metrics = Run.open(run.folder / "metrics" / variant, {**config, "images": ours.config, "original": original.config})
    indices = [index for index in files["ours"] if index in files["original"]]

    def one(index: int) -> dict[str, Any]:
        images = [read_image(ours.folder / name) for name in files["ours"][index]["files"]]
        before = [read_image(original.folder / name) for name in files["original"][index]["files"]]
        embeddings = descriptor(images)
        record: dict[str, Any] = {"sscd_gen": seedwise_similarity(embeddings, descriptor(before)).tolist()}
        if len(images) > 1:
            record["diversity"] = diversity(embeddings)
        if prompts[index].images:
            references = descriptor([read_image(path) for path in prompts[index].images])
            record["sscd_orig"] = copy_scores(embeddings, references).tolist()
        if alignment is not None:
            record["alignment"] = alignment(images, prompts[index].text).tolist()
        return record

    return dict(zip(indices, _each(metrics, "metrics", indices, one, progress), strict=True))


def read_image(path: Path) -> Image.Image:
    """An image file as RGB.

    Raises:
        MetricError: the file is missing or no image.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError) as problem:
        raise MetricError(f"{path}: not readable as an image ({problem}). Put the image there, or correct the prompt file.") from problem


def _each(run: Run, name: str, indices: Sequence[int], work: Callable[[int], dict[str, Any]], progress: Progress) -> list[dict[str, Any]]:
    """Do the units that are missing and return the records of all, in the order of ``indices``."""
    records = run.records(name)
    done = sum(index in records for index in indices)
    progress(done, len(indices))
    for index in indices:
        if index not in records:
            records[index] = work(index)
            run.append(name, index, records[index])
            done += 1
            progress(done, len(indices))
    return [records[index] for index in indices]


def _neurons_of(record: Localization, variant: Variant, widths: Mapping[str, int], index: int) -> Neurons:
    if variant is Variant.ORIGINAL:
        return Neurons()
    if variant is Variant.INITIAL:
        return record.initial
    if variant is Variant.REFINED:
        return record.neurons
    return random_control(record.neurons, widths, seed=index)


def _prompt_json(prompt: Prompt) -> dict[str, Any]:
    return {
        "text": prompt.text,
        "kind": prompt.kind,
        "url": prompt.url,
        "images": [str(path.absolute()) for path in prompt.images],
        "group": prompt.group,
    }
