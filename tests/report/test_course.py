from __future__ import annotations

import re
from dataclasses import replace

from records import LAYER, localization
from unmemorize import Neurons
from unmemorize.localization._records import Trial
from unmemorize.report._course import HEIGHT, draw_course

RECORD = localization("a prompt", "VM", 0.6, Neurons({LAYER: [1, 2]}))


def dots(svg: object, css_class: str) -> list[tuple[float, float]]:
    paths = re.findall(rf'<path class="{css_class}" d="([^"]*)"', str(svg))
    return [
        (float(x), float(y))
        for path in paths
        for x, y in re.findall(r"M([\d.]+) ([\d.]+)h\.01", path)
    ]


def scores(points: list[tuple[float, float]]) -> list[float]:
    """Scores by height, 0 at the bottom and 1 at the top of the margins."""
    return [round((HEIGHT - 6 - y) / (HEIGHT - 12), 2) for _, y in points]


def limit(svg: object) -> float:
    (height,) = re.findall(r'<path class="limit" d="M0 ([\d.]+)H264"/>', str(svg))
    (score,) = scores([(0, float(height))])
    return score


def test_a_dot_for_each_trial() -> None:
    svg = draw_course(RECORD)
    off, on = dots(svg, "off"), dots(svg, "on")
    assert (scores(off), scores(on)) == ([0.2, 0.25], [0.5])
    assert [x for x, _ in (off[0], on[0], off[1])] == [6, 132, 258]
    assert 'aria-label="scores of 3 trials"' in str(svg)


def test_the_limit_is_that_of_refinement_or_else_tau() -> None:
    assert limit(draw_course(replace(RECORD, tau=0.45))) == 0.3
    assert limit(draw_course(replace(RECORD, tau=0.45, threshold=None))) == 0.45
    assert "limit" not in str(draw_course(replace(RECORD, tau=None, threshold=None)))


def test_a_line_between_selection_and_refinement() -> None:
    assert '<path class="stage" d="M69.0 0V120"/>' in str(draw_course(RECORD))
    only_refined = replace(
        RECORD, trials={"selection": (), "refinement": RECORD.trials["refinement"]}
    )
    assert 'class="stage"' not in str(draw_course(only_refined))


def test_scores_stay_inside_the_picture() -> None:
    trials = {"selection": (Trial(1, 1.5, True), Trial(1, -0.5, True), Trial(1, 0.5, True))}
    assert scores(dots(draw_course(replace(RECORD, trials=trials)), "off")) == [1.0, 0.0, 0.5]


def test_few_trials_are_no_picture() -> None:
    two = {"selection": (Trial(1, 0.5, True),), "refinement": (Trial(1, 0.2, True),)}
    assert draw_course(replace(RECORD, trials=two)) is None
    assert draw_course(replace(RECORD, trials={})) is None
