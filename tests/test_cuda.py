"""The same results on a card as on the processor, where there is a card: make test-gpu.

Both compute in float32 and start from the same noise, so they differ by the order of sums alone.
One pass of the denoiser then differs by some 1e-6 of its range, and scores by some 1e-5. Bounds are
1e-3 for these: rounding stays far below it, and mistakes go beyond. Images pass many steps and the
rounding to 8 bits, so copy descriptors compare them: images of one prompt from other noise are far
below .99. UNMEMORIZE_TEST_DEVICE names another device, such as cpu, to try the tests themselves.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from architectures import ARCHITECTURES, make
from unmemorize import (
    AlarmError,
    AuditSettings,
    BundledDescriptor,
    ClipAlignment,
    ClosedFormEdit,
    CombinedEdit,
    ComparisonCaptions,
    ComparisonInputs,
    ComparisonRun,
    ComparisonSettings,
    Edit,
    EditFile,
    Erased,
    GenerationSettings,
    HardeningSettings,
    Localization,
    LocalizationSettings,
    Model,
    NeuronEdit,
    NeuronFile,
    Neurons,
    NoiseSettings,
    OrdinaryCaptions,
    Prompt,
    Run,
    Statistics,
    Suspect,
    TestbedError,
    Threshold,
    Trace,
    audit_edit,
    bake,
    calibrate_guard,
    calibrate_threshold,
    compare_all,
    compute_statistics,
    detect,
    detect_all,
    export_lora,
    generate,
    guard,
    harden,
    load_pipeline,
    localize,
    memorized_region,
    open_run,
    read_detections,
    testbed,
    verify,
)
from unmemorize.audit import (
    AttackSettings,
    Bench,
    Target,
    Trial,
    checkpoints,
    make_attacks,
)
from unmemorize.audit._attack import ATTACKS
from unmemorize.audit._bench import Companion
from unmemorize.comparison import chosen_methods
from unmemorize.detection import DETECTORS, DetectionRun, NoiseMagnitude, as_detector, watched_by
from unmemorize.engines import Execution, Workers
from unmemorize.generation import PrunedEdit, generate_each
from unmemorize.hardening import _examples
from unmemorize.localization import RefinementMethod
from unmemorize.methods import MITIGATIONS, at_strength, method_of, refinement_of
from unmemorize.metrics import read_image
from unmemorize.mitigation import MitigationResult
from unmemorize.statistics import activations

DEVICE = os.environ.get("UNMEMORIZE_TEST_DEVICE", "cuda")
CLOSE = 1e-3
"""The largest difference of numbers, relative to their range."""
ALIKE = 0.99
"""The least similarity of an image of the card to that of the processor."""
MEMORIZED = "fundus photograph of healthy retina"
TEXTS = (MEMORIZED, "chelsea the ginger tabby stares", "a small boat on a calm lake")
FEW = GenerationSettings(images=2, steps=10, guidance=3.0, batch=4)
GUIDANCE = {name: 0.0 if name in ("Flux", "Qwen-Image") else 2.0 for name in ARCHITECTURES}
"""Flux and Qwen-Image have no guidance in one pass."""

pytestmark = pytest.mark.skipif(
    DEVICE == "cuda" and not torch.cuda.is_available(), reason="there is no card"
)


@pytest.fixture(scope="module", autouse=True)
def whole_float32() -> Iterator[None]:
    """Keep torch and its workers from rounding the inputs of convolutions to TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NVIDIA_TF32_OVERRIDE", "0")
        yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(name="card", scope="module")
def card_fixture() -> Model:
    """The bundled model on the card; tests leave it as it was."""
    return Model.load("testbed", device=DEVICE, dtype="float32")


@pytest.fixture(name="processor", scope="module")
def processor_fixture() -> Model:
    """The bundled model on the processor."""
    return Model.load("testbed", device="cpu")


