"""The numbers that the plots show, read back from the figures."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from diffusers import DiffusionPipeline
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from conftest import one_number
from records import LAYER, localization
from scored_run import SCORES, scored_run
from unmemorize import Neurons, Prompt, Threshold, ThresholdError
from unmemorize.metrics import QualityRecord
from unmemorize.report import _plots as plots_module
from unmemorize.report import plot_threshold, read_results
from unmemorize.report._drawing import short_label
from unmemorize.report._plots import (
    PLOTS,
    plot_copies,
    plot_diversity,
    plot_layers,
    plot_neurons,
    plot_quality,
    plot_scores,
    plot_shared,
)
from unmemorize.report._results import Results
from unmemorize.report._threshold_plot import threshold_figure


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return read_results(scored_run(tmp_path_factory.mktemp("scored")))


def points(figure: Figure | None) -> dict[str, list[tuple[float, float]]]:
    """The dots of a figure by their label in the legend, rounded."""
    assert figure is not None
    return {
        str(dots.get_label()): [
            (round(float(x), 6), round(float(y), 6)) for x, y in np.asarray(dots.get_offsets())
        ]
        for dots in figure.axes[0].collections
        if isinstance(dots, PathCollection)
    }


def line_points(line: Line2D) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in np.asarray(line.get_xydata())]


def position(line: Line2D) -> float:
    """Where a vertical line is."""
    (x,) = {x for x, _ in line_points(line)}
    return x


def ticks(figure: Figure, axis: str) -> list[str]:
    return [label.get_text() for label in getattr(figure.axes[0], f"get_{axis}ticklabels")()]


def test_scores_by_group_with_tau(results: Results) -> None:
    records = {
        index: replace(record, detection=replace(record.detection, tau=0.37))
        for index, record in results.localizations.items()
        if record.detection
    }
    figure = plot_scores(replace(results, localizations=records))
    assert figure is not None
    axes = figure.axes[0]
    assert [position(line) for line in axes.lines] == [0.37]
    rows = [np.asarray(dots.get_offsets()) for dots in axes.collections]
    assert [row[:, 0].tolist() for row in rows] == [[0.81, 0.77, 0.35], [0.69], [0.21, 0.45]]
    assert [np.round(row[:, 1].mean()) for row in rows] == [0, 1, 2]
    assert ticks(figure, "y") == ["VM", "TM", "unmemorized"]
    text = axes.texts[0].get_text()
    assert text == " tau = 0.370 (1 of 4 missed, 1 of 2 false positives) "
    assert axes.get_xlabel() == "highest similarity between two seeds"
    records = {
        index: replace(record, detection=replace(record.detection, detector="noise-magnitude"))
        for index, record in records.items()
        if record.detection
    }
    figure = plot_scores(replace(results, localizations=records))
    assert figure is not None
    assert figure.axes[0].get_xlabel() == "score of noise-magnitude"


def test_without_labels_nothing_is_known_to_be_wrong(results: Results) -> None:
    prompts = [Prompt(prompt.text, group="mine") for prompt in results.prompts]
    figure = plot_scores(replace(results, prompts=prompts))
    assert figure is not None
    assert figure.axes[0].texts[0].get_text() == " tau = 0.400 "


def test_copies_before_and_after_and_of_the_control(results: Results) -> None:
    figure = plot_copies(results)
    medians = {
        set_name: {
            index: float(np.median(scores["sscd-orig"]))
            for index, scores in by_index.items()
            if "sscd-orig" in scores
        }
        for set_name, by_index in SCORES.items()
    }
    order = [0, 1, 2]  # by the median before: .9, .8, .2
    for label, set_name in (("before", "original"), ("neurons off", "refined")):
        assert points(figure)[label] == [
            (position, medians[set_name][index]) for position, index in enumerate(order)
        ]
    assert points(figure)["random neurons off"] == [(0, 0.89), (1, 0.66)]


def test_the_control_stays_with_its_prompt(results: Results) -> None:
    original, refined, random = results.metrics
    only_second = replace(random, prompts={1: random.prompts[1]})
    figure = plot_copies(replace(results, metrics=[original, refined, only_second]))
    assert points(figure)["random neurons off"] == [(1, 0.66)]
    without = plot_copies(replace(results, metrics=[original, refined]))
    assert "random neurons off" not in points(without)


def test_diversity_against_copies(results: Results) -> None:
    assert points(plot_diversity(results)) == {
        "before": [(0.9, 0.81), (0.8, 0.92), (0.2, 0.5)],
        "neurons off": [(0.2, 0.13), (0.05, 0.24), (0.04, 0.39)],
    }


def test_neurons_of_a_prompt_in_bins_that_double(results: Results) -> None:
    figure = plot_neurons(results)
    assert figure is not None
    assert ticks(figure, "x") == ["0", "1", "2–3", "4–7", "8–15"]
    heights = {
        str(bars.get_label()): [bar.get_height() for bar in bars]
        for bars in figure.axes[0].containers
    }
    assert heights == {
        "VM": [0, 0, 1, 1, 0],
        "TM": [0, 1, 0, 0, 0],
        "unmemorized": [0, 0, 0, 0, 1],
    }
    assert [bar.get_y() for bar in figure.axes[0].containers[1]] == [0, 0, 1, 1, 0]  # stacked


def test_neurons_of_a_layer_count_once_by_depth(results: Results) -> None:
    figure = plot_layers(results)
    assert figure is not None
    assert ticks(figure, "y") == ["down 0.0.0", "mid 0.0", "up 1.0.0"]
    assert [bar.get_width() for bar in figure.axes[0].containers[0]] == [16, 1, 4]


def test_shared_neurons(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    neurons = {0: [1, 2], 1: [2, 3], 2: [1, 2], 5: [8]}
    records = {
        index: localization(f"{index}", "VM", 0.6, Neurons({LAYER: indices}))
        for index, indices in neurons.items()
    }
    shared = replace(results, localizations=records)
    figure = plot_shared(shared)
    assert figure is not None
    assert ticks(figure, "y") == ["down 0.0.0 #2", "down 0.0.0 #1"]
    assert ticks(figure, "x") == ["0", "1", "2"]
    matrix = np.asarray(figure.axes[0].collections[0].get_array())
    assert matrix.tolist() == [[1, 1, 1], [1, 0, 1]]
    assert figure.axes[0].get_xlabel() == "number of the prompt"
    monkeypatch.setattr(plots_module, "_MOST_NEURONS", 1)
    cut = plot_shared(shared)
    assert cut is not None
    assert ticks(cut, "y") == ["down 0.0.0 #2"]
    assert "only the neurons that most prompts share" in cut.axes[0].get_xlabel()


def quality(set_name: str, fid: float, on: str = "") -> QualityRecord:
    return QualityRecord(
        set=f"{set_name}-on-{on}" if on else set_name,
        on=on,
        against="photos",
        kind="FID",
        extractor="inception",
        extractor_sha256="3" * 64,
        fid=fid,
        kid=0.1,
        kid_std=0.01,
        generated=10,
        real=20,
    )


def test_quality_against_neurons_off(results: Results) -> None:
    measured = [
        quality("top-20", 9.0),
        quality("original", 5.0),
        quality("top-5", 7.0),
        quality("refined", 8.0),
        quality("original", 4.0, "captions"),
        quality("top-5", 6.0, "captions"),
        quality("top-5", 1.0, "alone"),
    ]
    figure = plot_quality(replace(results, quality=measured))
    assert figure is not None
    lines = {line.get_label(): line_points(line) for line in figure.axes[0].lines}
    assert lines == {
        "FID of memorized prompts, against photos": [(0, 5.0), (5, 7.0), (20, 9.0)],
        "FID of captions, against photos": [(0, 4.0), (5, 6.0)],
    }


def test_distances_of_two_kinds_are_not_joined(results: Results) -> None:
    measured = [quality("top-5", 7.0), quality("top-20", 9.0)]
    by_clip = [replace(each, kind="CLIP-FID", fid=each.fid - 6) for each in measured]
    figure = plot_quality(replace(results, quality=[*measured, *by_clip]))
    assert figure is not None
    lines = {line.get_label(): line_points(line) for line in figure.axes[0].lines}
    assert lines == {
        "FID of memorized prompts, against photos": [(5, 7.0), (20, 9.0)],
        "CLIP-FID of memorized prompts, against photos": [(5, 1.0), (20, 3.0)],
    }


@pytest.mark.parametrize("heading", [name for name in PLOTS if name != "Scores of detection"])
def test_nothing_to_show_is_no_plot(results: Results, heading: str) -> None:
    nothing = {4: results.localizations[4]}
    empty = replace(results, localizations=nothing, metrics=[], quality=[])
    assert PLOTS[heading](empty) is None


def test_imported_records_tell_no_score(results: Results) -> None:
    records = {0: replace(results.localizations[0], detection=None)}
    assert plot_scores(replace(results, localizations=records)) is None


def test_scores_are_those_of_the_detector(results: Results) -> None:
    figure = plot_scores(results)
    assert figure is not None
    assert figure.axes[0].get_xlabel() == "highest similarity between two seeds"
    record = results.localizations[0]
    assert record.detection is not None
    other = replace(record, detection=replace(record.detection, detector="dsm"))
    figure = plot_scores(replace(results, localizations={0: other}))
    assert figure is not None
    assert figure.axes[0].get_xlabel() == "score of dsm"


def test_no_text_is_cut_off(results: Results) -> None:
    """The text at tau lies inside the axes, on the side where there is more room."""
    figure = plot_scores(results)
    assert figure is not None
    text = figure.axes[0].texts[0]
    assert (text.get_position(), text.get_verticalalignment()) == ((0.4, 1), "top")
    assert text.get_horizontalalignment() == "left"  # tau is below the middle of .18 to .84


def test_labels_are_short() -> None:
    assert short_label("x" * 30) == "x" * 30
    assert short_label("x" * 31) == "x" * 27 + "..."
    assert short_label("_hidden") == " _hidden"


def test_a_threshold_that_was_given_has_no_distribution(bundled: DiffusionPipeline) -> None:
    with pytest.raises(ThresholdError, match=r"tau=0.428: given as a number, .* Calibrate"):
        plot_threshold(Threshold.given(bundled, 0.428))


def test_a_threshold_with_its_distribution(bundled_threshold: Threshold) -> None:
    threshold = one_number(bundled_threshold, 0.5, tau_seeds=0.25)
    threshold = replace(threshold, detect=replace(threshold.detect, tau=0.75))
    axes = threshold_figure(threshold).axes[0]
    assert [position(line) for line in axes.lines] == [0.75, 0.5, 0.25]
    labels = [str(line.get_label()) for line in axes.lines]
    assert labels == [
        "tau of detection = 0.750",
        "tau of localization = 0.500",
        "tau of the criterion seeds = 0.250",
    ]
    counted = {
        bars[0].get_label(): sum(bar.get_height() for bar in bars) for bars in axes.containers
    }
    assert counted == {
        "mean over the pairs of a prompt": len(threshold.localize.means),
        "most similar pair of a prompt": len(threshold.detect.scores),
    }
    without = threshold_figure(
        replace(threshold, localize=replace(threshold.localize, tau_seeds=None))
    ).axes[0]
    assert len(without.lines) == 2
    other = replace(threshold, detect=replace(threshold.detect, detector="noise-magnitude"))
    scores_only = threshold_figure(other).axes[0]
    assert (len(scores_only.lines), scores_only.get_xlabel()) == (1, "noise-magnitude")
    assert [bars[0].get_label() for bars in scores_only.containers] == ["score of a prompt"]
    image = Image.open(io.BytesIO(plot_threshold(threshold)))
    assert (image.format, image.size) == ("PNG", (936, 416))
