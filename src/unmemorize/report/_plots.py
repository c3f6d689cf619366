"""The plots: those of the report as SVG text to be put into the page, that of a threshold as a PNG file."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from unmemorize._threshold import Threshold
from unmemorize.report._results import Results, seed_median

INK = "#7a8594"
COLOURS = ("#e4572e", "#f2a541", "#b07cc6", "#8d99ae", "#2e86ab", "#55a630")


def plot_similarity(results: Results) -> str | None:
    """The highest similarity between seeds of every prompt, by group, with tau; None where it is unknown."""
    first = next(iter(results.localizations.values())).detection
    if first is None:
        return None
    groups = results.groups
    figure, axes = _figure(0.42 * len(groups) + 1.1)
    rng = np.random.default_rng(0)
    for row, group in enumerate(groups):
        scores = [record.detection.score for record in results.localized(group) if record.detection]
        axes.scatter(scores, row + rng.uniform(-0.22, 0.22, len(scores)), s=18, alpha=0.75, color=COLOURS[row % len(COLOURS)], linewidths=0)
    axes.axvline(first.tau, color=INK, linestyle="--", linewidth=1.2)
    axes.text(first.tau, -0.62, f" tau = {first.tau:.3f}", color=INK, fontsize=9, va="bottom")
    axes.set_yticks(range(len(groups)), groups)
    axes.set_ylim(len(groups) - 0.4, -0.7)
    axes.set_xlabel("highest similarity between two seeds")
    return _svg(figure)


def plot_copies(results: Results) -> str | None:
    """The copy score of every prompt before and after, and with random neurons off; None without training images."""
    before, after, random = (_scores(results.of(name), "sscd_orig") for name in ("original", "refined", "random-refined"))
    shown = sorted(before.keys() & after.keys(), key=lambda index: before[index], reverse=True)
    if not shown:
        return None
    figure, axes = _figure(2.9)
    places = range(len(shown))
    axes.vlines(places, [after[index] for index in shown], [before[index] for index in shown], color=INK, linewidth=1)
    axes.scatter(places, [before[index] for index in shown], s=26, color=COLOURS[0], label="before", zorder=3)
    axes.scatter(places, [after[index] for index in shown], s=26, color=COLOURS[4], label="neurons off", zorder=3)
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
    axes.legend(frameon=False, labelcolor=INK, fontsize=9, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    return _svg(figure)


def plot_neurons(results: Results) -> str | None:
    """How many neurons each memorized prompt has after refinement; None when nothing is memorized."""
    groups = [group for group in results.groups if results.memorized(group)]
    counts = [[len(record.neurons) for record in results.memorized(group)] for group in groups]
    if not groups:
        return None
    figure, axes = _figure(2.6)
    top = max(max(count) for count in counts)
    edges: Sequence[float] = [-0.5, *(2**power - 0.5 for power in range(int(np.ceil(np.log2(top + 1))) + 1))]
    heights = [np.histogram(count, edges)[0] for count in counts]
    bottom = np.zeros(len(edges) - 1)
    for row, (group, height) in enumerate(zip(groups, heights, strict=True)):
        axes.bar(range(len(height)), height, bottom=bottom, color=COLOURS[row % len(COLOURS)], label=group, width=0.8)
        bottom = bottom + height
    labels = ["0", *(_span(2**power, 2 ** (power + 1) - 1) for power in range(len(edges) - 2))]
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlabel("neurons after refinement")
    axes.set_ylabel("prompts")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    return _svg(figure)


def plot_threshold(threshold: Threshold) -> bytes:
    """A histogram of what a threshold was calibrated on, each prompt's most similar pair and its mean pair, with both taus; PNG."""
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.subplots()
    edges = np.linspace(min(threshold.means), max(max(threshold.highest), threshold.tau), 40).tolist()
    for values, colour, label in (
        (threshold.means, COLOURS[4], "mean over the pairs of a prompt"),
        (threshold.highest, COLOURS[0], "most similar pair of a prompt"),
    ):
        axes.hist(values, edges, color=colour, alpha=0.6, label=label)
    axes.axvline(threshold.tau, color="black", linestyle="--", label=f"tau = {threshold.tau:.3f} ({threshold.reduction})")
    if threshold.tau_seeds is not None:
        axes.axvline(threshold.tau_seeds, color=COLOURS[4], linestyle=":", label=f"tau of the criterion seeds = {threshold.tau_seeds:.3f}")
    axes.set_xlabel("similarity between seeds")
    axes.set_ylabel(f"prompts (of {len(threshold.highest)})")
    axes.legend(frameon=False, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}–{high}"


def _scores(records: Mapping[int, Mapping[str, object]], key: str) -> dict[int, float]:
    return {index: seed_median(record[key]) for index, record in records.items() if key in record}


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
    with mpl.rc_context({"svg.hashsalt": "unmemorize", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
