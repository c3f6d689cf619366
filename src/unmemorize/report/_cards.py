"""What the page shows of each memorized prompt: its images, its scores and its neurons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from unmemorize.generation import ImageSetRun, image_sets, read_images
from unmemorize.localization import Localization, difference_file
from unmemorize.metrics import PromptMetrics, read_image, read_references
from unmemorize.neurons import Neurons
from unmemorize.report._copies_left import COPY_LEVEL, copy_warning
from unmemorize.report._course import draw_course
from unmemorize.report._pictures import Pictures, data_url, data_urls
from unmemorize.report._results import MASKED_COPY, SET_LABELS, SSCD_GEN, SSCD_ORIG, Results
from unmemorize.report._truth import Truth, precision_recall
from unmemorize.runs import Run

_LARGE = Pictures(side=192, quality=88, most=4)
_SMALL = Pictures(side=96, quality=70, most=2)
_MOST_LARGE = 60
"""Memorized prompts with large pictures. With small ones the page stays below 25 MB at 500."""


@dataclass(frozen=True)
class Strip:
    """Images of one kind.

    Args:
        title: the kind.
        images: data URLs.
        caption: a line below the title.
        wide: whether the one image is wider than high.
    """

    title: str
    images: tuple[str, ...]
    caption: str = ""
    wide: bool = False


@dataclass(frozen=True, kw_only=True)
class Card:
    """One memorized prompt on the page.

    Args:
        index, prompt, group: the prompt.
        warning: that a copy is left or may be left, see `copy_warning`.
        strips: its images.
        course: its trials, see `draw_course`.
        facts: name and value of its scores.
        neurons: its refined neurons, for people.
    """

    index: int
    prompt: str
    group: str
    warning: str
    strips: tuple[Strip, ...]
    course: Markup | None
    facts: tuple[tuple[str, str], ...]
    neurons: tuple[str, ...]


def make_cards(
    run: Run, results: Results, truth: Truth | None, *, redact: bool = False
) -> Iterator[Card]:
    """Yield a card for each memorized prompt.

    Args:
        run, results, truth: see `write_report`.
        redact: whether to leave out all pictures: those of a memorized prompt may show its training
            image, and only a mitigation tells which ones do.

    Raises:
        MetricError: an image is missing or damaged.
    """
    memorized = {
        index: record for index, record in results.localizations.items() if record.memorized
    }
    pictures = _LARGE if len(memorized) <= _MOST_LARGE else _SMALL
    images = _generated_images(run)
    for index, record in memorized.items():
        yield Card(
            index=index,
            prompt=record.prompt,
            group=record.group,
            warning=prompt_warning(results, index),
            strips=() if redact else tuple(_strips(run, results, images, index, pictures)),
            course=draw_course(record),
            facts=tuple(_facts(record, (truth or {}).get(record.prompt))),
            neurons=tuple(_neuron_lines(record)),
        )


def prompt_warning(results: Results, index: int) -> str:
    """Return the warning of a memorized prompt, by the measures that show a copy of its kind.

    Of a template only the layout is copied. The masked copy score measures that, while a low
    SSCD_Orig says nothing about it.
    """
    metrics = results.of_prompt("refined", index)
    copy_scores = metrics.seeds(SSCD_ORIG)
    if results.prompts[index].kind == "TM":
        masked = metrics.seeds(MASKED_COPY)
        if masked:
            copy_scores = tuple(map(max, masked, copy_scores or masked))
        elif not any(score > COPY_LEVEL for score in copy_scores):
            copy_scores = ()
    record = results.localizations[index]
    if not record.neurons and not copy_scores:
        return "no neurons found"
    return copy_warning(copy_scores, record.theta_exhausted)


_SetImages = Mapping[int, tuple[Path, ...]]
"""The image files of one set, by index of the prompt."""


def _generated_images(run: Run) -> dict[str, _SetImages]:
    """Return the image files of the run's own prompts, by set in the order of the page."""
    sets = image_sets(run)
    return {
        name: {
            index: tuple(sets[name].folder / file for file in record.files)
            for index, record in read_images(sets[name]).items()
        }
        for name in SET_LABELS
        if name in sets and not sets[name].settings(ImageSetRun).on
    }


