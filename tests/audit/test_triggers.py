"""First triggers: a level is never set by the image that it judges."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from audit_page import curves_of
from unmemorize.audit import _comparisons
from unmemorize.audit._measures import ImageScores
from unmemorize.audit._survival import earlier_p, unpaired_earlier_p
from unmemorize.audit._triggers import first_triggers

BUDGETS = (0, 5, 25, 50)


def scored(rows: NDArray[np.float64] | list[list[float]]) -> list[ImageScores]:
    return [
        ImageScores(
            index=index,
            prompt="",
            measure="image",
            budgets=BUDGETS[: len(row)],
            scores=tuple(row),
            best=tuple(row),
            samples=(0,) * len(row),
            image="",
        )
        for index, row in enumerate(rows)
    ]


def test_controls_are_judged_by_each_other() -> None:
    controls = scored([[0.1, 0.9], [0.3, 0.4], [0.2, 0.8]])
    images = scored([[0.25, 0.85], [0.1, 0.95], [0.31, 0.1]])
    assert first_triggers(images, controls, 0.05, apart=False) == {0: None, 1: 1, 2: 0}
    assert first_triggers(images, controls, 0.05, apart=True) == {0: 1, 1: 1, 2: 0}
    assert first_triggers(controls, controls, 0.05, apart=False) == {0: None, 1: None, 2: None}
    assert first_triggers(controls, controls, 0.05, apart=True) == {0: 1, 1: 0, 2: None}
    assert first_triggers(images, [], 0.05, apart=False) == {0: None, 1: None, 2: None}
    assert first_triggers([], controls, 0.05, apart=False) == {}


def test_the_curve_of_never_trained_images_can_fall() -> None:
    """In the pictures of docs/audit.md, too."""
    controls = tuple(scored([[0.1, 0.9], [0.3, 0.4], [0.2, 0.8]]))
    images = tuple(scored([[0.25, 0.85], [0.1, 0.95], [0.31, 0.1]]))
    curves = curves_of({"edited": images, "never-trained": controls})
    assert list(curves["never-trained"].budgets) == [0, 5]
    assert curves["never-trained"].untriggered == pytest.approx((2 / 3, 1 / 3))
    assert curves["edited"].untriggered == pytest.approx((2 / 3, 1 / 3))


@pytest.mark.parametrize(
    ("paired", "count", "searches"),
    [(True, 24, 200), (False, 24, 60), (False, 1, 600), (False, 2, 200), (False, 3, 80)],
)
def test_images_that_are_like_never_trained_ones_are_not_called_earlier(
    monkeypatch: pytest.MonkeyPatch, paired: bool, count: int, searches: int
) -> None:
    """At 5 %. By levels that the controls set themselves, 20 to 70 % were."""
    monkeypatch.setattr(_comparisons, "_RESAMPLES", 999)
    random, wrong = np.random.default_rng(0), 0
    for _ in range(searches):
        common = random.normal(size=(24, 1)) * paired
        arms = [common + random.normal(size=(24, len(BUDGETS))).cumsum(1) for _ in range(2)]
        images, controls = (scored(np.maximum.accumulate(arm, 1)) for arm in arms)
        never = first_triggers(controls, controls, 0.05, apart=True)
        edited = first_triggers(images[:count], controls, 0.05, apart=paired)
        first, second = (list(each.values()) for each in (edited, never))
        p = earlier_p(first, second) if paired else unpaired_earlier_p(first, second)
        wrong += p <= 0.05
    assert binom.sf(wrong - 1, searches, 0.05) > 0.01
