"""The picture of a calibrated threshold."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.figure import Figure

from unmemorize._errors import ThresholdError
from unmemorize.detection import SEED_SIMILARITY, Threshold
from unmemorize.report._drawing import COOL, HOT

_BINS = 39


def plot_threshold(threshold: Threshold) -> bytes:
    """Draw the distribution that a threshold was calibrated on, with its taus.

    Args:
        threshold: a calibrated threshold. One that was given as a number has no distribution.

    Returns:
        A PNG file.

    Raises:
        ThresholdError: the threshold was given as a number.
    """
    buffer = io.BytesIO()
    threshold_figure(threshold).savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def threshold_figure(threshold: Threshold) -> Figure:
    """Return the histograms of each prompt's mean pair and most similar pair, with both taus.

    Raises:
        ThresholdError: the threshold was given as a number.
    """
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.subplots()
    detect, localize = threshold.detect, threshold.localize
    compares_seeds = detect.detector == SEED_SIMILARITY
    scores = "most similar pair of a prompt" if compares_seeds else "score of a prompt"
    histograms = [(detect.scores, HOT, scores)]
    if compares_seeds:  # both are similarities
        histograms.insert(0, (localize.means, COOL, "mean over the pairs of a prompt"))
    if not all(values for values, _, _ in histograms):
        raise ThresholdError(
            f"tau={detect.tau:g}: given as a number, so there is no distribution to draw. "
            "Calibrate a threshold."
        )
    lowest = min(min(values) for values, _, _ in histograms)
    edges = np.linspace(lowest, max(*detect.scores, detect.tau), _BINS + 1).tolist()
    for values, colour, label in histograms:
        axes.hist(values, edges, color=colour, alpha=0.6, label=label)
    lines = [(detect.tau, "black", "--", f"tau of detection = {detect.tau:.3f}")]
    if compares_seeds:
        lines.append((localize.tau, HOT, ":", f"tau of localization = {localize.tau:.3f}"))
        if localize.tau_seeds is not None:
            label = f"tau of the criterion seeds = {localize.tau_seeds:.3f}"
            lines.append((localize.tau_seeds, COOL, ":", label))
    for tau, colour, style, label in lines:
        axes.axvline(tau, color=colour, linestyle=style, label=label)
    axes.set_xlabel("similarity between seeds" if compares_seeds else detect.detector)
    axes.set_ylabel(f"prompts (of {len(detect.scores)})")
    axes.legend(frameon=False, fontsize=8)
    return figure
