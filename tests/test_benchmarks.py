"""The benchmarks measure what they say."""

import re
from pathlib import Path

import pytest
from diffusers import DiffusionPipeline

import localization
from published import PublishedLocalization
from unmemorize import LocalizationSettings, Model, Statistics, Threshold, localize, testbed
from unmemorize.localization import Criterion
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
    prompt = next(entry.prompt for entry in testbed.planted() if len(entry.neurons) > 1)
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
    assert len(localized.initial) == reference.candidates
    assert localized.work is not None
    assert localized.work < published.evaluations


@pytest.mark.slow
def test_the_evaluation_goes_from_nothing_to_its_page(tmp_path: Path) -> None:
    import evaluation

    evaluation.main(tmp_path / "work", tmp_path / "evaluation.md", limit=2, images=2)
    page = (tmp_path / "evaluation.md").read_text(encoding="utf-8")
    for row in (
        "all active",
        "NeMo (scale 0)",
        "random neurons",
        "no theta",
        "tau + 2 sd",
        "top-100",
        "False positives",
    ):
        assert row in page
    assert "nan" not in page


@pytest.mark.slow
def test_what_is_measured_becomes_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import performance

    localization.main(2, None, False, tmp_path / "bench.json")
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
