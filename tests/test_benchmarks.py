"""The benchmarks measure what they say."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from diffusers import DiffusionPipeline

import localization
import refinements
from conftest import PLANTED_PROMPT, PROMPTS, planted_pipeline
from published import PublishedLocalization
from unmemorize import (
    LocalizationSettings,
    Model,
    NoiseSettings,
    RunError,
    Statistics,
    Threshold,
    calibrate_threshold,
    compute_statistics,
    localize,
    testbed,
)
from unmemorize.detection import Calibration
from unmemorize.localization import Criterion, RefinementMethod
from unmemorize.metrics import BundledDescriptor
from unmemorize.pipelines import select_value_layers


@pytest.mark.parametrize("criterion", ["seeds", "unblocked"])
def test_the_published_procedure_and_greedy_refinement_find_the_same(
    bundled: DiffusionPipeline,
    bundled_statistics: Statistics,
    bundled_threshold: Threshold,
    criterion: Criterion,
) -> None:
    settings = LocalizationSettings(
        noise=bundled_threshold.settings,
        criterion=criterion,
        refinement="greedy",
        theta_floor=4.0,
    )
    model = Model(bundled)
    layers = list(select_value_layers(model.value_layers))
    prompts = [entry.prompt for entry in testbed.planted()]
    [prompt] = [prompt for prompt in prompts if prompt.text == "silhouette of andreas preuss mare"]
    published = PublishedLocalization(
        model, bundled_statistics, bundled_threshold, settings, layers
    )
    forwards: list[int] = []
    handle = bundled.unet.register_forward_pre_hook(
        lambda _module, inputs: forwards.append(len(inputs[0]))
    )
    reference = published.localize(prompt.text)
    handle.remove()
    assert sum(reference.evaluations.values()) == published.evaluations == sum(forwards)
    assert reference.evaluations["detection"] == 2 * settings.noise.seeds
    assert reference.evaluations["selection"] % (2 + 2 * settings.noise.seeds) == 0
    localized = localize(
        model,
        prompt,
        statistics=bundled_statistics,
        threshold=bundled_threshold,
        settings=settings,
    )
    assert localized.neurons == reference.neurons
    assert localized.score == pytest.approx(reference.score, abs=1e-4)
    assert localized.initial == reference.initial
    assert localized.work is not None
    assert localized.work < published.evaluations


@dataclass(frozen=True)
class Planted:
    """A tiny model that has memorized a prompt, and what the published way needs."""

    model: Model
    statistics: Statistics
    threshold: Threshold

    def transcription(
        self, settings: LocalizationSettings, threshold: Threshold
    ) -> PublishedLocalization:
        layers = list(select_value_layers(self.model.value_layers, settings.layers))
        return PublishedLocalization(self.model, self.statistics, threshold, settings, layers)


@pytest.fixture(scope="module")
def tiny() -> Planted:
    model = Model(planted_pipeline())
    texts = [*PROMPTS, *(f"{letter} word" for letter in "abcdefghij")]
    threshold = calibrate_threshold(
        model,
        PROMPTS,
        detector="seed-similarity",
        settings=NoiseSettings.published(),
        calibration=Calibration.published(),
    )
    return Planted(model, compute_statistics(model, texts), threshold)


def test_the_published_threshold_is_that_of_the_published_code(tiny: Planted) -> None:
    transcription = tiny.transcription(LocalizationSettings.published(), tiny.threshold)
    assert tiny.threshold.localize.tau == pytest.approx(transcription.threshold(PROMPTS), abs=1e-5)


@pytest.mark.parametrize(
    ("prompt", "tau", "change"),
    [
        (PLANTED_PROMPT, None, {}),
        (PLANTED_PROMPT, 0.35, {}),
        (PLANTED_PROMPT, 0.05, {"theta": 3.0, "top_k": 2}),
        (PLANTED_PROMPT, 0.35, {"layers": "all", "seed_threshold": 0.5}),
        (PROMPTS[0], None, {}),
        (PROMPTS[0], 0.2, {"theta": 2.0}),
        (PROMPTS[0], 0.99, {}),
    ],
)
def test_the_published_way_is_that_of_the_published_code(
    tiny: Planted, prompt: str, tau: float | None, change: dict[str, Any]
) -> None:
    """Everything agrees with a transcription that shares no code with the package."""
    threshold = tiny.threshold if tau is None else Threshold.given(tiny.model, tau)
    settings = replace(LocalizationSettings.published(), **change)
    reference = tiny.transcription(settings, threshold).localize(prompt)
    localized = localize(
        tiny.model, prompt, statistics=tiny.statistics, threshold=threshold, settings=settings
    )
    assert localized.detection is not None
    assert list(localized.detection.memorized_seeds) == reference.memorized_seeds
    assert localized.detection.score == pytest.approx(reference.detection_score, abs=1e-5)
    assert (localized.initial, localized.neurons) == (reference.initial, reference.neurons)
    assert (localized.theta, localized.top_k) == (reference.theta, reference.top_k)
    if reference.memorized:
        assert localized.initial_score == pytest.approx(reference.initial_score, abs=1e-5)
        assert localized.score == pytest.approx(reference.score, abs=1e-5)


@pytest.mark.slow
def test_what_is_measured_becomes_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import performance

    localization.main(1, None, False, tmp_path / "bench.json")
    assert re.search(
        r"ratios greedy=\d+\.\d bisect=\d+\.\d detect=\d+\.\d greedy_equal=1\.000\n$",
        capsys.readouterr().out,
    )
    (tmp_path / "images").mkdir()
    performance.main(tmp_path / "bench.json", tmp_path / "performance.md")
    page = (tmp_path / "performance.md").read_text(encoding="utf-8")
    assert "nan" not in page
    pictures = re.findall(r"\((images/[a-z-]+\.png)\)", page)
    assert len(pictures) == 6
    assert all((tmp_path / picture).stat().st_size > 1000 for picture in pictures)


def test_rows_of_refinements_are_kept(tmp_path: Path) -> None:
    file, made_of = tmp_path / "rows.json", {"images": 4, "methods": ["greedy"]}
    assert refinements.read_rows(file, made_of) == []
    file.write_text(json.dumps({**made_of, "rows": [{"prompt": "a"}]}))
    assert refinements.read_rows(file, made_of) == [{"prompt": "a"}]
    with pytest.raises(RunError, match=r"made with .*'images': 4"):
        refinements.read_rows(file, {**made_of, "images": 10})


def test_refinements_are_compared_with_the_limit(
    bundled: DiffusionPipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = next(entry for entry in testbed.planted() if len(entry.neurons) > 1)
    methods: tuple[RefinementMethod, ...] = ("complete", "bisect")
    model = Model(bundled)
    row = refinements.compare(model, BundledDescriptor(), entry, None, methods)
    assert row is not None
    record = refinements.localize(model, entry.prompt, "complete")
    assert record.work is not None
    limit = 10 + len(record.seeds)
    assert row["complete"]["cost"] == pytest.approx(record.work / limit)
    assert row["complete"]["recall"] == 1.0
    assert row["bisect"]["neurons"] < row["complete"]["neurons"]
    row["complete"] |= {"descriptor": 0.75, "pixels": 0.5}
    refinements.show("plants", [row], methods)
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("| complete |")]
    assert "| 1.00 (1.00) |" in line
    assert line.endswith("| 0.75 (0.75) | 0.50 (0.50) | 1 of 1 |")
