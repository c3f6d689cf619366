"""Steps take no more denoiser samples than they did.

Samples are counted, not timed, so a change of them is a change of the code. If a step takes fewer
by a change of yours, lower its number.
"""

import json

import pytest
from diffusers import DiffusionPipeline

import costs
from unmemorize import (
    LocalizationSettings,
    Model,
    Prompt,
    Statistics,
    Threshold,
    localize,
    testbed,
)
from unmemorize.detection import detect_prompts
from unmemorize.localization import RefinementMethod

GROWTH = 1.1
"""Samples may grow by a tenth."""
COSTS = {"ordinary": 2.91, "memorized": 2.0}
"""Weighted samples of a prompt in detection by seed similarity, for ordinary and memorized ones."""
DEFAULT_COST = 2
"""The same for the default detector. As many more without text are taken once for a model."""
LOCALIZED = {
    "eileen poses for her official shuttle portrait": 23.0,  # one candidate
    "chelsea the ginger tabby stares": 34.5,  # few candidates, of which some are dropped
    "crumpled handwritten letter fragment": 65.1,  # many candidates, at a late step of theta
}
"""Weighted samples of localization, the choice of the criterion included."""
REFINED: dict[tuple[RefinementMethod, str], float] = {
    ("greedy", "chelsea the ginger tabby stares"): 47.8,
    ("bisect", "chelsea the ginger tabby stares"): 41.1,
}
"""The same for the refinements that test neurons."""


@pytest.fixture(scope="module")
def model(bundled: DiffusionPipeline) -> Model:
    return Model(bundled)


@pytest.mark.parametrize("kind", ["ordinary", "memorized"])
def test_detection_takes_no_more_samples(
    model: Model, bundled_threshold: Threshold, kind: str
) -> None:
    plants = [entry.prompt for entry in testbed.planted() if entry.neurons][:6]
    captions = [Prompt(text) for text in testbed.captions("test")[::100]]
    prompts = captions if kind == "ordinary" else plants
    settings = bundled_threshold.settings
    found = detect_prompts(model, prompts, bundled_threshold, settings)
    assert sum(one.evaluations for one in found) / len(found) <= GROWTH * COSTS[kind]


def test_the_default_detector_takes_no_more_samples(model: Model) -> None:
    threshold = Threshold.load(testbed.threshold_path())
    prompts = [Prompt("a cat"), testbed.planted()[0].prompt]
    found = detect_prompts(model, prompts, threshold, threshold.settings)
    assert [one.memorized for one in found] == [False, True]
    assert [one.evaluations for one in found] == [DEFAULT_COST, DEFAULT_COST]
    assert found[0].shared_evaluations == DEFAULT_COST


@pytest.mark.parametrize("prompt", LOCALIZED)
def test_localization_takes_no_more_samples(
    model: Model, bundled_statistics: Statistics, bundled_threshold: Threshold, prompt: str
) -> None:
    found = localize(model, prompt, statistics=bundled_statistics, threshold=bundled_threshold)
    assert found.work is not None
    assert found.work <= GROWTH * LOCALIZED[prompt]


@pytest.mark.parametrize(("refinement", "prompt"), REFINED)
def test_refinements_take_no_more_samples(
    model: Model,
    bundled_statistics: Statistics,
    bundled_threshold: Threshold,
    refinement: RefinementMethod,
    prompt: str,
) -> None:
    found = localize(
        model,
        prompt,
        statistics=bundled_statistics,
        threshold=bundled_threshold,
        settings=LocalizationSettings(noise=bundled_threshold.settings, refinement=refinement),
    )
    assert found.work is not None
    assert found.work <= GROWTH * REFINED[refinement, prompt]


def test_the_rows_of_mitigations_come_from_their_records() -> None:
    rows = [each.split(" | ") for each in costs.mitigation_table(costs.RECORDS).splitlines()[2:]]
    assert [row[0] for row in rows] == ["| mitigation-text-encoder", "| mitigation"]
    for row, path in zip(rows, costs.RECORDS, strict=True):
        stages = {each["name"]: each for each in json.loads(path.read_text())["costs"]}
        ordinary = [stages.pop(f"ordinary images, {kind}") for kind in ("unedited", "edited")]
        samples = sum(each["samples"] for each in stages.values())
        assert row[1] == "50"
        assert row[3] == f"{samples / 50:,.0f}"
        assert float(row[4]) == pytest.approx(samples / stages["certificate"]["samples"], abs=0.006)
        assert row[5] == f"{sum(each['images'] for each in ordinary):,}"


def test_the_last_line_of_the_benchmark() -> None:
    def row(
        candidates: int, published: float, equal: bool, known: int, work: float
    ) -> dict[str, object]:
        return {
            "candidates": candidates,
            "known": known,
            "least": 20,
            "published": {"weighted": published},
            "greedy": {"weighted": 100.0, "equal": equal},
            "complete": {"weighted": work},
        }

    detection = {"ordinary": {"samples": 2.125}, "memorized": {"samples": 2.5}}
    rows = [
        row(15, 100, False, known=2, work=20.0),
        row(2, 100, True, known=1, work=30.0),
        row(3, 100, True, known=3, work=80.0),
        row(16, 500, True, known=0, work=180.0),
        row(40, 900, False, known=0, work=240.0),
    ]
    assert costs.summary({"default detection": detection, "bundled": rows}) == (
        "costs detect=2.12 detect_memorized=2.50 localize_memory=1.50 localize_spread=10.50 "
        "greedy=7.0 greedy_equal=0.500"
    )
    without = costs.summary({"default detection": detection, "bundled": rows[:1]})
    assert without.endswith("localize_spread=none greedy=none greedy_equal=none")
    assert costs.spread_of([3.0, 1.0, 1.5]) == "1, 1.5, 3"