def _strips(
    run: Run, results: Results, images: Mapping[str, _SetImages], index: int, pictures: Pictures
) -> Iterator[Strip]:
    training = read_references(_training_images(run, results, index)[: pictures.most]).images
    if training:
        yield Strip("training image", data_urls(training, pictures))
    for name, files in images.items():
        if index in files:
            shown = map(read_image, files[index][: pictures.most])
            metrics = results.of_prompt(name, index)
            yield Strip(SET_LABELS[name], data_urls(shown, pictures), _score_line(metrics))
    differences = run.folder / difference_file(index)
    if differences.is_file():
        image = read_image(differences)
        yield Strip(
            "noise differences",
            (data_url(image, 2 * pictures.side, pictures.quality),),
            "a few seeds: all neurons on above, the refined neurons off below",
            wide=image.width > image.height,
        )


def _training_images(run: Run, results: Results, index: int) -> tuple[Path, ...]:
    """Return the images that the prompt was measured against, else those that it names."""
    for set_name in SET_LABELS:
        references = results.of_prompt(set_name, index).references
        if references and references.files:
            return tuple(file.locate(run.folder) for file in references.files)
    return results.prompts[index].images


def _score_line(metrics: PromptMetrics) -> str:
    """Return how much the images copy, or else how much they resemble the original ones."""
    for term, name in (("SSCD_Orig", SSCD_ORIG), ("SSCD_Gen", SSCD_GEN)):
        middle, worst = metrics.median(name), metrics.highest(name)
        if middle is not None:
            return f"{term} {middle:.2f}, worst seed {worst:.2f}"
    return ""


def _facts(record: Localization, known: Neurons | None) -> Iterator[tuple[str, str]]:
    if record.detection:
        detection = record.detection
        yield detection.measure, f"{detection.score:.4g} (tau {detection.tau:.4g})"
        if detection.memorized_seeds:
            yield "seeds above tau", str(len(detection.memorized_seeds))
    yield (
        "initial selection",
        f"{len(record.initial)} neurons at theta {_or_unknown(record.theta)}, "
        f"k {_or_unknown(record.top_k)}; score {_or_unknown(record.initial_score)}",
    )
    if record.why_empty:
        yield "why no neurons", record.why_empty
    yield (
        "refined",
        f"{len(record.neurons)} neurons; score {_or_unknown(record.score)} "
        f"(threshold {_or_unknown(record.threshold)})",
    )
    seconds = "?" if record.seconds is None else f"{record.seconds:.2f}"
    yield "work", f"{_or_unknown(record.evaluations)} denoiser samples, {seconds} s"
    if record.effects:
        yield (
            "noise level",
            f"{record.effects.level:.3g}, measured by {record.effects.measured_by} passes",
        )
    for stage, spent in record.spent.items():
        yield f"of this, {stage}", f"{spent.work:.0f} weighted samples, {spent.seconds:.2f} s"
    if known:
        precision, recall = precision_recall(record.neurons, known)
        yield (
            "against the known neurons",
            f"precision {precision:.2f}, recall {recall:.2f} (of {len(known)})",
        )


def _neuron_lines(record: Localization) -> Iterator[str]:
    for path, indices in record.neurons.layers.items():
        z_scores = record.z_scores.get(path, (None,) * len(indices))
        for neuron, z_score in zip(indices, z_scores, strict=True):
            yield f"{path} #{neuron} (z = {_or_unknown(z_score)})"


def _or_unknown(value: float | None) -> str:
    """Return a number for people, or a question mark: imported records do not tell everything."""
    if value is None:
        return "?"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