@pytest.fixture(name="tiny", scope="module", params=list(ARCHITECTURES))
def tiny_fixture(request: pytest.FixtureRequest) -> tuple[str, Model, Model]:
    """The name of an architecture, and a tiny pipeline of it on the card and on the processor."""
    return request.param, Model(make(request.param).to(DEVICE)), Model(make(request.param))


@pytest.fixture(name="planted", scope="module")
def planted_fixture() -> testbed.Planted:
    return next(entry for entry in testbed.planted() if entry.prompt.text == MEMORIZED)


def assert_close(found: Tensor, expected: Tensor, bound: float = CLOSE) -> None:
    span = float(expected.double().abs().max()) or 1.0
    assert float((found.cpu().double() - expected.double()).abs().max()) <= bound * span


def assert_alike(
    found: Sequence[Image.Image], expected: Sequence[Image.Image], bound: float = ALIKE
) -> None:
    assert len(found) == len(expected) > 0
    descriptor = BundledDescriptor()
    similarity = (descriptor(found) * descriptor(expected)).sum(1)
    assert float(similarity.min()) > bound, similarity


def test_the_model_is_on_the_device_and_is_the_same(card: Model, processor: Model) -> None:
    assert card.device.type == DEVICE
    assert next(card.denoiser.parameters()).device.type == DEVICE
    assert card.dtype == torch.float32
    assert card.fingerprint == processor.fingerprint


def test_initial_noise_is_the_same_bit_for_bit(card: Model, processor: Model) -> None:
    drawn = card.draw_latents(5, 7)
    assert drawn.device.type == DEVICE
    assert torch.equal(drawn.cpu(), processor.draw_latents(5, 7))


@pytest.mark.parametrize("guidance", [0.0, 7.0])
def test_predictions(card: Model, processor: Model, guidance: float) -> None:
    found, expected = (
        model.predict(
            model.draw_latents(3, 1),
            model.timesteps(50)[step],
            model.encode(TEXTS),
            guidance=model.guidance(guidance),
        )
        for model in (card, processor)
        for step in [20]
    )
    assert found.device.type == DEVICE
    assert_close(found, expected)


def test_replaying_is_exact(card: Model) -> None:
    """Else each pass of a localization runs whole."""
    assert card.replay_plan(list(card.value_layers), 10).exact


@pytest.mark.parametrize("name", DETECTORS.names())
def test_scores(card: Model, processor: Model, name: str) -> None:
    detector: Any = as_detector(name)
    if hasattr(detector, "guidance"):
        detector = replace(detector, steps=8, **({"last": 2} if hasattr(detector, "last") else {}))
    found, expected = (
        detector.score(Trace(model, TEXTS, watched=watched_by(detector)))
        for model in (card, processor)
    )
    values = torch.tensor([score.value for score in expected])
    assert_close(torch.tensor([score.value for score in found]), values)
    assert [score.samples for score in found] == [score.samples for score in expected]


@pytest.mark.parametrize("rule", ["1 %", "5 %", "seed similarity"])
def test_verdicts(card: Model, processor: Model, rule: Any) -> None:
    threshold = Threshold.load(testbed.threshold_path(rule))
    for text in TEXTS:
        found, expected = (detect(model, text, threshold=threshold) for model in (card, processor))
        assert found.memorized == expected.memorized == (text != TEXTS[2])
        assert found.score == pytest.approx(expected.score, rel=CLOSE)


