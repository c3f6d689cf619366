"""Settings refuse what a user may well give by mistake, before any work."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
import torch

from unmemorize import (
    Calibration,
    ClosedFormEdit,
    ClosedFormNeuronEdit,
    CombinedEdit,
    Erased,
    GenerationSettings,
    LocalizationSettings,
    NoiseSettings,
    Reread,
    UnmemorizeError,
)
from unmemorize.audit import AttackSettings, AuditSettings
from unmemorize.comparison import ComparisonCaptions, ComparisonSettings
from unmemorize.detection import DETECTORS, DetectionLevel
from unmemorize.generation import LowRank, PrunedEdit, WeightEdit
from unmemorize.hardening import HardeningSettings
from unmemorize.methods import MITIGATIONS
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


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(make, id=name)
        for registry in (DETECTORS, MITIGATIONS)
        for name in registry.names()
        if is_dataclass(make := registry.get(name))  # seed similarity has no settings
    ],
)
def test_detectors_and_methods_refuse_other_types(make: type[Any]) -> None:
    names = [each.name for each in fields(make) if each.init]
    assert names
    for name in names:
        for value in ("three", None, [object()]):
            with pytest.raises(UnmemorizeError, match=f"^{name}="):
                make(**{name: value})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Erased(3), "^caption=3: expected `str`"),  # type: ignore[arg-type]
        (lambda: Erased("a", "3"), "^weight='3': a weight is a number above 0"),  # type: ignore[arg-type]
        (lambda: Reread("a", {"x": [1]}), "^neurons="),  # type: ignore[arg-type]
        (lambda: ClosedFormEdit(None), "^erase=None: None. Give a tuple of Erased"),  # type: ignore[arg-type]
        (lambda: ClosedFormEdit("a cat"), "^erase='a cat': .* Give a tuple"),  # type: ignore[arg-type]
        (lambda: ClosedFormEdit(["a cat"]), "^erase="),  # type: ignore[arg-type]
        (lambda: ClosedFormEdit([Erased("a")], "a dog"), "^keep='a dog'"),  # type: ignore[arg-type]
        (lambda: ClosedFormNeuronEdit(3), "^reread=3: "),  # type: ignore[arg-type]
        (lambda: CombinedEdit(["a"]), "^parts: 'a' is no edit"),  # type: ignore[arg-type]
        (lambda: PrunedEdit([1]), r"^entries=\[1\]: "),  # type: ignore[arg-type]
        (lambda: PrunedEdit({"a": 3}), "^a=3: no whole numbers"),  # type: ignore[dict-item]
        (lambda: PrunedEdit({"a": (1.5,)}), "^a=.*no whole numbers"),  # type: ignore[dict-item]
        (lambda: WeightEdit(None), "^differences=None"),  # type: ignore[arg-type]
        (lambda: WeightEdit({"a.weight": 3}), r"^a\.weight=3: "),  # type: ignore[dict-item]
        (lambda: LowRank(None, torch.ones(1, 2)), "^up=None"),  # type: ignore[arg-type]
        (lambda: ComparisonCaptions("a b", ("c",)), "^calibration='a b'"),  # type: ignore[arg-type]
        (lambda: ComparisonCaptions((1,) * 9, ("c",)), "^calibration="),  # type: ignore[arg-type]
        (
            lambda: DetectionLevel(tau="0.5", reduction="given"),  # type: ignore[arg-type]
            "^tau='0.5': expected `float`",
        ),
    ],
)
def test_edits_and_levels_refuse_other_types(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UnmemorizeError, match=message):
        make()


def test_lists_and_whole_numbers_do_as_well() -> None:
    assert AuditSettings(steps=[0, 5], levels=["L0"]).steps == [0, 5]  # type: ignore[arg-type,comparison-overlap]
    assert GenerationSettings(guidance=7).guidance == 7
