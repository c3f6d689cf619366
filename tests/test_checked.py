"""Settings refuse what a user may well give by mistake, before any work."""

from typing import Any

import pytest

from unmemorize import (
    Calibration,
    GenerationSettings,
    LocalizationSettings,
    NoiseSettings,
    UnmemorizeError,
)
from unmemorize.audit import AttackSettings, AuditSettings
from unmemorize.comparison import ComparisonSettings
from unmemorize.hardening import HardeningSettings
from unmemorize.mitigation import MitigationSettings


@pytest.mark.parametrize("settings", [GenerationSettings, NoiseSettings])
@pytest.mark.parametrize(
    ("seed", "message"),
    [
        (-1, r"^seed=-1: expected `int` >= 0\. Choose such a value\.$"),
        (2**63, r"^seed=9223372036854775808: expected `int` <= 9223372036854775807\. Choose"),
        (10**30, r"^seed=10{30}: expected `int` <= 9223372036854775807\. Choose"),
        ("7", r"^seed='7': expected `int`, got `str`"),
    ],
)
def test_a_seed_is_one_that_every_generator_takes(
    settings: type[Any], seed: object, message: str
) -> None:
    with pytest.raises(UnmemorizeError, match=message):
        settings(seed=seed)
    assert settings(seed=2**63 - 1).seed == 2**63 - 1
    assert settings(seed=0).seed == 0


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        (GenerationSettings, {"steps": "30"}, "steps='30': expected `int`, got `str`"),
        (GenerationSettings, {"images": 2.5}, "images=2.5: expected `int`, got `float`"),
        (GenerationSettings, {"guidance": None}, "guidance=None: expected `float`, got `null`"),
        (NoiseSettings, {"seeds": "4"}, "seeds='4': expected `int`"),
        (NoiseSettings, {"guidance": 1e6}, "guidance=1000000.0: expected `float` < 1000000"),
        (NoiseSettings, {"protocol": "mine"}, r"'mine'\. Choose published or paper\."),
        (LocalizationSettings, {"theta": "5"}, "theta='5': expected `float`"),
        (
            LocalizationSettings,
            {"noise": {"seeds": 4}},
            r"noise=\{'seeds': 4\}: a value of type dict, not NoiseSettings\. Give NoiseSettings",
        ),
        (Calibration, {"max_fpr": "0.05"}, "max_fpr='0.05': expected `float | null`"),
        (Calibration, {"reduction": "mean"}, r"Choose conformal or prompts or pairs\."),
        (MitigationSettings, {"alpha": "0.05"}, "alpha='0.05': expected `float`"),
        (MitigationSettings, {"declared": "no"}, "declared='no': expected `bool`"),
        (MitigationSettings, {"generation": None}, r"generation=None: None, not Generation"),
        (ComparisonSettings, {"images": 40.0}, "images=40.0: expected `int`"),
        (ComparisonSettings, {"captions": "all"}, "captions='all': expected `int | null`"),
        (AuditSettings, {"levels": "L4"}, "levels='L4': expected `array`, got `str`"),
        (AuditSettings, {"seeds": 1.5}, "seeds=1.5: expected `int`"),
        (AuditSettings, {"starts": ("here",)}, r"Choose prompt or noise or other\."),
        (AttackSettings, {"rate": None}, "rate=None: expected `float`"),
        (HardeningSettings, {"rank": "8"}, "rank='8': expected `int | null`"),
        (HardeningSettings, {"audit": "quick"}, r"audit='quick': .* Give AuditSettings"),
    ],
)
def test_a_value_of_another_type_is_refused(
    settings: type[Any], change: dict[str, object], message: str
) -> None:
    with pytest.raises(UnmemorizeError, match=message):
        settings(**change)


def test_lists_and_whole_numbers_do_as_well() -> None:
    assert AuditSettings(steps=[0, 5], levels=["L0"]).steps == [0, 5]  # type: ignore[arg-type,comparison-overlap]
    assert GenerationSettings(guidance=7).guidance == 7
