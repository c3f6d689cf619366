"""The course of a localization as a small picture: the score of each set of neurons that was tried."""

from __future__ import annotations

from markupsafe import Markup

from unmemorize.localization import Localization

WIDTH, HEIGHT = 264, 120
_EDGE = 6


def course(record: Localization) -> Markup | None:
    """An SVG element: a dot for each trial from left to right, by its score from 0 to 1, with the limit as a line; None without trials.

    Dots of the class "on" are sets with which the prompt still looked memorized; where the answer was known early, at least so much.
    """
    trials = [trial for stage in record.trials.values() for trial in stage]
    if not trials:
        return None
    limit = record.threshold if record.threshold is not None else record.tau
    step = (WIDTH - 2 * _EDGE) / max(1, len(trials) - 1)
    parts = [
        f'<svg class="course" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="scores of {len(trials)} trials">'
    ]
    if limit is not None:
        parts.append(f'<path class="limit" d="M0 {_height(limit)}H{WIDTH}"/>')
    place = 0
    for number, stage in enumerate(record.trials.values()):
        if number and stage and place:
            parts.append(
                f'<path class="stage" d="M{_EDGE + (place - 0.5) * step:.1f} 0V{HEIGHT}"/>'
            )
        for below, kind in ((True, "off"), (False, "on")):
            shown = [
                (index, trial.score) for index, trial in enumerate(stage) if trial.below is below
            ]
            dots = "".join(
                f"M{_EDGE + (place + index) * step:.1f} {_height(score)}h.01"
                for index, score in shown
            )
            if dots:
                parts.append(f'<path class="{kind}" d="{dots}"/>')
        place += len(stage)
    return Markup("".join([*parts, "</svg>"]))


def _height(score: float) -> str:
    return f"{_EDGE + (1 - min(1.0, max(0.0, score))) * (HEIGHT - 2 * _EDGE):.1f}"
