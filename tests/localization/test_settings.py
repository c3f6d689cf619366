from dataclasses import fields, replace
from typing import Any, get_args

import pytest
from diffusers import DiffusionPipeline

from unmemorize import (
    LocalizationSettings,
    Model,
    ModelError,
    NoiseSettings,
    Statistics,
    Threshold,
    localize,
)
from unmemorize.localization import LocalizeTask
from unmemorize.localization._refinements import REFINEMENTS
from unmemorize.localization._selection import last_step
from unmemorize.localization._settings import RefinementMethod


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"criterion": "mine"}, r"criterion='mine': .* Choose auto or unblocked or seeds\."),
        ({"refinement": "mine"}, r"refinement='mine': .* Choose complete or bisect or greedy\."),
        ({"layers": 3}, r"layers=3: expected `str`"),
        ({"noise": 3}, "noise=3: a value of type int, not NoiseSettings"),
        ({"use_theta": "no"}, r"use_theta='no': expected `bool`"),
        ({"theta_step": 0}, r"theta_step=0: expected `float` > 0"),
        ({"theta_step": -0.5}, r"theta_step=-0.5: expected `float` > 0"),
        ({"theta": float("inf")}, r"theta=inf: not a finite number"),
        ({"scale": float("nan")}, r"scale=nan: not a finite number"),
        ({"theta": 0.5}, r"theta=0.5: must be above theta_floor=1.0.*Choose a lower floor"),
        ({"theta": 1.0}, r"theta=1.0: must be above theta_floor=1.0"),
        ({"top_k": -1}, r"top_k=-1: expected `int` >= 0\. Choose such a value\."),
        ({"top_k": 1.5}, r"top_k=1.5: expected `int`"),
        ({"top_k": True}, r"top_k=True: expected `int`"),
        ({"use_theta": False, "use_top_k": False}, "nothing would be a candidate"),
        ({"seed_threshold": 2.0}, r"seed_threshold=2.0: expected `float` < 1.0"),
        ({"initial_threshold": 1.0}, r"initial_threshold=1.0: expected `float` < 1.0"),
        ({"refinement_threshold": 0.0}, r"refinement_threshold=0.0: expected `float` > 0.0"),
        ({"relative_threshold": -1.0}, r"relative_threshold=-1.0: expected `float` > 0.0"),
        ({"relative_threshold": 0.2, "criterion": "seeds", "refinement": "bisect"}, "seed by seed"),
        (
            {"relative_threshold": 0.2, "refinement_threshold": 0.2, "refinement": "greedy"},
            "one of the two thresholds",
        ),
        ({"relative_threshold": 0.2}, "relative_threshold=0.2: refinement=complete compares no"),
        (
            {"refinement_threshold": 0.2},
            "refinement_threshold=0.2: .* Choose the refinement bisect",
        ),
    ],
)
def test_bad_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        LocalizationSettings(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"theta_step": 1e-9}, r"theta_step=1e-09: .* in 4e\+09 steps, and at most 10000"),
        ({"theta": 1e17}, r"theta=1e\+17 would fall to .* larger step"),
    ],
)
def test_many_steps_are_read_but_not_done(
    change: dict[str, Any],
    message: str,
    bundled: DiffusionPipeline,
    bundled_statistics: Statistics,
    bundled_threshold: Threshold,
) -> None:
    """Runs of before may hold such settings."""
    settings = LocalizationSettings(use_top_k=False, **change)
    task = LocalizeTask(bundled_statistics, bundled_threshold, settings)
    with pytest.raises(ModelError, match=message):
        localize(bundled, "a cat", settings=settings)
    with pytest.raises(ModelError, match=message):
        task.prepare(Model(bundled))


def test_theta_may_take_small_steps_where_the_width_of_layers_ends_the_selection() -> None:
    assert last_step(20, LocalizationSettings(theta_step=1e-9)) == 19
    assert last_step(20, LocalizationSettings(theta_step=4e-4, use_top_k=False)) > 9_000


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"theta": 4.0, "layers": "all"}, True),
        ({"criterion": "seeds"}, False),
        ({"refinement": "bisect"}, False),
        ({"noise": NoiseSettings(similarity="fixed", protocol="published")}, False),
        ({"noise": NoiseSettings(similarity="published", protocol="published", seeds=4)}, True),
    ],
)
def test_settings_of_the_published_code_are_known(change: dict[str, Any], expected: bool) -> None:
    assert replace(LocalizationSettings.published(), **change).is_published is expected
    assert not LocalizationSettings().is_published


def test_whole_numbers_are_numbers() -> None:
    assert LocalizationSettings(theta=3, theta_step=1, scale=-1).theta == 3


def test_each_field_is_documented_once() -> None:
    """Options of the command line take their help from here."""
    assert LocalizationSettings.__doc__
    lines = LocalizationSettings.__doc__.split("Raises:")[0].splitlines()
    documented = [
        line.strip().split(":")[0] for line in lines if line.startswith(" " * 8 + line.strip())
    ]
    assert documented == [field.name for field in fields(LocalizationSettings)]


def test_each_method_of_refinement_can_be_chosen() -> None:
    assert tuple(REFINEMENTS) == get_args(RefinementMethod)
