"""The picture of a calibrated threshold."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.figure import Figure

from unmemorize.detection import Threshold
from unmemorize.report._drawing import COOL, HOT

_BINS = 39


def plot_threshold(threshold: Threshold) -> bytes:
    """Draw the distribution that a threshold was calibrated on, with its taus.

    Args:
        threshold: a calibrated threshold. One that was given as a number has no distribution.

    Returns:
        A PNG file.
    """
    buffer = io.BytesIO()
    threshold_figure(threshold).savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def threshold_figure(threshold: Threshold) -> Figure:
    """Return the histograms of each prompt's mean pair and most similar pair, with both taus."""
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.subplots()
    scores = "most similar pair of a prompt" if threshold.means else "score of a prompt"
    histograms = [(threshold.highest, HOT, scores)]
    if threshold.means:  # of detectors that compare seeds
        histograms.insert(0, (threshold.means, COOL, "mean over the pairs of a prompt"))
    lowest = min(min(values) for values, _, _ in histograms)
    edges = np.linspace(lowest, max(*threshold.highest, threshold.tau), _BINS + 1).tolist()
    for values, colour, label in histograms:
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
            color=COOL,
            linestyle=":",
            label=f"tau of the criterion seeds = {threshold.tau_seeds:.3f}",
        )
    axes.set_xlabel("similarity between seeds")
    axes.set_ylabel(f"prompts (of {len(threshold.highest)})")
    axes.legend(frameon=False, fontsize=8)
    return figure
