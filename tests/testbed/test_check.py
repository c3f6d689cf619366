from collections.abc import Callable
from pathlib import Path

import pytest
from diffusers import DiffusionPipeline
from PIL import Image

from conftest import make_pipeline
from unmemorize import GenerationSettings, Model, TestbedError, testbed
from unmemorize.testbed import _check, _check_images, _twins
from unmemorize.testbed._check import check
from unmemorize.testbed._findings import Finding, Studio, upper_level

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check on a caption of each kind and mode, natural ones of each half, few steps."""
    entries = {
        (entry.kind, entry.mode, entry.half if entry.mode == "natural" else ""): entry
        for entry in reversed(testbed.planted())
    }
    for module in (_check, _check_images):
        monkeypatch.setattr(module, "planted", lambda: tuple(entries.values()))
        monkeypatch.setattr(module, "captions", lambda split: testbed.captions(split)[:6])
    monkeypatch.setattr(_check, "defaults", lambda: {**testbed.defaults(), "steps": 2})
    monkeypatch.setattr(_check, "IMAGES", 1)
    monkeypatch.setattr(_check, "TIMED_STEPS", 1)
    monkeypatch.setattr(_check_images, "QUALITY_PROMPTS", 2)
    monkeypatch.setattr(_check_images, "TWIN_IMAGES", 1)


@pytest.mark.slow
@pytest.mark.usefixtures("few")
def test_verdicts_follow_the_numbers(bundled: DiffusionPipeline) -> None:
    stages: list[int] = []
    findings = check(Model(bundled), progress=lambda done, _: stages.append(done))
    assert stages == sorted(stages)
    required = [finding for finding in findings if finding.required is not None]
    assert len(required) == 18
    for finding in required:
        sign, bound = str(finding.required).split()
        assert finding.passed == (
            finding.measured >= float(bound) if sign == ">=" else finding.measured <= float(bound)
        )
    by_name = {finding.name: finding for finding in findings}
    assert len(by_name) == len(findings)
    assert by_name["localization, VM with known neurons: precision"].measured == 1.0
    assert (
        by_name["copies, VM, known neurons off"].measured
        < by_name["copies, VM: correlation with the training image"].measured
    )


def test_without_twins_the_check_says_so(
    bundled: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_twins, "TWINS", tmp_path)
    studio = Studio(Model(bundled), GenerationSettings(images=1))
    assert _check_images.twin_studio("a", studio) is None
    levels = _check_images.CopyLevels([Image.new("RGB", (64, 64))], {}, studio)
    (finding,) = _check_images.twins({}, levels)
    assert "in a checkout only" in finding.detail


def test_a_level_keeps_its_rate() -> None:
    values = [float(value) for value in range(1, 100)]
    assert upper_level(values, 0.1) == 90
    assert upper_level(values, 0.01) == 99
    assert upper_level(values[:50], 0.001) == 50
    assert upper_level(list(reversed(values)), 0.5) == 50


def test_other_models_are_refused() -> None:
    with pytest.raises(TestbedError, match="for the bundled model"):
        check(Model(make_pipeline()))


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (False, 1)])
def test_command_fails_when_something_fails(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, passed: bool, code: int
) -> None:
    monkeypatch.setattr(
        "unmemorize.cli.testbed.run_check",
        lambda *_, **__: [
            Finding("size", 3.0, "on all", ">= 2", passed),
            Finding("other", 1.0, ""),
        ],
    )
    found, out, _ = cli("testbed", "check")
    assert found == code
    assert ("FAILS" in out) is not passed


@pytest.mark.slow
def test_the_bundled_model_shows_what_it_must(bundled: DiffusionPipeline) -> None:
    failing = [finding for finding in check(Model(bundled)) if not finding.passed]
    assert not failing
