from dataclasses import dataclass, field, fields
from typing import Any

import pytest

from unmemorize.cli._settings_options import CalibratedOptionsOf, OptionsOf
from unmemorize.detection import Calibration, NoiseSettings
from unmemorize.generation import GenerationSettings
from unmemorize.localization import LocalizationSettings


@dataclass(frozen=True, kw_only=True)
class Colours:
    """Settings for this test.

    Args:
        hue: `angle` on the wheel,
            in degrees.
        use_theta: whether theta is used.
        noise: a nested dataclass.
        name: what it is called.
    """

    hue: float = 2.5
    use_theta: bool = True
    noise: NoiseSettings = field(default_factory=NoiseSettings)
    name: str | None = None


def parameters(options: type) -> dict[str, tuple[tuple[str, ...], object, str]]:
    """Name of each option, with its default and its help."""
    described = {}
    for each in fields(options):
        hint: Any = each.type
        (parameter,) = hint.__metadata__
        described[each.name] = (parameter.name, parameter.show_default, parameter.help)
    return described


def test_options_come_from_the_fields_and_their_documentation() -> None:
    assert parameters(OptionsOf[Colours]) == {
        "hue": ((), "2.5", "Angle on the wheel, in degrees."),
        "use_theta": (
            ("--no-theta",),
            False,
            "Select candidates by activation only (an ablation in the paper).",
        ),
        "name": ((), False, "What it is called."),
    }
    assert parameters(CalibratedOptionsOf[Colours])["hue"][1] == "as calibrated; 2.5"
    assert OptionsOf[Colours] is OptionsOf[Colours]


def test_what_is_not_set_stays_open() -> None:
    options = OptionsOf[Colours]
    assert options().values == {}
    assert options().settings() == Colours()
    assert options(hue=0.0).values == {"hue": 0.0}
    assert options(use_theta=True).values == {"use_theta": False}
    assert options(hue=1.0).settings(hue=9.0, name="x") == Colours(hue=1.0, name="x")


@pytest.mark.parametrize(
    ("settings", "without"),
    [
        (NoiseSettings, {"steps"}),
        (LocalizationSettings, {"noise"}),
        (GenerationSettings, set()),
        (Calibration, set()),
    ],
)
def test_every_field_of_the_settings_is_an_option_with_help(
    settings: type, without: set[str]
) -> None:
    options = parameters(OptionsOf[settings])  # type: ignore[valid-type]
    assert set(options) == {each.name for each in fields(settings)} - without
    assert all(text for _, _, text in options.values())


def test_defaults_of_the_bundled_model_are_mentioned() -> None:
    note = "the bundled model has its own"
    assert parameters(OptionsOf[LocalizationSettings])["criterion"][1] == f"auto; {note}"
    assert parameters(OptionsOf[GenerationSettings])["steps"][1] == f"50; {note}"
    assert parameters(OptionsOf[GenerationSettings])["guidance"][1] == f"7; {note}"
    assert parameters(OptionsOf[Calibration])["reduction"][1] == "conformal"
    assert parameters(OptionsOf[GenerationSettings])["seed"][1] == "2"
