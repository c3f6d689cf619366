"""The page about detectors and methods on the bundled model, from the records of compare.py."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

import detectors
import unmemorize as um
from pages import filled
from unmemorize._files import from_json
from unmemorize.comparison import ALL_GROUPS, UNEDITED, Comparison, MethodRow, chosen_methods
from unmemorize.detection import DETECTORS
from unmemorize.mitigation import percent_up

RECORDS = Path("benchmarks/records/compare")
PICTURE = "images/compare-methods.png"
"""Beside the page."""
_SHADES = ("#b5475d", "#4c78a8")
"""Of the fair group of plants and of the largest other one."""


@dataclass(frozen=True)
class Line:
    """A method at one strength, for all groups of plants.

    Args:
        method, strength: the method.
        is_default: whether the strength is its default.
        groups: its rows by group.
        fair: the row of the fair group.
    """

    method: str
    strength: float
    is_default: bool
    groups: dict[str, MethodRow]
    fair: MethodRow

    @property
    def every(self) -> MethodRow:
        """The row of all plants."""
        return self.groups[ALL_GROUPS]


def main(records: Path, path: Path) -> None:
    """Write the page and its picture."""
    path.write_text(page(records), encoding="utf-8")
    print(path)
    comparison, _ = joined(records)
    if comparison is not None and comparison.methods:
        draw(comparison, path.parent / PICTURE)
        print(path.parent / PICTURE)


def joined(records: Path) -> tuple[Comparison | None, dict[str, Any]]:
    """Read the records of all parts as one comparison; also return their settings.

    Raises:
        RunError: they were made of another model, or under different settings.
    """
    parts, made_of = [], dict[str, Any]()
    for path in sorted(records.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        about = content["made_of"]
        made_of = made_of or about
        if _comparable(about) != _comparable(made_of):
            raise um.RunError(f"{path}: of another model or other settings. Measure all again.")
        content["comparison"].pop("schema")
        parts.append(
            from_json(Comparison, content["comparison"], um.RunError, str(path), "Make it again.")
        )
    if not parts:
        return None, {}
    largest = max(parts, key=lambda part: (part.confirmed or 0, part.suspects))
    # the unedited model comes first; that of the part with most plants counts
    methods = {
        (row.method, row.strength, row.group): row
        for part in sorted(parts, key=lambda part: part.suspects)
        for row in part.methods
    }
    return replace(
        largest,
        detectors=tuple(row for part in parts for row in part.detectors),
        methods=tuple(sorted(methods.values(), key=lambda row: row.method != UNEDITED)),
        failed={name: error for part in parts for name, error in part.failed.items()},
    ), made_of["settings"]


def _comparable(made_of: dict[str, Any]) -> dict[str, Any]:
    """Leave out how many captions were looked at, which rows tell, and the size of batches.

    A batch changes an image by rounding alone, and a card takes larger ones.
    """
    settings = {key: value for key, value in made_of["settings"].items() if key != "captions"}
    settings["generation"] = {**settings["generation"], "batch": None}
    return {**made_of, "settings": settings, "captions": ""}


def page(records: Path) -> str:
    """Fill in the page from the records."""
    comparison, settings = joined(records)
    if comparison is None:
        return filled("compare.md.j2", comparison=None)
    lines = lines_of(comparison)
    scores = detectors.read(records) if comparison.planted else []
    halves = detectors.reports(scores, *detectors.halves_of_plants()) if scores else []
    return filled(
        "compare.md.j2",
        comparison=comparison,
        settings=settings,
        groups=shown_groups(comparison),
        detectors="\n".join(detectors.table([row for row in comparison.detectors if row.groups])),
        refused=[row for row in comparison.detectors if row.refused],
        halves=halves,
        pooled=detectors.pooled(scores, halves) if halves else None,
        most_samples=detectors.MOST_SAMPLES,
        defaults=sorted(
            (line for line in lines if line.is_default),
            key=lambda line: (line.method != UNEDITED, _share(line.fair), line.every.changed),
        ),
        others=sorted((line for line in lines if not line.is_default), key=_place_in_grid),
        missing=missing(comparison, lines),
        upper=percent_up,
    )


def fair_group(comparison: Comparison) -> str:
    """Return the group of plants that were not built through neurons; else all of them."""
    return detectors.NATURAL if detectors.NATURAL in comparison.groups else ALL_GROUPS


def shown_groups(comparison: Comparison) -> tuple[str, ...]:
    """Return the fair group and the largest other one."""
    fair = fair_group(comparison)
    plants: dict[str, int] = {}
    for row in comparison.methods:
        if row.group not in (fair, ALL_GROUPS):
            plants[row.group] = max(row.suspects, plants.get(row.group, 0))
    return (fair, max(plants, key=lambda group: plants[group])) if plants else (fair,)


def lines_of(comparison: Comparison) -> list[Line]:
    """Return a line for each method and strength that works for some plants."""
    defaults = {each.name: each.strength for each in chosen_methods(grid=False)}
    groups: dict[tuple[str, float], dict[str, MethodRow]] = {}
    for row in comparison.methods:
        groups.setdefault((row.method, row.strength), {})[row.group] = row
    fair = fair_group(comparison)
    return [
        Line(
            method,
            strength,
            method == UNEDITED or strength == defaults.get(method),
            rows,
            rows.get(fair, rows[ALL_GROUPS]),
        )
        for (method, strength), rows in groups.items()
        if rows[ALL_GROUPS].refused < rows[ALL_GROUPS].suspects
    ]


def missing(comparison: Comparison, lines: Sequence[Line]) -> dict[str, list[str]]:
    """Return what was not measured: methods with their strengths, and detectors with none."""
    known = {(line.method, line.strength) for line in lines}
    names = {row.name for row in comparison.detectors}
    left: dict[str, list[str]] = {
        name: [] for name in DETECTORS.names() if names and name not in names
    }
    for method in chosen_methods() if lines else ():
        if (method.name, method.strength) not in known:
            left.setdefault(method.name, []).append(f"{method.strength:g}")
    return left


def _place_in_grid(line: Line) -> int:
    """Return where a line comes among all methods and strengths, from weak to strong."""
    grid = [(method.name, method.strength) for method in chosen_methods()]
    known = (line.method, line.strength) in grid
    return grid.index((line.method, line.strength)) if known else len(grid)


def _share(row: MethodRow) -> float:
    return 1.0 if row.copy_rate is None else row.copy_rate


def draw(comparison: Comparison, path: Path) -> None:
    """Draw copies and changed ordinary images of each method over its strengths."""
    lines = [line for line in lines_of(comparison) if line.method != UNEDITED]
    best = {
        line.method: (_share(line.fair), line.every.changed_rate or 0.0)
        for line in lines
        if line.is_default
    }
    names = sorted(best, key=lambda name: best[name], reverse=True)
    shades = dict(zip(shown_groups(comparison), _SHADES, strict=False))
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(8, 0.9 + 0.27 * len(names)), sharey=True, layout="constrained"
    )
    for place, name in enumerate(names):
        for line in (line for line in lines if line.method == name):
            for number, (group, colour) in enumerate(shades.items()):
                row = line.groups.get(group)
                if row is not None and row.copy_rate is not None:
                    _dot(left, row.copy_rate, place + 0.15 - 0.3 * number, line, colour)
            _dot(right, line.every.changed_rate or 0.0, place, line, "#444444")
    for group, colour in shades.items():
        left.scatter([], [], color=colour, s=32, label=f"plants, {group}")
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    left.set_yticks(range(len(names)), names, fontsize=8)
    for axes, label in (
        (left, "share of images of plants that are copies"),
        (right, "share of ordinary images that changed"),
    ):
        axes.set_xlabel(label, fontsize=8)
        axes.set_xlim(-0.03, 1.03)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _dot(axes: Axes, value: float, place: float, line: Line, colour: str) -> None:
    """Draw a point; that of the default strength is large, others are small."""
    alpha = 1.0 if line.is_default else 0.6
    size = 32 if line.is_default else 9
    axes.scatter([value], [place], color=colour, s=size, alpha=alpha, zorder=3)
