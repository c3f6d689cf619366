"""The report of a run: one HTML page that holds everything and asks nothing of the network."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from unmemorize.report._plots import plot_copies, plot_neurons, plot_similarity
from unmemorize.report._table import NAMES, Results, Truth, precision_recall, read_results, seed_median, summary_table
from unmemorize.runs import Run, Variant, read_image

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
    for variant in (Variant.ORIGINAL, Variant.REFINED, Variant.RANDOM):
        scores = [seed_median(record["sscd_orig"]) for record in results.metrics.get(variant, {}).values() if "sscd_orig" in record]
        if scores:
            found.append((NAMES[variant], f"{median(scores):.2f}"))
    return found


def _cards(run: Run, results: Results, truth: Truth | None) -> list[Card]:
    generated = {variant: Run.load(run.folder / "images" / variant) for variant in Variant if (run.folder / "images" / variant).exists()}
    files = {variant: images.records("images") for variant, images in generated.items()}
    cards = []
    for index, record in results.localizations.items():
        if not record.memorized:
            continue
        strips = []
        references = results.prompts[index].images[:SHOWN_IMAGES]
        if references:
            strips.append(Strip("training image", tuple(map(_data_url, references)), ""))
        for variant, images in generated.items():
            if index in files[variant]:
                scores = results.metrics.get(variant, {}).get(index, {})
                line = f"copy score {seed_median(scores['sscd_orig']):.2f}" if "sscd_orig" in scores else ""
                names = files[variant][index]["files"]
                strips.append(Strip(NAMES[variant], tuple(_data_url(images.folder / name) for name in names[:SHOWN_IMAGES]), line))
        facts = [
            ("similarity between seeds", f"{record.detection.score:.3f} (tau {record.detection.tau:.3f})"),
            ("seeds above tau", f"{len(record.detection.kept)}"),
            (
                "initial selection",
                f"{len(record.initial)} neurons at theta {record.theta}, k {record.top_k}; score {record.initial_score:.3f}",
            ),
            ("refined", f"{len(record.neurons)} neurons; score {record.score:.3f} (threshold {record.threshold:.3f})"),
            ("work", f"{record.evaluations} denoiser samples, {record.seconds:.1f} s"),
        ]
        if truth is not None and truth.get(record.prompt):
            precision, recall = precision_recall(record.neurons, truth[record.prompt])
            facts.append(("against the known neurons", f"precision {precision:.2f}, recall {recall:.2f} (of {len(truth[record.prompt])})"))
        neurons = tuple(
            f"{path} #{neuron} (z = {z:.1f})"
            for path, indices in record.neurons.layers.items()
            for neuron, z in zip(indices, record.z_scores[path], strict=True)
        )
        cards.append(Card(record.prompt, record.group, tuple(facts), neurons, tuple(strips), record.floor))
    return cards


def _data_url(path: Path) -> str:
    image = read_image(path)
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=88)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
