"""The course of a localization as a small picture: the score of each set of neurons tried."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from unmemorize.localization import Localization

WIDTH, HEIGHT = 264, 120
_FEWEST = 3
"""Fewer trials make no picture."""
_MARGIN = 6
"""Pixels that keep the dots inside the picture."""


def draw_course(record: Localization) -> Markup | None:
    """Draw the trials of a localization from left to right, by score.

    Each trial is a dot between score 0 (bottom) and 1 (top). Dots of the class "on" are sets with
    which the prompt still looked memorized, those of the class "off" stayed below the limit. Where
    a trial ended early its dot shows a lower bound. The limit is a horizontal line, the change
    from selection to refinement a vertical one.

    Returns:
        An SVG element, or None where the record has too few trials.
    """
    stages = [stage for stage in record.trials.values() if stage]
    trials = [trial for stage in stages for trial in stage]
    if len(trials) < _FEWEST:
        return None
    spacing = (WIDTH - 2 * _MARGIN) / (len(trials) - 1)
    limit = record.threshold if record.threshold is not None else record.tau
    paths = []
    if limit is not None:
        paths.append(_path("limit", f"M0 {_y(limit):.1f}H{WIDTH}"))
    first_trial = 0
    for stage in stages:
        if first_trial:
            paths.append(
                _path("stage", f"M{_MARGIN + (first_trial - 0.5) * spacing:.1f} 0V{HEIGHT}")
            )
        points = [
            (_MARGIN + (first_trial + number) * spacing, _y(trial.score))
            for number, trial in enumerate(stage)
        ]
        for css_class, below in (("off", True), ("on", False)):
            dots = [
                point for point, trial in zip(points, stage, strict=True) if trial.below is below
            ]
            if dots:
                paths.append(_path(css_class, _dots(dots)))
        first_trial += len(stage)
    label = f"scores of {len(trials)} trials"
    return Markup(
        f'<svg class="course" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f"{''.join(paths)}</svg>"
    )


def _y(score: float) -> float:
    return _MARGIN + (1 - min(1.0, max(0.0, score))) * (HEIGHT - 2 * _MARGIN)


def _path(css_class: str, drawn: str) -> str:
    return f'<path class="{css_class}" d="{drawn}"/>'


def _dots(points: Sequence[tuple[float, float]]) -> str:
    """Return lines of almost no length, whose round ends are the dots."""
    return "".join(f"M{x:.1f} {y:.1f}h.01" for x, y in points)
