from collections.abc import Callable

import pytest
from diffusers import DiffusionPipeline

from conftest import make_pipeline
from unmemorize import Model, TestbedError, testbed
from unmemorize.testbed import _check
from unmemorize.testbed._check import Finding, check

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check on a handful of prompts and short generations."""
    chosen = [
        (mode, kind)
        for mode, kind in (("memory", "VM"), ("natural", "VM"), ("memory", "TM"), ("natural", "TM"))
    ]
    entries = [
        next(entry for entry in testbed.planted() if (entry.mode, entry.prompt.kind) == pair)
        for pair in chosen
    ]
    entries += [
        next(entry for entry in testbed.planted() if entry.dose == dose) for dose in (0.1, 0.01)
    ]
    monkeypatch.setattr(_check, "planted", lambda: tuple(entries))
    monkeypatch.setattr(_check, "captions", lambda split: testbed.captions(split)[:6])
    monkeypatch.setattr(_check, "defaults", lambda: {**testbed.defaults(), "steps": 6})
    monkeypatch.setattr(_check, "IMAGES", 1)
    monkeypatch.setattr(_check, "QUALITY_PROMPTS", 2)


@pytest.mark.usefixtures("few")
def test_verdicts_follow_the_numbers(bundled: DiffusionPipeline) -> None:
    stages: list[int] = []
    findings = check(Model(bundled), progress=lambda done, _: stages.append(done))
    assert stages == sorted(stages)
    required = [finding for finding in findings if finding.required is not None]
    assert len(required) == 10
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
