"""The report of a run: one HTML page that holds everything and asks nothing of the network."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup
from PIL import Image

from unmemorize.metrics import read_image, read_references
from unmemorize.report._plots import plot_copies, plot_neurons, plot_similarity
from unmemorize.report._results import NAMES, Results, read_results, seed_median
from unmemorize.report._table import Truth, precision_recall, summary_table
from unmemorize.runs import OVERALL, Run, image_sets

LARGEST_SIDE = 192
SHOWN_IMAGES = 4


@dataclass(frozen=True)
class Strip:
    """Images of one kind for a prompt, as data URLs, with a line about them."""

    title: str
    images: tuple[str, ...]
    caption: str


@dataclass(frozen=True)
class Card:
    """One memorized prompt on the page."""

    prompt: str
    group: str
    facts: tuple[tuple[str, str], ...]
    neurons: tuple[str, ...]
    strips: tuple[Strip, ...]
    floor: bool


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
    plots = [
        ("Similarity between seeds", plot_similarity(results)),
        ("Copies", plot_copies(results)),
        ("Neurons", plot_neurons(results)),
    ]
    environment = Environment(
        loader=PackageLoader("unmemorize.report"), autoescape=select_autoescape(("html", "j2")), trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("report.html.j2").render(
        model=run.config["model"],
        manifest=run.manifest,
        table=summary_table(results, truth),
        prompts=len(results.prompts),
        done=len(results.localizations),
        memorized=sum(record.memorized for record in results.localizations.values()),
        headline=_headline(results),
        plots=[(title, Markup(svg)) for title, svg in plots if svg is not None],
        cards=_cards(run, results, truth),
    )
    return run.write("report.html", page)


def _headline(results: Results) -> list[tuple[str, str]]:
    """Copies before and after in plain words, where they were measured."""
    found = []
    for name in ("original", "refined", "random-refined"):
        scores = [seed_median(record["sscd_orig"]) for record in results.records(name, OVERALL) if "sscd_orig" in record]
        if scores:
            found.append((NAMES[name], f"{median(scores):.2f}"))
    return found


def _cards(run: Run, results: Results, truth: Truth | None) -> list[Card]:
    sets = {name: images for name, images in image_sets(run).items() if not images.config["on"]}
    shown = [name for name in NAMES if name in sets] + [name for name in sets if name not in NAMES]
    files = {name: sets[name].records("images") for name in shown}
    cards = []
    for index, record in results.localizations.items():
        if not record.memorized:
            continue
        strips = []
        references = read_references(results.prompts[index].images[:SHOWN_IMAGES]).images
        if references:
            strips.append(Strip("training image", tuple(map(_data_url, references)), ""))
        for name in shown:
            if index in files[name]:
                scores = results.of(name).get(index, {})
                line = f"copy score {seed_median(scores['sscd_orig']):.2f}" if "sscd_orig" in scores else ""
                paths = [sets[name].folder / file for file in files[name][index]["files"][:SHOWN_IMAGES]]
                strips.append(Strip(NAMES.get(name, name), tuple(_data_url(read_image(path)) for path in paths), line))
        facts = []
        if record.detection:
            facts.append(("similarity between seeds", f"{record.detection.score:.3f} (tau {record.detection.tau:.3f})"))
            facts.append(("seeds above tau", str(len(record.detection.kept))))
        facts += [
            (
                "initial selection",
                f"{len(record.initial)} neurons at theta {_known(record.theta)}, k {_known(record.top_k)}; "
                f"score {_known(record.initial_score)}",
            ),
            ("refined", f"{len(record.neurons)} neurons; score {_known(record.score)} (threshold {_known(record.threshold)})"),
            ("work", f"{_known(record.evaluations)} denoiser samples, {_known(record.seconds)} s"),
        ]
        if truth is not None and truth.get(record.prompt):
            precision, recall = precision_recall(record.neurons, truth[record.prompt])
            facts.append(("against the known neurons", f"precision {precision:.2f}, recall {recall:.2f} (of {len(truth[record.prompt])})"))
        neurons = tuple(
            f"{path} #{neuron} (z = {_known(z)})"
            for path, indices in record.neurons.layers.items()
            for neuron, z in zip(indices, record.z_scores.get(path, (None,) * len(indices)), strict=True)
        )
        cards.append(Card(record.prompt, record.group, tuple(facts), neurons, tuple(strips), bool(record.floor)))
    return cards


def _known(value: float | None) -> str:
    """A number, or a question mark: imported records do not say everything."""
    return "?" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _data_url(image: Image.Image) -> str:
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=88)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
