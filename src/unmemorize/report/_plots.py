"""The plots of the report, one function each. A function returns None where it has nothing to draw.

They are drawn inside `plotting`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from unmemorize.generation import without_prompts
from unmemorize.report._drawing import (
    COLOURS,
    COOL,
    HOT,
    INK,
    new_figure,
    short_label,
    short_layer,
)
from unmemorize.report._results import D_SSCD, SET_LABELS, SSCD_ORIG, Results

_MOST_NEURONS, _MOST_PROMPTS = 40, 80
"""The largest matrix of shared neurons in which labels can still be read."""
_TOP = re.compile(r"top-(\d+)$|original$")
"""Names of sets that tell how many neurons are off; none for the original one."""


def plot_scores(results: Results) -> Figure | None:
    """Draw the score of detection of every prompt, a row for each group, with tau.

    None where the records do not tell, which are imported ones.
    """
    records = results.localizations.values()
    detection = next((record.detection for record in records if record.detection), None)
    if detection is None:
        return None
    tau = detection.tau
    groups = results.groups
    figure, axes = new_figure(0.42 * len(groups) + 1.25)
    rng = np.random.default_rng(0)
    for row, group in enumerate(groups):
        scores = [record.detection.score for record in results.localized(group) if record.detection]
        axes.scatter(
            scores,
            row + rng.uniform(-0.22, 0.22, len(scores)),
            s=18,
            alpha=0.75,
            color=_colour(row),
            linewidths=0,
        )
    axes.axvline(tau, color=INK, linestyle="--", linewidth=1.2)
    tau_is_right_of_centre = tau > np.mean(axes.get_xlim())
    axes.text(
        tau,
        1,
        f" tau = {tau:.3f}{_detection_errors(results)} ",
        transform=axes.get_xaxis_transform(),  # inside the axes: text outside would be cut off
        color=INK,
        fontsize=9,
        va="top",
        ha="right" if tau_is_right_of_centre else "left",
        in_layout=False,
    )
    axes.set_yticks(range(len(groups)), [short_label(group) for group in groups])
    axes.set_ylim(len(groups) - 0.4, -1)
    axes.set_xlabel(detection.measure)
    return figure


def _detection_errors(results: Results) -> str:
    """Return what detection got wrong, where it is known which prompts are memorized."""
    verdicts: dict[bool, list[bool]] = {True: [], False: []}
    for index, record in results.localizations.items():
        label = results.prompts[index].memorized
        if label is not None:
            verdicts[label].append(record.memorized)
    parts = []
    if verdicts[True]:
        parts.append(f"{verdicts[True].count(False)} of {len(verdicts[True])} missed")
    if verdicts[False]:
        wrong = verdicts[False].count(True)
        parts.append(f"{wrong} of {len(verdicts[False])} false positives")
    return f" ({', '.join(parts)})" if parts else ""


def plot_copies(results: Results) -> Figure | None:
    """Draw SSCD_Orig of every prompt before, with its neurons off, and with random ones off.

    None without training images.
    """
    before = _copy_scores(results, "original")
    after = _copy_scores(results, "refined")
    control = _copy_scores(results, "random-refined")
    shown = sorted(before.keys() & after.keys(), key=lambda index: before[index], reverse=True)
    if not shown:
        return None
    figure, axes = new_figure(2.9)
    position = {index: number for number, index in enumerate(shown)}
    before_shown = [before[index] for index in shown]
    after_shown = [after[index] for index in shown]
    axes.vlines(range(len(shown)), after_shown, before_shown, color=INK, linewidth=1)
    axes.scatter(range(len(shown)), before_shown, s=26, color=HOT, label="before", zorder=3)
    axes.scatter(range(len(shown)), after_shown, s=26, color=COOL, label="neurons off", zorder=3)
    controlled = [index for index in shown if index in control]
    if controlled:
        axes.scatter(
            [position[index] for index in controlled],
            [control[index] for index in controlled],
            s=30,
            facecolors="none",
            edgecolors=INK,
            label="random neurons off",
            zorder=2,
        )
    axes.set_xlabel("memorized prompts, by SSCD_Orig before")
    axes.set_ylabel("SSCD_Orig (copy score)")
    axes.set_xticks([])
    _legend(axes, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    return figure


def _copy_scores(results: Results, set_name: str) -> dict[int, float]:
    medians = {
        index: record.median(SSCD_ORIG) for index, record in results.of_set(set_name).items()
    }
    return {index: score for index, score in medians.items() if score is not None}


def plot_diversity(results: Results) -> Figure | None:
    """Draw D_SSCD against SSCD_Orig of every prompt, before and with its neurons off.

    None where either was not measured.
    """
    figure, axes = new_figure(3.0)
    for set_name, colour in (("original", HOT), ("refined", COOL)):
        points = [
            (copies, alike)
            for record in results.of_set(set_name).values()
            if (copies := record.median(SSCD_ORIG)) is not None
            and (alike := record.median(D_SSCD)) is not None
        ]
        if points:
            axes.scatter(
                [copies for copies, _ in points],
                [alike for _, alike in points],
                s=22,
                alpha=0.8,
                color=colour,
                linewidths=0,
                label=SET_LABELS[set_name],
            )
    if not axes.collections:
        return None
    axes.set_xlabel("SSCD_Orig (copy score)")
    axes.set_ylabel("D_SSCD (between seeds)")
    _legend(axes)
    return figure


def plot_neurons(results: Results) -> Figure | None:
    """Draw how many neurons the memorized prompts have after refinement, stacked by group.

    The bins double: 0, 1, 2–3, 4–7, ... None when nothing is memorized.
    """
    counts = {
        group: [len(record.neurons) for record in results.memorized(group)]
        for group in results.groups
        if results.memorized(group)
    }
    if not counts:
        return None
    most = max(max(group_counts) for group_counts in counts.values())
    starts = [0, *(2**power for power in range(int(np.ceil(np.log2(most + 1))) + 1))]
    figure, axes = new_figure(2.6)
    bottom = np.zeros(len(starts) - 1)
    for row, (group, group_counts) in enumerate(counts.items()):
        heights, _ = np.histogram(group_counts, np.array(starts) - 0.5)
        axes.bar(
            range(len(heights)),
            heights,
            bottom=bottom,
            color=_colour(row),
            label=short_label(group),
            width=0.8,
        )
        bottom = bottom + heights
    labels = [_range_label(start, end - 1) for start, end in pairwise(starts)]
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlabel("neurons after refinement")
    axes.set_ylabel("prompts")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(axes)
    return figure


def _range_label(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}–{high}"


def plot_layers(results: Results) -> Figure | None:
    """Draw how many different refined neurons each layer has, by depth. None without neurons."""
    neurons = {pair for record in results.localizations.values() for pair in record.neurons}
    counts = Counter(layer for layer, _ in neurons)
    if not counts:
        return None
    layers = sorted(counts, key=_depth)
    figure, axes = new_figure(0.34 * len(layers) + 1.2)
    axes.barh(range(len(layers)), [counts[layer] for layer in layers], color=COOL, height=0.7)
    axes.set_yticks(range(len(layers)), [short_layer(layer) for layer in layers])
    axes.invert_yaxis()
    axes.set_xlabel("different neurons, over all memorized prompts")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _depth(path: str) -> tuple[int, list[int]]:
    """Return a sort key: down blocks, the middle one, up blocks, others, each by number."""
    stages = ("down", "mid", "up")
    stage = next((rank for rank, name in enumerate(stages) if path.startswith(name)), len(stages))
    return stage, [int(part) for part in path.split(".") if part.isdigit()]


def plot_shared(results: Results) -> Figure | None:
    """Draw which neurons several prompts have in common, as a matrix of neurons and prompts.

    None where no neuron is shared.
    """
    owners: dict[tuple[str, int], list[int]] = defaultdict(list)
    for index, record in results.localizations.items():
        for pair in record.neurons:
            owners[pair].append(index)
    all_shared = [pair for pair in owners if len(owners[pair]) > 1]
    shared = sorted(all_shared, key=lambda pair: -len(owners[pair]))[:_MOST_NEURONS]
    if not shared:
        return None
    all_prompts = sorted({index for pair in shared for index in owners[pair]})
    prompts = all_prompts[:_MOST_PROMPTS]
    matrix = np.array([[index in owners[pair] for index in prompts] for pair in shared], float)
    figure, axes = new_figure(0.2 * len(shared) + 1.4)
    axes.pcolormesh(
        matrix,
        cmap=ListedColormap(["#00000000", COOL]),
        edgecolors=f"{INK}55",
        linewidth=0.4,
        vmin=0,
        vmax=1,
    )
    axes.set_yticks(
        np.arange(len(shared)) + 0.5,
        [f"{short_layer(layer)} #{neuron}" for layer, neuron in shared],
        fontsize=7,
    )
    axes.set_xticks(np.arange(len(prompts)) + 0.5, list(map(str, prompts)), fontsize=7, rotation=90)
    axes.invert_yaxis()
    is_cut = len(all_shared) > len(shared) or len(all_prompts) > len(prompts)
    cut = " (only the neurons that most prompts share)" if is_cut else ""
    axes.set_xlabel(f"number of the prompt{cut}")
    return figure


def plot_quality(results: Results) -> Figure | None:
    """Draw FID against how many neurons are off, for sets such as top-10.

    None where fewer than two sets were compared with the same real images.
    """
    series: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for quality in results.quality:
        matched = _TOP.match(without_prompts(quality.set, quality.on))
        if matched:
            real = results.real_name(quality)
            label = f"{quality.kind} of {quality.on or 'memorized prompts'}, against {real}"
            series[label].append((int(matched[1] or 0), quality.fid))
    lines = {label: sorted(points) for label, points in series.items() if len(points) > 1}
    if not lines:
        return None
    figure, axes = new_figure(2.8)
    for row, (label, points) in enumerate(lines.items()):
        counts, distances = zip(*points, strict=True)
        axes.plot(counts, distances, marker="o", color=_colour(row), label=label)
    axes.set_xlabel("neurons off")
    axes.set_ylabel("Fréchet distance")
    _legend(axes)
    return figure


PLOTS = {
    "Scores of detection": plot_scores,
    "Copies": plot_copies,
    "Copies and diversity": plot_diversity,
    "Neurons of a prompt": plot_neurons,
    "Neurons of a layer": plot_layers,
    "Neurons that several prompts share": plot_shared,
    "Quality against neurons off": plot_quality,
}
"""The plots by their heading, in the order of the page."""


def _colour(row: int) -> str:
    return COLOURS[row % len(COLOURS)]


def _legend(axes: Axes, **options: Any) -> None:
    axes.legend(frameon=False, labelcolor=INK, fontsize=9, **options)