def test_verdicts_with_rounded_convolutions(card: Model, processor: Model) -> None:
    """As torch has it by default: TF32 has the mantissa of float16."""
    torch.backends.cudnn.allow_tf32 = True
    try:
        found = [detect(card, text) for text in TEXTS]
    finally:
        torch.backends.cudnn.allow_tf32 = False
    expected = [detect(processor, text) for text in TEXTS]
    assert [each.memorized for each in found] == [each.memorized for each in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.score == pytest.approx(other.score, rel=2e-2)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(processor: Model, dtype: str) -> None:
    half = Model.load("testbed", device=DEVICE, dtype=dtype)
    assert str(half.dtype) == f"torch.{dtype}"
    tau = Threshold.load(testbed.threshold_path("seed similarity")).detect.tau
    threshold = Threshold.given(half, tau, NoiseSettings())
    found = [detect(half, text, threshold=threshold) for text in TEXTS]
    assert [each.memorized for each in found] == [True, True, False]
    images = [generate(model, MEMORIZED, settings=FEW) for model in (half, processor)]
    assert_alike(images[0], images[1], bound=0.9)


def test_a_backward_pass_in_half_precision(processor: Model) -> None:
    """Without --dtype a card computes in float16, and refinement differentiates."""
    half = Model.load("testbed", device=DEVICE, dtype="float16")
    found, expected = (localize(model, MEMORIZED) for model in (half, processor))
    assert found.effects is not None
    assert found.effects.measured_by == "backward"
    assert set(found.neurons) & set(expected.neurons)


def test_a_moved_pipeline_forgets_what_it_made_elsewhere() -> None:
    pipe = load_pipeline("testbed", device="cpu")
    model = Model(pipe)
    before = detect(model, MEMORIZED)
    region = memorized_region(model, MEMORIZED)
    cast(Any, pipe).to(DEVICE)
    assert detect(model, MEMORIZED).score == pytest.approx(before.score, rel=CLOSE)
    assert_close(torch.tensor(memorized_region(model, MEMORIZED)), torch.tensor(region))


@pytest.mark.parametrize("refinement", ["complete", "bisect", "greedy"])
def test_localizations(card: Model, processor: Model, refinement: RefinementMethod) -> None:
    settings = LocalizationSettings(refinement=refinement)
    texts = TEXTS if refinement == "complete" else TEXTS[:1]
    for text in texts:
        found, expected = (localize(model, text, settings=settings) for model in (card, processor))
        assert found.memorized == expected.memorized == (text != TEXTS[2])
        assert found.criterion == expected.criterion
        assert found.initial == expected.initial
        assert found.neurons == expected.neurons
        if found.memorized:
            assert found.score == pytest.approx(expected.score, rel=CLOSE, abs=CLOSE)
            assert found.work == expected.work


def test_statistics(card: Model, processor: Model, tmp_path: Path) -> None:
    captions = testbed.captions("calibration")[:24]
    found, expected = (
        compute_statistics(model, captions, batch=8, raw=tmp_path / str(number))
        for number, model in enumerate((card, processor))
    )
    for layer, mean in expected.mean.items():
        assert_close(found.mean[layer], mean)
        assert_close(found.std[layer], expected.std[layer])
    activation = activations(card, card.encode(TEXTS))
    assert found.z_scores({path: value[0] for path, value in activation.items()}).keys() == (
        activation.keys()
    )


def test_thresholds(card: Model, processor: Model) -> None:
    captions = testbed.captions("calibration")[:12]
    found, expected = (
        calibrate_threshold(model, captions, detector="anisotropy") for model in (card, processor)
    )
    assert found.detect.tau == pytest.approx(expected.detect.tau, rel=CLOSE, abs=CLOSE)
    assert found.localize.tau == pytest.approx(expected.localize.tau, rel=CLOSE)


def edits(model: Model) -> dict[str, Edit]:
    """An edit of each kind; the neurons are those of the memorized prompt."""
    layer = next(iter(model.value_layers))
    key = layer.replace("to_v", "to_k")
    neurons = next(each.neurons for each in testbed.planted() if each.prompt.text == MEMORIZED)
    closed = ClosedFormEdit((Erased(MEMORIZED),), keep=testbed.captions("calibration")[:16])
    return {
        "neurons": NeuronEdit(neurons),
        "closed form": closed,
        "pruned": PrunedEdit({layer: tuple(range(0, 4000, 7)), key: (5, 9)}),
        "esd": cast(Edit, method_of("esd=2").fit(model, suspect())),
        "combined": CombinedEdit((closed, NeuronEdit(neurons, 0.5))),
    }


def suspect(localizations: tuple[Localization, ...] = ()) -> Suspect:
    entry = next(each for each in testbed.planted() if each.prompt.text == MEMORIZED)
    return Suspect(
        prompt=entry.prompt,
        localizations=localizations,
        ordinary=testbed.captions("calibration")[:16],
        settings=FEW,
    )


KINDS = ("neurons", "closed form", "pruned", "esd", "combined")


def test_edited_images(card: Model, processor: Model) -> None:
    """Samples of one batch have edits of their own."""
    batches: list[list[Image.Image]] = []
    for model in (card, processor):
        some = edits(model)
        changes = [None, *(some[kind] for kind in KINDS)]
        made = generate_each(
            model, [MEMORIZED] * len(changes), changes, settings=replace(FEW, images=1)
        )
        batches.append([image for (image,) in made])
    assert_alike(batches[0], batches[1])


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_of_the_whole_batch(card: Model, processor: Model, kind: str) -> None:
    """Where all samples have one edit, weights may be replaced."""
    found, expected = (
        generate(model, MEMORIZED, edits(model)[kind], settings=FEW) for model in (card, processor)
    )
    assert_alike(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_exports(card: Model, processor: Model, kind: str, tmp_path: Path) -> None:
    """An artefact of the card is right for the model on either device."""
    edit = edits(card)[kind]
    file = (
        NeuronFile.of(card, edit.neurons)
        if isinstance(edit, NeuronEdit)
        else EditFile.of(card, edit)
    )
    checkpoint = bake(card, file, tmp_path / "checkpoint")
    artefacts: list[Path] = [checkpoint]
    if kind not in ("pruned", "esd"):  # their rank may be too high
        export_lora(card, file, tmp_path / "lora")
        artefacts.append(tmp_path / "lora")
    for artefact in artefacts:
        for model in (card, processor):
            assert verify(artefact, model).passed
    loaded = Model.load(str(checkpoint), device=DEVICE, dtype="float32", local_files_only=True)
    assert_alike(
        generate(loaded, MEMORIZED, settings=FEW), generate(card, MEMORIZED, edit, settings=FEW)
    )


STRENGTHS = {"esd": 2.0, "siss": 1.0, "noise-sample": 60.0, "embedding": 7.0}
"""Others take their default. Training is short here, and noise is optimized for few steps."""


@pytest.mark.parametrize("name", MITIGATIONS.names())
def test_methods(card: Model, processor: Model, name: str) -> None:
    method = method_of(name)
    if name in STRENGTHS:
        method = at_strength(method, STRENGTHS[name])
    localized: tuple[Localization, ...] = ()
    if refinement := refinement_of(method):
        settings = LocalizationSettings(refinement=cast(RefinementMethod, refinement))
        localized = (localize(processor, MEMORIZED, settings=settings),)
    found, expected = (
        generate(model, MEMORIZED, method.fit(model, suspect(localized)), settings=FEW)
        for model in (card, processor)
    )
    assert_alike(found, expected)


def test_guards(card: Model, processor: Model, planted: testbed.Planted) -> None:
    captions = testbed.captions("calibration")[:19]
    found, expected = (calibrate_guard(model, captions) for model in (card, processor))
    assert found.tau == pytest.approx(expected.tau, rel=CLOSE)
    options: dict[str, Any] = {"num_inference_steps": 8, "guidance_scale": 3.0}

    def drawn(model: Model, action: Any) -> tuple[list[float], list[Image.Image]]:
        generator = torch.Generator().manual_seed(3)
        prompts = [TEXTS[2], MEMORIZED]
        with guard(model, found, on_alarm=action) as watched:
            images = model.pipe(prompts, generator=generator, **options).images
        assert watched.images == 2
        return [value for alarm in watched.alarms for value in (alarm.score, alarm.final_score)], (
            images
        )

    for action in ("stop", "redraw", planted.neurons, lambda _: None):
        (scores, images), (same, others) = (drawn(model, action) for model in (card, processor))
        assert scores == pytest.approx(same, rel=CLOSE)
        assert len(scores) == 2
        assert_alike(images, others)
    with guard(card, found), pytest.raises(AlarmError):
        card.pipe(MEMORIZED, generator=torch.Generator().manual_seed(3), **options)


@pytest.mark.parametrize("level", ATTACKS.names())
def test_attacks(card: Model, processor: Model, planted: testbed.Planted, level: str) -> None:
    """One step of each attack, from the same random numbers."""
    captions = testbed.captions("test")[:24]
    companions = tuple(
        Companion(entry.prompt.text, read_image(entry.prompt.images[0]))
        for entry in testbed.planted()[:2]
    )
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


def test_noise_of_tiny_models(tiny: tuple[str, Model, Model]) -> None:
    _, card, processor = tiny
    drawn = card.draw_latents(3, 5)
    assert drawn.device.type == DEVICE
    assert torch.equal(drawn.cpu(), processor.draw_latents(3, 5))
    assert card.fingerprint == processor.fingerprint
    assert card.value_input == processor.value_input


def test_predictions_of_tiny_models(tiny: tuple[str, Model, Model]) -> None:
    name, card, processor = tiny
    found, expected = (
        model.predict(
            model.draw_latents(2, 1),
            model.timesteps(10)[4],
            model.encode(["a red cat", "rain"]),
            guidance=model.guidance(GUIDANCE[name]),
        )
        for model in (card, processor)
    )
    assert_close(found, expected)


def test_localizations_of_tiny_models(tiny: tuple[str, Model, Model]) -> None:
    """All steps, one after another, with levels that each prompt passes."""
    name, *models = tiny
    noise = NoiseSettings(seeds=3, guidance=GUIDANCE[name])
    words = [f"prompt {letter}" for letter in "abcdef"]
    found: list[Localization] = []
    for model in models:
        statistics = compute_statistics(model, words)
        threshold = calibrate_threshold(model, words, detector="seed-similarity", settings=noise)
        low = replace(
            threshold,
            detect=replace(threshold.detect, tau=1e-3, cascade=None),
            localize=replace(threshold.localize, tau=1e-3, tau_seeds=1e-3),
        )
        settings = LocalizationSettings(noise=noise, criterion="seeds", theta=2.0, theta_step=0.5)
        found.append(
            localize(model, "zebra quartz", statistics=statistics, threshold=low, settings=settings)
        )
    assert found[0].memorized
    assert found[0].initial == found[1].initial
    assert found[0].initial_score == pytest.approx(found[1].initial_score, rel=CLOSE, abs=CLOSE)


def test_images_of_tiny_models(tiny: tuple[str, Model, Model]) -> None:
    name, *models = tiny
    settings = GenerationSettings(images=2, steps=3, guidance=1.0 + GUIDANCE[name])
    for off in (None, {next(iter(models[0].value_layers)): [1, 3]}):
        found, expected = (
            np.stack(
                [
                    np.asarray(image, dtype=int)
                    for image in generate(
                        model, "a cat", Neurons(off) if off else None, settings=settings
                    )
                ]
            )
            for model in models
        )
        assert np.abs(found - expected).max() <= 2  # steps of 255: rounding at an edge


def test_detectors_of_tiny_models(tiny: tuple[str, Model, Model]) -> None:
    """The default detector, and a guard where there is guidance in one pass."""
    name, card, processor = tiny
    words = [f"prompt {letter}" for letter in "abcd"]
    settings = NoiseSettings(seeds=2)
    found, expected = (
        calibrate_threshold(model, words, settings=settings) for model in (card, processor)
    )
    assert found.detect.scores == pytest.approx(expected.detect.scores, rel=CLOSE, abs=1e-5)
    if name not in ("Flux",):
        taus = [calibrate_guard(model, words).tau for model in (card, processor)]
        assert taus[0] == pytest.approx(taus[1], rel=CLOSE, abs=1e-5)
