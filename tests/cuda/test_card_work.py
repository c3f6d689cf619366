"""Attacks, audits, hardening, comparisons, workers and commands on a card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cards import (  # noqa: F401 -- fixtures
    CLOSE,
    DEVICE,
    FEW,
    MEMORIZED,
    TEXTS,
    assert_alike,
    assert_close,
    card_fixture,
    needs_card,
    planted_fixture,
    processor_fixture,
    whole_float32,
)
from unmemorize import (
    AuditSettings,
    BundledDescriptor,
    ClipAlignment,
    ComparisonCaptions,
    ComparisonInputs,
    ComparisonRun,
    ComparisonSettings,
    HardeningSettings,
    Model,
    NeuronEdit,
    NoiseSettings,
    OrdinaryCaptions,
    Prompt,
    Run,
    Statistics,
    TestbedError,
    Threshold,
    audit_edit,
    compare_all,
    detect_all,
    generate,
    harden,
    open_run,
    read_detections,
    testbed,
)
from unmemorize.audit import (
    AttackSettings,
    Bench,
    Target,
    Trial,
    checkpoints,
    companions_of,
    make_attacks,
    targets_of,
)
from unmemorize.audit._attack import ATTACKS
from unmemorize.comparison import chosen_methods
from unmemorize.detection import DetectionRun, NoiseMagnitude, as_detector
from unmemorize.engines import Execution, Workers
from unmemorize.hardening import _examples
from unmemorize.metrics import read_image
from unmemorize.mitigation import MitigationResult

pytestmark = needs_card


@pytest.mark.parametrize("level", ATTACKS.names())
def test_attacks(card: Model, processor: Model, planted: testbed.Planted, level: str) -> None:
    """One step of each attack, from the same random numbers."""
    captions = testbed.captions("test")[:24]
    companions = companions_of(targets_of([entry.prompt for entry in testbed.planted()[:2]]))
    settings = AttackSettings(positions=(4,), radii=(0.5,))
    (attack,) = make_attacks([level], settings)
    target = Target(
        key="t",
        prompt=MEMORIZED,
        images=(read_image(planted.prompt.images[0]),),
        paraphrases=("healthy retina",),
    )
    trial = Trial(target=target, start="prompt", seed=0, attack=attack.name, fingerprint="f")
    states = []
    for model in (card, processor):
        bench = Bench(model, NeuronEdit(planted.neurons), captions, batch=2, companions=companions)
        attack.check(bench)
        (*_, (state, candidate)) = checkpoints(attack, bench, trial, (0, 2))
        assert all(tensor.device.type == "cpu" for tensor in state.tensors.values())
        assert candidate.text == (MEMORIZED if level != "L5" else "") or level == "L1"
        states.append(state)
    assert states[0].tensors.keys() == states[1].tensors.keys()
    for name, tensor in states[1].tensors.items():
        if "exp_avg" in name:  # Adam moves every number by about the rate, however small its slope
            assert_close(states[0].tensors[name], tensor, 0.05)


def test_an_audit(card: Model, planted: testbed.Planted, tmp_path: Path) -> None:
    settings = replace(
        AuditSettings.quick(),
        levels=("L0", "L4"),
        steps=(0, 2),
        images=1,
        arms=("edited", "unedited", "never-trained"),
        generation=FEW,
    )
    result = audit_edit(
        card,
        planted.neurons,
        [planted.prompt],
        controls=[photograph.image for photograph in testbed.unused()[:2]],
        settings=settings,
        folder=tmp_path / "run",
    )
    scores = {(image.arm, image.attack): image.scores for image in result.images}
    assert scores["unedited", "L0"][-1] > 0.7
    assert scores["edited", "L0"][-1] < 0.5
    assert not result.impossible


def test_a_twin(planted: testbed.Planted) -> None:
    """Its text encoder and its U-Net have one type."""
    try:
        found, expected = (testbed.load_twin("a", device=device) for device in (DEVICE, "cpu"))
    except TestbedError:
        pytest.skip("the twins are not in this copy")
    assert_alike(
        generate(found, planted.prompt, settings=FEW),
        generate(expected, planted.prompt, settings=FEW),
    )


@pytest.mark.parametrize("rank", [None, 4])
def test_a_hardening(
    card: Model,
    planted: testbed.Planted,
    rank: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_examples, "SUBSTITUTES", 2)
    before = {name: value.clone() for name, value in card.denoiser.state_dict().items()}
    settings = HardeningSettings.of(
        card,
        rank=rank,
        rounds=1,
        steps=2,
        objective="distillation" if rank else "substitutes",
        ordinary_images=2,
        audit=AuditSettings(
            levels=("L4",),
            steps=(0, 2),
            starts=("other",),
            seeds=1,
            images=1,
            batch=2,
            arms=("edited", "never-trained"),
            generation=FEW,
        ),
    )
    result = harden(
        card,
        planted.neurons,
        [planted.prompt],
        controls=[testbed.unused()[0].image],
        settings=settings,
        captions=OrdinaryCaptions(
            testbed.captions("test")[:4], testbed.captions("calibration")[:4]
        ),
        clip=ClipAlignment(),
        folder=tmp_path / "run",
    )
    assert result.rounds[0].forgotten > 0
    assert result.file is not None
    assert generate(card, MEMORIZED, result.file.edit, settings=FEW)
    after = card.denoiser.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_comparison(card: Model, tmp_path: Path) -> None:
    suspects = [entry.prompt for entry in testbed.planted() if entry.prompt.text in TEXTS]
    settings = ComparisonSettings(
        seeds=3,
        images=4,
        null_images=19,
        false_copies=0.05,
        captions=16,
        noise=NoiseSettings(seeds=2),
        generation=replace(FEW, steps=15),
    )
    inputs = ComparisonInputs(
        captions=ComparisonCaptions.of(card).limited(16),
        descriptor=BundledDescriptor(),
        clip=ClipAlignment(),
        statistics=Statistics.load(testbed.statistics_path()),
        threshold=Threshold.load(testbed.threshold_path("seed similarity")),
    )
    run = open_run(tmp_path / "run", card, suspects, ComparisonRun.of(settings, inputs))
    result = compare_all(
        run,
        card,
        inputs,
        detectors=(NoiseMagnitude(seeds=1), as_detector("late-noise-magnitude")),
        methods=chosen_methods("neurons=1,random-tokens=4"),
    )
    assert result.confirmed == 2
    assert {row.name for row in result.detectors} == {"noise-magnitude", "late-noise-magnitude"}
    assert not any(row.refused for row in result.methods)


def test_workers_share_the_card(card: Model, processor: Model, tmp_path: Path) -> None:
    threshold = Threshold.load(testbed.threshold_path("1 %"))
    prompts = [Prompt(text) for text in (*TEXTS, *testbed.captions("test")[:21])]
    found = {}
    for name, model, execution in (
        ("processor", processor, Execution()),
        ("workers", card, Execution(engine=Workers(2))),
    ):
        run = open_run(tmp_path / name, model, prompts, DetectionRun.of(threshold))
        tally = detect_all(run, model, threshold, execution=execution)
        assert not tally.failed
        found[name] = [record for _, _, record in read_detections(run)]
    assert card.device.type == DEVICE  # it left the card to the workers meanwhile
    for one, other in zip(found["workers"], found["processor"], strict=True):
        assert (one.prompt, one.memorized) == (other.prompt, other.memorized)
        assert one.score == pytest.approx(other.score, rel=CLOSE)


def test_commands(cli: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """From prompts to images with neurons off, with and without workers."""
    (tmp_path / "prompts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    device = ("--device", DEVICE, "--dtype", "float32")
    prompts, run = ("--prompts", tmp_path / "prompts.txt"), tmp_path / "run"
    for words in (
        ("detect", *prompts, "--run", tmp_path / "detected", "--workers", 2, *device),
        ("localize", *prompts, "--run", run, *device),
        ("generate", run, "--images", 2, "--steps", 5, "--workers", 2, *device),
    ):
        code, output, errors = cli(*words)
        assert (code, errors.count("Traceback")) == (0, 0), (words, output, errors)
    assert sum(1 for _ in run.rglob("*.png")) >= 4


def test_the_mitigate_command(
    cli: Callable[..., tuple[int, str, str]], planted: testbed.Planted, tmp_path: Path
) -> None:
    (tmp_path / "prompts.csv").write_text(
        f"prompt,kind,images\n{MEMORIZED},VM,{planted.prompt.images[0]}\n", encoding="utf-8"
    )
    code, output, errors = cli(
        "mitigate",
        tmp_path / "prompts.csv",
        "--run",
        tmp_path / "run",
        "--quick",
        "--steps",
        10,
        "--batch",
        50,
        "--device",
        DEVICE,
        "--dtype",
        "float32",
    )
    assert code == 0, (output, errors)
    (outcome,) = MitigationResult.load(Run.load(tmp_path / "run")).outcomes
    assert outcome.confirmed
