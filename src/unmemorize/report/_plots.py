"""The plots: those of the report as SVG text to be put into the page, that of a threshold as a PNG file."""

from __future__ import annotations

import io
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from unmemorize.detection import Threshold
from unmemorize.metrics import PromptMetrics
from unmemorize.report._results import NAMES, Results, what_is_off

INK = "#667080"
"""On a white page; within the report, its own colour for such text takes the place."""
_ROWS, _COLUMNS = 40, 80
"""Of the matrix of shared neurons."""
_TOP = re.compile(r"top-(\d+)$|original$")
_STYLE: Any = {
    "svg.hashsalt": "unmemorize",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "text.parse_math": False,
}
COLOURS = ("#e4572e", "#f2a541", "#b07cc6", "#8d99ae", "#2e86ab", "#55a630")


@contextmanager
def plotting() -> Iterator[None]:
    """What all plots are drawn in: names are taken as they are, in whatever script."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser has it
        yield


def plot_similarity(results: Results) -> str | None:
    """The highest similarity between seeds of every prompt, by group, with tau; None where it is unknown."""
    first = next(iter(results.localizations.values())).detection
    if first is None:
        return None
    groups = results.groups
    figure, axes = _figure(0.42 * len(groups) + 1.25)
    rng = np.random.default_rng(0)
    for row, group in enumerate(groups):
        scores = [record.detection.score for record in results.localized(group) if record.detection]
        axes.scatter(
            scores,
            row + rng.uniform(-0.22, 0.22, len(scores)),
            s=18,
            alpha=0.75,
            color=COLOURS[row % len(COLOURS)],
            linewidths=0,
        )
    axes.axvline(first.tau, color=INK, linestyle="--", linewidth=1.2)
    to_the_left = first.tau > np.mean(axes.get_xlim())
    axes.text(
        first.tau,
        1,
        f" tau = {first.tau:.3f}{_errors(results)} ",
        transform=axes.get_xaxis_transform(),  # within the axes, above all dots: what juts out is cut off
        color=INK,
        fontsize=9,
        va="top",
        ha="right" if to_the_left else "left",
        in_layout=False,
    )
    axes.set_yticks(range(len(groups)), [_short(group) for group in groups])
    axes.set_ylim(len(groups) - 0.4, -1)
    axes.set_xlabel("highest similarity between two seeds")
    return _svg(figure)


def _errors(results: Results) -> str:
    """What tau gets wrong, where it is known which prompts are memorized."""
    known = [
        (prompt.memorized, results.localizations.get(index))
        for index, prompt in enumerate(results.prompts)
    ]
    found = [
        (label, record.memorized)
        for label, record in known
        if label is not None and record is not None
    ]
    wrong = {
        label: [said != label for is_label, said in found if is_label == label]
        for label in (True, False)
    }
    texts = [
        f"{sum(wrong[label])} of {len(wrong[label])} {name}"
        for label, name in ((True, "missed"), (False, "false positives"))
        if wrong[label]
    ]
    return f" ({', '.join(texts)})" if texts else ""


def plot_copies(results: Results) -> str | None:
    """The copy score of every prompt before and after, and with random neurons off; None without training images."""
    before, after, random = (
        _scores(results.of(name), "sscd-orig") for name in ("original", "refined", "random-refined")
    )
    shown = sorted(before.keys() & after.keys(), key=lambda index: before[index], reverse=True)
    if not shown:
        return None
    figure, axes = _figure(2.9)
    places = range(len(shown))
    axes.vlines(
        places,
        [after[index] for index in shown],
        [before[index] for index in shown],
        color=INK,
        linewidth=1,
    )
    axes.scatter(
        places, [before[index] for index in shown], s=26, color=COLOURS[0], label="before", zorder=3
    )
    axes.scatter(
        places,
        [after[index] for index in shown],
        s=26,
        color=COLOURS[4],
        label="neurons off",
        zorder=3,
    )
    control = [(place, random[index]) for place, index in enumerate(shown) if index in random]
    if control:
        axes.scatter(
            [place for place, _ in control],
            [score for _, score in control],
            s=30,
            facecolors="none",
            edgecolors=INK,
            label="random neurons off",
            zorder=2,
        )
    axes.set_xlabel("memorized prompts, by their copy score before")
    axes.set_ylabel("copy score")
    axes.set_xticks([])
    axes.legend(
        frameon=False, labelcolor=INK, fontsize=9, ncols=3, loc="lower left", bbox_to_anchor=(0, 1)
    )
    return _svg(figure)


def plot_neurons(results: Results) -> str | None:
    """How many neurons each memorized prompt has after refinement; None when nothing is memorized."""
    groups = [group for group in results.groups if results.memorized(group)]
    counts = [[len(record.neurons) for record in results.memorized(group)] for group in groups]
    if not groups:
        return None
    figure, axes = _figure(2.6)
    top = max(max(count) for count in counts)
    edges: Sequence[float] = [
        -0.5,
        *(2**power - 0.5 for power in range(int(np.ceil(np.log2(top + 1))) + 1)),
    ]
    heights = [np.histogram(count, edges)[0] for count in counts]
    bottom = np.zeros(len(edges) - 1)
    for row, (group, height) in enumerate(zip(groups, heights, strict=True)):
        axes.bar(
            range(len(height)),
            height,
            bottom=bottom,
            color=COLOURS[row % len(COLOURS)],
            label=_short(group),
            width=0.8,
        )
        bottom = bottom + height
    labels = ["0", *(_span(2**power, 2 ** (power + 1) - 1) for power in range(len(edges) - 2))]
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlabel("neurons after refinement")
    axes.set_ylabel("prompts")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    return _svg(figure)


def plot_layers(results: Results) -> str | None:
    """In which layers the neurons are that refinement left, each counted once, by depth; None when there are none."""
    everything = {pair for record in results.localizations.values() for pair in record.neurons}
    counts = Counter(layer for layer, _ in everything)
    shown = sorted(counts, key=_depth)
    if not shown:
        return None
    figure, axes = _figure(0.34 * len(shown) + 1.2)
    axes.barh(range(len(shown)), [counts[layer] for layer in shown], color=COLOURS[4], height=0.7)
    axes.set_yticks(range(len(shown)), [short_layer(layer) for layer in shown])
    axes.invert_yaxis()
    axes.set_xlabel("different neurons, over all memorized prompts")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _svg(figure)


def plot_shared(results: Results) -> str | None:
    """Which neurons several prompts have in common, as a matrix of neurons and prompts; None where no neuron is shared."""
    prompts = [
        (index, record) for index, record in results.localizations.items() if record.memorized
    ]
    owners: dict[tuple[str, int], list[int]] = {}
    for place, (_, record) in enumerate(prompts):
        for pair in record.neurons:
            owners.setdefault(pair, []).append(place)
    shared = sorted(
        (pair for pair in owners if len(owners[pair]) > 1), key=lambda pair: -len(owners[pair])
    )[:_ROWS]
    if not shared:
        return None
    columns = sorted({place for pair in shared for place in owners[pair]})[:_COLUMNS]
    matrix = np.array([[place in owners[pair] for place in columns] for pair in shared], float)
    figure, axes = _figure(0.2 * len(shared) + 1.4)
    axes.pcolormesh(
        matrix,
        cmap=ListedColormap(["#00000000", COLOURS[4]]),
        edgecolors=f"{INK}55",
        linewidth=0.4,
        vmin=0,
        vmax=1,
    )
    axes.set_yticks(
        np.arange(len(shared)) + 0.5,
        [f"{short_layer(layer)} #{index}" for layer, index in shared],
        fontsize=7,
    )
    axes.set_xticks(
        np.arange(len(columns)) + 0.5,
        [str(prompts[place][0]) for place in columns],
        fontsize=7,
        rotation=90,
    )
    axes.invert_yaxis()
    cut = (
        " (the neurons of most prompts; others are left out)"
        if len(shared) == _ROWS or len(columns) == _COLUMNS
        else ""
    )
    axes.set_xlabel(f"number of the prompt{cut}")
    return _svg(figure)


def plot_diversity(results: Results) -> str | None:
    """How alike the images of a prompt are against how much they copy, before and after; None where either is unknown."""
    figure, axes = _figure(3.0)
    shown = False
    for name, colour in (("original", COLOURS[0]), ("refined", COLOURS[4])):
        points = [
            (copy, alike)
            for record in results.of(name).values()
            if (copy := record.median("sscd-orig")) is not None
            and (alike := record.median("d-sscd")) is not None
        ]
        if points:
            shown = True
            copies, similarities = zip(*points, strict=True)
            axes.scatter(
                copies,
                similarities,
                s=22,
                alpha=0.8,
                color=colour,
                linewidths=0,
                label=NAMES[name],
            )
    if not shown:
        return None
    axes.set_xlabel("copy score")
    axes.set_ylabel("similarity between seeds' images")
    axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    return _svg(figure)


def plot_quality(results: Results) -> str | None:
    """The distance from real images against how many neurons are off, for sets such as top-10; None for fewer than two of them."""
    named = [(_TOP.match(what_is_off(record.set, record.on)), record) for record in results.quality]
    series: dict[str, list[tuple[int, float]]] = {}
    for count, record in [(int(found[1] or 0), record) for found, record in named if found]:
        series.setdefault(
            f"{record.on or 'memorized prompts'}, against {record.against}", []
        ).append((count, record.fid))
    series = {label: sorted(points) for label, points in series.items() if len(points) > 1}
    if not series:
        return None
    figure, axes = _figure(2.8)
    for row, (label, points) in enumerate(series.items()):
        axes.plot(
            *zip(*points, strict=True), marker="o", color=COLOURS[row % len(COLOURS)], label=label
        )
    axes.set_xlabel("neurons off")
    axes.set_ylabel("FID")
    axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    return _svg(figure)


def _depth(path: str) -> tuple[int, list[int]]:
    """Down blocks, the middle one, up blocks, and in these by number."""
    stage = next(
        (place for place, name in enumerate(("down", "mid", "up")) if path.startswith(name)), 3
    )
    return stage, [int(part) for part in path.split(".") if part.isdigit()]


def short_layer(path: str) -> str:
    """A layer's path without what the paths of all layers have in common.

    >>> short_layer("down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_v")
    'down 0.1.0'
    """
    parts = path.split(".")
    numbers = ".".join(part for part in parts if part.isdigit())
    return f"{parts[0].removesuffix('_blocks').removesuffix('_block')} {numbers}".strip()


def plot_threshold(threshold: Threshold) -> bytes:
    """A histogram of what a threshold was calibrated on, each prompt's most similar pair and its mean pair, with both taus; PNG."""
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.subplots()
    edges = np.linspace(
        min(threshold.means), max(max(threshold.highest), threshold.tau), 40
    ).tolist()
    for values, colour, label in (
        (threshold.means, COLOURS[4], "mean over the pairs of a prompt"),
        (threshold.highest, COLOURS[0], "most similar pair of a prompt"),
    ):
        axes.hist(values, edges, color=colour, alpha=0.6, label=label)
    axes.axvline(
        threshold.tau,
        color="black",
        linestyle="--",
        label=f"tau = {threshold.tau:.3f} ({threshold.reduction})",
    )
    if threshold.tau_seeds is not None:
        axes.axvline(
            threshold.tau_seeds,
            color=COLOURS[4],
            linestyle=":",
            label=f"tau of the criterion seeds = {threshold.tau_seeds:.3f}",
        )
    axes.set_xlabel("similarity between seeds")
    axes.set_ylabel(f"prompts (of {len(threshold.highest)})")
    axes.legend(frameon=False, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _short(name: str) -> str:
    """A name as a label; Matplotlib leaves out those that begin with an underscore."""
    short = name if len(name) <= 30 else name[:27] + "..."
    return f" {short}" if short.startswith("_") else short


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}–{high}"


def _scores(records: Mapping[int, PromptMetrics], name: str) -> dict[int, float]:
    medians = {index: record.median(name) for index, record in records.items()}
    return {index: value for index, value in medians.items() if value is not None}


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.2, height), layout="constrained")
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.tick_params(colors=INK, labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
    return figure, axes


def _svg(figure: Figure) -> str:
    """The figure as an SVG element, transparent, so that it fits a light and a dark page; the same figure gives the same text."""
    buffer = io.StringIO()
    figure.savefig(
        buffer,
        format="svg",
        transparent=True,
        metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
    )
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")
