"""The page of a comparison: tables, and curves over the strength of each method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unmemorize.comparison import ALL_GROUPS, UNEDITED, Comparison, ComparisonRun, MethodRow
from unmemorize.report._drawing import COLOURS, HOT, INK, plotting, to_svg
from unmemorize.report._page import COMPARISON, render
from unmemorize.runs import Run

_COLUMNS = 4
_PANEL = (1.8, 1.5)
"""Inches of the panel of one method."""
_MOST_GROUPS = len(COLOURS)

Measure = Callable[[MethodRow], float | None]


def write_comparison(run: Run) -> Path:
    """Write ``compare.html`` into the folder of a finished comparison.

    It is one file that loads nothing from the network.

    Returns:
        The path of the page.

    Raises:
        RunError: the comparison is not finished, or a record is damaged.
    """
    comparison = Comparison.load(run)
    page = render(
        "comparison.html.j2",
        manifest=run.manifest,
        settings=run.settings(ComparisonRun).settings,
        comparison=comparison,
        groups=(ALL_GROUPS, *comparison.groups),
        all_groups=ALL_GROUPS,
        unedited=UNEDITED,
        curves=draw_curves(comparison),
    )
    return run.write(COMPARISON, page)


def draw_curves(comparison: Comparison) -> list[tuple[str, Markup]]:
    """Return headings and SVG elements: copy rate against what each strength costs."""
    axes: dict[str, tuple[str, Measure]] = {
        "Copies against alignment with the prompt": ("A_CLIP", lambda row: row.alignment),
        "Copies against changed ordinary images": ("share changed", lambda row: row.changed_rate),
    }
    with plotting():
        figures = {
            heading: plot_curves(comparison, label, measure)
            for heading, (label, measure) in axes.items()
        }
        return [(heading, Markup(to_svg(figure))) for heading, figure in figures.items() if figure]


def plot_curves(comparison: Comparison, label: str, measure: Measure) -> Figure | None:
    """Draw a panel for each method: copy rate against a measure, a line for each group.

    A line joins the strengths of the grid, and its largest point is the strongest. The points of
    all other methods lie behind it. None where there is nothing to draw.

    Args:
        comparison: what was found.
        label: of the horizontal axis.
        measure: what is on it.
    """
    groups = comparison.groups
    if not groups or len(groups) > _MOST_GROUPS:
        groups = (ALL_GROUPS,)
    points = {
        (method, group): points_of(comparison.of_group(group), method, measure)
        for method in dict.fromkeys(row.method for row in comparison.methods)
        for group in groups
    }
    names = [
        method
        for method in dict.fromkeys(method for method, _ in points)
        if method != UNEDITED and any(points[method, group] for group in groups)
    ]
    if not names:
        return None
    rows = -(-len(names) // _COLUMNS)
    figure = Figure(figsize=(_PANEL[0] * _COLUMNS, _PANEL[1] * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, _COLUMNS, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=False):
        _look(axes, name)
        for place, group in enumerate(groups):
            behind = [point for other in names if other != name for point in points[other, group]]
            _scatter(axes, behind)
            _line(axes, points[UNEDITED, group], points[name, group], COLOURS[place], group)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    if len(groups) > 1:
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=len(groups), frameon=False,
            labelcolor=INK, fontsize=8,
        )  # fmt: skip
    figure.supxlabel(label, color=INK, fontsize=9)
    figure.supylabel("share of copies", color=INK, fontsize=9)
    return figure


def points_of(
    rows: Sequence[MethodRow], method: str, measure: Measure
) -> list[tuple[float, float]]:
    """Return (measure, copy rate) of a method at each strength at which both are known."""
    found = [(measure(row), row.copy_rate) for row in rows if row.method == method]
    return [(x, y) for x, y in found if x is not None and y is not None]


def _look(axes: Axes, name: str) -> None:
    axes.patch.set_alpha(0)
    axes.set_title(name, color=INK, fontsize=8)
    axes.tick_params(colors=INK, labelsize=7)
    axes.set_ylim(-0.05, 1.05)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)


def _scatter(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    if points:
        across, up = zip(*points, strict=True)
        axes.scatter(across, up, s=5, color=INK, alpha=0.25, linewidths=0)


def _line(
    axes: Axes,
    unedited: Sequence[tuple[float, float]],
    points: Sequence[tuple[float, float]],
    colour: str,
    group: str,
) -> None:
    """Draw the strengths of a method, which begin at the unedited model."""
    if not points:
        return
    line = [*unedited[:1], *points]
    axes.plot(*zip(*line, strict=True), color=colour, linewidth=1, label=group)
    sizes = [8 + 20 * number / len(points) for number in range(1, len(points) + 1)]
    across, up = zip(*points, strict=True)
    axes.scatter(across, up, s=sizes, color=colour, linewidths=0)
    if unedited:
        axes.scatter(*unedited[0], s=14, marker="x", color=HOT, linewidths=1)
