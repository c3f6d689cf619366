"""The report of a run: one HTML page that holds everything and asks nothing of the network."""

from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from statistics import median

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup
from PIL import Image

from unmemorize.generation import OVERALL, ImageSetRun, image_sets
from unmemorize.localization import difference_file
from unmemorize.metrics import PromptMetrics, read_image, read_references, summarize
from unmemorize.report._course import course
from unmemorize.report._plots import (
    plot_copies,
    plot_diversity,
    plot_layers,
    plot_neurons,
    plot_quality,
    plot_shared,
    plot_similarity,
    plotting,
)
from unmemorize.report._results import NAMES, Results, read_results
from unmemorize.report._table import Truth, precision_recall, summary_table
from unmemorize.runs import Run

_MANY = 60
"""Memorized prompts from which on pictures are smaller and fewer, so that the page stays below 25 MB at 500 of them."""
_SCRIPT = "report.js"


@dataclass(frozen=True)
class Strip:
    """Images of one kind for a prompt, as data URLs, with a line about them."""

    title: str
    images: tuple[str, ...]
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class Card:
    """One memorized prompt on the page."""

    index: int
    prompt: str
    group: str
    facts: tuple[tuple[str, str], ...]
    neurons: tuple[str, ...]
    strips: tuple[Strip, ...]
    course: Markup | None
    floor: bool


@dataclass(frozen=True)
class Line:
    """One prompt of the table of all; numbers are None where they are unknown."""

    index: int
    prompt: str
    group: str
    memorized: bool
    score: float | None
    neurons: int | None
    before: float | None
    after: float | None


