from dataclasses import replace
from pathlib import Path

import pytest
from diffusers import DiffusionPipeline
from PIL import Image

from conftest import PLANTED_PROMPT, PROMPTS, make_pipeline, plant_neuron
from unmemorize import (
    BundledDescriptor,
    GenerationSettings,
    LocalizationSettings,
    MetricError,
    Model,
    Neurons,
    Prompt,
    Run,
    RunError,
    calibrate_threshold,
    compute_statistics,
)
from unmemorize.runs import (
    Variant,
    detect_all,
    evaluate_all,
    generate_all,
    localize_all,
    open_run,
    read_image,
    read_localizations,
    run_prompts,
)

FEW = GenerationSettings(images=2, steps=2, guidance=2.0)


@pytest.fixture
def pipe() -> DiffusionPipeline:
    pipe = make_pipeline()
    plant_neuron(pipe, next(iter(Model(pipe).value_layers)), 3)
    return pipe


@pytest.fixture
def prompts(tmp_path: Path) -> list[Prompt]:
    Image.new("RGB", (20, 20), (200, 30, 30)).save(tmp_path / "reference.png")
    return [Prompt("c word"), Prompt(PLANTED_PROMPT, "VM", images=(tmp_path / "reference.png",)), Prompt("prompt two", group="mine")]


@pytest.fixture
def run(pipe: DiffusionPipeline, prompts: list[Prompt], tmp_path: Path) -> Run:
    """A run with finished localizations."""
    threshold = calibrate_threshold(pipe, PROMPTS)
    strict = replace(threshold, tau=max(threshold.highest) + 0.02)
    settings = LocalizationSettings(noise=threshold.settings, criterion="seeds")
    run = open_run(tmp_path / "run", pipe, prompts, {"command": "test"})
    statistics = compute_statistics(pipe, PROMPTS)
    done: list[tuple[int, int]] = []
    found = localize_all(
        run, pipe, prompts, statistics=statistics, threshold=strict, settings=settings, progress=lambda *at: done.append(at)
    )
    assert done == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert [record.memorized for record in found] == [False, True, False]
    again: list[tuple[int, int]] = []
    assert found == localize_all(
        run, pipe, prompts, statistics=statistics, threshold=strict, settings=settings, progress=lambda *at: again.append(at)
    )
    assert again == [(3, 3)]
    return run


def test_prompts_are_kept(run: Run, prompts: list[Prompt]) -> None:
    assert run_prompts(run) == prompts
    (run.folder / "prompts.jsonl").unlink()
    with pytest.raises(RunError, match="prompt list of the run cannot be read"):
        run_prompts(run)


def test_detection_of_many(pipe: DiffusionPipeline, prompts: list[Prompt], tmp_path: Path) -> None:
    run = open_run(tmp_path / "detections", pipe, prompts, {})
    found = detect_all(run, pipe, prompts, calibrate_threshold(pipe, PROMPTS))
    assert [record.group for record in found] == ["unlabelled", "VM", "mine"]
    with pytest.raises(RunError, match="nothing is localized"):
        read_localizations(run)


def test_generation_and_metrics_resume_and_agree(run: Run, pipe: DiffusionPipeline) -> None:
    for variant in Variant:
        images = generate_all(run, pipe, variant, FEW)
        assert sorted(path.name for path in images.folder.glob("*.png")) == ["00001_00.png", "00001_01.png"]
    record = read_localizations(run)[1]
    expected = {Variant.ORIGINAL: Neurons(), Variant.INITIAL: record.initial, Variant.REFINED: record.neurons}
    for variant, neurons in expected.items():
        assert Neurons(Run.load(run.folder / "images" / variant).records("images")[1]["neurons"]) == neurons
    control = Neurons(Run.load(run.folder / "images" / Variant.RANDOM).records("images")[1]["neurons"])
    assert len(control) == len(record.neurons)
    assert not control & record.neurons
    descriptor = BundledDescriptor()
    first = {variant: evaluate_all(run, variant, descriptor=descriptor, alignment=None) for variant in Variant}
    assert first[Variant.ORIGINAL][1]["sscd_gen"] == pytest.approx([1.0, 1.0], abs=1e-5)
    assert len(first[Variant.REFINED][1]["sscd_orig"]) == 2
    assert "alignment" not in first[Variant.REFINED][1]
    assert first == {variant: evaluate_all(run, variant, descriptor=descriptor, alignment=None) for variant in Variant}
    with pytest.raises(RunError, match="made with steps = 2, now it is 3"):
        generate_all(run, pipe, Variant.REFINED, replace(FEW, steps=3))


def test_missing_pieces_are_named(run: Run, pipe: DiffusionPipeline, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="run manifest cannot be read"):
        evaluate_all(run, Variant.REFINED, descriptor=BundledDescriptor(), alignment=None)
    with pytest.raises(RunError, match="not the model given"):
        generate_all(run, make_pipeline(seed=1), Variant.ORIGINAL, FEW)
    (tmp_path / "reference.png").write_text("no image")
    generate_all(run, pipe, Variant.ORIGINAL, FEW)
    with pytest.raises(MetricError, match=r"reference\.png: not readable"):
        evaluate_all(run, Variant.ORIGINAL, descriptor=BundledDescriptor(), alignment=None)
    with pytest.raises(MetricError, match="not readable"):
        read_image(tmp_path / "nothing.png")


def test_generation_never_takes_the_seed_of_localization(run: Run, pipe: DiffusionPipeline) -> None:
    run.config["noise"] = {"seed": FEW.seed}
    with pytest.raises(RunError, match="is that of its localization"):
        generate_all(run, pipe, Variant.ORIGINAL, FEW)


def test_images_of_other_seeds_are_not_compared(run: Run, pipe: DiffusionPipeline) -> None:
    generate_all(run, pipe, Variant.ORIGINAL, FEW)
    generate_all(run, pipe, Variant.REFINED, replace(FEW, seed=5, scale=0.5))
    with pytest.raises(RunError, match="made with seed = 5, the original images with 2"):
        evaluate_all(run, Variant.REFINED, descriptor=BundledDescriptor(), alignment=None)


def test_damaged_prompt_list_is_an_error(run: Run) -> None:
    run.write("prompts.jsonl", '{"text": "x"}\n')
    with pytest.raises(RunError, match="damaged"):
        run_prompts(run)


def test_constant_neurons_do_not_break_records(pipe: DiffusionPipeline, prompts: list[Prompt], tmp_path: Path) -> None:
    """z-scores of neurons without spread were infinite, which JSON cannot hold."""
    threshold = calibrate_threshold(pipe, PROMPTS)
    statistics = compute_statistics(pipe, PROMPTS)
    still = replace(statistics, std={path: std * 0 for path, std in statistics.std.items()})
    run = open_run(tmp_path / "still", pipe, prompts, {})
    settings = LocalizationSettings(noise=threshold.settings)
    found = localize_all(run, pipe, prompts[1:2], statistics=still, threshold=threshold, settings=settings)
    assert found[0].memorized
    assert len(found[0].neurons) > 0