def write_report(run: Run, truth: Truth | None = None) -> Path:
    """Write ``report.html`` into the run folder, from whatever steps are done; returns its path.

    Args:
        run: a run with localizations.
        truth: known neurons of some prompts, for precision and recall.

    Raises:
        RunError: nothing is localized yet, or a record is damaged.
        MetricError: an image is missing or damaged.
    """
    results = read_results(run)
    with plotting():
        plots = [
            ("Similarity between seeds", plot_similarity(results)),
            ("Copies", plot_copies(results)),
            ("Copies and diversity", plot_diversity(results)),
            ("Neurons of a prompt", plot_neurons(results)),
            ("Neurons of a layer", plot_layers(results)),
            ("Neurons that several prompts share", plot_shared(results)),
            ("Quality against neurons off", plot_quality(results)),
        ]
    environment = Environment(
        loader=PackageLoader("unmemorize.report"),
        autoescape=select_autoescape(("html", "j2")),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (files("unmemorize.report") / "templates" / _SCRIPT).read_text(encoding="utf-8")
    page = environment.get_template("report.html.j2").render(
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        model=run.manifest.model,
        manifest=run.manifest,
        table=summary_table(results, truth),
        prompts=len(results.prompts),
        done=len(results.localizations),
        memorized=sum(record.memorized for record in results.localizations.values()),
        neurons=len({pair for record in results.localizations.values() for pair in record.neurons}),
        rows=_lines(results),
        headline=_headline(results),
        plots=[(title, Markup(svg)) for title, svg in plots if svg is not None],
        cards=_cards(run, results, truth),
    )
    return run.write("report.html", page)


def _headline(results: Results) -> list[tuple[str, str, str]]:
    """Copies before and after in plain words, where they were measured, with intervals."""
    found = []
    for name in ("original", "refined", "random-refined"):
        lists = [
            seeds
            for record in results.records(name, OVERALL)
            if (seeds := record.seeds("sscd-orig"))
        ]
        if lists:
            summary = summarize([median(values) for values in lists])
            found.append((f"copy score to the training image, {NAMES[name]}", summary))
            if name == "refined":
                found.append(
                    (
                        f"the same for the worst seed of each prompt, {NAMES[name]}",
                        summarize([max(values) for values in lists]),
                    )
                )
    return [
        (label, f"{summary.median:.2f}", f"{summary.low:.2f} to {summary.high:.2f}")
        for label, summary in found
    ]


def _lines(results: Results) -> list[Line]:
    lines = []
    for index, record in results.localizations.items():
        before, after = (
            results.of(name).get(index, PromptMetrics(values={})).median("sscd-orig")
            for name in ("original", "refined")
        )
        lines.append(
            Line(
                index,
                record.prompt,
                record.group,
                record.memorized,
                record.detection.score if record.detection else None,
                len(record.neurons) if record.memorized else None,
                before,
                after,
            )
        )
    return lines


def _cards(run: Run, results: Results, truth: Truth | None) -> list[Card]:
    sets = {
        name: images
        for name, images in image_sets(run).items()
        if not images.settings(ImageSetRun).on
    }
    shown = [name for name in NAMES if name in sets]
    made = {name: sets[name].records("images") for name in shown}
    few = sum(record.memorized for record in results.localizations.values()) <= _MANY
    side, quality, most = (192, 88, 4) if few else (96, 70, 2)
    cards = []
    for index, record in results.localizations.items():
        if not record.memorized:
            continue
        strips = []
        references = read_references(_training_images(results, index)[:most]).images
        if references:
            strips.append(
                Strip(
                    "training image",
                    tuple(_data_url(image, side, quality) for image in references),
                    "",
                )
            )
        for name in shown:
            if index in made[name]:
                scores = results.of(name).get(index, PromptMetrics(values={}))
                paths = [sets[name].folder / file for file in made[name][index]["files"][:most]]
                strips.append(
                    Strip(
                        NAMES[name],
                        tuple(_data_url(read_image(path), side, quality) for path in paths),
                        _line(scores),
                    )
                )
        differences = run.folder / difference_file(index)
        if differences.is_file():
            picture = read_image(differences)
            seeds = "some seeds: above with all neurons on, below with those found off"
            strips.append(
                Strip(
                    "noise differences",
                    (_data_url(picture, 2 * side, quality),),
                    seeds,
                    wide=picture.width > picture.height,
                )
            )
        facts = []
        if record.detection:
            facts.append(
                (
                    "similarity between seeds",
                    f"{record.detection.score:.3f} (tau {record.detection.tau:.3f})",
                )
            )
            facts.append(("seeds above tau", str(len(record.detection.memorized_seeds))))
        facts += [
            (
                "initial selection",
                f"{len(record.initial)} neurons at theta {_known(record.theta)}, k {_known(record.top_k)}; "
                f"score {_known(record.initial_score)}",
            ),
            (
                "refined",
                f"{len(record.neurons)} neurons; score {_known(record.score)} (threshold {_known(record.threshold)})",
            ),
            ("work", f"{_known(record.evaluations)} denoiser samples, {_known(record.seconds)} s"),
            *(
                (f"of this, {stage}", f"{spent.work:.0f} weighted samples, {spent.seconds:.2f} s")
                for stage, spent in record.spent.items()
            ),
        ]
        if truth is not None and truth.get(record.prompt):
            precision, recall = precision_recall(record.neurons, truth[record.prompt])
            facts.append(
                (
                    "against the known neurons",
                    f"precision {precision:.2f}, recall {recall:.2f} (of {len(truth[record.prompt])})",
                )
            )
        neurons = tuple(
            f"{path} #{neuron} (z = {_known(z)})"
            for path, indices in record.neurons.layers.items()
            for neuron, z in zip(
                indices, record.z_scores.get(path, (None,) * len(indices)), strict=True
            )
        )
        cards.append(
            Card(
                index,
                record.prompt,
                record.group,
                tuple(facts),
                neurons,
                tuple(strips),
                course(record),
                bool(record.theta_exhausted),
            )
        )
    return cards


def _training_images(results: Results, index: int) -> list[Path]:
    """Those that the prompt was measured against, else those that it names."""
    for name in NAMES:
        record = results.of(name).get(index)
        if record and record.references and record.references.paths:
            return list(record.references.paths)
    return list(results.prompts[index].images)


def _line(scores: PromptMetrics) -> str:
    """How much the images of a prompt copy, or else how much they are those with nothing off."""
    for name, what in (("sscd-orig", "copy score"), ("sscd-gen", "same as before")):
        if name in scores.values:
            return f"{what} {scores.median(name):.2f}, worst seed {scores.highest(name):.2f}"
    return ""


def _known(value: float | None) -> str:
    """A number, or a question mark: imported records do not say everything."""
    return "?" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _data_url(image: Image.Image, side: int, quality: int) -> str:
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
